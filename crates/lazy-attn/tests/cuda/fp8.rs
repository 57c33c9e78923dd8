//! 8-bit keys and values: what is stored against f64, and attention over what is stored.

use lazy_attn::BlockCopy;
use lazy_attn::cuda::{BlockCopies, CudaKvStore, CudaRope};
use lazy_attn::{KvDtype, Planner, RopeTable};
use lazy_attn_sys::BlockLayout;
use lazy_attn_types::{BlockId, StepInput};

use crate::common::{
    KEY, LAYER, Rows, Scenario, Shape, VALUE, half_unit, inv_freq, push_run, relative_error, rotate,
};
use crate::gpu::{Gpu, check_repetitions, config, device, narrow, widen};

const FP8: Shape = Shape {
    num_kv_heads: 2,
    group_size: 4,
    head_dim: 128,
    rotary_dim: 128,
    block_size: 16,
    dtype: KvDtype::Fp8E4m3,
};

/// A number of 4 bits of exponent and 3 of mantissa.
fn e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let size =
        if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) };
    assert!(bits & 0x7F != 0x7F, "a NaN is stored");
    if bits & 0x80 == 0 { size } else { -size }
}

/// Half the distance of e4m3 numbers around `x`.
fn half_step(x: f64) -> f64 {
    let exponent = x.abs().max(2f64.powi(-6)).log2().floor();
    2f64.powi(exponent as i32 - 4)
}

