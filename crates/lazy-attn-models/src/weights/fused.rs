//! Which tensors of a file make which buffers of a device: products that share their input are one matrix.

use std::ops::Range;
use std::sync::Arc;

use super::shard::{Shard, ShardSizes};
use crate::config::{HeadWeights, QkNorm, RopePairing};
use crate::{ModelConfig, ModelError};

/// Part of a stored tensor, as rows and columns of it. A vector of `n` elements is `n` rows of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPart {
    /// Its Hugging Face name.
    pub name: String,
    /// Shape of the whole tensor: `[rows, columns]` or `[elements]`.
    pub shape: Vec<usize>,
    /// Rows that are taken.
    pub rows: Range<usize>,
    /// Columns that are taken.
    pub columns: Range<usize>,
    /// Order of the rows within each group of as many: row `g * len + i` is stored row `g * len + order[i]`.
    pub order: Option<Arc<[usize]>>,
}

impl TensorPart {
    fn matrix(name: String, shape: [usize; 2]) -> TensorPart {
        TensorPart { name, rows: 0..shape[0], columns: 0..shape[1], shape: shape.to_vec(), order: None }
    }

    fn vector(name: String, len: usize) -> TensorPart {
        TensorPart { name, rows: 0..len, columns: 0..1, shape: vec![len], order: None }
    }

    /// Columns of the whole tensor.
    pub(super) fn width(&self) -> usize {
        if self.shape.len() == 1 { 1 } else { self.shape[1] }
    }

    /// Where row `row` of the tensor is stored.
    pub(super) fn stored_row(&self, row: usize) -> usize {
        self.order.as_ref().map_or(row, |order| row - row % order.len() + order[row % order.len()])
    }

    /// Elements that are taken.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// A buffer of a device: the rows of its parts, one part below the other, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FusedTensor {
    /// What it is made of.
    pub parts: Vec<TensorPart>,
    /// Rows of all parts; elements of a vector.
    pub rows: usize,
    /// Columns of each part; 1 for a vector.
    pub columns: usize,
}

impl FusedTensor {
    fn of(parts: Vec<TensorPart>) -> FusedTensor {
        let rows = parts.iter().map(|part| part.rows.len()).sum();
        let columns = parts.first().map_or(0, |part| part.columns.len());
        FusedTensor { parts, rows, columns }
    }

    /// Elements of the buffer.
    #[must_use]
    pub fn num_elements(&self) -> usize {
        self.rows * self.columns
    }
}

/// The buffers of one layer. Widths are those of the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTensors {
    /// `[hidden_size]`.
    pub input_norm: FusedTensor,
    /// `[(num_q_heads + 2 * num_kv_heads) * head_dim, hidden_size]`: queries, keys, values.
    pub qkv: FusedTensor,
    /// `[(num_q_heads + 2 * num_kv_heads) * head_dim]`.
    pub qkv_bias: Option<FusedTensor>,
    /// `[head_dim]` each: of queries and of keys.
    pub qk_norm: Option<(FusedTensor, FusedTensor)>,
    /// `[hidden_size, num_q_heads * head_dim]`; the shards' products are summed.
    pub output: FusedTensor,
    /// `[hidden_size]`, of the first shard only.
    pub output_bias: Option<FusedTensor>,
    /// `[hidden_size]`.
    pub mlp_norm: FusedTensor,
    /// `[2 * intermediate_size, hidden_size]`: gate, up.
    pub gate_up: FusedTensor,
    /// `[2 * intermediate_size]`.
    pub gate_up_bias: Option<FusedTensor>,
    /// `[hidden_size, intermediate_size]`; the shards' products are summed.
    pub down: FusedTensor,
    /// `[hidden_size]`, of the first shard only.
    pub down_bias: Option<FusedTensor>,
}

impl LayerTensors {
    /// Every buffer.
    pub fn all(&self) -> impl Iterator<Item = &FusedTensor> {
        let norms = self.qk_norm.iter().flat_map(|(q, k)| [q, k]);
        let biases = [&self.qkv_bias, &self.output_bias, &self.gate_up_bias, &self.down_bias];
        [&self.input_norm, &self.qkv, &self.output, &self.mlp_norm, &self.gate_up, &self.down]
            .into_iter()
            .chain(biases.into_iter().flatten())
            .chain(norms)
    }
}

/// The buffers around the layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OuterTensors {
    /// `[vocab_size, hidden_size]`, whole on every shard: a lookup then needs no other device.
    pub embedding: FusedTensor,
    /// `[hidden_size]`.
    pub final_norm: FusedTensor,
    /// `[vocab_size, hidden_size]` with the shard's rows; `None` if they are [`Shard::vocab_rows`] of the embedding.
    pub head: Option<FusedTensor>,
}

impl OuterTensors {
    /// Every buffer.
    pub fn all(&self) -> impl Iterator<Item = &FusedTensor> {
        [&self.embedding, &self.final_norm].into_iter().chain(&self.head)
    }
}

