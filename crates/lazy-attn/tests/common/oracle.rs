//! An oracle that shares nothing with the crate: f64, keys rotated to *global* positions, one plain softmax over the whole
//! context. A second form of it goes along with the roundings that every kernel does, so that what is left is the kernel's own.

use std::ops::Range;

use half::{bf16, f16};
use lazy_attn::{CpuIsa, KvDtype};

use super::{Request, Scenario, Shape, View, inv_freq, scale};

/// Which roundings the oracle does too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// None: keys and queries are rotated to global positions.
    None,
    /// Keys are rotated to local positions and rounded, queries rotated to their distance.
    Keys,
    /// Queries are rounded too once they are rotated.
    KeysAndQueries,
}

/// Keys and values as (segment, local index, KV head) has them stored: a key rotated to its local index, a value.
pub(crate) type Stored<'a> = &'a dyn Fn(usize, u32, usize) -> [Vec<f32>; 2];

/// What an oracle computes with.
#[derive(Clone, Copy)]
struct Source<'a> {
    rounding: Rounding,
    /// What is stored, where it is not the raw rows rotated and rounded.
    stored: Option<Stored<'a>>,
    /// Half a unit in the last place of what is rounded.
    unit: f64,
}

/// A key as one request sees it, in one KV head.
struct Key {
    /// Index of its segment in the context.
    view: usize,
    local: u32,
    position: u32,
    k: Vec<f64>,
    v: Vec<f32>,
}

/// A query row: its token's index in the tail, and its position.
#[derive(Clone, Copy)]
struct Query<'a> {
    elements: &'a [f32],
    local: u32,
    position: u32,
    /// How documents are looked at.
    request: &'a Request,
}

impl Scenario {
    /// What a run should give, and how far from it each number may be.
    pub(crate) fn oracle(&self) -> Vec<(f64, f64)> {
        self.oracle_as(Rounding::None)
    }

    fn oracle_as(&self, rounding: Rounding) -> Vec<(f64, f64)> {
        self.oracle_of(Source { rounding, stored: None, unit: half_unit(self.shape.dtype) })
    }

    /// The same over keys and values that a store has, for kernels that round queries and probabilities by `unit`.
    pub(crate) fn oracle_over(&self, stored: Stored<'_>, unit: f64) -> Vec<(f64, f64)> {
        self.oracle_of(Source { rounding: Rounding::Keys, stored: Some(stored), unit })
    }

    fn oracle_of(&self, source: Source<'_>) -> Vec<(f64, f64)> {
        let shape = self.shape;
        let dim = shape.head_dim as usize;
        let mut out = Vec::new();
        for (index, request) in self.requests.iter().enumerate() {
            let views = self.views(index, request);
            let heads = self.keys(&views, source);
            for local in request.num_stored..request.num_stored + request.num_tokens {
                let q = self.query(request.seed, local);
                for (head, elements) in q.chunks(dim).enumerate() {
                    let query = Query { elements, local, position: request.tail_start + local, request };
                    let keys = &heads[head / shape.group_size as usize];
                    out.extend(self.oracle_head(&views, keys, query, source));
                }
            }
        }
        out
    }

    /// The segments of a request's context; the tail is the last.
    pub(super) fn views(&self, index: usize, request: &Request) -> Vec<View> {
        let documents = request.documents.iter();
        let tail = request.num_stored + request.num_tokens;
        documents
            .enumerate()
            .map(|(place, &(segment, start))| {
                let all = 0..self.documents[segment];
                let Range { start: first, end } = request.seen.get(&place).cloned().unwrap_or(all);
                View { segment, start, first, end }
            })
            .chain([(self.documents.len() + index, request.tail_start, tail).into()])
            .collect()
    }

    /// The keys of a context, for each KV head.
    fn keys(&self, views: &[View], source: Source<'_>) -> Vec<Vec<Key>> {
        let (shape, dim) = (self.shape, self.shape.head_dim as usize);
        let mut heads: Vec<Vec<Key>> = (0..shape.num_kv_heads).map(|_| Vec::new()).collect();
        for (view, &View { segment, start, first, end }) in views.iter().enumerate() {
            for local in first..end {
                let [k, v] = self.key_and_value(segment, local);
                for (head, keys) in heads.iter_mut().enumerate() {
                    let (k, v) = (&k[head * dim..][..dim], v[head * dim..][..dim].to_vec());
                    let (k, v) = match (source.stored, source.rounding) {
                        (Some(stored), _) => {
                            let [k, v] = stored(segment, local, head);
                            (k.into_iter().map(f64::from).collect(), v)
                        }
                        (None, Rounding::None) => (rotate(shape, k, i64::from(start + local)), v),
                        _ => (rounded(shape.dtype, rotate(shape, k, i64::from(local))), v),
                    };
                    keys.push(Key { view, local, position: start + local, k, v });
                }
            }
        }
        heads
    }

