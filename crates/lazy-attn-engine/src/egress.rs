//! Tokens become events: the state of a request between its steps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lazy_attn_kv::Found;
use lazy_attn_sched::{Outcome, PlannedRun, RunTokens, Work};
use lazy_attn_types::{
    Context, Exactness, OutputKind, OutputRow, Segment, SegmentHandle, SegmentKey, SegmentKind, SequenceId,
    Timestamp,
};
use tokio::sync::mpsc::UnboundedSender;
use tracing::Span;

use crate::command::{Job, QueuePlace};
use crate::intake::{self, PreparedPart};
use crate::sample::Sample;
use crate::sampling::{SampleError, SamplingScratch};
use crate::{
    CacheUse, CancelCause, EngineError, Event, Observation, Observer, PartOutcome, Pin, ResolvedPart, Timing,
    Usage,
};

/// When things happened to a request.
#[derive(Debug)]
struct Times {
    submitted: Timestamp,
    admitted: Option<Timestamp>,
    first_token: Option<Timestamp>,
    last_token: Option<Timestamp>,
    /// Of each sequence, its last token.
    last_tokens: Vec<Option<Timestamp>>,
}

/// A request the loop knows.
pub(crate) struct LiveRequest {
    job: LiveJob,
    samples: Vec<Sample>,
    num_admitted: usize,
    num_finished: usize,
    /// Given up when the last sample is admitted.
    place: Option<QueuePlace>,
    /// Of each segment of the context, tokens computed for this request; what a late sample or a preemption makes it
    /// compute again is counted once.
    computed: Vec<u32>,
    num_preemptions: u32,
    documents_reused: u32,
    documents_reencoded: u32,
    times: Times,
    /// Documents that it began to encode, with the plan of their first step; at most those of its prompt.
    encoding: Vec<(SegmentHandle, Timestamp)>,
    observer: Arc<dyn Observer>,
}

/// What does not change.
#[derive(Debug)]
struct LiveJob {
    request: lazy_attn_types::RequestId,
    sequences: Vec<SequenceId>,
    parts: Vec<PreparedPart>,
    prompt_tokens: u32,
    exactness: Exactness,
    work: intake::Work,
    cache: CacheUse,
    context: Arc<Context>,
    seed: u64,
    events: UnboundedSender<Event>,
    /// Where the documents stand in the context.
    documents: Vec<usize>,
    span: Span,
}

impl LiveRequest {
    pub(crate) fn new(job: Job, observer: Arc<dyn Observer>) -> LiveRequest {
        let times = Times {
            submitted: job.submitted,
            admitted: None,
            first_token: None,
            last_token: None,
            last_tokens: vec![None; job.sequences.len()],
        };
        let kinds = job.prepared.context.segments().iter().map(|segment| segment.kind());
        let documents = kinds.enumerate().filter(|&(_, kind)| kind == SegmentKind::Document);
        LiveRequest {
            samples: job.samples,
            num_admitted: 0,
            num_finished: 0,
            place: Some(job.place),
            computed: vec![0; job.prepared.context.segments().len()],
            num_preemptions: 0,
            documents_reused: 0,
            documents_reencoded: 0,
            times,
            encoding: Vec::new(),
            observer,
            job: LiveJob {
                documents: documents.map(|(index, _)| index).collect(),
                request: job.request,
                sequences: job.sequences,
                prompt_tokens: job.prepared.prompt_tokens(),
                exactness: job.prepared.exactness,
                work: job.prepared.work,
                cache: job.prepared.cache,
                context: job.prepared.context,
                parts: job.prepared.parts,
                seed: job.seed,
                events: job.events,
                span: job.span,
            },
        }
    }

    /// The document that is to be pinned once it is encoded.
    pub(crate) fn document_to_pin(&self) -> Option<SegmentKey> {
        // The document of a request that only encodes one is its first segment.
        let first = self.job.context.segments().first();
        first.filter(|_| self.job.work == intake::Work::Encode(Pin::Yes)).map(Segment::key)
    }

    pub(crate) fn sequences(&self) -> &[SequenceId] {
        &self.job.sequences
    }

    pub(crate) fn context(&self) -> &Context {
        &self.job.context
    }

    /// Where the documents stand in the context.
    pub(crate) fn documents(&self) -> &[usize] {
        &self.job.documents
    }

