//! When a request has to end.

use std::future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::status;

/// The transport has a timer of its own for the time until the headers, which ends the call with CANCELLED; ours has to
/// be first.
const TRANSPORT_MARGIN: Duration = Duration::from_millis(2);

/// The end that the caller set, if any.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Deadline {
    timeout: Duration,
    /// `None` if there is no end, or none that a clock could reach.
    at: Option<Instant>,
}

impl Deadline {
    /// The deadline of a request that arrived now.
    pub(super) fn of(metadata: &MetadataMap) -> Result<Deadline, Status> {
        let Some(header) = metadata.get("grpc-timeout") else {
            return Ok(Deadline { timeout: Duration::MAX, at: None });
        };
        let timeout = header.to_str().ok().and_then(parse_timeout).ok_or_else(status::bad_deadline)?;
        Ok(Deadline { timeout, at: Instant::now().checked_add(timeout) })
    }

    /// What is left of it; `None` if there is no end.
    pub(super) fn left(self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Resolves with the status of a request that is not over when it passes.
    pub(super) async fn passed(self) -> Status {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => future::pending().await,
        }
        status::deadline_passed(self.timeout)
    }

    /// The result of `work`, which produces the headers, unless the deadline passes before it.
    pub(super) async fn bound<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let early = Deadline { at: self.at.and_then(|at| at.checked_sub(TRANSPORT_MARGIN)), ..self };
        tokio::select! {
            result = work => result,
            status = early.passed() => Err(status),
        }
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol.
fn parse_timeout(header: &str) -> Option<Duration> {
    let unit = header.chars().last()?;
    let digits = header.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(value * 3600)),
        'M' => Some(Duration::from_secs(value * 60)),
        'S' => Some(Duration::from_secs(value)),
        'm' => Some(Duration::from_millis(value)),
        'u' => Some(Duration::from_micros(value)),
        'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_refused_past_eight_digits() {
        let cases = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("6u", Some(Duration::from_micros(6))),
            ("7n", Some(Duration::from_nanos(7))),
            ("100000000m", None),
            ("m", None),
            ("", None),
            ("5", None),
            ("-5m", None),
            ("+5m", None),
            ("5x", None),
            ("5ü", None),
        ];
        for (header, timeout) in cases {
            assert_eq!(parse_timeout(header), timeout, "{header:?}");
        }
    }
}
