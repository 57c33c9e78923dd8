//! Argmax, penalties and sampling against plain loops in f64 and in integers.

use lazy_attn::cuda::LogitShape;
use lazy_attn_sys::abi::{LaSampling, LaSeen, NOT_FINITE, NOTHING_ALLOWED, SEEN_REPEATED};

use crate::elementwise::noise;
use crate::gpu::device;

const GREEDY: LaSampling = LaSampling {
    seed: 0,
    step: 0,
    temperature: 0.0,
    top_p: 1.0,
    min_p: 0.0,
    top_k: 0,
    repetition: 1.0,
    presence: 0.0,
    frequency: 0.0,
    reserved: 0,
};

fn argmax(rows: &[Vec<f32>]) -> Vec<u32> {
    let device = device();
    let shape = LogitShape { num_rows: rows.len() as u32, vocab_size: rows[0].len() as u32 };
    let logits = device.stream().clone_htod(&rows.concat()).unwrap();
    let mut tokens = device.stream().clone_htod(&vec![7_777_777_u32; rows.len()]).unwrap();
    device.argmax(shape, &logits, &mut tokens).unwrap();
    device.stream().clone_dtoh(&tokens).unwrap()
}

fn sample(logits: &[Vec<f32>], rows: &[LaSampling]) -> Vec<u32> {
    let device = device();
    let stream = device.stream();
    let shape = LogitShape { num_rows: rows.len() as u32, vocab_size: logits[0].len() as u32 };
    let gpu_logits = stream.clone_htod(&logits.concat()).unwrap();
    let gpu_rows = stream.clone_htod(rows).unwrap();
    let mut tokens = stream.clone_htod(&vec![7_777_777_u32; rows.len()]).unwrap();
    device.sample(shape, &gpu_rows, &gpu_logits, &mut tokens).unwrap();
    stream.clone_dtoh(&tokens).unwrap()
}

#[test]
fn the_lowest_of_the_largest_logits_is_chosen() {
    for vocab_size in [1, 31, 32, 33, 1023, 1024, 1025, 5000, 151_936] {
        let mut rows = Vec::new();
        for seed in 0..4 {
            // Few distinct values, so that ties are common; zeros of both signs.
            let steps = if seed == 3 { 1.0 } else { 1000.0 };
            let quantise = |&x: &f32| (x * steps).round() / steps * if seed == 2 { 0.0 } else { 1.0 };
            rows.push(noise(seed, 9.0, vocab_size).iter().map(quantise).collect::<Vec<f32>>());
        }
        let first_largest = |row: &Vec<f32>| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter().position(|&logit| logit == max).unwrap() as u32
        };
        let want: Vec<u32> = rows.iter().map(first_largest).collect();
        assert_eq!(argmax(&rows), want, "{vocab_size} logits");
        assert_eq!(sample(&rows, &[GREEDY; 4]), want, "{vocab_size} logits");
    }
}

#[test]
fn rows_without_a_choice_say_so_and_do_not_touch_others() {
    let good: Vec<f32> = noise(1, 5.0, 3000);
    let with = |at: usize, value| {
        let mut row = good.clone();
        row[at] = value;
        row
    };
    let forbidden = vec![f32::NEG_INFINITY; 3000];
    let rows = [
        with(0, f32::NAN),
        with(2999, f32::INFINITY),
        forbidden,
        with(5, f32::NEG_INFINITY),
        with(9, -f32::NAN),
    ];
    let got = argmax(&rows);
    assert_eq!(got[..3], [NOT_FINITE, NOT_FINITE, NOTHING_ALLOWED]);
    assert!(got[3] < 3000 && got[4] == NOT_FINITE, "{got:?}");
    let warm = LaSampling { temperature: 1.0, top_k: 9, top_p: 0.9, ..GREEDY };
    let drawn = sample(&rows, &[warm; 5]);
    assert_eq!((&drawn[..3], drawn[4]), (&got[..3], NOT_FINITE));
    assert!(drawn[3] < 3000 && drawn[3] != 5, "{drawn:?}");
}

