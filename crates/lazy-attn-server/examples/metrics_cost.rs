//! What recording costs the engine's thread while others scrape without pause: nanoseconds per observation.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lazy_attn_engine::{EngineStats, Observation, Observer};
use lazy_attn_server::Metrics;
use lazy_attn_types::{BlockSize, Capability, ExecutorInfo, Fingerprint, StoredKeys};

const NUM_OBSERVATIONS: u32 = 2_000_000;

fn main() {
    let info = ExecutorInfo {
        vocab_size: 1,
        num_blocks: 1,
        block_size: BlockSize::DEFAULT,
        kv_bytes_per_token: 1,
        max_step_tokens: 1,
        max_context_tokens: 1,
        fingerprint: Fingerprint([0; 32]),
        capability: Capability::Logits,
        stored_keys: &[StoredKeys::Rotated],
    };
    let metrics = Arc::new(Metrics::new("example", &info));
    for num_scrapers in [0, 1] {
        let (stop, num_scrapes) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..num_scrapers {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        black_box(metrics.render());
                        num_scrapes.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let (token, state) = (token_nanos(&*metrics), state_nanos(&*metrics));
            stop.store(true, Ordering::Relaxed);
            println!("{num_scrapers} scrapers: {token:.1} ns a token, {state:.1} ns a state");
        });
        println!("  {} scrapes meanwhile", num_scrapes.into_inner());
    }
    let begin = Instant::now();
    let length = black_box(metrics.render()).len();
    println!("one scrape: {length} bytes in {} us", begin.elapsed().as_micros());
}

fn token_nanos(observer: &dyn Observer) -> f64 {
    nanos(|index| {
        let since_last = Duration::from_micros(u64::from(index % 100_000));
        observer.observe(black_box(&Observation::NextToken { since_last }));
    })
}

fn state_nanos(observer: &dyn Observer) -> f64 {
    let stats = EngineStats::default();
    nanos(|_| observer.observe(black_box(&Observation::State(&stats))))
}

fn nanos(observe: impl Fn(u32)) -> f64 {
    let begin = Instant::now();
    (0..NUM_OBSERVATIONS).for_each(observe);
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(NUM_OBSERVATIONS)
}
