//! What a step launches: the decoder of [`crate::cpu`] on a device, in 16 bits with sums in f32.
//!
//! ```text
//! x = embedding[token]
//! per layer:  q, k, v = W_qkv norm(x);  k, v -> store;  x += W_o attend(q);  x += W_down (silu(W_gate n) * W_up n), n = norm(x)
//! logits = W_head norm(x)                                   of the wanted rows only
//! ```
//!
//! What a branch adds to `x` is added by the norm behind it. Nothing here allocates or waits, and every address is the same
//! in each step, so that a step may be captured in a graph.

use std::sync::Arc;

use cudarc::driver::CudaSlice;
use lazy_attn::cuda::{
    Collective, CudaAttention, CudaDevice, CudaKvStore, DevicePlan, ElementType, Gemm, GemmShape, Norm,
    Products, QkvNorm, RowShape,
};
use lazy_attn::{AttnError, AttnParams, RopeTable};

use super::weights::{Buffer, Layer, Weights};
use crate::weights::{HalfDtype, Shard};
use crate::{ModelConfig, ModelError};

/// Sizes of a device's part of a decoder: heads and `ffn` are its own, the others those of the whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) ffn: usize,
    pub(super) q_width: usize,
    pub(super) qkv_width: usize,
    pub(super) vocab: usize,
    /// Rows of the head that the device has, from `first_vocab` on.
    own_vocab: usize,
    first_vocab: usize,
    pub(super) num_q_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Sizes {
    fn of(config: &ModelConfig, shard: Shard) -> Result<Sizes, ModelError> {
        let own = shard.sizes(config)?;
        let q_width = own.num_q_heads * config.head_dim;
        Ok(Sizes {
            hidden: config.hidden_size,
            ffn: own.intermediate_size,
            q_width,
            qkv_width: q_width + 2 * own.num_kv_heads * config.head_dim,
            vocab: config.vocab_size,
            own_vocab: own.vocab_size,
            first_vocab: shard.vocab_rows(config).start,
            num_q_heads: own.num_q_heads,
            num_kv_heads: own.num_kv_heads,
            head_dim: config.head_dim,
        })
    }
}

/// Which rows of a step go on behind the last attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// None: the step only stores keys and values.
    None,
    /// All, in their order.
    All,
    /// This many, those that [`Activations::rows`] names.
    Some(usize),
}

/// How many rows a step launches products for, given those it has: few enough numbers that each shape is met again.
pub(super) fn padded_rows(rows: usize) -> usize {
    match rows {
        0..=2 => rows,
        3..=4 => 4,
        5..=64 => rows.next_multiple_of(8),
        _ => rows.next_multiple_of(64),
    }
}

/// Rows on their way through the layers.
#[derive(Debug)]
pub(super) struct Stream {
    /// The residual stream, `[rows, hidden]`.
    x: Buffer,
    /// What attention returned, `[rows, q_width]`.
    attended: Buffer,
}

/// Activations of a step.
#[derive(Debug)]
pub(super) struct Activations {
    /// Tokens of the step, `[rows]`.
    pub(super) ids: CudaSlice<u32>,
    /// Rows that are wanted, `[rows]`.
    pub(super) rows: CudaSlice<u32>,
    all: Stream,
    kept: Stream,
    /// `[rows, hidden]`
    normed: Buffer,
    /// `[rows, qkv_width]`
    qkv: Buffer,
    /// What a branch adds, `[rows, hidden]`.
    delta: Buffer,
    /// `[rows, 2 ffn]`
    gate_up: Buffer,
    /// `[rows, ffn]`
    gated: Buffer,
    /// `[max_logit_rows, vocab]`
    pub(super) logits: CudaSlice<f32>,
    /// Those of the device's own rows of the head, `[max_logit_rows, own_vocab]`, if it does not have all.
    own_logits: Option<CudaSlice<f32>>,
}