/// The bytes and scales of a store, on the host.
pub(crate) struct Stored {
    shape: Shape,
    num_blocks: u32,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl Stored {
    pub(crate) fn of(store: &mut CudaKvStore, shape: Shape) -> Stored {
        let stream = std::sync::Arc::clone(device().stream());
        let num_blocks = store.layout().num_blocks;
        let bytes = stream.clone_dtoh(store.memory_mut()).unwrap();
        let scales = stream.clone_dtoh(store.scales_mut()).unwrap();
        Stored { shape, num_blocks, bytes, scales }
    }

    /// Entry of a (block, KV head) in the scales; blocks lie in the same order.
    fn entry(&self, kind: u32, block: u32, kv_head: u32) -> usize {
        let half = 2 * LAYER + u32::from(kind == VALUE);
        ((half * self.num_blocks + block) * self.shape.num_kv_heads + kv_head) as usize
    }

    fn scale(&self, kind: u32, block: u32, kv_head: u32) -> f64 {
        f64::from(self.scales[self.entry(kind, block, kv_head)])
    }

    /// Elements of a slot as bits: `[head_dim]`.
    fn bits(&self, kind: u32, block: u32, kv_head: u32, slot: u32) -> Vec<u8> {
        let layout = BlockLayout::of_8_bit(self.shape.block_size, self.shape.head_dim).unwrap();
        let first = self.entry(kind, block, kv_head) * layout.num_bytes() as usize;
        (0..self.shape.head_dim).map(|dim| self.bytes[first + layout.byte(slot, dim) as usize]).collect()
    }

    /// Values of a slot, which single precision holds: `[head_dim]`.
    pub(crate) fn values(&self, kind: u32, block: u32, kv_head: u32, slot: u32) -> Vec<f64> {
        let scale = self.scale(kind, block, kv_head);
        self.bits(kind, block, kv_head, slot).into_iter().map(|bits| e4m3(bits) * scale).collect()
    }

    /// Checks a block against the rows that were written to its first slots: scale, elements, and zeros behind them.
    fn check_block(&self, kind: u32, (block, kv_head): (u32, u32), rows: &[Vec<f64>]) {
        let scale = self.scale(kind, block, kv_head);
        let largest = rows.iter().flatten().fold(0.0f64, |largest, x| largest.max(x.abs()));
        // Rotations are right to 2e-6, which may decide which power of two it is.
        let (low, high) = (largest * (1.0 - 4e-6), largest * (1.0 + 4e-6));
        let is_within = |x: f64| (2f64.powi(-15)..=128.0).contains(&x);
        let allowed = [low, high].map(|x| 2f64.powi((x.log2().floor() - 7.0).clamp(-15.0, 7.0) as i32));
        assert!(is_within(scale) && allowed.contains(&scale), "scale {scale} of values up to {largest}");
        for (slot, row) in rows.iter().enumerate() {
            for (&want, got) in row.iter().zip(self.values(kind, block, kv_head, slot as u32)) {
                let want = want.clamp(-448.0 * scale, 448.0 * scale);
                // A number below the smallest normal one may have been rounded to an earlier, smaller scale first.
                let subnormal = if want.abs() < scale * 2f64.powi(-6) { 0.5 } else { 0.0 };
                let most = half_step(want / scale) * scale * (1.0 + subnormal) + 4e-6 * largest;
                assert!((got - want).abs() <= most, "{got} is not {want} within {most} at scale {scale}");
            }
        }
        for slot in rows.len() as u32..self.shape.block_size {
            assert!(
                self.bits(kind, block, kv_head, slot).iter().all(|&bits| bits == 0),
                "slot {slot} is not zero"
            );
        }
    }
}

/// Runs `scenario`, and compares with attention in f64 over the keys and values that the device has stored; the result.
fn check_over_stored(scenario: &Scenario) -> Vec<f32> {
    let shape = scenario.shape;
    let mut gpu = Gpu::new(scenario);
    let mut bits = Vec::new();
    scenario.run_steps(config(scenario), |plan, rows| {
        if plan.num_tokens() > 0 {
            let mut prepared = gpu.prepare(plan, rows);
            bits = gpu.attend(&mut prepared);
        }
        Vec::new()
    });
    let stored = Stored::of(&mut gpu.store, shape);
    let (lists, _) = scenario.blocks();
    let row = |segment: usize, local: u32, kv_head: usize| {
        let block = lists[segment][(local / shape.block_size) as usize].0;
        [KEY, VALUE].map(|kind| {
            let values = stored.values(kind, block, kv_head as u32, local % shape.block_size);
            values.into_iter().map(|value| value as f32).collect()
        })
    };
    // Queries and probabilities are rounded to half precision, results to bf16.
    let want = scenario.oracle_over(&row, half_unit(KvDtype::F16));
    let got = widen(shape.dtype, &bits);
    assert_eq!(got.len(), want.len());
    for (index, (&got, &(want, tolerance))) in got.iter().zip(&want).enumerate() {
        let difference = (f64::from(got) - want).abs();
        let most = tolerance + want.abs() * half_unit(KvDtype::Bf16) + 2f64.powi(-24);
        assert!(difference <= most, "element {index}: {got} is not {want} within {most} in {scenario:?}");
    }
    let want: Vec<f64> = want.into_iter().map(|(value, _)| value).collect();
    println!("relative error over what is stored {:.2e}", relative_error(&got, &want));
    got
}

/// Over what is stored, and over what should have been.
fn check_both(scenario: &Scenario) {
    let got = check_over_stored(scenario);
    let want: Vec<f64> = scenario.oracle().into_iter().map(|(value, _)| value).collect();
    let relative = relative_error(&got, &want);
    println!("relative error {relative:.2e}");
    assert!(relative <= scenario.relative_error_max(), "relative error {relative:.2e} in {scenario:?}");
}

#[test]
fn fp8_attention_is_exact_over_what_is_stored() {
    for (head_dim, block_size) in [(64, 16), (64, 32), (64, 64), (128, 16), (128, 32), (128, 64)] {
        let shape = Shape { head_dim, rotary_dim: head_dim, block_size, ..FP8 };
        // One query, a few and many: every tile class.
        check_both(&Scenario::new(shape, &[40, 270, 16]).request(5, &[0, 1, 2], 3, 1));
        check_both(&Scenario::new(shape, &[40, 270]).request(5, &[0, 1], 3, 9));
        check_both(&Scenario::new(shape, &[40, 270]).request(0, &[1, 0], 0, 40).request(70, &[0, 1], 15, 1));
    }
}

#[test]
fn fp8_lengths_around_the_borders_of_blocks_and_tiles_work() {
    let documents = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257];
    let all: Vec<usize> = (0..documents.len()).collect();
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    for head_dim in [64, 128] {
        let shape = Shape { head_dim, rotary_dim: head_dim, ..FP8 };
        let scenario = Scenario::new(shape, &documents).request(0, &all, 3, 1);
        check_over_stored(&scenario.request(0, &reversed, 63, 2).request(0, &[4, 5, 6], 127, 3));
    }
    check_over_stored(&Scenario::new(FP8, &[4097]).request(0, &[0], 0, 1));
}

#[test]
fn fp8_documents_are_shared_and_windows_and_ratios_work() {
    for num_requests in [2, 4, 8, 17, 33] {
        let mut scenario = Scenario::new(FP8, &[200, 30]);
        for request in 0..num_requests {
            scenario = scenario.request(17 * request, &[request as usize % 2, 0], request, 1);
        }
        check_over_stored(&scenario);
    }
    for group_size in [1, 3, 8, 16] {
        let shape = Shape { group_size, rotary_dim: 64, ..FP8 };
        let scenario = Scenario::new(shape, &[40, 133]).request(9, &[0, 1], 3, 1).request(0, &[1, 0], 2, 9);
        check_over_stored(&Scenario { window: Some(100), ..scenario });
    }
}

