//! `docs`: the documents that a server knows by name.
//!
//! Reading order: `name` which document is meant, `put` many at once, `table` what a person sees.

mod name;
mod put;
mod table;

use lazy_attn_proto::{Client, v1};
use pbjson_types::FieldMask;
use serde::Serialize;

use crate::args::{DocsArgs, DocsCommand, DocsOptions, ListArgs, NamesArgs};
use crate::exit::{Exit, Failure};
use crate::remote;
use crate::ui::{Out, print_json};

/// Documents of one page of a list.
const PAGE_SIZE: i32 = 1000;

pub(crate) fn docs(args: &DocsArgs) -> Result<Exit, Failure> {
    remote::runtime()?.block_on(async {
        match &args.command {
            DocsCommand::Put(args) => put::put(args).await,
            DocsCommand::Ls(args) => list(args).await,
            DocsCommand::Get(args) => {
                let mut client = remote::connect(&args.options.server).await?;
                let name = name::full(&mut client, &args.name).await?;
                let document = client.get_document(&name).await?;
                print(&args.options, &document, table::fields(&document)?)
            }
            DocsCommand::Rm(args) => remove(&args.names, args.force).await,
            DocsCommand::Pin(args) => pin(args, true).await,
            DocsCommand::Unpin(args) => pin(args, false).await,
        }
    })
}

/// What several documents look like in JSON.
#[derive(Debug, Serialize)]
struct Documents {
    documents: Vec<v1::Document>,
}

async fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let mut client = remote::connect(&args.options.server).await?;
    let documents = all(&mut client, &args.filter, &args.order_by).await?;
    let lines = table::table(&documents);
    print(&args.options, &Documents { documents }, lines)
}

/// The documents of every page.
async fn all(client: &mut Client, filter: &str, order_by: &str) -> Result<Vec<v1::Document>, Failure> {
    let mut request = v1::ListDocumentsRequest {
        page_size: PAGE_SIZE,
        page_token: String::new(),
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
    };
    let mut documents = Vec::new();
    loop {
        let page = client.list_documents(request.clone()).await?;
        documents.extend(page.documents);
        if page.next_page_token.is_empty() {
            return Ok(documents);
        }
        request.page_token = page.next_page_token;
    }
}

/// Every name is looked up before the first document is forgotten.
async fn remove(args: &NamesArgs, force: bool) -> Result<Exit, Failure> {
    let mut client = remote::connect(&args.options.server).await?;
    let mut documents = Vec::new();
    for name in name::all_full(&mut client, &args.names).await? {
        documents.push(client.get_document(&name).await?);
    }
    for document in &documents {
        let name = document.name.clone();
        client
            .delete_document(v1::DeleteDocumentRequest {
                name,
                force,
                ..v1::DeleteDocumentRequest::default()
            })
            .await?;
    }
    let lines = documents.iter().map(|document| format!("forgot {}", document.name)).collect();
    print(&args.options, &Documents { documents }, lines)
}

async fn pin(args: &NamesArgs, pinned: bool) -> Result<Exit, Failure> {
    let mut client = remote::connect(&args.options.server).await?;
    let mut documents = Vec::new();
    for name in name::all_full(&mut client, &args.names).await? {
        let document = v1::Document { name, pinned, ..v1::Document::default() };
        let mask = FieldMask { paths: vec!["pinned".to_owned()] };
        let request = v1::UpdateDocumentRequest { document: Some(document), update_mask: Some(mask) };
        documents.push(client.update_document(request).await?);
    }
    let lines = table::table(&documents);
    print(&args.options, &Documents { documents }, lines)
}

/// One object for programs, lines for a person.
fn print<T: Serialize>(options: &DocsOptions, value: &T, lines: Vec<String>) -> Result<Exit, Failure> {
    if options.output.json {
        print_json(value)?;
        return Ok(Exit::Success);
    }
    let mut out = Out::new();
    lines.iter().try_for_each(|line| out.line(line))?;
    Ok(Exit::Success)
}
