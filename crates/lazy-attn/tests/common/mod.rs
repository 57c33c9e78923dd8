//! Scenarios, and an oracle that shares nothing with the crate: f64, keys rotated to *global* positions, one plain
//! softmax over the whole context.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::{collections::BTreeMap, num::NonZeroU32};

use lazy_attn::{
    AttnParams, CpuAttention, CpuIsa, KvDtype, KvLayout, KvStore, Plan, PlanConfig, Planner, RopeTable,
};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};
use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) num_kv_heads: u32,
    pub(crate) group_size: u32,
    pub(crate) head_dim: u32,
    pub(crate) rotary_dim: u32,
    pub(crate) block_size: u32,
    pub(crate) dtype: KvDtype,
}

pub(crate) const SHAPE: Shape = Shape {
    num_kv_heads: 2,
    group_size: 3,
    head_dim: 64,
    rotary_dim: 64,
    block_size: 16,
    dtype: KvDtype::F32,
};

/// A request: documents, then a private tail of which `num_stored` tokens were run before this step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// Index of each document in [`Scenario::documents`], and its start.
    pub(crate) documents: Vec<(usize, u32)>,
    pub(crate) tail_start: u32,
    pub(crate) num_stored: u32,
    pub(crate) num_tokens: u32,
    /// Decides the raw keys, values and queries of the tail.
    pub(crate) seed: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) shape: Shape,
    /// Lengths of the documents.
    pub(crate) documents: Vec<u32>,
    pub(crate) requests: Vec<Request>,
    pub(crate) window: Option<u32>,
    /// Largest element of a query. At 4 scores spread far enough for a wrong rotation to show.
    pub(crate) query_size: f32,
}

/// Raw keys, values and queries of some tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    /// `[num_tokens, num_kv_heads * head_dim]`
    pub(crate) k: Vec<f32>,
    /// `[num_tokens, num_kv_heads * head_dim]`
    pub(crate) v: Vec<f32>,
    /// `[num_tokens, num_q_heads * head_dim]`
    pub(crate) q: Vec<f32>,
}

/// The layer that scenarios use: not the first, so that mixed up layers show.
pub(crate) const LAYER: u32 = 1;

impl Scenario {
    pub(crate) fn new(shape: Shape, documents: &[u32]) -> Scenario {
        Scenario { shape, documents: documents.to_vec(), requests: Vec::new(), window: None, query_size: 4.0 }
    }

    /// Adds a request over `documents` placed one behind the other from `base` on.
    pub(crate) fn request(
        mut self,
        base: u32,
        documents: &[usize],
        num_stored: u32,
        num_tokens: u32,
    ) -> Scenario {
        let mut next = base;
        let mut placed = Vec::new();
        for &document in documents {
            placed.push((document, next));
            next += self.documents[document];
        }
        let seed = 1000 + self.requests.len() as u32;
        self.requests.push(Request { documents: placed, tail_start: next, num_stored, num_tokens, seed });
        self
    }

    pub(crate) fn config(&self) -> PlanConfig {
        let block_size = BlockSize::new(self.shape.block_size).unwrap();
        let window = self.window.and_then(NonZeroU32::new);
        PlanConfig { window, ..PlanConfig::cpu(block_size, self.shape.num_kv_heads, 2) }
    }

    fn lengths(&self) -> Vec<u32> {
        let tails = self.requests.iter().map(|request| request.num_stored + request.num_tokens);
        self.documents.iter().copied().chain(tails).collect()
    }

    /// Seeds of the raw keys and values of every segment: documents, then tails.
    fn seeds(&self) -> Vec<u32> {
        (0..self.documents.len() as u32).chain(self.requests.iter().map(|request| request.seed)).collect()
    }

    /// Block lists of all segments, scattered over the pool; some blocks are nobody's.
    fn blocks(&self) -> (Vec<Vec<BlockId>>, u32) {
        let block_size = BlockSize::new(self.shape.block_size).unwrap();
        let counts: Vec<u32> = self.lengths().iter().map(|&length| block_size.blocks_for(length)).collect();
        let pool = (counts.iter().sum::<u32>() + 3).next_power_of_two();
        let mut ids = (0..pool).map(|index| BlockId(index.wrapping_mul(2_654_435_761) % pool));
        let lists = counts.iter().map(|&count| ids.by_ref().take(count as usize).collect()).collect();
        (lists, pool)
    }

