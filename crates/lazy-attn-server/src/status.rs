//! Errors to gRPC statuses. Each carries `google.rpc.ErrorInfo` with the domain `lazyattn` and a reason that programs
//! can compare; the message is for people.
//!
//! | situation | code | reason | further details |
//! |---|---|---|---|
//! | a field is wrong | `INVALID_ARGUMENT` | `INVALID_FIELD` | `BadRequest` |
//! | prompt and output exceed the context | `INVALID_ARGUMENT` | `CONTEXT_TOO_LONG` | `BadRequest`, numbers |
//! | the KV memory could never hold it | `INVALID_ARGUMENT` | `KV_NEVER_FITS` | `BadRequest`, numbers |
//! | the tenant has no such document | `NOT_FOUND` | `UNKNOWN_DOCUMENT` | `ResourceInfo`; in a prompt `BadRequest` with the field |
//! | a document changed meanwhile | `ABORTED` | `ETAG_MISMATCH` | |
//! | a document to delete is in use | `FAILED_PRECONDITION` | `DOCUMENT_IN_USE` | `PreconditionFailure` |
//! | a bound on documents is reached | `RESOURCE_EXHAUSTED` | `DOCUMENT_QUOTA` | `QuotaFailure` |
//! | pins would keep too much KV memory | `RESOURCE_EXHAUSTED` | `PIN_QUOTA` | `QuotaFailure`, numbers |
//! | another model is loaded | `NOT_FOUND` | `UNKNOWN_MODEL` | `ResourceInfo` |
//! | the queue is full | `RESOURCE_EXHAUSTED` | `QUEUE_FULL` | `QuotaFailure`, `RetryInfo` |
//! | too many prompt tokens wait | `RESOURCE_EXHAUSTED` | `BACKLOG_FULL` | `QuotaFailure`, `RetryInfo` |
//! | too many requests wait to be read | `RESOURCE_EXHAUSTED` | `INTAKE_FULL` | `QuotaFailure`, `RetryInfo` |
//! | too many streams watch | `RESOURCE_EXHAUSTED` | `TOO_MANY_WATCHERS` | `QuotaFailure`, `RetryInfo` |
//! | a remote drain that is not allowed | `PERMISSION_DENIED` | `ADMIN_REFUSED` | |
//! | draining | `UNAVAILABLE` | `DRAINING` | `RetryInfo` |
//! | the engine is gone | `UNAVAILABLE` | `SHUT_DOWN` | `RetryInfo` |
//! | the device failed, and the engine with it | `UNAVAILABLE` | `DEVICE_LOST` | `RetryInfo` |
//! | the deadline cannot be met | `DEADLINE_EXCEEDED` | `DEADLINE_UNMEETABLE` | |
//! | the deadline passed | `DEADLINE_EXCEEDED` | `DEADLINE_PASSED` | the deadline |
//! | no key or a wrong one | `UNAUTHENTICATED` | `WRONG_API_KEY` | |
//! | the executor failed | `INTERNAL` | `EXECUTOR_FAILED` | |

use std::collections::HashMap;
use std::time::Duration;

use lazy_attn_engine::EngineError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::convert::ConvertError;
use crate::documents::DocumentError;

/// The domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "lazyattn";

/// When a client may try again: a step or two later there may be room.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(1);
/// When a client may try again: another server has the address by then.
const RETRY_WHEN_DRAINING: Duration = Duration::from_secs(5);

/// The status of a request that the edge refused.
#[must_use]
pub fn of_convert_error(error: &ConvertError) -> Status {
    let message = error.to_string();
    match error {
        ConvertError::UnknownModel { given, .. } => {
            let mut details = info("UNKNOWN_MODEL", &[]);
            details.set_resource_info("model", given, "", &message);
            status(Code::NotFound, message, details)
        }
        ConvertError::UnknownDocument { field, name } => {
            let mut details = unknown_document(name, &message);
            details.add_bad_request_violation(field, &message);
            status(Code::NotFound, message, details)
        }
        _ => invalid("INVALID_FIELD", error.path(), message, &[]),
    }
}

