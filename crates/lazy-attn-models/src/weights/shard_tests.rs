//! What the buffers of shards are, against the tensors of the file read one by one.

use std::borrow::Cow;

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::config::{Bias, HeadWeights, QkNorm, RopePairing};
use crate::{ModelConfig, ModelError, Silent};

/// Tensors of any stored type: bytes from the name, with scales that are small and finite.
struct Blocks(TensorDtype);

impl TensorSource for Blocks {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        // Vectors are never quantised.
        let dtype = if shape.len() == 1 { TensorDtype::F32 } else { self.0 };
        let seed = name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let size = dtype.size_of(shape).unwrap();
        let mut bytes: Vec<u8> = (0..size as u64)
            .map(|index| ((seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        if dtype.block_elements() > 1 {
            // The scale of a Q6K block is its last two bytes, that of the others the first two; some have a second.
            let one = f16::from_f32(1.0 / 64.0).to_le_bytes();
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                let end = block.len();
                block[..2].copy_from_slice(&one);
                block[2..4].copy_from_slice(&one);
                block[end - 2..].copy_from_slice(&one);
            }
        } else {
            let (count, size) = (bytes.len() / dtype.block_bytes(), dtype.block_bytes());
            for index in 0..count {
                let value = f32::from(bytes[index * size].cast_signed()) / 32.0;
                let element = match dtype {
                    TensorDtype::F32 => value.to_le_bytes().to_vec(),
                    TensorDtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
                    _ => bf16::from_f32(value).to_le_bytes().to_vec(),
                };
                bytes[index * size..][..size].copy_from_slice(&element);
            }
        }
        Ok(RawTensor { dtype, shape: shape.to_vec(), bytes: Cow::Owned(bytes) })
    }

    fn total_bytes(&self) -> u64 {
        0
    }
}

fn reader(source: &dyn TensorSource, dtype: HalfDtype) -> HalfReader<'_> {
    HalfReader { source, dtype, progress: &Silent }
}

/// The whole tensor `name` in 16 bits, by the other way there is.
fn expected(source: &dyn TensorSource, name: &str, shape: &[usize], dtype: HalfDtype) -> Vec<u16> {
    let floats = source.tensor(name, shape).unwrap().to_f32();
    let round = |value: f32| match dtype {
        HalfDtype::Bf16 => bf16::from_f32(value).to_bits(),
        HalfDtype::F16 => f16::from_f32(value).to_bits(),
    };
    floats.into_iter().map(round).collect()
}

fn all_shards(world: usize) -> Vec<Shard> {
    (0..world).map(|rank| Shard::new(rank, world).unwrap()).collect()
}

/// Puts the parts of the shards of one buffer together again: `part(rank)` is rows of the rank's buffer.
fn stack(buffers: &[Vec<u16>], rows: std::ops::Range<usize>, columns: usize) -> Vec<u16> {
    buffers.iter().flat_map(|buffer| buffer[rows.start * columns..rows.end * columns].to_vec()).collect()
}

/// Puts columns of the shards side by side.
fn beside(buffers: &[Vec<u16>], num_rows: usize) -> Vec<u16> {
    let columns = buffers[0].len() / num_rows;
    let row = |row: usize| buffers.iter().flat_map(move |buffer| &buffer[row * columns..][..columns]);
    (0..num_rows).flat_map(row).copied().collect()
}

/// Compares every buffer of layer 1 with the tensors of the file.
fn check_layer(config: &ModelConfig, source: &dyn TensorSource, dtype: HalfDtype, world: usize) {
    let layers: Vec<LayerTensors> =
        all_shards(world).into_iter().map(|shard| layer_tensors(config, 1, shard).unwrap()).collect();
    let read = |of: fn(&LayerTensors) -> &FusedTensor| -> Vec<Vec<u16>> {
        layers.iter().map(|layer| reader(source, dtype).read(of(layer)).unwrap()).collect()
    };
    let whole =
        |name: &str, shape: &[usize]| expected(source, &format!("model.layers.1.{name}"), shape, dtype);
    let (hidden, ffn, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_q_heads * dim, config.num_kv_heads * dim);
    let (q_share, kv_share, ffn_share) = (q / world, kv / world, ffn / world);
    let qkv = read(|layer| &layer.qkv);
    let keys = q_share..q_share + kv_share;
    let values = q_share + kv_share..q_share + 2 * kv_share;
    let unordered = |rows: Vec<u16>| stored_order(config, rows, hidden);
    assert_eq!(unordered(stack(&qkv, 0..q_share, hidden)), whole("self_attn.q_proj.weight", &[q, hidden]));
    assert_eq!(unordered(stack(&qkv, keys, hidden)), whole("self_attn.k_proj.weight", &[kv, hidden]));
    assert_eq!(stack(&qkv, values, hidden), whole("self_attn.v_proj.weight", &[kv, hidden]));
    let gate_up = read(|layer| &layer.gate_up);
    assert_eq!(stack(&gate_up, 0..ffn_share, hidden), whole("mlp.gate_proj.weight", &[ffn, hidden]));
    assert_eq!(
        stack(&gate_up, ffn_share..2 * ffn_share, hidden),
        whole("mlp.up_proj.weight", &[ffn, hidden])
    );
    let output = read(|layer| &layer.output);
    assert_eq!(beside(&output, hidden), whole("self_attn.o_proj.weight", &[hidden, q]));
    assert_eq!(beside(&read(|layer| &layer.down), hidden), whole("mlp.down_proj.weight", &[hidden, ffn]));
    for norm in read(|layer| &layer.input_norm) {
        assert_eq!(norm, whole("input_layernorm.weight", &[hidden]), "norms are on every shard");
    }
    if config.bias.qkv {
        let bias: Vec<_> = layers
            .iter()
            .map(|l| reader(source, dtype).read(l.qkv_bias.as_ref().unwrap()).unwrap())
            .collect();
        let queries = stored_order(config, stack(&bias, 0..q_share, 1), 1);
        assert_eq!(queries, whole("self_attn.q_proj.bias", &[q]));
    }
    let num_output_biases = layers.iter().filter(|layer| layer.output_bias.is_some()).count();
    assert_eq!(num_output_biases, usize::from(config.bias.output), "a sum has its bias once");
}

