//! Weights from a seed: every tensor is generated when it is asked for, the same each time.

use std::borrow::Cow;
use std::collections::HashMap;

use half::bf16;
use rayon::prelude::*;

use super::inventory::expected_tensors;
use super::tensor::check_shape;
use super::{MadeTensor, RawTensor, TensorDtype, TensorSource, to_bf16};
use crate::cpu::simd::{CpuIsa, Isa, Kernel};
use crate::{ModelConfig, ModelError};

/// Element type of random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RandomDtype {
    /// Float32.
    F32,
    /// Bfloat16, as released models are.
    #[default]
    Bf16,
}

/// Random weights whose activations stay of order one at any depth.
///
/// Matrices have standard deviation `1 / sqrt(in_features)`, those that write to the residual stream a further
/// `1 / sqrt(2 layers)`; norms are near one, biases near zero.
#[derive(Debug)]
pub struct RandomTensors {
    seed: u64,
    dtype: RandomDtype,
    num_layers: usize,
    isa: CpuIsa,
    shapes: HashMap<String, Vec<usize>>,
}

impl RandomTensors {
    /// The weights of `seed` for the decoder `config`.
    #[must_use]
    pub fn new(config: &ModelConfig, seed: u64, dtype: RandomDtype) -> RandomTensors {
        let shapes = expected_tensors(config).into_iter().collect();
        RandomTensors { seed, dtype, num_layers: config.num_layers, isa: CpuIsa::detect(), shapes }
    }

    fn distribution(&self, name: &str, shape: &[usize]) -> (f32, f32) {
        if name.ends_with("norm.weight") {
            return (1.0, 0.1);
        }
        if name.ends_with(".bias") {
            return (0.0, 0.02);
        }
        let inputs = shape.last().copied().unwrap_or(1) as f32;
        let writes_residual = name.contains("o_proj") || name.contains("down_proj");
        let depth = if writes_residual { 2.0 * self.num_layers as f32 } else { 1.0 };
        (0.0, (inputs * depth).sqrt().recip())
    }
}

/// One tensor.
#[derive(Debug, Clone, Copy)]
struct RandomTensor {
    dtype: RandomDtype,
    mean: f32,
    deviation: f32,
    stream: Stream,
    isa: CpuIsa,
}

impl RandomTensor {
    // Inlined, as is what it calls, into functions of other instruction sets.
    #[inline(always)]
    fn value(&self, index: u64) -> f32 {
        self.mean + self.deviation * self.stream.normal(index)
    }
}

impl MadeTensor for RandomTensor {
    fn dtype(&self) -> TensorDtype {
        match self.dtype {
            RandomDtype::F32 => TensorDtype::F32,
            RandomDtype::Bf16 => TensorDtype::Bf16,
        }
    }

    fn fill(&self, first: usize, out: &mut [f32]) {
        self.isa.run(Fill { tensor: self, first: first as u64, out });
    }
}

/// Making elements from `first` on.
struct Fill<'a> {
    tensor: &'a RandomTensor,
    first: u64,
    out: &'a mut [f32],
}

impl Kernel for Fill<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        let elements = self.out.iter_mut().zip(0..);
        let value = |index: u64| self.tensor.value(self.first.wrapping_add(index));
        match self.tensor.dtype {
            RandomDtype::F32 => elements.for_each(|(out, index)| *out = value(index)),
            RandomDtype::Bf16 => {
                let widened = |rounded: bf16| f32::from_bits(u32::from(rounded.to_bits()) << 16);
                elements.for_each(|(out, index)| *out = widened(to_bf16(value(index))));
            }
        }
    }
}

impl RandomTensors {
    fn random(&self, name: &str, shape: &[usize]) -> Result<RandomTensor, ModelError> {
        let stored =
            self.shapes.get(name).ok_or_else(|| ModelError::tensor(name, "is no part of this model"))?;
        check_shape(name, stored, shape)?;
        let (mean, deviation) = self.distribution(name, shape);
        Ok(RandomTensor {
            dtype: self.dtype,
            mean,
            deviation,
            stream: Stream::new(self.seed, name),
            isa: self.isa,
        })
    }
}

impl TensorSource for RandomTensors {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let random = self.random(name, shape)?;
        let len: usize = shape.iter().product();
        let bytes = match self.dtype {
            RandomDtype::F32 => generate(len, |index| random.value(index).to_le_bytes()),
            RandomDtype::Bf16 => generate(len, |index| to_bf16(random.value(index)).to_le_bytes()),
        };
        Ok(RawTensor { dtype: random.dtype(), shape: shape.to_vec(), bytes: Cow::Owned(bytes) })
    }

    fn made(&self, name: &str, shape: &[usize]) -> Result<Option<Box<dyn MadeTensor + '_>>, ModelError> {
        Ok(Some(Box::new(self.random(name, shape)?)))
    }

    fn total_bytes(&self) -> u64 {
        let size = match self.dtype {
            RandomDtype::F32 => 4,
            RandomDtype::Bf16 => 2,
        };
        self.shapes.values().map(|shape| shape.iter().product::<usize>() as u64 * size).sum()
    }
}

