//! Scenarios, and what every backend is tested with: `oracle` (what should come out), `cases` (what is put in), `metamorphic`
//! (what must not change the result), `deviation` (keys compared with keys).

// Each test binary uses its own part of this module.
#![allow(dead_code)]

#[macro_use]
pub(crate) mod cases;
pub(crate) mod deviation;
pub(crate) mod metamorphic;
mod oracle;

use std::{collections::BTreeMap, num::NonZeroU32, ops::Range};

use lazy_attn::{
    AttnParams, CpuAttention, CpuIsa, KvDtype, KvLayout, KvStore, Plan, PlanConfig, Planner, RopeTable,
};
use lazy_attn_types::{
    BlockId, BlockSize, DocumentFocus, FocusedView, Position, Run, SegmentHandle, SegmentView, StepInput,
    TokenId,
};
use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};

pub(crate) use oracle::*;

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
    /// Which tokens of a document are seen, by its place among these; all of one that is not listed.
    pub(crate) seen: BTreeMap<usize, Range<u32>>,
    /// Which places among the documents are looked at in another way, and in which.
    pub(crate) focused: Option<(DocumentFocus, Range<usize>)>,
    pub(crate) tail_start: u32,
    pub(crate) num_stored: u32,
    pub(crate) num_tokens: u32,
    /// Decides the raw keys, values and queries of the tail.
    pub(crate) seed: u32,
}

/// A segment in a context: the tokens `first..end`, of which token 0 would stand at `start`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) segment: usize,
    pub(crate) start: u32,
    pub(crate) first: u32,
    pub(crate) end: u32,
}