    /// A sample starts to run; the first one tells how every part was found.
    pub(crate) fn admit(&mut self, found: &[Found], now: Timestamp) {
        self.num_admitted += 1;
        if self.num_admitted == self.job.sequences.len() {
            // Before the event: a reader that knows of the start may count on the free place.
            self.place = None;
        }
        if self.num_admitted == 1 {
            self.times.admitted = Some(now);
            let parts: Vec<ResolvedPart> = self.job.parts.iter().map(|part| resolved(part, found)).collect();
            for (part, _) in parts.iter().zip(&self.job.parts).filter(|(_, own)| own.is_document) {
                match part.outcome {
                    PartOutcome::Hit | PartOutcome::Joined => self.documents_reused += 1,
                    PartOutcome::Reencoded => self.documents_reencoded += 1,
                    PartOutcome::Miss => {}
                }
            }
            self.observe_start(&parts, now);
            let LiveJob { request, seed, exactness, .. } = self.job;
            self.send(Event::Started { request, parts, seed, exactness });
        }
    }

    fn observe_start(&self, parts: &[ResolvedPart], now: Timestamp) {
        let queue = Duration::from_micros(now.micros_since(self.times.submitted));
        self.observer.observe(&Observation::Admitted { queue });
        for (part, own) in parts.iter().zip(&self.job.parts).filter(|(_, own)| own.is_document) {
            let num_tokens = own.num_tokens;
            self.observer.observe(&Observation::Document { outcome: part.outcome, num_tokens });
        }
        let documents_reused = self.documents_reused;
        tracing::debug!(parent: &self.job.span, queue_micros = queue.as_micros(), documents_reused, "admitted");
    }

    /// One of its samples gave its blocks away.
    pub(crate) fn preempted(&mut self) {
        self.num_preemptions += 1;
        // Documents half encoded may be gone.
        self.encoding.clear();
    }

    /// A step planned `now` does `run` for this request.
    pub(crate) fn note_run(&mut self, run: &PlannedRun, now: Timestamp) {
        if run.work == Work::Encode && run.first_local == 0 {
            self.encoding.push((run.own.handle, now));
        }
        if matches!(run.work, Work::Encode | Work::Prefill) {
            let index = run.context.iter().position(|placed| placed.handle == run.own.handle);
            if let Some(computed) = index.and_then(|index| self.computed.get_mut(index)) {
                *computed = run.own.num_tokens.max(*computed);
            }
        }
    }

    /// `run`, part of a document, is written `now`.
    pub(crate) fn encoded(&mut self, run: &PlannedRun, now: Timestamp) {
        let is_whole =
            matches!(&run.source, RunTokens::OfSegment(all) if run.own.num_tokens as usize == all.len());
        let started = self.encoding.iter().position(|(handle, _)| *handle == run.own.handle);
        if let Some(index) = started.filter(|_| is_whole) {
            let (_, since) = self.encoding.swap_remove(index);
            let took = Duration::from_micros(now.micros_since(since));
            self.observer.observe(&Observation::DocumentEncoded { took });
        }
    }

    /// Sequences of a request are numbered in a row.
    fn index_of(&self, sequence: SequenceId) -> usize {
        (sequence.0 - self.job.sequences[0].0) as usize
    }

    /// How the row of `sequence` after `num_generated` tokens is wanted of an executor that samples.
    pub(crate) fn output_kind(&self, sequence: SequenceId, num_generated: u32) -> OutputKind {
        self.samples[self.index_of(sequence)].output_kind(num_generated)
    }

    /// The row of `sequence` came out of a step that ended at `now`.
    pub(crate) fn row(
        &mut self,
        sequence: SequenceId,
        row: OutputRow<'_>,
        scratch: &mut SamplingScratch,
        now: Timestamp,
    ) -> Result<Outcome, SampleError> {
        let index = self.index_of(sequence);
        let sampled = self.samples[index].push(scratch, row)?;
        self.observe_token(index, now);
        let index = index as u32;
        let token = sampled.token.chosen.token;
        self.send(Event::Delta { index, text: sampled.text, tokens: vec![sampled.token] });
        let Some(reason) = sampled.finish else { return Ok(Outcome::Continue(token)) };
        self.send(Event::Finished { index, reason });
        self.num_finished += 1;
        Ok(Outcome::Finished)
    }

    fn observe_token(&mut self, index: usize, now: Timestamp) {
        if self.times.first_token.is_none() {
            self.times.first_token = Some(now);
            let Timing { time_to_first_token: since_submitted, prefill, .. } = self.times.timing();
            self.observer.observe(&Observation::FirstToken { since_submitted, prefill });
            tracing::debug!(parent: &self.job.span, micros = since_submitted.as_micros(), "first token");
        }
        self.times.last_token = Some(now);
        if let Some(last) = self.times.last_tokens[index].replace(now) {
            let since_last = Duration::from_micros(now.micros_since(last));
            self.observer.observe(&Observation::NextToken { since_last });
        }
    }

