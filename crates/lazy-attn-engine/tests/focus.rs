//! Requests that look at documents in another way: what the executor is told, what is refused, what is shared.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use std::sync::{Arc, Mutex};

use common::{Bos, END, RigOptions, VOCAB_SIZE, answer, byte_tokenizer, doc, free, request, text};
use lazy_attn_engine::{
    Engine, EngineConfig, EngineError, EngineParts, GenerateRequest, ManualClock, Unobserved,
};
use lazy_attn_testkit::{FakeConfig, FakeExecutor};
use lazy_attn_types::{
    DocumentFocus, Exactness, ExecError, Executor, ExecutorInfo, FocusedView, StepInput, StepOutput,
};

/// An executor that notes what is to be focused, and answers as if nothing were.
struct Noting {
    inner: FakeExecutor,
    steps: Arc<Mutex<Vec<StepInput>>>,
}

impl Executor for Noting {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn focuses_documents(&self) -> bool {
        true
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        input.validate(self.inner.info())?;
        self.steps.lock().unwrap().push(input.clone());
        self.inner.execute(&StepInput { focused: Vec::new(), ..input.clone() })
    }
}

fn start() -> (Engine, Arc<Mutex<Vec<StepInput>>>) {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let inner = FakeExecutor::new(FakeConfig { vocab_size: VOCAB_SIZE, ..FakeConfig::default() });
    let parts = EngineParts {
        executor: Box::new(Noting { inner, steps: Arc::clone(&steps) }),
        tokenizer: byte_tokenizer(Bos::Omit).unwrap(),
        end_tokens: vec![END],
        clock: Arc::new(ManualClock::default()),
        observer: Arc::new(Unobserved),
    };
    (Engine::start(parts, EngineConfig::default()).unwrap(), steps)
}

fn focus(temperature: f32, scale: f32) -> DocumentFocus {
    DocumentFocus::new(temperature, scale).unwrap()
}

/// Text, a document of 40 tokens, text, a document of 20 and a question of several tokens.
fn asked(focus: DocumentFocus, exactness: Exactness) -> GenerateRequest {
    let parts =
        vec![text("Read: "), doc(&"x".repeat(40)), text(" and "), doc(&"y".repeat(20)), text("When?")];
    GenerateRequest { focus, exactness, ..request(parts, 3) }
}

#[test]
fn texts_behind_documents_focus_them_and_documents_do_not() {
    let (engine, steps) = start();
    let way = focus(0.5, 0.75);
    answer(&engine.handle(), asked(way, Exactness::Block));
    let mut num_focused = Vec::new();
    for input in steps.lock().unwrap().iter() {
        for run in &input.runs {
            let focused = input.focused_of(run);
            assert!(focused.iter().all(|view| view.focus == way));
            let lengths: Vec<u32> = focused
                .iter()
                .map(|&FocusedView { view, .. }| input.segments[view as usize].num_tokens)
                .collect();
            assert!(lengths.is_empty() || lengths == [40] || lengths == [40, 20], "{lengths:?}");
            num_focused.push((run.num_segments, focused.len()));
        }
    }
    num_focused.sort_unstable();
    num_focused.dedup();
    // The first text and both documents see nothing; the second text sees one document, question and answer both.
    assert_eq!(num_focused, [(1, 0), (3, 1), (5, 2), (6, 2)]);
}

#[test]
fn a_head_that_is_computed_again_is_no_copy() {
    let (engine, steps) = start();
    answer(&engine.handle(), asked(focus(0.5, 1.0), Exactness::Head { num_tokens: 16 }));
    let steps = steps.lock().unwrap();
    let last = steps.last().unwrap();
    let seen: Vec<_> = last
        .focused
        .iter()
        .map(|view| {
            (last.segments[view.view as usize].first_seen, last.segments[view.view as usize].num_tokens)
        })
        .collect();
    assert_eq!(seen, [(16, 40), (16, 20)], "views behind the heads");
}

#[test]
fn documents_are_shared_between_ways_and_texts_behind_them_are_not() {
    let (engine, _) = start();
    let cached = |focus| {
        let usage = answer(&engine.handle(), asked(focus, Exactness::Block)).usage();
        usage.cached_prompt_tokens
    };
    assert_eq!(cached(DocumentFocus::OFF), 0);
    // Everything but the token that opens the tail.
    let all = 6 + 40 + 5 + 20 + 4;
    assert_eq!(cached(DocumentFocus::OFF), all);
    for way in [focus(0.5, 1.0), focus(1.0, 0.5)] {
        assert_eq!(cached(way), 6 + 40 + 20, "the first text and the documents");
        assert_eq!(cached(way), all);
    }
}

#[test]
fn what_cannot_be_focused_is_refused() {
    let field = |result: Result<_, EngineError>| match result {
        Err(EngineError::Param(error)) => error.field.to_owned(),
        Err(EngineError::Invalid { field, problem }) => format!("{field}: {problem}"),
        other => format!("{:?}", other.map(drop)),
    };
    let rig = free(RigOptions::default());
    let refused = field(rig.handle.submit(asked(focus(0.5, 1.0), Exactness::Block)));
    assert!(refused.starts_with("focus: ") && refused.contains("--device cpu"), "{refused}");
    rig.handle.submit(asked(focus(1.0, 1.0), Exactness::Block)).unwrap();
    let (engine, _) = start();
    assert_eq!(field(engine.handle().submit(asked(focus(0.5, 1.0), Exactness::Full))), "focus");
}