fn generate<const N: usize>(len: usize, element: impl Fn(u64) -> [u8; N] + Sync) -> Vec<u8> {
    const RUN: usize = 1 << 14;
    let mut bytes = vec![0; len * N];
    bytes.par_chunks_mut(RUN * N).enumerate().for_each(|(run, bytes)| {
        for (index, out) in bytes.chunks_exact_mut(N).enumerate() {
            out.copy_from_slice(&element((run * RUN + index) as u64));
        }
    });
    bytes
}

/// Independent numbers by index, so that any part can be made on any thread.
#[derive(Debug, Clone, Copy)]
struct Stream(u64);

impl Stream {
    fn new(seed: u64, name: &str) -> Stream {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut start = [0; 8];
        start.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Stream(u64::from_le_bytes(start))
    }

    /// Element `index` of SplitMix64 (Steele, Lea, Flood 2014).
    #[inline(always)]
    fn bits(self, index: u64) -> u64 {
        let mut z = self.0.wrapping_add((index.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near-normal, mean 0, deviation 1: the sum of four uniform numbers, which needs no transcendental function and
    /// so has the same bits on every machine.
    #[inline(always)]
    fn normal(self, index: u64) -> f32 {
        // Four uniform numbers of 0..2^16 have mean 2 (2^16 - 1) and deviation 2^16 / sqrt(3).
        const DEVIATION: f32 = 37_837.23;
        const FIELDS: u64 = 0x0000_ffff_0000_ffff;
        let bits = self.bits(index);
        // Two numbers in each half, which has room for their sum.
        let pairs = (bits & FIELDS) + ((bits >> 16) & FIELDS);
        // Below 2^18: signed, because processors turn 32 signed bits into a float in one step.
        let sum = ((pairs & 0xffff_ffff) + (pairs >> 32)) as i32;
        (sum as f32 - 131_070.0) / DEVIATION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(seed: u64, dtype: RandomDtype) -> RandomTensors {
        RandomTensors::new(&ModelConfig::named("tiny").unwrap(), seed, dtype)
    }

    const UP: (&str, [usize; 2]) = ("model.layers.1.mlp.up_proj.weight", [160, 64]);

    #[test]
    fn a_tensor_is_the_same_each_time_and_another_for_every_seed_and_name() {
        let up = |seed| tensors(seed, RandomDtype::Bf16).tensor(UP.0, &UP.1).unwrap().bytes.into_owned();
        assert_eq!(up(1), up(1));
        assert_ne!(up(1), up(2));
        let all = tensors(1, RandomDtype::Bf16);
        let gate = all.tensor("model.layers.1.mlp.gate_proj.weight", &UP.1).unwrap();
        assert_ne!(up(1), *gate.bytes);
    }

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        let stream = Stream::new(7, "a");
        let sum = |bits: u64| (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum::<u64>();
        for index in (0..1000).chain([u64::MAX - 1, u64::MAX]) {
            let want = (sum(stream.bits(index)) as f32 - 131_070.0) / 37_837.23;
            assert_eq!(stream.normal(index).to_bits(), want.to_bits(), "{index}");
        }
    }

    #[test]
    fn matrices_have_the_deviation_that_keeps_activations_of_order_one() {
        let values = tensors(3, RandomDtype::F32).tensor(UP.0, &UP.1).unwrap().to_f32();
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt();
        // Five standard errors of a mean and of a deviation over 10,240 values of deviation 1/8.
        assert!(mean.abs() < 5.0 * 0.125 / n.sqrt(), "mean {mean}");
        assert!((deviation - 0.125).abs() < 5.0 * 0.125 / (2.0 * n).sqrt(), "deviation {deviation}");
    }

    #[test]
    fn bf16_weights_are_the_rounded_f32_ones() {
        let exact = tensors(4, RandomDtype::F32).tensor(UP.0, &UP.1).unwrap().to_f32();
        let rounded = tensors(4, RandomDtype::Bf16).tensor(UP.0, &UP.1).unwrap().to_f32();
        assert!(exact.iter().zip(&rounded).all(|(a, b)| bf16::from_f32(*a).to_f32() == *b));
    }

    #[test]
    fn elements_that_are_made_in_parts_are_those_of_the_tensor() {
        for dtype in [RandomDtype::F32, RandomDtype::Bf16] {
            let all = tensors(6, dtype);
            let (whole, made) = (all.tensor(UP.0, &UP.1).unwrap(), all.made(UP.0, &UP.1).unwrap().unwrap());
            let mut part = [0.0; 100];
            made.fill(77, &mut part);
            for isa in CpuIsa::available() {
                let mut same = [0.0; 100];
                RandomTensor { isa, ..all.random(UP.0, &UP.1).unwrap() }.fill(77, &mut same);
                assert_eq!(same, part, "{isa}");
            }
            assert_eq!((whole.dtype, &whole.to_f32()[77..177]), (made.dtype(), &part[..]));
        }
        assert!(tensors(6, RandomDtype::F32).made(UP.0, &[1, 1]).is_err());
    }

    #[test]
    fn total_bytes_are_those_of_every_tensor() {
        let all = tensors(5, RandomDtype::Bf16);
        assert_eq!(all.total_bytes(), 2 * ModelConfig::named("tiny").unwrap().num_parameters());
    }
}