    /// Whether every sample has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.num_finished == self.job.sequences.len()
    }

    /// Sends the last event of a request that is done `now`.
    pub(crate) fn done(self, now: Timestamp) {
        let usage = self.usage();
        let timing = self.times.timing();
        let since_submitted = Duration::from_micros(now.micros_since(self.times.submitted));
        let decode = self.times.first_token.map(|_| timing.decode);
        self.observer.observe(&Observation::Done { since_submitted, decode });
        tracing::debug!(parent: &self.job.span, completion_tokens = usage.completion_tokens, "finished");
        self.send(Event::Done { usage, timing });
    }

    /// Sends the last event of a request that cannot go on.
    pub(crate) fn fail(self, error: EngineError) {
        self.observer.observe(&Observation::Failed { error: &error });
        tracing::debug!(parent: &self.job.span, %error, "failed");
        self.send(Event::Failed(error));
    }

    /// Its reader gave it up.
    pub(crate) fn cancelled(self, cause: CancelCause) {
        self.observer.observe(&Observation::Cancelled { cause });
        tracing::debug!(parent: &self.job.span, ?cause, "cancelled");
    }

    fn usage(&self) -> Usage {
        // The last prompt token is always run, if tokens are wanted.
        let num_tail = u32::from(self.job.work == intake::Work::Generate);
        let led_tokens: u32 = self.computed.iter().sum();
        let computed_prompt_tokens = led_tokens + num_tail;
        Usage {
            prompt_tokens: self.job.prompt_tokens,
            cached_prompt_tokens: self.cached_prompt_tokens(),
            computed_prompt_tokens,
            recomputed_tokens: self.job.context.num_recomputed_tokens(),
            cache_creation_tokens: if self.job.cache == CacheUse::ReadWrite { led_tokens } else { 0 },
            completion_tokens: self.samples.iter().map(Sample::num_generated).sum(),
            documents_total: self.job.parts.iter().filter(|part| part.is_document).count() as u32,
            documents_reused: self.documents_reused,
            documents_reencoded: self.documents_reencoded,
            preemptions: self.num_preemptions,
        }
    }

    /// Tokens that the context sees and this request did not compute.
    fn cached_prompt_tokens(&self) -> u32 {
        let mut computed: HashMap<SegmentKey, u32> = HashMap::new();
        let segments = self.job.context.segments();
        for (segment, &num_tokens) in segments.iter().zip(&self.computed) {
            let of_key = computed.entry(segment.key()).or_default();
            *of_key = num_tokens.max(*of_key);
        }
        // A document that stands in the context twice was computed for the first place, and found for the second.
        let mut charged: HashMap<SegmentKey, u32> = HashMap::new();
        let cached = segments.iter().map(|segment| {
            let (seen, charged) = (segment.seen(), charged.entry(segment.key()).or_default());
            let first = seen.first.max(*charged);
            let num_computed = computed[&segment.key()].min(seen.end).saturating_sub(first);
            *charged = seen.end.max(*charged);
            seen.num_tokens() - num_computed
        });
        cached.sum()
    }

    fn send(&self, event: Event) {
        // A reader that went away has sent its cancellation already.
        let _ = self.job.events.send(event);
    }
}

impl Times {
    fn timing(&self) -> Timing {
        let between = |later: Option<Timestamp>, earlier: Option<Timestamp>| match (later, earlier) {
            (Some(later), Some(earlier)) => Duration::from_micros(later.micros_since(earlier)),
            _ => Duration::ZERO,
        };
        Timing {
            queue: between(self.admitted, Some(self.submitted)),
            time_to_first_token: between(self.first_token, Some(self.submitted)),
            prefill: between(self.first_token, self.admitted),
            decode: between(self.last_token, self.first_token),
        }
    }
}

fn resolved(part: &PreparedPart, found: &[Found]) -> ResolvedPart {
    let outcome = match part.segment_index.and_then(|index| found.get(index)) {
        Some(Found::Hit) => PartOutcome::Hit,
        Some(Found::Joined) => PartOutcome::Joined,
        Some(Found::Reencoded) => PartOutcome::Reencoded,
        // The last prompt token alone has no segment: it is always run.
        Some(Found::Miss) | None => PartOutcome::Miss,
    };
    ResolvedPart { num_tokens: part.num_tokens, document_key: part.document_key.clone(), outcome }
}