    /// Blocks of the pool.
    pub(crate) fn num_blocks(&self) -> u32 {
        self.blocks().1
    }

    /// Largest relative error of a device's result, in the norm: random roundings of rotated queries and keys move a score
    /// by `query_size` / 3 times the rounding unit times sqrt(2) (elements are uniform), probabilities, values and
    /// results are rounded once each, and twice that is never reached by chance.
    pub(crate) fn relative_error_max(&self) -> f64 {
        let unit = if self.shape.dtype == KvDtype::F16 { 2f64.powi(-11) } else { 2f64.powi(-9) };
        let score = f64::from(self.query_size) / 3.0 * 2f64.sqrt();
        2.0 * unit / 3f64.sqrt() * (score * score + 3.0).sqrt()
    }

    /// The step that encodes the documents and the stored part of the tails.
    fn encode_step(&self) -> StepInput {
        let (lists, _) = self.blocks();
        let mut input = StepInput::default();
        let stored = self.requests.iter().map(|request| request.num_stored);
        for (index, num_tokens) in self.documents.iter().copied().chain(stored).enumerate() {
            if num_tokens > 0 {
                push_run(&mut input, &[(index, 0, num_tokens)], &lists, 0, num_tokens);
            }
        }
        input
    }

    /// The step under test.
    pub(crate) fn query_step(&self) -> StepInput {
        let (lists, _) = self.blocks();
        let mut input = StepInput::default();
        for (index, request) in self.requests.iter().enumerate() {
            let mut views: Vec<(usize, u32, u32)> = request
                .documents
                .iter()
                .map(|&(document, start)| (document, start, self.documents[document]))
                .collect();
            let tail = self.documents.len() + index;
            views.push((tail, request.tail_start, request.num_stored + request.num_tokens));
            push_run(&mut input, &views, &lists, request.num_stored, request.num_tokens);
        }
        input
    }

    pub(crate) fn plan(&self, config: PlanConfig) -> Plan {
        Planner::new(config).unwrap().plan(&self.query_step())
    }

    /// Runs the scenario: `[num_tokens, num_q_heads * head_dim]`.
    pub(crate) fn run(&self, config: PlanConfig, isa: CpuIsa) -> Vec<f32> {
        let (mut attention, mut store) = self.backend(config, isa);
        self.run_steps(config, |plan, rows| {
            attention.append(&mut store, LAYER, plan, &rows.k, &rows.v).unwrap();
            let mut out = vec![f32::NAN; rows.q.len()];
            attention.attend(&store, LAYER, plan, &rows.q, &mut out).unwrap();
            out
        })
    }

    /// The kernels, and a store where reading an unwritten slot shows.
    pub(crate) fn backend(&self, config: PlanConfig, isa: CpuIsa) -> (CpuAttention, KvStore) {
        let shape = self.shape;
        let (_, num_blocks) = self.blocks();
        let mut store = KvStore::new(KvLayout {
            num_layers: LAYER + 1,
            num_blocks,
            block_size: config.block_size,
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            dtype: shape.dtype,
        })
        .unwrap();
        store.fill(f32::NAN);
        let params = AttnParams {
            num_q_heads: shape.num_kv_heads * shape.group_size,
            rope: RopeTable::from_inv_freq(&inv_freq(shape)).unwrap(),
            softmax_scale: scale(shape) as f32,
        };
        (CpuAttention::with_isa(params, isa), store)
    }

    /// Hands both steps to `step`, which writes, then reads; what it returned for the step under test.
    pub(crate) fn run_steps(
        &self,
        config: PlanConfig,
        mut step: impl FnMut(&Plan, &Rows) -> Vec<f32>,
    ) -> Vec<f32> {
        let planner = Planner::new(config).unwrap();
        let mut out = Vec::new();
        for input in [self.encode_step(), self.query_step()] {
            let mut rows = Rows::default();
            for run in &input.runs {
                let own = input.segments_of(run).last().unwrap();
                for local in run.first_local..run.first_local + run.num_tokens {
                    self.push_token(&mut rows, own.handle.0 as usize, local);
                }
            }
            out = step(&planner.plan(&input), &rows);
        }
        out
    }

