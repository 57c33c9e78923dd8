//! Sends the requests of a trace.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazy_attn_types::TokenId;
use lazy_attn_workload::{Load, Trace};
use tokio::task::LocalSet;

use crate::endpoint::{Endpoint, Prompt};
use crate::record::{Recorder, RequestRecord};

/// How a trace is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayOptions {
    /// Tokens of the vocabulary that prompts are made of.
    pub vocab_size: u32,
}

/// One trace being played.
struct Player<E> {
    endpoint: E,
    trace: Trace,
    options: PlayOptions,
    documents: HashMap<u32, Arc<[TokenId]>>,
    start: Instant,
    next: Cell<usize>,
    records: RefCell<Vec<RequestRecord>>,
    on_end: RefCell<Box<dyn FnMut(usize)>>,
}

/// Plays `trace` against `endpoint` and returns one record per request, in the order of the trace. `on_end` is told how many
/// requests have ended. All clients run on the calling thread, which needs a runtime of tokio with time.
pub async fn play<E: Endpoint + 'static>(
    endpoint: E,
    trace: &Trace,
    options: PlayOptions,
    on_end: impl FnMut(usize) + 'static,
) -> Vec<RequestRecord> {
    // Every token of a document is made before the clock starts.
    let documents = documents(trace, options.vocab_size);
    let player = Rc::new(Player {
        endpoint,
        trace: trace.clone(),
        options,
        documents,
        start: Instant::now(),
        next: Cell::new(0),
        records: RefCell::new(Vec::with_capacity(trace.requests.len())),
        on_end: RefCell::new(Box::new(on_end)),
    });
    let clients = LocalSet::new();
    match trace.header.load {
        Load::Closed { clients: num_clients } => {
            for _ in 0..num_clients {
                clients.spawn_local(Rc::clone(&player).send_when_answered());
            }
        }
        Load::Open { .. } => {
            for index in 0..trace.requests.len() {
                clients.spawn_local(Rc::clone(&player).send_in_time(index));
            }
        }
    }
    clients.await;
    let mut records = player.records.take();
    records.sort_unstable_by_key(|record| record.index);
    records
}

/// The tokens of every document that `trace` asks for.
fn documents(trace: &Trace, vocab_size: u32) -> HashMap<u32, Arc<[TokenId]>> {
    let wanted: HashSet<u32> =
        trace.requests.iter().flat_map(|request| request.documents.iter().copied()).collect();
    let tokens = |document| (document, trace.header.document_tokens(document, vocab_size).into());
    wanted.into_iter().map(tokens).collect()
}

impl<E: Endpoint> Player<E> {
    async fn send_when_answered(self: Rc<Self>) {
        while self.next.get() < self.trace.requests.len() {
            let index = self.next.get();
            self.next.set(index + 1);
            self.send(index, Duration::ZERO).await;
        }
    }

    async fn send_in_time(self: Rc<Self>, index: usize) {
        let at = Duration::from_micros(self.trace.requests[index].at_us);
        tokio::time::sleep_until((self.start + at).into()).await;
        let late = self.start.elapsed().saturating_sub(at);
        self.send(index, late).await;
    }

    async fn send(&self, index: usize, late: Duration) {
        let prompt = self.prompt(index);
        let mut recorder = Recorder::new(self.start, index, late);
        self.endpoint.answer(prompt, &mut recorder).await;
        let num_ended = {
            let mut records = self.records.borrow_mut();
            records.push(recorder.finish());
            records.len()
        };
        (self.on_end.borrow_mut())(num_ended);
    }

    fn prompt(&self, index: usize) -> Prompt {
        let (request, header) = (&self.trace.requests[index], &self.trace.header);
        Prompt {
            documents: request
                .documents
                .iter()
                .filter_map(|document| self.documents.get(document).cloned())
                .collect(),
            query: header.query_tokens(request.query, self.options.vocab_size),
            output_tokens: header.shape.output_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use lazy_attn_workload::Workload;

    use super::*;

    /// Answers after a fixed time, and notes how many it answers at once.
    #[derive(Clone, Default)]
    struct Slow(Rc<Cell<usize>>, Rc<Cell<usize>>);

    impl Endpoint for Slow {
        async fn answer(&self, prompt: Prompt, recorder: &mut Recorder) {
            self.0.set(self.0.get() + 1);
            self.1.set(self.1.get().max(self.0.get()));
            tokio::time::sleep(Duration::from_millis(200)).await;
            recorder.tokens(vec![prompt.query[0]], Vec::new());
            self.0.set(self.0.get() - 1);
        }
    }

    fn played(load: Load, num_requests: u32) -> (Vec<RequestRecord>, usize) {
        let workload = Workload { load, num_requests, ..Workload::named("hit-small").unwrap() };
        let trace = Trace::generate(&workload, 3).unwrap();
        let slow = Slow::default();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let options = PlayOptions { vocab_size: 97 };
        let records = runtime.block_on(play(slow.clone(), &trace, options, |_| ()));
        (records, slow.1.get())
    }

    #[test]
    fn clients_send_when_they_have_their_answer() {
        let (records, most) = played(Load::Closed { clients: 3 }, 20);
        assert_eq!((records.len(), most), (20, 3));
        assert!(records.iter().enumerate().all(|(index, record)| record.index == index));
    }

    #[test]
    fn an_open_load_does_not_wait_for_answers() {
        let (records, most) = played(Load::Open { rate_per_second: 1000.0 }, 50);
        assert_eq!(records.len(), 50);
        assert!(most > 40, "fifty arrive within the time of one answer: {most} at once");
    }
}