#[test]
fn penalties_have_the_bits_of_single_rounded_operations() {
    let (num_rows, vocab_size) = (3_u32, 1000_u32);
    let mut logits = noise(3, 8.0, 3000);
    logits[4] = f32::NEG_INFINITY;
    logits[2005] = f32::NAN;
    let row = |repetition, presence, frequency| LaSampling { repetition, presence, frequency, ..GREEDY };
    let rows = [row(1.3, 0.0, 0.0), row(1.0, 0.7, 0.31), row(1e-38, -1.9, 0.123)];
    let mut seen = Vec::new();
    for index in 0..900 {
        let (count, flags) = (index % 5, if index % 3 == 0 { SEEN_REPEATED } else { 0 });
        let bias = if index % 7 == 0 { 1.5 } else { 0.0 };
        seen.push(LaSeen { row: index % 3, token: index / 3, count, flags, bias });
    }
    seen.push(LaSeen { row: 3, token: 0, count: 1, flags: 0, bias: 9.0 });
    seen.push(LaSeen { row: 0, token: 1000, count: 1, flags: 0, bias: 9.0 });
    let mut want = logits.clone();
    for entry in seen.iter().filter(|entry| entry.row < num_rows && entry.token < vocab_size) {
        let (row, logit) =
            (rows[entry.row as usize], &mut want[(entry.row * vocab_size + entry.token) as usize]);
        if logit.is_nan() {
            continue;
        }
        if entry.flags == SEEN_REPEATED && row.repetition != 1.0 {
            *logit = if *logit > 0.0 { *logit / row.repetition } else { *logit * row.repetition };
            *logit = logit.min(f32::MAX);
        }
        if entry.count > 0 {
            *logit = (*logit - row.presence - row.frequency * entry.count as f32).min(f32::MAX);
        }
        *logit = (*logit + entry.bias).min(f32::MAX);
    }
    let device = device();
    let stream = device.stream();
    let mut gpu = stream.clone_htod(&logits).unwrap();
    let (gpu_rows, gpu_seen) = (stream.clone_htod(&rows).unwrap(), stream.clone_htod(&seen).unwrap());
    device.penalize(LogitShape { num_rows, vocab_size }, &gpu_rows, &gpu_seen, &mut gpu).unwrap();
    let got = stream.clone_dtoh(&gpu).unwrap();
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(got == want || got.is_nan() && want.is_nan(), "logit {index}: {got} is not {want}");
    }
}

