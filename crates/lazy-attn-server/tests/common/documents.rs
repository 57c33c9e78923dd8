//! Documents as the tests put, name and use them.

use std::time::Duration;

use lazy_attn_proto::Client;
use lazy_attn_proto::v1::{self, part, put_document_request};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Puts `tokens`, everything else by default.
pub(crate) fn put(tokens: &[u32]) -> v1::PutDocumentRequest {
    let source = put_document_request::Source::TokenIds(v1::TokenIds { ids: tokens.to_vec() });
    v1::PutDocumentRequest { source: Some(source), ..Default::default() }
}

/// Puts `tokens` and returns the document.
pub(crate) async fn stored(client: &mut Client, tokens: &[u32]) -> v1::Document {
    client.put_document(put(tokens)).await.unwrap().document.unwrap()
}

/// `request` with its documents replaced by those of `names`.
pub(crate) fn by_name(names: &[&str], question: &[u32], max_tokens: u32) -> v1::GenerateRequest {
    let mut request = super::request(&[], question, max_tokens);
    let documents = names.iter().map(|name| part::Part::Document((*name).to_owned()));
    request.parts.splice(0..0, documents.map(|part| v1::Part { part: Some(part) }));
    request
}

/// The same prompt, to be counted.
pub(crate) fn count(request: v1::GenerateRequest) -> v1::CountTokensRequest {
    let v1::GenerateRequest { model, parts, chat, cache, attention, exactness, placement, focus, .. } =
        request;
    v1::CountTokensRequest { model, parts, chat, cache, attention, exactness, placement, focus }
}

/// Changes the fields `paths` of a document to those of `document`.
pub(crate) fn update(document: v1::Document, paths: &[&str]) -> v1::UpdateDocumentRequest {
    let mut request =
        v1::UpdateDocumentRequest { document: Some(document), update_mask: Some(Default::default()) };
    if let Some(mask) = &mut request.update_mask {
        mask.paths = paths.iter().map(|path| (*path).to_owned()).collect();
    }
    request
}

/// Code and reason of a status.
pub(crate) fn code_and_reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("without a reason: {status:?}"));
    assert_eq!(info.domain, "lazyattn");
    (status.code(), info.reason.clone())
}

/// The fields that a status complains about.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|request| request.field_violations.clone());
    violations.unwrap_or_default().into_iter().map(|violation| violation.field).collect()
}

/// Gets `name` until `is_so`; fails rather than hangs.
pub(crate) async fn eventually(
    client: &mut Client,
    name: &str,
    is_so: impl Fn(&Result<v1::Document, Status>) -> bool,
) -> Result<v1::Document, Status> {
    let asking = async {
        loop {
            let found = client.get_document(name).await;
            if is_so(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, asking).await.unwrap()
}