impl Activations {
    fn new(
        device: &CudaDevice,
        sizes: &Sizes,
        rows: usize,
        logit_rows: usize,
    ) -> Result<Activations, AttnError> {
        let stream = || -> Result<Stream, AttnError> {
            Ok(Stream {
                x: device.alloc(rows * sizes.hidden)?,
                attended: device.alloc(rows * sizes.q_width)?,
            })
        };
        Ok(Activations {
            ids: device.alloc(rows)?,
            rows: device.alloc(rows)?,
            all: stream()?,
            kept: stream()?,
            normed: device.alloc(rows * sizes.hidden)?,
            qkv: device.alloc(rows * sizes.qkv_width)?,
            delta: device.alloc(rows * sizes.hidden)?,
            gate_up: device.alloc(rows * 2 * sizes.ffn)?,
            gated: device.alloc(rows * sizes.ffn)?,
            logits: device.alloc(logit_rows * sizes.vocab)?,
            own_logits: if sizes.own_vocab == sizes.vocab {
                None
            } else {
                Some(device.alloc(logit_rows * sizes.own_vocab)?)
            },
        })
    }
}

/// Which part of a model a device has, and how it reaches the devices that have the others.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shard: Shard,
    /// `None` if the part is the whole.
    pub(super) collective: Option<Collective>,
}

/// Weights on a device, and what its steps write.
#[derive(Debug)]
pub(super) struct Decoder {
    device: Arc<CudaDevice>,
    element: ElementType,
    sizes: Sizes,
    eps: f32,
    window: u32,
    params: AttnParams,
    weights: Weights,
    gemm: Gemm,
    /// The other devices of a model that several share.
    collective: Option<Collective>,
    pub(super) acts: Activations,
}