impl From<(usize, u32, u32)> for View {
    /// A whole segment, its start and its length.
    fn from((segment, start, end): (usize, u32, u32)) -> View {
        View { segment, start, first: 0, end }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) shape: Shape,
    /// Lengths of the documents.
    pub(crate) documents: Vec<u32>,
    /// Of which raw text each document is a piece: its seed, and the text's token that is the document's first.
    pub(crate) sources: Vec<(u32, u32)>,
    pub(crate) requests: Vec<Request>,
    /// Blocks of the pool that stay unused, before those that do not.
    pub(crate) first_block: u32,
    pub(crate) window: Option<u32>,
    /// Thread blocks per KV head that a device may use at most: with few, each has many tiles and items.
    pub(crate) max_workers: u32,
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
        Scenario {
            shape,
            documents: documents.to_vec(),
            sources: (0..documents.len() as u32).map(|seed| (seed, 0)).collect(),
            requests: Vec::new(),
            first_block: 0,
            window: None,
            max_workers: u32::MAX,
            query_size: 4.0,
        }
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
        let (documents, seen, focused) = (placed, BTreeMap::new(), None);
        let tail_start = next;
        let request = Request { documents, seen, focused, tail_start, num_stored, num_tokens, seed };
        self.requests.push(request);
        self
    }

    /// Lets the last request look at the documents at `places` in another way.
    pub(crate) fn focusing(mut self, (temperature, scale): (f32, f32), places: Range<usize>) -> Scenario {
        let focus = DocumentFocus::new(temperature, scale).unwrap();
        self.requests.last_mut().unwrap().focused = focus.is_on().then_some((focus, places));
        self
    }

    /// Hides all but `range` of the document at `place` in the last request.
    pub(crate) fn seeing(mut self, place: usize, range: Range<u32>) -> Scenario {
        self.requests.last_mut().unwrap().seen.insert(place, range);
        self
    }

    /// Shows a part of some documents, by `seed`: some begin behind a block or two or inside one, some end early, some show nothing. Everything
    /// with seed 0.
    pub(crate) fn with_views(mut self, seed: u32) -> Scenario {
        let block_size = self.shape.block_size;
        for (index, request) in (0..).zip(&mut self.requests) {
            for (place, &(document, _)) in request.documents.iter().enumerate().filter(|_| seed > 0) {
                let (length, kind) = (self.documents[document], seed + index + place as u32);
                let first = (kind % 3 * block_size + kind % 2 * (seed % block_size)).min(length);
                let end = length - (length - first) / (1 + kind % 5);
                if kind % 4 > 0 {
                    request.seen.insert(place, first..end.max(first));
                }
            }
        }
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

    /// Raw text of a segment (documents, then tails): its seed and first token.
    fn source(&self, segment: usize) -> (u32, u32) {
        let tail = || (self.requests[segment - self.documents.len()].seed, 0);
        self.sources.get(segment).copied().unwrap_or_else(tail)
    }

    /// Block lists of all segments, scattered over the pool; some blocks are nobody's.
    pub(crate) fn blocks(&self) -> (Vec<Vec<BlockId>>, u32) {
        let block_size = BlockSize::new(self.shape.block_size).unwrap();
        let counts: Vec<u32> = self.lengths().iter().map(|&length| block_size.blocks_for(length)).collect();
        let pool = (counts.iter().sum::<u32>() + 3).next_power_of_two();
        let scattered = |index: u32| BlockId(self.first_block + index.wrapping_mul(2_654_435_761) % pool);
        let mut ids = (0..pool).map(scattered);
        let lists = counts.iter().map(|&count| ids.by_ref().take(count as usize).collect()).collect();
        (lists, self.first_block + pool)
    }

    /// Blocks of the pool.
    pub(crate) fn num_blocks(&self) -> u32 {
        self.blocks().1
    }

    /// The step that encodes the documents and the stored part of the tails.
    pub(crate) fn encode_step(&self) -> StepInput {
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
            let views = self.views(index, request);
            if let Some((focus, places)) = &request.focused {
                let first = input.segments.len();
                let view = |place| FocusedView { view: (first + place) as u32, focus: *focus };
                input.focused.extend(places.clone().map(view));
            }
            push_run(&mut input, &views, &lists, request.num_stored, request.num_tokens);
        }
        input
    }

    pub(crate) fn plan(&self, config: PlanConfig) -> Plan {
        Planner::new(config).unwrap().plan(&self.query_step())
    }

    /// Runs the scenario: `[num_tokens, num_q_heads * head_dim]`.
    pub(crate) fn run(&self, config: PlanConfig, isa: CpuIsa) -> Vec<f32> {
        self.run_changed(config, isa, |input| input)
    }

    /// The same with both steps changed.
    pub(crate) fn run_changed(
        &self,
        config: PlanConfig,
        isa: CpuIsa,
        change: fn(StepInput) -> StepInput,
    ) -> Vec<f32> {
        let (mut attention, mut store) = self.backend(config, isa);
        self.run_inputs(config, [self.encode_step(), self.query_step()].map(change), |plan, rows| {
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
        step: impl FnMut(&Plan, &Rows) -> Vec<f32>,
    ) -> Vec<f32> {
        self.run_inputs(config, [self.encode_step(), self.query_step()], step)
    }

    /// The same for other steps over the same segments.
    pub(crate) fn run_inputs(
        &self,
        config: PlanConfig,
        inputs: [StepInput; 2],
        mut step: impl FnMut(&Plan, &Rows) -> Vec<f32>,
    ) -> Vec<f32> {
        let planner = Planner::new(config).unwrap();
        let mut out = Vec::new();
        for input in inputs {
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
        let (seed, first) = self.source(segment);
        let [k, v] = self.key_and_value(segment, local);
        rows.k.extend(k);
        rows.v.extend(v);
        rows.q.extend(self.query(seed, first + local));
    }

    /// Raw key and value of token `local` of `segment`, of all heads.
    fn key_and_value(&self, segment: usize, local: u32) -> [Vec<f32>; 2] {
        let (seed, first) = self.source(segment);
        let elements = self.shape.num_kv_heads * self.shape.head_dim;
        [KEY, VALUE].map(|kind| raw(seed, first + local, kind, elements))
    }

    fn query(&self, seed: u32, local: u32) -> Vec<f32> {
        let shape = self.shape;
        let count = shape.num_kv_heads * shape.group_size * shape.head_dim;
        raw(seed, local, QUERY, count).into_iter().map(|value| self.query_size * value).collect()
    }
}

pub(crate) fn push_run(
    input: &mut StepInput,
    views: &[impl Into<View> + Copy],
    lists: &[Vec<BlockId>],
    first_local: u32,
    num_tokens: u32,
) {
    let first_segment = input.segments.len() as u32;
    for View { segment, start, first, end } in views.iter().map(|&view| view.into()) {
        input.segments.push(SegmentView {
            handle: SegmentHandle(segment as u64),
            first_block: input.block_ids.len() as u32,
            num_blocks: lists[segment].len() as u32,
            first_seen: first,
            num_tokens: end,
            start: Position(start),
            origin: Position(start),
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

pub(crate) const KEY: u32 = 1;
pub(crate) const VALUE: u32 = 2;
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
                    let local = part.num_skipped + key as u32;
                    *covered.entry((row.token, part.handle.0, local, distance)).or_default() += 1;
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