/// The buffers of layer `layer` of `config` on `shard`.
///
/// # Errors
/// [`ModelError::Shard`] if the shards cannot be equal.
pub fn layer_tensors(config: &ModelConfig, layer: usize, shard: Shard) -> Result<LayerTensors, ModelError> {
    let names = LayerNames { config, shard, sizes: shard.sizes(config)?, layer };
    let (bias, hidden) = (config.bias, config.hidden_size);
    let summed_bias = |name: &str, is_there: bool| {
        (is_there && shard.rank() == 0).then(|| names.vector(&format!("{name}.bias"), hidden))
    };
    let q_width = config.num_q_heads * config.head_dim;
    Ok(LayerTensors {
        input_norm: names.vector("input_layernorm.weight", hidden),
        qkv: names.qkv(Kind::Weight),
        qkv_bias: bias.qkv.then(|| names.qkv(Kind::Bias)),
        qk_norm: (config.qk_norm == QkNorm::PerHead).then(|| {
            (names.head_norm("self_attn.q_norm.weight"), names.head_norm("self_attn.k_norm.weight"))
        }),
        output: names.columns("self_attn.o_proj.weight", q_width),
        output_bias: summed_bias("self_attn.o_proj", bias.output),
        mlp_norm: names.vector("post_attention_layernorm.weight", hidden),
        gate_up: names.gate_up(Kind::Weight),
        gate_up_bias: bias.mlp.then(|| names.gate_up(Kind::Bias)),
        down: names.columns("mlp.down_proj.weight", config.intermediate_size),
        down_bias: summed_bias("mlp.down_proj", bias.mlp),
    })
}

/// The buffers of `config` on `shard` that belong to no layer.
///
/// # Errors
/// [`ModelError::Shard`] if the shards cannot be equal.
pub fn outer_tensors(config: &ModelConfig, shard: Shard) -> Result<OuterTensors, ModelError> {
    shard.sizes(config)?;
    let shape = [config.vocab_size, config.hidden_size];
    let embedding = TensorPart::matrix("model.embed_tokens.weight".to_owned(), shape);
    let head = TensorPart::matrix("lm_head.weight".to_owned(), shape);
    let head = TensorPart { rows: shard.vocab_rows(config), ..head };
    let final_norm = TensorPart::vector("model.norm.weight".to_owned(), config.hidden_size);
    Ok(OuterTensors {
        embedding: FusedTensor::of(vec![embedding]),
        final_norm: FusedTensor::of(vec![final_norm]),
        head: (config.head == HeadWeights::Untied).then(|| FusedTensor::of(vec![head])),
    })
}

/// Elements of every buffer of `config` on `shard`: a device needs two bytes of each.
///
/// # Errors
/// [`ModelError::Shard`] if the shards cannot be equal.
pub fn num_elements(config: &ModelConfig, shard: Shard) -> Result<u64, ModelError> {
    let layer: usize = layer_tensors(config, 0, shard)?.all().map(FusedTensor::num_elements).sum();
    let outer: usize = outer_tensors(config, shard)?.all().map(FusedTensor::num_elements).sum();
    Ok(layer as u64 * config.num_layers as u64 + outer as u64)
}

/// Which tensor of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Weight,
    Bias,
}

/// Makes the buffers of one layer.
struct LayerNames<'a> {
    config: &'a ModelConfig,
    shard: Shard,
    sizes: ShardSizes,
    layer: usize,
}

impl LayerNames<'_> {
    fn name(&self, name: &str) -> String {
        format!("model.layers.{}.{name}", self.layer)
    }

    fn vector(&self, name: &str, len: usize) -> FusedTensor {
        FusedTensor::of(vec![TensorPart::vector(self.name(name), len)])
    }

    fn head_norm(&self, name: &str) -> FusedTensor {
        let part = TensorPart::vector(self.name(name), self.config.head_dim);
        FusedTensor::of(vec![TensorPart { order: head_order(self.config), ..part }])
    }

    /// The shard's columns of a matrix `[hidden_size, width]`.
    fn columns(&self, name: &str, width: usize) -> FusedTensor {
        let part = TensorPart::matrix(self.name(name), [self.config.hidden_size, width]);
        FusedTensor::of(vec![TensorPart { columns: self.shard.range(width), ..part }])
    }

    /// The shard's rows of a projection from `hidden_size` to `width`.
    fn rows(&self, name: &str, width: usize, kind: Kind) -> TensorPart {
        let part = match kind {
            Kind::Weight => {
                TensorPart::matrix(self.name(&format!("{name}.weight")), [width, self.config.hidden_size])
            }
            Kind::Bias => TensorPart::vector(self.name(&format!("{name}.bias")), width),
        };
        TensorPart { rows: self.shard.range(width), ..part }
    }

    fn qkv(&self, kind: Kind) -> FusedTensor {
        let config = self.config;
        let (q, kv) = (config.num_q_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let rotated = |part| TensorPart { order: head_order(config), ..part };
        let fused = FusedTensor::of(vec![
            rotated(self.rows("self_attn.q_proj", q, kind)),
            rotated(self.rows("self_attn.k_proj", kv, kind)),
            self.rows("self_attn.v_proj", kv, kind),
        ]);
        let num_heads = self.sizes.num_q_heads + 2 * self.sizes.num_kv_heads;
        assert_eq!(fused.rows, num_heads * config.head_dim, "a shard has whole heads");
        fused
    }

    fn gate_up(&self, kind: Kind) -> FusedTensor {
        let width = self.config.intermediate_size;
        FusedTensor::of(vec![self.rows("mlp.gate_proj", width, kind), self.rows("mlp.up_proj", width, kind)])
    }
}

/// The order that turns interleaved pairs into half-split ones, within a head; `None` if they are half-split.
fn head_order(config: &ModelConfig) -> Option<Arc<[usize]>> {
    let rotary_dim = config.rope.rotary_dim;
    if config.rope.pairing == RopePairing::HalfSplit {
        return None;
    }
    let even = (0..rotary_dim).step_by(2);
    Some(even.clone().chain(even.map(|even| even + 1)).chain(rotary_dim..config.head_dim).collect())
}