    /// Appends token `local` of `segment`.
    pub(crate) fn push_token(&self, rows: &mut Rows, segment: usize, local: u32) {
        let seed = self.seeds()[segment];
        let elements = self.shape.num_kv_heads * self.shape.head_dim;
        rows.k.extend(raw(seed, local, KEY, elements));
        rows.v.extend(raw(seed, local, VALUE, elements));
        rows.q.extend(self.query(seed, local));
    }

    /// What `run` should give, and how far from it each number may be.
    pub(crate) fn oracle(&self) -> Vec<(f64, f64)> {
        let shape = self.shape;
        let mut out = Vec::new();
        for (index, request) in self.requests.iter().enumerate() {
            let tail = self.documents.len() + index;
            for local in request.num_stored..request.num_stored + request.num_tokens {
                let position = request.tail_start + local;
                let mut keys = Vec::new();
                for &(document, start) in &request.documents {
                    keys.extend((0..self.documents[document]).map(|key| (document, start, key)));
                }
                keys.extend((0..=local).map(|key| (tail, request.tail_start, key)));
                let window = i64::from(self.window.unwrap_or(u32::MAX));
                keys.retain(|&(_, start, key)| i64::from(start + key) > i64::from(position) - window);
                let q = self.query(request.seed, local);
                for head in 0..shape.num_kv_heads * shape.group_size {
                    let q = &q[(head * shape.head_dim) as usize..][..shape.head_dim as usize];
                    out.extend(self.oracle_head(&keys, position, q, (head / shape.group_size) as usize));
                }
            }
        }
        out
    }

    fn query(&self, seed: u32, local: u32) -> Vec<f32> {
        let shape = self.shape;
        let count = shape.num_kv_heads * shape.group_size * shape.head_dim;
        raw(seed, local, QUERY, count).into_iter().map(|value| self.query_size * value).collect()
    }

    /// One query head over `keys` (segment, start, local index).
    fn oracle_head(
        &self,
        keys: &[(usize, u32, u32)],
        position: u32,
        q: &[f32],
        kv_head: usize,
    ) -> Vec<(f64, f64)> {
        let shape = self.shape;
        let (dim, seeds) = (shape.head_dim as usize, self.seeds());
        let head = |seed, key, kind| -> Vec<f32> {
            raw(seed, key, kind, shape.num_kv_heads * shape.head_dim)[kv_head * dim..][..dim].to_vec()
        };
        let q = rotate(shape, q, position);
        let mut scores = Vec::new();
        let mut mass = 0.0f64;
        for &(segment, start, key) in keys {
            let k = rotate(shape, &head(seeds[segment], key, KEY), start + key);
            let products = q.iter().zip(&k).map(|(q, k)| q * k);
            scores.push(products.clone().sum::<f64>() * scale(shape));
            mass = mass.max(products.map(f64::abs).sum::<f64>() * scale(shape));
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; dim];
        for (&(segment, _, key), score) in keys.iter().zip(&scores) {
            let weight = (score - max).exp() / sum;
            for (out, v) in out.iter_mut().zip(head(seeds[segment], key, VALUE)) {
                *out += weight * f64::from(v);
            }
        }
        let tolerance = tolerance(shape, mass, keys.len());
        out.into_iter().map(|value| (value, tolerance)).collect()
    }
}

/// Error bound of one output element, |v| <= 1. `mass` is the largest sum of |q_d k_d|, times the softmax scale.
pub(crate) fn tolerance(shape: Shape, mass: f64, num_keys: usize) -> f64 {
    let f32_unit = 2f64.powi(-24);
    // Rounding of stored elements: half a unit in the last place.
    let stored = match shape.dtype {
        KvDtype::F32 => f32_unit,
        KvDtype::F16 => 2f64.powi(-11),
        KvDtype::Bf16 => 2f64.powi(-9),
    };
    // A score: the stored key, angles good to 1e-6 on both sides, and one rounding per addition of the dot product.
    let score = mass * (stored + 4e-6 + f64::from(shape.head_dim) * f32_unit);
    // An error d of every score moves a softmax average of |v| <= 1 by at most 2 d; then the stored value, the exp
    // (2e-7), and one rounding per key in numerator and denominator.
    2.0 * score + stored + 4e-7 + 2.0 * num_keys as f64 * f32_unit
}

