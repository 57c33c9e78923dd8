//! Many files to one server, over one stream.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lazy_attn_proto::v1::{self, batch_put_documents_response::Result as Outcome, put_document_request};
use lazy_attn_text::{BlockTemplate, Document};
use serde::Serialize;
use tonic::Code;

use crate::args::{PutArgs, Ttl};
use crate::commands::docs::table::residency;
use crate::documents::{self, TextDocument};
use crate::exit::{Exit, Failure, exit_of_status};
use crate::remote;
use crate::ui::{CountProgress, Out, Table, Verbosity, print_json};

pub(super) async fn put(args: &PutArgs) -> Result<Exit, Failure> {
    let paths = documents::text_paths(&args.paths)?;
    let is_json = args.options.output.json;
    let mut client = remote::connect(&args.options.server).await?;
    let unreadable = Arc::new(Mutex::new(None));
    let requests = requests(paths.clone(), Options::of(args), Arc::clone(&unreadable));
    let mut answers = client.batch_put_documents(tokio_stream::iter(requests)).await?;
    let verbosity = if is_json { Verbosity::Quiet } else { Verbosity::Normal };
    let mut progress = CountProgress::documents(verbosity, paths.len() as u64);
    let mut puts = Vec::new();
    while let Some(answer) = answers.message().await? {
        let path = paths.get(answer.index as usize);
        let file = path.map_or_else(String::new, |path| path.display().to_string());
        puts.push(Put::new(file, answer.result)?);
        progress.set(puts.len() as u64);
    }
    drop(progress);
    print(&puts, is_json)?;
    // What was registered before it stays registered, and is told first.
    if let Some(failure) = unreadable.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(failure);
    }
    if puts.len() != paths.len() {
        let problem = format!("the server answered for {} of {} documents", puts.len(), paths.len());
        return Err(Failure::new(Exit::Server, problem));
    }
    Ok(puts.iter().find_map(Put::exit).unwrap_or(Exit::Success))
}

/// What all documents of a call have in common.
struct Options {
    raw: bool,
    template: v1::PutDocumentRequest,
}

impl Options {
    fn of(args: &PutArgs) -> Options {
        let mode = if args.lazy { v1::PrefillMode::Lazy } else { v1::PrefillMode::Eager };
        let template = v1::PutDocumentRequest {
            ttl: args.ttl.map(|Ttl(time)| Duration::into(time)),
            pinned: args.pin,
            prefill_mode: mode.into(),
            labels: args.labels.iter().cloned().collect(),
            ..v1::PutDocumentRequest::default()
        };
        Options { raw: args.raw, template }
    }

    fn request(&self, document: TextDocument) -> v1::PutDocumentRequest {
        let TextDocument { title, text } = document;
        // The same words as `run` and `chat` give the model, so that they find the same keys and values.
        let text = match self.raw {
            true => text,
            false => BlockTemplate::chatml().document_part(&Document { title: Some(&title), text: &text }),
        };
        v1::PutDocumentRequest {
            source: Some(put_document_request::Source::Text(text)),
            display_name: title,
            ..self.template.clone()
        }
    }
}

/// Reads one file when the stream has room for it; the first that cannot be read ends the stream.
fn requests(
    paths: Vec<PathBuf>,
    options: Options,
    unreadable: Arc<Mutex<Option<Failure>>>,
) -> impl Iterator<Item = v1::PutDocumentRequest> + Send + 'static {
    paths.into_iter().map_while(move |path| match documents::read(&path) {
        Ok(document) => Some(options.request(document)),
        Err(failure) => {
            *unreadable.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            None
        }
    })
}

/// What became of one file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Put {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<v1::PutDocumentResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<v1::BatchPutError>,
}

impl Put {
    fn new(file: String, outcome: Option<Outcome>) -> Result<Put, Failure> {
        match outcome {
            Some(Outcome::Response(response)) => Ok(Put { file, response: Some(response), error: None }),
            Some(Outcome::Error(error)) => Ok(Put { file, response: None, error: Some(error) }),
            None => Err(Failure::new(Exit::Server, format!("the server did not say what became of {file}"))),
        }
    }

    fn exit(&self) -> Option<Exit> {
        let error = self.error.as_ref()?;
        Some(exit_of_status(Code::from_i32(error.code), &error.reason))
    }
}

/// What several files look like in JSON.
#[derive(Debug, Serialize)]
struct Puts<'a> {
    puts: &'a [Put],
}

fn print(puts: &[Put], is_json: bool) -> Result<(), Failure> {
    if is_json {
        return print_json(&Puts { puts });
    }
    let lines = lines(puts);
    let mut out = Out::new();
    lines.iter().try_for_each(|line| out.line(line))?;
    for put in puts {
        if let Some(error) = &put.error {
            eprintln!("error: {}: {}", put.file, error.message);
        }
    }
    Ok(())
}

/// Whole names, since requests need them.
fn lines(puts: &[Put]) -> Vec<String> {
    let registered: Vec<_> = puts.iter().filter_map(|put| put.response.as_ref()).collect();
    if registered.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&["document", "tokens", "computed", "KV", "", "name"]);
    for response in registered {
        let document = response.document.clone().unwrap_or_default();
        table.row([
            document.name.clone(),
            document.token_count.to_string(),
            response.prefilled_tokens.to_string(),
            residency(document.residency()).to_owned(),
            if response.created { "new" } else { "known" }.to_owned(),
            document.display_name.clone(),
        ]);
    }
    table.lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(raw: bool) -> Options {
        Options {
            raw,
            template: v1::PutDocumentRequest { pinned: true, ..v1::PutDocumentRequest::default() },
        }
    }

    fn text(request: &v1::PutDocumentRequest) -> &str {
        match &request.source {
            Some(put_document_request::Source::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_put_in_the_form_of_the_models_or_as_it_is() {
        let document = TextDocument { title: "Harbour".into(), text: "The boat\nleaves at six.\n".into() };
        let request = options(false).request(document.clone());
        assert_eq!(text(&request), "Title: Harbour\nThe boat leaves at six.\n\n");
        assert_eq!((request.display_name.as_str(), request.pinned), ("Harbour", true));
        assert_eq!(text(&options(true).request(document)), "The boat\nleaves at six.\n");
    }

    #[test]
    fn a_file_that_cannot_be_read_ends_the_stream_and_is_told() {
        let unreadable = Arc::new(Mutex::new(None));
        let paths = ["Cargo.toml", "no-such-file", "Cargo.toml"].map(PathBuf::from);
        let sent = requests(paths.to_vec(), options(true), Arc::clone(&unreadable)).count();
        let failure = unreadable.lock().unwrap().take().unwrap();
        assert_eq!((sent, failure.exit), (1, Exit::Usage));
        assert!(failure.line().unwrap().contains("no-such-file"));
    }

    #[test]
    fn the_first_document_that_failed_decides_the_exit_code() {
        let error = |code: Code, reason: &str| {
            let error = v1::BatchPutError { code: code as i32, reason: reason.into(), message: "m".into() };
            Put::new("f".into(), Some(Outcome::Error(error))).unwrap()
        };
        assert_eq!(error(Code::InvalidArgument, "KV_NEVER_FITS").exit(), Some(Exit::TooLarge));
        assert_eq!(error(Code::InvalidArgument, "").exit(), Some(Exit::Usage));
        assert!(Put::new("f".into(), None).is_err());
    }
}