impl Decoder {
    /// A decoder whose steps have at most `max_tokens` rows, of which `logit_rows` have logits at once.
    pub(super) fn new(
        device: &Arc<CudaDevice>,
        config: &ModelConfig,
        weights: Weights,
        (dtype, products, part): (HalfDtype, Products, Part),
        [max_tokens, logit_rows]: [usize; 2],
    ) -> Result<Decoder, ModelError> {
        let sizes = Sizes::of(config, part.shard)?;
        let params = AttnParams {
            num_q_heads: sizes.num_q_heads as u32,
            rope: RopeTable::from_inv_freq(&config.rope.inv_freq())?,
            softmax_scale: config.rope.softmax_scale() / (sizes.head_dim as f32).sqrt(),
        };
        let rows = padded_rows(max_tokens);
        Ok(Decoder {
            device: Arc::clone(device),
            element: match dtype {
                HalfDtype::Bf16 => ElementType::Bf16,
                HalfDtype::F16 => ElementType::F16,
            },
            eps: config.rms_norm_eps,
            window: config.sliding_window.unwrap_or(0),
            params,
            weights,
            gemm: Gemm::new(device, products)?,
            collective: part.collective,
            acts: Activations::new(device, &sizes, rows, padded_rows(logit_rows))?,
            sizes,
        })
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    pub(super) fn params(&self) -> &AttnParams {
        &self.params
    }

    pub(super) fn weight_bytes_per_step(&self) -> u64 {
        self.weights.bytes_per_step()
    }

    /// Attention over `store` with room for `max_slots` partials.
    pub(super) fn attention(
        &self,
        store: &CudaKvStore,
        max_slots: usize,
    ) -> Result<CudaAttention, AttnError> {
        CudaAttention::new(&self.device, store, self.params.clone(), max_slots, self.window)
    }

    /// Runs every layer over the tokens of `plan`, padded to `rows`; [`Activations::ids`] holds them.
    pub(super) fn layers(
        &mut self,
        (store, attention): (&mut CudaKvStore, &mut CudaAttention),
        plan: &DevicePlan,
        rows: usize,
        wanted: Wanted,
    ) -> Result<(), AttnError> {
        let sizes = self.sizes;
        let table = RowShape { num_rows: sizes.vocab as u32, width: sizes.hidden as u32 };
        let Activations { ids, all, .. } = &mut self.acts;
        let mut x = all.x.slice_mut(..rows * sizes.hidden);
        self.device.gather(table, &self.weights.embedding, &ids.slice(..rows), &mut x)?;
        let num_layers = self.weights.layers.len();
        for index in 0..num_layers {
            self.project(index, rows)?;
            let qkv = self.acts.qkv.slice(..plan.num_tokens() as usize * sizes.qkv_width);
            attention.append_packed(store, index as u32, plan, &qkv)?;
            let is_last = index + 1 == num_layers;
            if is_last && wanted == Wanted::None {
                return Ok(());
            }
            let mut attended = self.acts.all.attended.slice_mut(..plan.num_tokens() as usize * sizes.q_width);
            attention.attend_packed(store, index as u32, plan, &qkv, &mut attended)?;
            match wanted {
                Wanted::Some(count) if is_last => {
                    self.keep(rows, count)?;
                    self.feed_forward(index, padded_rows(count), wanted)?;
                }
                _ => self.feed_forward(index, rows, wanted_of(is_last, wanted))?,
            }
        }
        Ok(())
    }

    /// Queries, keys and values of layer `index`, up to their rotation.
    fn project(&mut self, index: usize, rows: usize) -> Result<(), AttnError> {
        let (sizes, element) = (self.sizes, self.element);
        let layer = &self.weights.layers[index];
        let Activations { all, normed, delta, qkv, .. } = &mut self.acts;
        let shape = RowShape { num_rows: rows as u32, width: sizes.hidden as u32 };
        let mut out = normed.slice_mut(..rows * sizes.hidden);
        let norm = Norm { weight: &layer.input_norm.as_view(), eps: self.eps };
        if index == 0 {
            let x = all.x.slice(..rows * sizes.hidden);
            self.device.rms_norm((element, shape), &x, &norm, &mut out)?;
        } else {
            let delta = delta.slice(..rows * sizes.hidden);
            let mut x = all.x.slice_mut(..rows * sizes.hidden);
            self.device.add_rms_norm((element, shape), &delta, &mut x, &norm, &mut out)?;
        }
        let gemm = GemmShape { m: rows, n: sizes.qkv_width, k: sizes.hidden };
        let mut qkv = qkv.slice_mut(..rows * sizes.qkv_width);
        self.gemm.run(element, gemm, &out.as_view(), &layer.qkv, &mut qkv)?;
        if layer.qkv_bias.is_none() && layer.qk_norm.is_none() {
            return Ok(());
        }
        let norm = qkv_norm(layer, &sizes, self.eps);
        self.device.qkv_norm(element, rows as u32, &norm, &mut qkv)
    }

    /// Copies the wanted rows of the residual stream and of the attention's result to the front of `kept`.
    fn keep(&mut self, rows: usize, count: usize) -> Result<(), AttnError> {
        let Activations { all, kept, rows: wanted, .. } = &mut self.acts;
        let ids = wanted.slice(..count);
        for (from, to, width) in [
            (&all.x, &mut kept.x, self.sizes.hidden),
            (&all.attended, &mut kept.attended, self.sizes.q_width),
        ] {
            let shape = RowShape { num_rows: rows as u32, width: width as u32 };
            let from = from.slice(..rows * width);
            self.device.gather(shape, &from, &ids, &mut to.slice_mut(..count * width))?;
        }
        Ok(())
    }

    /// The second half of layer `index` over `rows` rows, of all or of the kept ones.
    fn feed_forward(&mut self, index: usize, rows: usize, wanted: Wanted) -> Result<(), AttnError> {
        let (sizes, element) = (self.sizes, self.element);
        let layer = &self.weights.layers[index];
        let Activations { all, kept, normed, delta, gate_up, gated, .. } = &mut self.acts;
        let stream = if matches!(wanted, Wanted::Some(_)) { kept } else { all };
        let mut x = stream.x.slice_mut(..rows * sizes.hidden);
        let mut delta = delta.slice_mut(..rows * sizes.hidden);
        let attended = stream.attended.slice(..rows * sizes.q_width);
        let product = GemmShape { m: rows, n: sizes.hidden, k: sizes.q_width };
        self.gemm.run(element, product, &attended, &layer.output, &mut delta)?;
        if let Some(collective) = &mut self.collective {
            collective.sum(element, &mut delta)?;
        }

        let mut normed = normed.slice_mut(..rows * sizes.hidden);
        let shape = RowShape { num_rows: rows as u32, width: sizes.hidden as u32 };
        let norm = Norm { weight: &layer.mlp_norm.as_view(), eps: self.eps };
        self.device.add_rms_norm((element, shape), &delta.as_view(), &mut x, &norm, &mut normed)?;

        let mut gate_up = gate_up.slice_mut(..rows * 2 * sizes.ffn);
        let mut gated = gated.slice_mut(..rows * sizes.ffn);
        let product = GemmShape { m: rows, n: sizes.ffn, k: sizes.hidden };
        let operands = (&normed.as_view(), &layer.gate_up);
        self.gemm.run_gated(element, product, operands, &mut gate_up, &mut gated)?;
        let product = GemmShape { m: rows, n: sizes.hidden, k: sizes.ffn };
        self.gemm.run(element, product, &gated.as_view(), &layer.down, &mut delta)?;
        if let Some(collective) = &mut self.collective {
            collective.sum(element, &mut delta)?;
        }
        Ok(())
    }

    /// Normalises the last `rows` rows: what [`Decoder::logits`] reads.
    pub(super) fn finish(&mut self, rows: usize, wanted: Wanted) -> Result<(), AttnError> {
        let sizes = self.sizes;
        let Activations { all, kept, normed, delta, .. } = &mut self.acts;
        let stream = if matches!(wanted, Wanted::Some(_)) { kept } else { all };
        let shape = RowShape { num_rows: rows as u32, width: sizes.hidden as u32 };
        let norm = Norm { weight: &self.weights.final_norm.as_view(), eps: self.eps };
        let delta = delta.slice(..rows * sizes.hidden);
        let mut x = stream.x.slice_mut(..rows * sizes.hidden);
        let mut out = normed.slice_mut(..rows * sizes.hidden);
        self.device.add_rms_norm((self.element, shape), &delta, &mut x, &norm, &mut out)
    }

    /// Logits of `rows` finished rows from `first` on, at the front of [`Activations::logits`].
    pub(super) fn logits(&mut self, first: usize, rows: usize) -> Result<(), AttnError> {
        let Sizes { hidden, vocab, own_vocab, first_vocab, .. } = self.sizes;
        let Activations { normed, logits, own_logits, .. } = &mut self.acts;
        let x = normed.slice(first * hidden..(first + rows) * hidden);
        let shape = GemmShape { m: rows, n: own_vocab, k: hidden };
        let head = self.weights.head();
        let head = head.slice(self.weights.head_rows(first_vocab, own_vocab, hidden));
        let mut all = logits.slice_mut(..rows * vocab);
        let Some(own) = own_logits else {
            return self.gemm.run_f32(self.element, shape, &x, &head, &mut all);
        };
        let mut own = own.slice_mut(..rows * own_vocab);
        self.gemm.run_f32(self.element, shape, &x, &head, &mut own)?;
        // Every device writes its columns between zeros; the sum is all of them.
        self.device.zero(&mut all)?;
        for row in 0..rows {
            let columns = row * vocab + first_vocab..row * vocab + first_vocab + own_vocab;
            let own = own.slice(row * own_vocab..(row + 1) * own_vocab);
            self.device.copy(&own, &mut all.slice_mut(columns))?;
        }
        self.collective.as_mut().map_or(Ok(()), |collective| collective.sum_f32(&mut all))
    }
}

/// Which stream the second half of a layer works on: before the last one, always all rows.
fn wanted_of(is_last: bool, wanted: Wanted) -> Wanted {
    if is_last { wanted } else { Wanted::All }
}

fn qkv_norm<'a>(layer: &'a Layer, sizes: &Sizes, eps: f32) -> QkvNorm<'a, Buffer> {
    QkvNorm {
        num_q_heads: sizes.num_q_heads as u32,
        num_kv_heads: sizes.num_kv_heads as u32,
        head_dim: sizes.head_dim as u32,
        bias: layer.qkv_bias.as_ref(),
        weights: layer.qk_norm.as_ref().map(|(q, k)| (q, k)),
        eps,
    }
}