/// Philox4x32-10 in its plain form; the first two words.
fn philox(step: u64, seed: u64) -> [u32; 2] {
    let (mut c, mut k) = ([step as u32, (step >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    for _ in 0..10 {
        let a = 0xD251_1F53 * u64::from(c[0]);
        let b = 0xCD9E_8D57 * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    [c[0], c[1]]
}

/// Whether `token` is what `row` draws, with borders moved by `slack` either way.
fn is_drawn(logits: &[f32], row: LaSampling, token: u32, slack: [f64; 2]) -> bool {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |token: u32| {
        ((f64::from(logits[token as usize]) - f64::from(max)) / f64::from(row.temperature)).exp()
    };
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let has_top_k = row.top_k > 0 && (row.top_k as usize) < logits.len();
    if has_top_k || row.top_p < 1.0 {
        order.sort_by(by_logit);
    }
    if has_top_k {
        order.truncate(row.top_k as usize);
    }
    if row.top_p < 1.0 {
        let total: f64 = order.iter().map(|&token| weight(token)).sum();
        let mut reached = 0.0;
        let share = f64::from(row.top_p) + slack[0];
        let end = order.iter().position(|&token| {
            reached += weight(token);
            reached >= share * total
        });
        order.truncate(end.map_or(order.len(), |end| end + 1));
    }
    order.retain(|&token| weight(token) >= f64::from(row.min_p) * (1.0 + slack[1]));
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let [high, low] = philox(row.step, row.seed);
    let uniform = ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64;
    let mut before = 0.0;
    for &entry in &order {
        let after = before + weight(entry) / total;
        if entry == token {
            return before - 1e-6 <= uniform && uniform <= after + 1e-6;
        }
        before = after;
    }
    false
}

fn check_draws(vocab_size: usize, size: f32, params: LaSampling) {
    let (mut logits, mut rows) = (Vec::new(), Vec::new());
    for step in 0..24 {
        let mut row = noise(100 + step % 3, size, vocab_size);
        // Ties at every border, and tokens that are forbidden.
        row.iter_mut().step_by(2).for_each(|logit| *logit = logit.round());
        row.iter_mut().skip(3).step_by(11).for_each(|logit| *logit = f32::NEG_INFINITY);
        logits.push(row);
        rows.push(LaSampling { seed: 0x1234_5678_9ABC_DEF0 ^ step, step: step / 3, ..params });
    }
    let drawn = sample(&logits, &rows);
    for ((logits, row), &token) in logits.iter().zip(&rows).zip(&drawn) {
        let slacks = [[-1e-6, -1e-6], [-1e-6, 1e-6], [1e-6, -1e-6], [1e-6, 1e-6]];
        let is_right = slacks.iter().any(|&slack| is_drawn(logits, *row, token, slack));
        assert!(is_right, "{token} of {vocab_size} (size {size}) is not what {row:?} draws");
    }
    assert_eq!(sample(&logits, &rows), drawn, "a draw that is repeated differs");
}

#[test]
fn draws_are_those_of_a_plain_loop() {
    // Philox4x32-10 of a zero counter and key, in the reference implementation's known answers.
    assert_eq!(philox(0, 0), [0x6627_e8d5, 0xe169_c58d]);
    let warm = LaSampling { temperature: 0.8, ..GREEDY };
    for (vocab_size, size) in [(2, 1.0), (100, 3.0), (5000, 8.0)] {
        for top_k in [0, 1, 40] {
            for top_p in [1.0, 0.95, 0.01] {
                for min_p in [0.0, 0.05] {
                    check_draws(vocab_size, size, LaSampling { top_k, top_p, min_p, ..warm });
                }
            }
        }
    }
}

/// A weight in 2^-44ths, operation by operation that of the CPU sampler.
fn exact_weight(logit: f32, max: f32, row: LaSampling) -> u64 {
    let x = (logit - max) / row.temperature;
    let clamped = x.max(-87.0);
    let n = (clamped * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = (clamped - n * (355.0 / 512.0)) - n * -2.121_944_4e-4;
    let factorials = [5040.0, 720.0, 120.0, 24.0, 6.0, 2.0];
    let series = factorials.into_iter().fold(0.0, |sum, factorial| 1.0f32 / factorial + r * sum);
    let weight = (1.0 + (r + r * r * series)) * 2f32.powi(n as i32);
    if x < -87.0 || weight < row.min_p { 0 } else { (weight * 2f32.powi(44)).round_ties_even() as u64 }
}

/// The entry at which the sum of `values` passes `target`.
fn border(values: impl Iterator<Item = u64>, target: u64) -> usize {
    let mut sums = values.scan(0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    sums.position(|sum| sum > target).unwrap()
}

/// What `row` draws, in integers: no sum is rounded.
fn exact_draw(logits: &[f32], row: LaSampling) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |row, token: &u32| exact_weight(logits[*token as usize], max, row);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let has_top_k = row.top_k > 0 && (row.top_k as usize) < logits.len();
    if has_top_k || row.top_p < 1.0 {
        order.sort_by(|a, b| logits[*b as usize].partial_cmp(&logits[*a as usize]).unwrap().then(a.cmp(b)));
    }
    if has_top_k {
        order.truncate(row.top_k as usize);
    }
    let all = LaSampling { min_p: 0.0, ..row };
    if row.top_p < 1.0 {
        let total: u64 = order.iter().map(|token| weight(all, token)).sum();
        let target = ((f64::from(row.top_p) * total as f64).ceil() - 1.0).max(0.0) as u64;
        let last = border(order.iter().map(|token| weight(all, token)), target.min(total - 1));
        order.truncate(last + 1);
    }
    let total: u64 = order.iter().map(|token| weight(row, token)).sum();
    let [high, low] = philox(row.step, row.seed);
    let uniform = ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64;
    let target = (uniform * total as f64) as u64;
    order[border(order.iter().map(|token| weight(row, token)), target.min(total - 1))]
}

#[test]
fn draws_are_those_of_exact_sums_of_the_weights_of_the_cpu() {
    let base = LaSampling { temperature: 0.7, ..GREEDY };
    // Few logits, a bin of many equal ones, and a row that no bin of entries holds.
    for (vocab_size, step) in [(3, 0.0), (5000, 0.0), (5000, 2.0), (40_000, 0.125)] {
        let mut row = noise(9, 8.0, vocab_size);
        if step > 0.0 {
            row.iter_mut().for_each(|logit| *logit = (*logit / step).round() * step);
        }
        row.iter_mut().skip(2).step_by(7).for_each(|logit| *logit = f32::NEG_INFINITY);
        let mut params = Vec::new();
        for (top_k, top_p) in [(0, 1.0), (0, 0.9), (50, 1.0), (3000, 0.99), (1, 0.5)] {
            for (min_p, temperature) in [(0.0, 0.7), (0.02, 1.0), (0.0, 40.0)] {
                let seed = u64::from(top_k) + params.len() as u64;
                let row = LaSampling { top_k, top_p, min_p, temperature, ..base };
                params.extend((0..4).map(|step| LaSampling { seed, step, ..row }));
            }
        }
        let drawn = sample(&vec![row.clone(); params.len()], &params);
        for (params, token) in params.iter().zip(drawn) {
            assert_eq!(token, exact_draw(&row, *params), "{vocab_size} logits, steps of {step}, {params:?}");
        }
    }
}

#[test]
fn every_temperature_and_a_full_vocabulary_work() {
    for temperature in [0.05, 1.0, 3.0, 1e6] {
        check_draws(151_936, 10.0, LaSampling { temperature, top_p: 0.9, ..GREEDY });
        check_draws(151_936, 10.0, LaSampling { temperature, ..GREEDY });
    }
}

#[test]
fn a_few_draws_for_the_sanitizer() {
    for (top_k, top_p) in [(0, 1.0), (5, 0.9)] {
        check_draws(1500, 4.0, LaSampling { temperature: 1.0, top_k, top_p, min_p: 0.01, ..GREEDY });
    }
}