    /// One query head over the keys of its context that it sees.
    fn oracle_head(
        &self,
        views: &[View],
        keys: &[Key],
        query: Query<'_>,
        source: Source<'_>,
    ) -> Vec<(f64, f64)> {
        let shape = self.shape;
        let q_at = |&View { start, .. }: &View| {
            let distance = i64::from(query.position) - i64::from(start);
            match source.rounding {
                Rounding::None => rotate(shape, query.elements, i64::from(query.position)),
                Rounding::Keys => rotate(shape, query.elements, distance),
                Rounding::KeysAndQueries => rounded(shape.dtype, rotate(shape, query.elements, distance)),
            }
        };
        let queries: Vec<Vec<f64>> = views.iter().map(q_at).collect();
        let window = i64::from(self.window.unwrap_or(u32::MAX));
        let is_seen = |key: &&Key| {
            let is_in_window = i64::from(key.position) > i64::from(query.position) - window;
            is_in_window && (key.view + 1 < views.len() || key.local <= query.local)
        };
        let seen: Vec<&Key> = keys.iter().filter(is_seen).collect();
        let (mut scores, mut mass) = (Vec::with_capacity(seen.len()), 0.0f64);
        for key in &seen {
            let (mut score, mut sum) = (0.0, 0.0);
            for (q, k) in queries[key.view].iter().zip(&key.k) {
                score += q * k;
                sum += (q * k).abs();
            }
            let scale = scale(shape) / query.temperature_of(key);
            scores.push(score * scale);
            mass = mass.max(sum * scale);
        }
        mass *= query.weigh_documents(&seen, &mut scores);
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; shape.head_dim as usize];
        for (key, score) in seen.iter().zip(&scores) {
            let weight = (score - max).exp() / sum;
            for (out, &v) in out.iter_mut().zip(&key.v) {
                *out += weight * f64::from(v);
            }
        }
        let tolerance = tolerance(source.unit, shape.head_dim, mass, seen.len());
        out.into_iter().map(|value| (value, tolerance)).collect()
    }

    /// Largest relative error of a device's result, in the norm: random roundings of rotated queries and keys move a score
    /// by `query_size` / 3 times the rounding unit times sqrt(2) (elements are uniform), probabilities, values and
    /// results are rounded once each, and twice that is never reached by chance.
    pub(crate) fn relative_error_max(&self) -> f64 {
        let unit = half_unit(self.shape.dtype);
        let score = f64::from(self.query_size) / 3.0 * 2f64.sqrt();
        2.0 * unit / 3f64.sqrt() * (score * score + 3.0).sqrt()
    }

    /// Largest relative error, in the norm, against the oracle that rounds the same way.
    ///
    /// An angle that is off by 1e-6 rounds an element to its other neighbour, one unit in the last place away, once in unit /
    /// 1e-6 times; errors of elements move a score by `query_size` / 3 times theirs. Where results are 16 bits wide, they and
    /// probabilities are rounded once each: half a unit at most, uniform, of mantissas whose logarithms are. Scores are summed
    /// in f32, an error of a unit per addition, and so are values, whose errors grow with the root of at most 4096 keys. Half as much again covers chance.
    pub(crate) fn same_rounding_error_max(&self, rounding: Rounding) -> f64 {
        let unit = if self.shape.dtype == KvDtype::F16 { 2f64.powi(-10) } else { 2f64.powi(-7) };
        let score = f64::from(self.query_size) / 3.0;
        let sums = (score * f64::from(self.shape.head_dim) + 64.0) * 2f64.powi(-24);
        let flipped = score * (unit * 1e-6).sqrt();
        let (flips, roundings) = if rounding == Rounding::Keys { (1.0, 0.0) } else { (2.0, 2.0) };
        // The mean of 1 / m^2 over such mantissas m is 0.54.
        let half_unit = unit / 2.0 * (0.54f64 / 3.0).sqrt();
        1.5 * (flips * flipped.powi(2) + roundings * half_unit.powi(2) + sums.powi(2)).sqrt()
    }

    /// Compares with the oracle that rounds the same way.
    pub(crate) fn assert_same_rounding(&self, got: &[f32], rounding: Rounding) {
        let want: Vec<f64> = self.oracle_as(rounding).into_iter().map(|(value, _)| value).collect();
        let relative = relative_error(got, &want);
        let most = self.same_rounding_error_max(rounding);
        assert!(
            relative <= most,
            "{relative:.2e} from the oracle that rounds too, not {most:.2e}, in {self:?}"
        );
    }
}

