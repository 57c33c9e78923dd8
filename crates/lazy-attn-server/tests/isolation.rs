//! One tenant does not learn from time whether another one has used a document.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::{Duration, Instant};

use common::measure::area_under_curve;
use common::{Options, Paced, keys, request, start_over};
use lazy_attn_proto::Client;
use lazy_attn_proto::v1::CacheOutcome;
use lazy_attn_proto::v1::generate_response::Event;
use lazy_attn_testkit::{FakeConfig, SplitMix64};

const DOCUMENT_TOKENS: u32 = 128;
/// A document takes 1.3 ms to compute; without it, a first token comes within a few tenths.
const TOKEN: Duration = Duration::from_micros(10);
/// Samples a side. Of two equal sides the area has a standard error of `sqrt((2n + 1) / 12 n^2)`, here 0.013, so that
/// the bound of 0.05 lies 3.9 of them away: it fails by chance once in 10,000 runs.
const NUM_SAMPLES: usize = 1000;
const AREA_MAX: f64 = 0.55;
/// Samples a side of the control, whose area is far from its bound.
const NUM_CONTROLS: usize = 200;
const CONTROL_AREA_MIN: f64 = 0.9;

/// A document that nobody has used yet.
fn new_document(index: u32) -> Vec<u32> {
    let mut document = vec![index % 97, index / 97 % 97, index / 97 / 97];
    document.extend((3..DOCUMENT_TOKENS).map(|i| i % 97));
    document
}

/// Time to the first token as the client sees it, and how the document was found.
async fn ask(client: &mut Client, document: &[u32]) -> (Duration, CacheOutcome) {
    let begin = Instant::now();
    let mut stream = client.generate(request(&[document.to_vec()], &[5], 1), None).await.unwrap();
    let (mut time, mut outcome) = (None, None);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Started(started) => outcome = Some(started.parts[0].outcome()),
            Event::Delta(_) => {
                time.get_or_insert_with(|| begin.elapsed());
            }
            _ => {}
        }
    }
    (time.unwrap(), outcome.unwrap())
}

struct Documents(u32);

impl Documents {
    fn next(&mut self) -> Vec<u32> {
        self.0 += 1;
        new_document(self.0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_to_the_first_token_does_not_tell_what_another_tenant_has_used() {
    let executor = Paced::new(FakeConfig::default(), Duration::ZERO, TOKEN);
    let rig = start_over(Box::new(executor), Options { keys: Some(keys()), ..Options::default() }).await;
    let mut victim = rig.client_of(Some("red-key")).await;
    let mut attacker = rig.client_of(Some("blue-key")).await;
    let mut rng = SplitMix64::new(23);
    let mut documents = Documents(0);
    let (mut used, mut unused) = (Vec::new(), Vec::new());
    while used.len() < NUM_SAMPLES || unused.len() < NUM_SAMPLES {
        let document = documents.next();
        // The victim does the same work either way, so that only the document can make a difference.
        let is_used = rng.below(2) == 0;
        let of_victim = if is_used { document.clone() } else { documents.next() };
        assert_eq!(ask(&mut victim, &of_victim).await.1, CacheOutcome::Miss);
        let (time, outcome) = ask(&mut attacker, &document).await;
        assert_eq!(outcome, CacheOutcome::Miss, "another tenant's document was found");
        if is_used { used.push(time) } else { unused.push(time) }
    }
    // The same measurement where there is something to see: a tenant's own document, new and used.
    let (mut misses, mut hits) = (Vec::new(), Vec::new());
    for _ in 0..NUM_CONTROLS {
        let document = documents.next();
        for (times, expected) in [(&mut misses, CacheOutcome::Miss), (&mut hits, CacheOutcome::Hit)] {
            let (time, outcome) = ask(&mut attacker, &document).await;
            assert_eq!(outcome, expected);
            times.push(time);
        }
    }
    let area = area_under_curve(&unused, &used);
    let control = area_under_curve(&misses, &hits);
    println!(
        "area under the curve: another tenant's document {area:.3} ({} and {} samples), own document {control:.3}",
        unused.len(),
        used.len()
    );
    assert!(control > CONTROL_AREA_MIN, "{control:.3}: the measurement would not show a hit");
    assert!(area.max(1.0 - area) < AREA_MAX, "{area:.3}: time tells what another tenant has used");
}