fn push_run(
    input: &mut StepInput,
    views: &[(usize, u32, u32)],
    lists: &[Vec<BlockId>],
    first_local: u32,
    num_tokens: u32,
) {
    let first_segment = input.segments.len() as u32;
    for &(segment, start, num_tokens) in views {
        input.segments.push(SegmentView {
            handle: SegmentHandle(segment as u64),
            first_block: input.block_ids.len() as u32,
            num_blocks: lists[segment].len() as u32,
            num_tokens,
            start: Position(start),
        });
        input.block_ids.extend(&lists[segment]);
    }
    input.runs.push(Run {
        first_token: input.tokens.len() as u32,
        num_tokens,
        first_segment,
        num_segments: views.len() as u32,
        first_local,
    });
    input.tokens.extend((0..num_tokens).map(|_| TokenId(0)));
}

const KEY: u32 = 1;
const VALUE: u32 = 2;
const QUERY: u32 = 3;

/// Multiples of 1/128 in [-1, 1), which every element type holds exactly, that depend on all arguments.
fn raw(seed: u32, local: u32, kind: u32, count: u32) -> Vec<f32> {
    (0..count)
        .map(|index| {
            let mut x =
                u64::from(seed) << 40 ^ u64::from(local) << 16 ^ u64::from(kind) << 12 ^ u64::from(index);
            // splitmix64
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (x >> 56) as f32 / 128.0 - 1.0
        })
        .collect()
}

pub(crate) fn scale(shape: Shape) -> f64 {
    1.0 / f64::from(shape.head_dim).sqrt()
}

pub(crate) fn inv_freq(shape: Shape) -> Vec<f32> {
    let pairs = shape.rotary_dim / 2;
    (0..pairs).map(|pair| 10_000f64.powf(-f64::from(pair) / f64::from(pairs)) as f32).collect()
}

fn rotate(shape: Shape, row: &[f32], position: u32) -> Vec<f64> {
    let mut out: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
    let pairs = shape.rotary_dim as usize / 2;
    for (pair, radians) in inv_freq(shape).into_iter().enumerate() {
        let (sin, cos) = (f64::from(radians) * f64::from(position)).sin_cos();
        let (x, y) = (f64::from(row[pair]), f64::from(row[pair + pairs]));
        out[pair] = x * cos - y * sin;
        out[pair + pairs] = y * cos + x * sin;
    }
    out
}

pub(crate) fn assert_matches_oracle(scenario: &Scenario, isa: CpuIsa) {
    let got = scenario.run(scenario.config(), isa);
    let want = scenario.oracle();
    assert_eq!(got.len(), want.len());
    for (index, (&got, (want, tolerance))) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= tolerance,
            "{isa}, element {index}: {got} is not {want} within {tolerance} in {scenario:?}"
        );
    }
}

/// The bits, so that zeros of different signs and NaNs compare too.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// How often every (token, handle, local index) is covered by the plan.
pub(crate) fn coverage(plan: &Plan) -> BTreeMap<(u32, u64, u32, i64), u32> {
    let mut covered = BTreeMap::new();
    for item in plan.items() {
        for part in plan.parts_of(item) {
            for &row in plan.rows_of(item) {
                let seen = part.visible(row, plan.config().window);
                for key in seen.range() {
                    // The distance tells two views of one segment apart.
                    let distance = i64::from(part.distance(row));
                    *covered.entry((row.token, part.handle.0, key as u32, distance)).or_default() += 1;
                }
            }
        }
    }
    covered
}

/// Where two results first differ in their bits.
pub(crate) fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// Failing seeds go beside the test file.
pub(crate) fn proptest_config(cases: u32) -> ProptestConfig {
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")) as _);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}