/// The status of a document that the registry refused.
#[must_use]
pub fn of_document_error(error: &DocumentError) -> Status {
    let message = error.to_string();
    match error {
        DocumentError::Field { field, .. } => invalid("INVALID_FIELD", field, message, &[]),
        DocumentError::NotFound { name } => {
            let details = unknown_document(name, &message);
            status(Code::NotFound, message, details)
        }
        DocumentError::EtagMismatch { .. } => status(Code::Aborted, message, info("ETAG_MISMATCH", &[])),
        DocumentError::InUse { name, num_users } => {
            let mut details = info("DOCUMENT_IN_USE", &[("num_users", *num_users)]);
            details.add_precondition_failure_violation("IN_USE", name, &message);
            status(Code::FailedPrecondition, message, details)
        }
        DocumentError::Quota { what, .. } => {
            let mut details = info("DOCUMENT_QUOTA", &[]);
            details.add_quota_failure_violation(*what, &message);
            status(Code::ResourceExhausted, message, details)
        }
    }
}

fn unknown_document(name: &str, message: &str) -> ErrorDetails {
    let mut details = info("UNKNOWN_DOCUMENT", &[]);
    details.set_resource_info("document", name, "", message);
    details
}

/// The status of a request that the engine refused or ended.
#[must_use]
pub fn of_engine_error(error: &EngineError) -> Status {
    let message = error.to_string();
    match error {
        EngineError::Param(error) => invalid("INVALID_FIELD", error.field, message, &[]),
        EngineError::Invalid { field, .. } => invalid("INVALID_FIELD", field, message, &[]),
        EngineError::ContextTooLong { prompt_tokens, max_tokens, max_context_tokens } => {
            let numbers = [
                ("prompt_tokens", *prompt_tokens),
                ("max_tokens", *max_tokens),
                ("max_context_tokens", *max_context_tokens),
            ];
            invalid("CONTEXT_TOO_LONG", "parts", message, &numbers)
        }
        EngineError::NeverFits { needed_blocks, total_blocks } => {
            let numbers = [("needed_blocks", *needed_blocks), ("total_blocks", *total_blocks)];
            invalid("KV_NEVER_FITS", "parts", message, &numbers)
        }
        EngineError::QueueFull { .. } => exhausted("QUEUE_FULL", "requests waiting", message),
        EngineError::BacklogFull { .. } => exhausted("BACKLOG_FULL", "prompt tokens waiting", message),
        EngineError::DeadlineUnmeetable { .. } => {
            status(Code::DeadlineExceeded, message, info("DEADLINE_UNMEETABLE", &[]))
        }
        EngineError::DeadlineExceeded { .. } => {
            status(Code::DeadlineExceeded, message, info("DEADLINE_PASSED", &[]))
        }
        EngineError::PinBound { needed_blocks, pinned_blocks, max_blocks } => {
            let numbers = [
                ("needed_blocks", *needed_blocks),
                ("pinned_blocks", *pinned_blocks),
                ("max_blocks", *max_blocks),
            ];
            let mut details = info("PIN_QUOTA", &numbers);
            details.add_quota_failure_violation("pinned KV blocks", &message);
            status(Code::ResourceExhausted, message, details)
        }
        EngineError::ShutDown => unavailable("SHUT_DOWN", message),
        EngineError::DeviceLost(_) => unavailable("DEVICE_LOST", message),
        _ => internal("EXECUTOR_FAILED", message),
    }
}

pub(crate) fn intake_full() -> Status {
    exhausted("INTAKE_FULL", "requests being read", "too many requests wait to be read; try again".to_owned())
}

pub(crate) fn draining() -> Status {
    unavailable("DRAINING", "the server finishes what it has and takes no new requests".to_owned())
}

pub(crate) fn deadline_passed(timeout: Duration) -> Status {
    let message = format!("the deadline of {} ms passed; the request was cancelled", timeout.as_millis());
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    status(Code::DeadlineExceeded, message, info("DEADLINE_PASSED", &[("timeout_ms", timeout_ms)]))
}