impl Query<'_> {
    fn temperature_of(&self, key: &Key) -> f64 {
        let focused = self.request.focused.as_ref().filter(|(_, places)| places.contains(&key.view));
        focused.map_or(1.0, |(focus, _)| f64::from(focus.temperature()))
    }

    /// Moves the scores of focused keys so that their log-sum-exp is multiplied; by how much errors of scores grow.
    fn weigh_documents(&self, keys: &[&Key], scores: &mut [f64]) -> f64 {
        let Some((focus, places)) = &self.request.focused else { return 1.0 };
        let focused = |index: &usize| places.contains(&keys[*index].view);
        let focused: Vec<usize> = (0..keys.len()).filter(focused).collect();
        let max = focused.iter().map(|&index| scores[index]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = focused.iter().map(|&index| (scores[index] - max).exp()).sum();
        let growth = f64::from(focus.scale()) - 1.0;
        for &index in &focused {
            scores[index] += growth * (max + sum.ln());
        }
        1.0 + growth.abs()
    }
}

/// Error in the norm, over the norm.
pub(crate) fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).powi(2)).sum();
    let norm: f64 = want.iter().map(|want| want * want).sum();
    (error / norm.max(1e-30)).sqrt()
}

/// Rounding of stored elements: half a unit in the last place.
pub(crate) fn half_unit(dtype: KvDtype) -> f64 {
    match dtype {
        KvDtype::F32 => 2f64.powi(-24),
        KvDtype::F16 => 2f64.powi(-11),
        KvDtype::Bf16 => 2f64.powi(-9),
        KvDtype::Fp8E4m3 => 2f64.powi(-4),
    }
}

/// Error bound of one output element, |v| <= 1. `mass` is the largest sum of |q_d k_d|, times the softmax scale.
pub(crate) fn tolerance(stored: f64, head_dim: u32, mass: f64, num_keys: usize) -> f64 {
    let f32_unit = 2f64.powi(-24);
    // A score: the stored key, angles good to 1e-6 on both sides, and one rounding per addition of the dot product.
    let score = mass * (stored + 4e-6 + f64::from(head_dim) * f32_unit);
    // An error d of every score moves a softmax average of |v| <= 1 by at most 2 d; then the stored value, the exp
    // (2e-7), and one rounding per key in numerator and denominator.
    2.0 * score + stored + 4e-7 + 2.0 * num_keys as f64 * f32_unit
}

pub(crate) fn rotate(shape: Shape, row: &[f32], position: i64) -> Vec<f64> {
    let mut out: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
    let pairs = shape.rotary_dim as usize / 2;
    for (pair, radians) in inv_freq(shape).into_iter().enumerate() {
        let (sin, cos) = (f64::from(radians) * position as f64).sin_cos();
        let (x, y) = (f64::from(row[pair]), f64::from(row[pair + pairs]));
        out[pair] = x * cos - y * sin;
        out[pair + pairs] = y * cos + x * sin;
    }
    out
}

/// What a kernel with 16-bit elements stores; the same for others.
fn rounded(dtype: KvDtype, row: Vec<f64>) -> Vec<f64> {
    let round = |value: f64| match dtype {
        KvDtype::F16 => f16::from_f64(value).to_f64(),
        KvDtype::Bf16 => bf16::from_f64(value).to_f64(),
        _ => value,
    };
    row.into_iter().map(round).collect()
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
    if scenario.shape.dtype != KvDtype::F32 && !got.is_empty() {
        scenario.assert_same_rounding(&got, Rounding::Keys);
    }
}