#[test]
fn fp8_repetitions_give_the_same_bits() {
    check_repetitions(FP8, 50);
}

/// What a store should hold of a row: keys rotated.
fn rows_of(shape: Shape, kind: u32, row: &[f32], distance: i64) -> Vec<f64> {
    let shape = if kind == KEY { shape } else { Shape { rotary_dim: 0, ..shape } };
    rotate(shape, row, distance)
}

/// Raw keys or values of a token that differ in size from token to token.
fn growing(shape: Shape, local: u32, kind: u32) -> Vec<f32> {
    let elements = shape.num_kv_heads * shape.head_dim;
    let size = 2f32.powi([0, -3, 2, 2, 9, -30, 1, 12][local as usize % 8] + i32::from(kind == VALUE));
    let noise = crate::elementwise::noise(u64::from(local * 2 + kind), size, elements as usize);
    widen(shape.dtype, &narrow(shape.dtype, &noise))
}

/// A store to which `num_tokens` tokens of one segment were written in steps of `step` tokens.
fn appended(shape: Shape, num_tokens: u32, step: u32) -> (Stored, Vec<BlockId>) {
    let scenario = Scenario::new(shape, &[]).request(0, &[], 0, num_tokens);
    let (lists, _) = scenario.blocks();
    let mut gpu = Gpu::new(&scenario);
    for first in (0..num_tokens).step_by(step as usize) {
        let count = step.min(num_tokens - first);
        let mut input = StepInput::default();
        push_run(&mut input, &[(0, 0, first + count)], &lists, first, count);
        let mut rows = Rows::default();
        for local in first..first + count {
            rows.k.extend(growing(shape, local, KEY));
            rows.v.extend(growing(shape, local, VALUE));
            rows.q.extend(vec![0.0; (shape.num_kv_heads * shape.group_size * shape.head_dim) as usize]);
        }
        let plan = Planner::new(config(&scenario)).unwrap().plan(&input);
        gpu.prepare(&plan, &rows);
    }
    (Stored::of(&mut gpu.store, shape), lists[0].clone())
}

#[test]
fn fp8_blocks_hold_the_rounded_keys_and_values_however_they_are_filled() {
    for (head_dim, rotary_dim, block_size) in [(64, 64, 16), (128, 128, 32), (128, 96, 64), (64, 0, 64)] {
        let shape = Shape { head_dim, rotary_dim, block_size, ..FP8 };
        let (num_tokens, dim) = (2 * block_size + 5, head_dim as usize);
        let (whole, blocks) = appended(shape, num_tokens, num_tokens);
        for step in [num_tokens, 1, 7] {
            let (stored, _) = appended(shape, num_tokens, step);
            assert!(stored.scales.iter().zip(&whole.scales).all(|(a, b)| a.to_bits() == b.to_bits()));
            for (index, (kind, head)) in (0..blocks.len() as u32)
                .flat_map(|i| [KEY, VALUE].map(|kind| (i, kind)))
                .flat_map(|(i, kind)| (0..shape.num_kv_heads).map(move |head| (i, (kind, head))))
            {
                let locals = index * block_size..((index + 1) * block_size).min(num_tokens);
                let rows: Vec<Vec<f64>> = locals
                    .map(|local| {
                        let row = growing(shape, local, kind);
                        rows_of(shape, kind, &row[head as usize * dim..][..dim], i64::from(local))
                    })
                    .collect();
                stored.check_block(kind, (blocks[index as usize].0, head), &rows);
            }
        }
    }
}

#[test]
fn fp8_values_beyond_the_largest_scale_saturate() {
    let shape = Shape { rotary_dim: 0, ..FP8 };
    let scenario = Scenario::new(shape, &[]).request(0, &[], 0, 1);
    let (lists, _) = scenario.blocks();
    let mut gpu = Gpu::new(&scenario);
    let mut input = StepInput::default();
    push_run(&mut input, &[(0, 0, 1)], &lists, 0, 1);
    let elements = (shape.num_kv_heads * shape.head_dim) as usize;
    let large = [1e30, -1e30, f32::NAN, f32::INFINITY, 3.0, 0.0];
    let row: Vec<f32> = (0..elements).map(|i| large[i % large.len()]).collect();
    let q = vec![0.0; elements * shape.group_size as usize];
    let plan = Planner::new(config(&scenario)).unwrap().plan(&input);
    gpu.prepare(&plan, &Rows { k: row.clone(), v: row, q });
    let stored = Stored::of(&mut gpu.store, shape);
    for kind in [KEY, VALUE] {
        let values = stored.values(kind, lists[0][0].0, 0, 0);
        assert_eq!(values[..6], [57344.0, -57344.0, -57344.0, 57344.0, 3.0, 0.0]);
    }
}

