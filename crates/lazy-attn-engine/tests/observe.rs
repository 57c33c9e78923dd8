//! What an observer is told.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::sync::{Arc, Mutex};

use common::{Gate, Rig, RigOptions, answer, doc, free, gated, read, request, text};
use lazy_attn_engine::{
    CancelCause, EncodeRequest, EngineConfig, EngineError, Observation, Observer, PartContent, Pin,
};
use lazy_attn_types::TenantSalt;

/// Writes down everything but where the engine stands.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Observer for Recorder {
    fn observe(&self, observation: &Observation<'_>) {
        if !matches!(observation, Observation::State(_)) {
            self.0.lock().unwrap().push(format!("{observation:?}"));
        }
    }
}

impl Recorder {
    fn of(&self, kind: &str) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|line| line.split(' ').next() == Some(kind)).cloned().collect()
    }
}

fn rig(start: fn(RigOptions) -> Rig, engine: EngineConfig) -> (Rig, Arc<Recorder>) {
    let recorder = Arc::<Recorder>::default();
    let rig = start(RigOptions { engine, observer: recorder.clone(), ..RigOptions::default() });
    (rig, recorder)
}

/// Lets one step run, which takes a millisecond.
fn step(rig: &Rig, gate: &Gate) {
    gate.wait();
    rig.clock.advance(1000);
    gate.permit();
}

#[test]
fn times_of_a_request_are_those_of_the_clock() {
    // 30 tokens of the document take 4 steps, its question and first token one more.
    let engine = EngineConfig { max_step_tokens: 8, max_running: 4, ..EngineConfig::default() };
    let (mut rig, recorder) = rig(gated, engine);
    let stream = rig.handle.submit(request(vec![doc(&"d".repeat(30)), text("When?")], 3)).unwrap();
    (0..7).for_each(|_| step(&rig, &rig.gate));
    rig.gate.open();
    read(stream);
    assert_eq!(recorder.of("Admitted"), ["Admitted { queue: 0ns }"]);
    assert_eq!(recorder.of("Document"), ["Document { outcome: Miss, num_tokens: 30 }"]);
    assert_eq!(recorder.of("DocumentEncoded"), ["DocumentEncoded { took: 4ms }"]);
    assert_eq!(recorder.of("FirstToken"), ["FirstToken { since_submitted: 5ms, prefill: 5ms }"]);
    assert_eq!(recorder.of("NextToken"), ["NextToken { since_last: 1ms }"; 2]);
    assert_eq!(recorder.of("Done"), ["Done { since_submitted: 7ms, decode: Some(2ms) }"]);
    let steps = recorder.of("Step");
    assert_eq!(steps.len(), 7);
    assert_eq!(steps[0], "Step { took: 1ms, num_tokens: 8, num_sequences: 1 }");
    assert_eq!(steps[6], "Step { took: 1ms, num_tokens: 1, num_sequences: 1 }");
}

#[test]
fn sequences_that_read_one_document_are_a_group() {
    let (mut rig, recorder) = rig(gated, EngineConfig::default());
    let shared = || doc("The pilot boat leaves at six.");
    let first = rig.handle.submit(request(vec![shared(), text("When?")], 2)).unwrap();
    rig.gate.wait();
    // Both wait while the first step is held back: the second has the document twice, and one of its own.
    let own = doc("The lamp");
    let second = rig.handle.submit(request(vec![shared(), own, shared(), text("Where?")], 2)).unwrap();
    rig.gate.open();
    read(first);
    read(second);
    // Step 1: the first alone. Step 2: both. Step 3: the second alone.
    let sharing = |attended, distinct| {
        format!("Sharing {{ attended_tokens: {attended}, distinct_tokens: {distinct} }}")
    };
    assert_eq!(
        recorder.of("Sharing"),
        [sharing(29, 29), sharing(3 * 29 + 8, 29 + 8), sharing(2 * 29 + 8, 37)]
    );
    let sizes: Vec<String> = recorder.of("DocumentGroup");
    let sizes: Vec<&str> =
        sizes.iter().map(|line| &line["DocumentGroup { num_sequences: ".len()..][..1]).collect();
    assert_eq!(sizes, ["1", "2", "1", "1", "1"]);
    let documents = recorder.of("Document");
    let outcomes: Vec<&str> =
        documents.iter().map(|line| line.split(['{', ',']).nth(1).unwrap().trim()).collect();
    assert_eq!(outcomes, ["outcome: Miss", "outcome: Hit", "outcome: Miss", "outcome: Hit"]);
}

#[test]
fn every_request_ends_once_and_says_how() {
    let engine = EngineConfig { max_running: 1, max_waiting: 2, ..EngineConfig::default() };
    let (mut rig, recorder) = rig(gated, engine);
    let ask = || rig.handle.submit(request(vec![text("one")], 9));
    let first = ask().unwrap();
    rig.gate.wait();
    assert!(rig.handle.submit(request(Vec::new(), 9)).is_err());
    let (left, late) = (ask().unwrap(), ask().unwrap());
    assert!(matches!(ask(), Err(EngineError::QueueFull { waiting: 2 })));
    drop(left);
    late.expire();
    rig.gate.open();
    read(first);
    rig.handle.settled_stats().unwrap();
    let cancelled = |cause: CancelCause| format!("Cancelled {{ cause: {cause:?} }}");
    let causes = [cancelled(CancelCause::Client), cancelled(CancelCause::Deadline)];
    assert_eq!(recorder.of("Cancelled"), causes);
    assert_eq!(recorder.of("Done").len(), 1);
    let failed = recorder.of("Failed");
    assert!(
        failed.len() == 2 && failed[0].contains("parts") && failed[1].contains("QueueFull"),
        "{failed:?}"
    );
}

#[test]
fn a_document_put_ahead_of_its_use_is_a_request_without_tokens() {
    let (rig, recorder) = rig(free, EngineConfig::default());
    let content = PartContent::Text("The lamp burns oil.".into());
    let tenant = TenantSalt::SINGLE_USER;
    read(
        rig.handle
            .encode(EncodeRequest { content, tenant, pin: Pin::No, priority: 0, timeout: None })
            .unwrap(),
    );
    assert_eq!(recorder.of("Document"), ["Document { outcome: Miss, num_tokens: 19 }"]);
    assert_eq!(recorder.of("DocumentEncoded"), ["DocumentEncoded { took: 0ns }"]);
    assert_eq!(recorder.of("Done"), ["Done { since_submitted: 0ns, decode: None }"]);
    assert!(recorder.of("FirstToken").is_empty() && recorder.of("Sharing").is_empty());
}

#[test]
fn nothing_observed_holds_what_was_asked() {
    let (rig, recorder) = rig(free, EngineConfig::default());
    answer(&rig.handle, request(vec![doc("The secret is Rumpelstilzchen."), text("Rumpelstilzchen?")], 4));
    let all = recorder.0.lock().unwrap().join("\n");
    assert!(all.contains("Done") && !all.contains("Rumpel"), "{all}");
}