/// Undoes the order of rows within heads, by what it says rather than by how it is made.
fn stored_order(config: &ModelConfig, rows: Vec<u16>, columns: usize) -> Vec<u16> {
    if config.rope.pairing == RopePairing::HalfSplit {
        return rows;
    }
    let (dim, half) = (config.head_dim, config.rope.rotary_dim / 2);
    let mut stored = vec![0; rows.len()];
    for (row, elements) in rows.chunks_exact(columns).enumerate() {
        let (head, at) = (row / dim, row % dim);
        let back = match at {
            at if at < half => 2 * at,
            at if at < 2 * half => 2 * (at - half) + 1,
            at => at,
        };
        stored[(head * dim + back) * columns..][..columns].copy_from_slice(elements);
    }
    stored
}

/// A small model whose sizes `world` divides.
fn config(world: usize, heads_per_kv: usize, pairing: RopePairing, bias: bool) -> ModelConfig {
    let tiny = ModelConfig::named("tiny").unwrap();
    // Of an even number of shards, half of them have columns of a quantised matrix that begin inside a block.
    let num_kv_heads = if world.is_multiple_of(2) { world } else { 2 * world };
    ModelConfig {
        hidden_size: 64,
        intermediate_size: 96 * world,
        num_q_heads: num_kv_heads * heads_per_kv,
        num_kv_heads,
        vocab_size: 24 * world,
        rope: crate::config::RopeConfig { pairing, rotary_dim: 8, ..tiny.rope.clone() },
        bias: Bias { qkv: bias, output: bias, mlp: bias },
        qk_norm: QkNorm::PerHead,
        ..tiny
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_shards_of_a_layer_put_together_are_the_layer(
        world in 1usize..=4,
        heads_per_kv in 1usize..=3,
        interleaved: bool,
        bias: bool,
        stored in prop::sample::select(&[TensorDtype::F32, TensorDtype::F16, TensorDtype::Bf16, TensorDtype::Q8_0][..]),
        to_f16: bool,
    ) {
        let pairing = if interleaved { RopePairing::Interleaved } else { RopePairing::HalfSplit };
        let config = config(world, heads_per_kv, pairing, bias);
        let dtype = if to_f16 { HalfDtype::F16 } else { HalfDtype::Bf16 };
        check_layer(&config, &Blocks(stored), dtype, world);
    }
}

#[test]
fn every_stored_type_is_converted_as_its_floats_are_rounded() {
    for stored in TensorDtype::ALL {
        let part = TensorPart {
            name: "t".into(),
            shape: vec![40, 512],
            rows: 3..39,
            // Neither end is that of a block.
            columns: 17..400,
            order: None,
        };
        for columns in [17..400, 0..512] {
            let part = TensorPart { columns: columns.clone(), ..part.clone() };
            let source = Blocks(stored);
            let raw = source.tensor("t", &[40, 512]).unwrap();
            for dtype in [HalfDtype::Bf16, HalfDtype::F16] {
                let mut out = vec![0; 30 * columns.len()];
                copy_rows_16bit(&raw, &part, 2..32, dtype, &mut out).unwrap();
                let whole = expected(&source, "t", &[40, 512], dtype);
                let wanted: Vec<u16> = (5..35)
                    .flat_map(|row| whole[row * 512 + columns.start..row * 512 + columns.end].to_vec())
                    .collect();
                assert_eq!(out, wanted, "{stored:?} {dtype:?} {columns:?}");
            }
        }
    }
}

#[test]
fn the_whole_model_is_the_identity_and_counts_every_parameter() {
    for name in ["tiny", "llama-3.1-8b", "qwen2.5-0.5b", "qwen3-0.6b"] {
        let config = ModelConfig::named(name).unwrap();
        assert_eq!(num_elements(&config, Shard::WHOLE).unwrap(), config.num_parameters(), "{name}");
    }
    let config = ModelConfig::named("llama-3.1-8b").unwrap();
    let of_eight = num_elements(&config, Shard::new(3, 8).unwrap()).unwrap();
    let embedding = (config.vocab_size * config.hidden_size) as u64;
    let norms = ((2 * config.num_layers + 1) * config.hidden_size) as u64;
    assert_eq!(of_eight, (config.num_parameters() - embedding - norms) / 8 + embedding + norms);
}

#[test]
fn tensors_that_are_made_become_the_buffers_of_those_that_are_stored() {
    let config = config(2, 2, RopePairing::Interleaved, true);
    for stored in [RandomDtype::F32, RandomDtype::Bf16] {
        for dtype in [HalfDtype::Bf16, HalfDtype::F16] {
            check_layer(&config, &RandomTensors::new(&config, 9, stored), dtype, 2);
        }
    }
}

#[test]
fn the_head_is_split_by_rows_and_a_tied_one_is_part_of_the_embedding() {
    let untied = ModelConfig { head: HeadWeights::Untied, ..config(4, 1, RopePairing::HalfSplit, false) };
    let source = Blocks(TensorDtype::Bf16);
    let mut rows = Vec::new();
    for shard in all_shards(4) {
        let outer = outer_tensors(&untied, shard).unwrap();
        assert_eq!(outer.embedding.rows, untied.vocab_size);
        rows.extend(reader(&source, HalfDtype::Bf16).read(outer.head.as_ref().unwrap()).unwrap());
    }
    let shape = [untied.vocab_size, untied.hidden_size];
    assert_eq!(rows, expected(&source, "lm_head.weight", &shape, HalfDtype::Bf16));
    let tied = ModelConfig { head: HeadWeights::Tied, ..untied };
    assert_eq!(outer_tensors(&tied, Shard::WHOLE).unwrap().head, None);
}

#[test]
fn a_value_that_f16_cannot_hold_is_told_with_its_tensor() {
    let values: Vec<u8> =
        [1.0f32, 70_000.0, f32::INFINITY, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let raw = RawTensor { dtype: TensorDtype::F32, shape: vec![4], bytes: Cow::Owned(values) };
    let part = TensorPart { name: "big".into(), shape: vec![4], rows: 0..4, columns: 0..1, order: None };
    let mut out = [0; 4];
    let error = copy_rows_16bit(&raw, &part, 0..4, HalfDtype::F16, &mut out).unwrap_err().to_string();
    assert!(error.contains("`big`") && error.contains("bf16"), "{error}");
    copy_rows_16bit(&raw, &part, 0..4, HalfDtype::Bf16, &mut out).unwrap();
    copy_rows_16bit(&raw, &part, 2..4, HalfDtype::F16, &mut out[..2]).unwrap();
}

/// Staging memory that remembers the size of each piece.
struct Pieces {
    buffer: Vec<u16>,
    capacity: usize,
    sizes: Vec<usize>,
}

impl Staging for Pieces {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn stage(
        &mut self,
        places: std::ops::Range<usize>,
        fill: &mut dyn FnMut(&mut [u16]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        self.sizes.push(places.len());
        fill(&mut self.buffer[places])
    }
}

#[test]
fn a_buffer_is_sent_in_pieces_of_whole_rows_that_fit_the_staging_memory() {
    let config = config(2, 2, RopePairing::Interleaved, true);
    let (source, shard) = (Blocks(TensorDtype::Q8_0), Shard::new(1, 2).unwrap());
    let layer = layer_tensors(&config, 0, shard).unwrap();
    let reader = reader(&source, HalfDtype::Bf16);
    for tensor in layer.all() {
        let buffer = vec![0; tensor.num_elements()];
        let mut pieces = Pieces { buffer, capacity: 1000, sizes: Vec::new() };
        reader.stream(tensor, &mut pieces).unwrap();
        assert_eq!(pieces.buffer, reader.read(tensor).unwrap());
        assert_eq!(pieces.sizes.iter().sum::<usize>(), tensor.num_elements());
        assert!(pieces.sizes.iter().all(|&size| size <= 1000 && size.is_multiple_of(tensor.columns)));
    }
    let mut small = Pieces { buffer: Vec::new(), capacity: 63, sizes: Vec::new() };
    let error = reader.stream(&layer.qkv, &mut small).unwrap_err().to_string();
    assert!(error.contains("rows of 64 elements") && error.contains("holds 63"), "{error}");
}