const COPIES: [(u32, u32, i32); 3] = [(0, 5, 77), (3, 6, -1000), (1, 7, 0)];

/// A filled store of 8 blocks, and what it holds.
fn filled(shape: Shape) -> (Gpu, Stored) {
    let scenario = Scenario::new(shape, &[]).request(0, &[], 0, 8 * shape.block_size - 3);
    let mut gpu = Gpu::new(&scenario);
    let blocks: Vec<BlockId> = (0..8).map(BlockId).collect();
    let mut input = StepInput::default();
    let num_tokens = 8 * shape.block_size - 3;
    push_run(&mut input, &[(0, 0, num_tokens)], &[blocks], 0, num_tokens);
    let mut rows = Rows::default();
    for local in 0..num_tokens {
        rows.k.extend(growing(shape, local, KEY));
        rows.v.extend(growing(shape, local, VALUE));
        rows.q.extend(vec![0.0; (shape.num_kv_heads * shape.group_size * shape.head_dim) as usize]);
    }
    let plan = Planner::new(config(&scenario)).unwrap().plan(&input);
    gpu.prepare(&plan, &rows);
    let stored = Stored::of(&mut gpu.store, shape);
    (gpu, stored)
}

#[test]
fn fp8_copies_take_their_scales_along_and_reencoded_keys_get_new_ones() {
    for (head_dim, rotary_dim, block_size, num_kv_heads) in
        [(64, 64, 16, 1), (128, 128, 32, 3), (128, 32, 16, 18)]
    {
        let shape = Shape { head_dim, rotary_dim, block_size, num_kv_heads, ..FP8 };
        let device = device();
        let copies =
            COPIES.map(|(from, to, distance)| BlockCopy { from: BlockId(from), to: BlockId(to), distance });
        let copies = BlockCopies::new(&device, &copies).unwrap();
        let (mut gpu, before) = filled(shape);
        device.copy_blocks(&mut gpu.store, LAYER, &copies).unwrap();
        let copied = Stored::of(&mut gpu.store, shape);
        let (mut gpu, _) = filled(shape);
        let rope = CudaRope::new(&device, &RopeTable::from_inv_freq(&inv_freq(shape)).unwrap()).unwrap();
        device.reencode_blocks(&mut gpu.store, LAYER, &copies, &rope).unwrap();
        let turned = Stored::of(&mut gpu.store, shape);
        let turn = |row: &Vec<f64>, distance| {
            let row: Vec<f32> = row.iter().map(|&value| value as f32).collect();
            rows_of(shape, KEY, &row, i64::from(distance))
        };
        for head in 0..num_kv_heads {
            for (kind, block) in
                [KEY, VALUE].into_iter().flat_map(|kind| (0..8).map(move |block| (kind, block)))
            {
                let copy = COPIES.iter().find(|copy| copy.1 == block);
                let from = copy.map_or(block, |copy| copy.0);
                let rows: Vec<Vec<f64>> =
                    (0..block_size).map(|slot| before.values(kind, from, head, slot)).collect();
                let same = |after: &Stored| {
                    let scales =
                        after.scale(kind, block, head).to_bits() == before.scale(kind, from, head).to_bits();
                    let bits = |stored: &Stored, block| {
                        (0..block_size).map(|slot| stored.bits(kind, block, head, slot)).collect::<Vec<_>>()
                    };
                    scales && bits(after, block) == bits(&before, from)
                };
                assert!(same(&copied), "block {block}, head {head}");
                match copy {
                    Some(&(_, _, distance)) if kind == KEY => {
                        let rows: Vec<Vec<f64>> = rows.iter().map(|row| turn(row, distance)).collect();
                        turned.check_block(kind, (block, head), &rows);
                    }
                    _ => assert!(same(&turned), "block {block}, head {head}"),
                }
            }
        }
    }
}

#[test]
fn fp8_a_small_scenario_for_the_sanitizer() {
    for scenario in crate::for_the_sanitizer(FP8, 300) {
        check_over_stored(&scenario);
    }
}