pub(crate) fn bad_deadline() -> Status {
    let message = "the grpc-timeout header is not up to 8 digits and one of H, M, S, m, u, n";
    invalid("INVALID_FIELD", "grpc-timeout", message.to_owned(), &[])
}

pub(crate) fn wrong_api_key() -> Status {
    let message = "no API key or a wrong one; send the header `authorization: Bearer KEY`".to_owned();
    status(Code::Unauthenticated, message, info("WRONG_API_KEY", &[]))
}

pub(crate) fn admin_refused() -> Status {
    let message = "this server was started without remote administration; end it where it runs".to_owned();
    status(Code::PermissionDenied, message, info("ADMIN_REFUSED", &[]))
}

pub(crate) fn too_many_watchers(max: usize) -> Status {
    let message = format!("{max} streams of the tenant watch already, the most allowed; end one of them");
    exhausted("TOO_MANY_WATCHERS", "streams that watch", message)
}

pub(crate) fn internal(reason: &str, message: String) -> Status {
    status(Code::Internal, message, info(reason, &[]))
}

fn exhausted(reason: &str, subject: &str, message: String) -> Status {
    let mut details = info(reason, &[]);
    details.add_quota_failure_violation(subject, &message);
    details.set_retry_info(Some(RETRY_WHEN_FULL));
    status(Code::ResourceExhausted, message, details)
}

fn unavailable(reason: &str, message: String) -> Status {
    let mut details = info(reason, &[]);
    details.set_retry_info(Some(RETRY_WHEN_DRAINING));
    status(Code::Unavailable, message, details)
}

fn invalid(reason: &str, field: &str, message: String, numbers: &[(&str, u32)]) -> Status {
    let mut details = info(reason, numbers);
    details.add_bad_request_violation(field, &message);
    status(Code::InvalidArgument, message, details)
}

fn info(reason: &str, numbers: &[(&str, u32)]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        numbers.iter().map(|(name, number)| ((*name).to_owned(), number.to_string())).collect();
    ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata)
}

fn status(code: Code, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests {
    use lazy_attn_types::ParamError;

    use super::*;

    fn reason(status: &Status) -> String {
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, ERROR_DOMAIN);
        info.reason.clone()
    }

    #[test]
    fn a_wrong_field_is_named_in_the_details() {
        let error = ParamError { field: "sampling.n", value: "0".into(), allowed: "from 1 to 64" };
        let given = [
            of_engine_error(&EngineError::Param(error.clone())),
            of_convert_error(&ConvertError::Param(error)),
        ];
        for status in given {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
            let details = status.get_error_details();
            assert_eq!(details.bad_request().unwrap().field_violations[0].field, "sampling.n");
        }
    }

    #[test]
    fn numbers_of_a_request_that_cannot_fit_are_machine_readable() {
        let status = of_engine_error(&EngineError::NeverFits { needed_blocks: 9, total_blocks: 4 });
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "KV_NEVER_FITS"));
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["needed_blocks"], "9");
    }

    #[test]
    fn what_may_be_tried_again_says_when() {
        let cases = [
            (of_engine_error(&EngineError::QueueFull { waiting: 3 }), Code::ResourceExhausted, "QUEUE_FULL"),
            (
                of_engine_error(&EngineError::BacklogFull {
                    waiting_tokens: 9,
                    needed_tokens: 2,
                    max_tokens: 10,
                }),
                Code::ResourceExhausted,
                "BACKLOG_FULL",
            ),
            (of_engine_error(&EngineError::ShutDown), Code::Unavailable, "SHUT_DOWN"),
            (of_engine_error(&EngineError::DeviceLost("x".into())), Code::Unavailable, "DEVICE_LOST"),
            (draining(), Code::Unavailable, "DRAINING"),
        ];
        for (status, code, expected) in cases {
            assert_eq!((status.code(), reason(&status).as_str()), (code, expected));
            assert!(status.get_error_details().retry_info().unwrap().retry_delay.is_some(), "{expected}");
        }
    }

    #[test]
    fn our_own_failures_are_internal() {
        let status = of_engine_error(&EngineError::Executor("x".into()));
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Internal, "EXECUTOR_FAILED"));
    }
}
