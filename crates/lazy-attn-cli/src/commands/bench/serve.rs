//! `bench serve`: a workload against a server, from a process of its own.

use std::time::Instant;

use lazy_attn_bench::{
    DocumentOutcome, DocumentUse, Endpoint, PlayOptions, Prompt, Recorder, Report, RequestRecord, RunFigures,
    play,
};
use lazy_attn_proto::Client;
use lazy_attn_proto::v1::{self, generate_response, inline_document, part};
use lazy_attn_types::TokenId;
use tonic::Status;

use super::show::{self, Show};
use super::traffic::Traffic;
use crate::args::BenchServeArgs;
use crate::exit::{Exit, Failure};
use crate::remote::{connect, runtime};
use crate::ui::{CountProgress, Verbosity};

pub(super) fn serve(args: &BenchServeArgs) -> Result<Exit, Failure> {
    let Traffic { trace, .. } = Traffic::of(&args.traffic)?;
    let show = Show::new(&args.output, false);
    let (info, records, begin) = runtime()?.block_on(measure(args, &trace, show.verbosity()))?;
    let duration = begin.elapsed();
    let failed = records.iter().filter(|record| record.error.is_some()).count();
    let report = Report {
        setting: show::setting(&args.output, &info.model, args.server.url().to_owned()),
        num_requests: trace.requests.len(),
        warmup_requests: 0,
        kv_budget: info.kv_capacity_tokens.to_string(),
        results: vec![RunFigures::of_records(args.policy.name(), &records, (&trace, duration))],
        agreements: Vec::new(),
        trace: trace.header,
    };
    show.report(&report, &report.trace.workload)?;
    match records.iter().find_map(|record| record.error.as_ref()) {
        None => Ok(Exit::Success),
        Some(first) => {
            let all = records.len();
            let problem = format!("{failed} of {all} requests failed, the first with: {first}");
            Err(Failure::new(Exit::Server, problem))
        }
    }
}

async fn measure(
    args: &BenchServeArgs,
    trace: &lazy_attn_workload::Trace,
    verbosity: Verbosity,
) -> Result<(v1::GetServerInfoResponse, Vec<RequestRecord>, Instant), Failure> {
    let mut client = connect(&args.server).await?;
    let info = client.server_info().await?;
    let options = PlayOptions { vocab_size: info.vocab_size };
    let mut progress = CountProgress::requests(verbosity, args.policy.name(), trace.requests.len() as u64);
    let begin = Instant::now();
    let records = play(ServerEndpoint(client), trace, options, move |ended| progress.set(ended as u64)).await;
    Ok((info, records, begin))
}

/// A server that answers.
struct ServerEndpoint(Client);

impl Endpoint for ServerEndpoint {
    async fn answer(&self, prompt: Prompt, recorder: &mut Recorder) {
        let num_documents = prompt.documents.len();
        if let Err(status) = self.follow(request(prompt), num_documents, recorder).await {
            recorder.failed(format!("{:?}: {}", status.code(), status.message()));
        }
    }
}

impl ServerEndpoint {
    async fn follow(
        &self,
        request: v1::GenerateRequest,
        num_documents: usize,
        recorder: &mut Recorder,
    ) -> Result<(), Status> {
        let mut stream = self.0.clone().generate(request, None).await?;
        while let Some(message) = stream.message().await? {
            match message.event {
                Some(generate_response::Event::Started(started)) => {
                    let documents = started.parts.iter().take(num_documents).map(document_use).collect();
                    recorder.started(started.prompt_tokens, documents);
                }
                Some(generate_response::Event::Delta(delta)) => {
                    recorder.tokens(delta.token_ids.into_iter().map(TokenId).collect(), Vec::new());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn document_use(part: &v1::ResolvedPart) -> DocumentUse {
    let outcome = match part.outcome() {
        v1::CacheOutcome::Miss => DocumentOutcome::Computed,
        v1::CacheOutcome::Reencoded => DocumentOutcome::Reencoded,
        _ => DocumentOutcome::Hit,
    };
    DocumentUse { num_tokens: part.token_count, outcome }
}

fn request(prompt: Prompt) -> v1::GenerateRequest {
    let ids = |tokens: &[TokenId]| v1::TokenIds { ids: tokens.iter().map(|token| token.0).collect() };
    let document = |tokens: &[TokenId]| {
        let source = Some(inline_document::Source::TokenIds(ids(tokens)));
        let document = v1::InlineDocument { source, ..v1::InlineDocument::default() };
        v1::Part { part: Some(part::Part::InlineDocument(document)) }
    };
    let mut parts: Vec<v1::Part> = prompt.documents.iter().map(|tokens| document(tokens)).collect();
    parts.push(v1::Part { part: Some(part::Part::TokenIds(ids(&prompt.query))) });
    v1::GenerateRequest {
        parts,
        sampling: Some(v1::SamplingOptions { temperature: Some(0.0), ..v1::SamplingOptions::default() }),
        stopping: Some(v1::StoppingOptions {
            max_tokens: Some(prompt.output_tokens),
            ignore_end_tokens: Some(true),
            ..v1::StoppingOptions::default()
        }),
        response: Some(v1::ResponseOptions { token_ids: Some(true), ..v1::ResponseOptions::default() }),
        ..v1::GenerateRequest::default()
    }
}
