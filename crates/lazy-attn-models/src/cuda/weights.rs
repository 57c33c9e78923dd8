//! A model's weights in device memory.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaSlice;
use lazy_attn::cuda::{CudaDevice, PinnedRing};

use crate::weights::{
    FusedTensor, HalfReader, LayerTensors, OuterTensors, Shard, Staging, layer_tensors, outer_tensors,
};
use crate::{ModelConfig, ModelError};

/// Elements of a piece of pinned memory: 32 MiB, enough for a copy at the speed of the link.
const PIECE_ELEMENTS: usize = 16 << 20;
/// Pieces: one is filled, one is copied, one waits.
const PIECES: usize = 3;

/// A buffer of 16-bit elements.
pub(super) type Buffer = CudaSlice<u16>;

/// The weights of one layer; shapes as of [`LayerTensors`].
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Buffer,
    pub(super) qkv: Buffer,
    pub(super) qkv_bias: Option<Buffer>,
    pub(super) qk_norm: Option<(Buffer, Buffer)>,
    pub(super) output: Buffer,
    pub(super) mlp_norm: Buffer,
    pub(super) gate_up: Buffer,
    pub(super) down: Buffer,
}

/// The weights of a decoder; shapes as of [`OuterTensors`].
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) embedding: Buffer,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Buffer,
    /// `None` if the embedding is the head.
    pub(super) head: Option<Buffer>,
}

impl Weights {
    /// Reads every tensor of `config` and copies it to the device, converting the next one meanwhile.
    pub(super) fn load(
        device: &Arc<CudaDevice>,
        config: &ModelConfig,
        reader: HalfReader<'_>,
        shard: Shard,
    ) -> Result<Weights, ModelError> {
        let mut upload = Upload { device, reader, ring: PinnedRing::new(device, PIECES, PIECE_ELEMENTS)? };
        let OuterTensors { embedding, final_norm, head } = outer_tensors(config, shard)?;
        let layers = (0..config.num_layers).map(|index| upload.layer(layer_tensors(config, index, shard)?));
        let layers = layers.collect::<Result<_, ModelError>>()?;
        Ok(Weights {
            layers,
            embedding: upload.buffer(&embedding)?,
            final_norm: upload.buffer(&final_norm)?,
            head: head.map(|head| upload.buffer(&head)).transpose()?,
        })
    }

    /// The matrix that makes logits.
    pub(super) fn head(&self) -> &Buffer {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Where the device's rows of the head lie in [`Weights::head`], which is all of the embedding if that is the head.
    pub(super) fn head_rows(&self, first: usize, count: usize, hidden: usize) -> Range<usize> {
        let first = if self.head.is_some() { 0 } else { first };
        first * hidden..(first + count) * hidden
    }

    /// Bytes that a step of one token reads: everything but the embedding, of which it reads a row.
    pub(super) fn bytes_per_step(&self) -> u64 {
        let layer = |layer: &Layer| {
            [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]
                .iter()
                .map(|b| b.num_bytes())
                .sum::<usize>()
        };
        (self.layers.iter().map(layer).sum::<usize>() + self.head().num_bytes()) as u64
    }
}

/// The way of weights to a device.
struct Upload<'a> {
    device: &'a Arc<CudaDevice>,
    reader: HalfReader<'a>,
    ring: PinnedRing<u16>,
}

impl Upload<'_> {
    fn layer(&mut self, tensors: LayerTensors) -> Result<Layer, ModelError> {
        let biases = [&tensors.output_bias, &tensors.gate_up_bias, &tensors.down_bias];
        if let Some(bias) = biases.into_iter().flatten().next() {
            let name = bias.parts.first().map_or("bias", |part| part.name.as_str());
            let problem =
                "biases of the output and feed-forward projections run on the CPU only; use `--device cpu`";
            return Err(ModelError::tensor(name, problem));
        }
        let norms = tensors.qk_norm.as_ref();
        Ok(Layer {
            input_norm: self.buffer(&tensors.input_norm)?,
            qkv: self.buffer(&tensors.qkv)?,
            qkv_bias: tensors.qkv_bias.as_ref().map(|bias| self.buffer(bias)).transpose()?,
            qk_norm: norms
                .map(|(q, k)| Ok::<_, ModelError>((self.buffer(q)?, self.buffer(k)?)))
                .transpose()?,
            output: self.buffer(&tensors.output)?,
            mlp_norm: self.buffer(&tensors.mlp_norm)?,
            gate_up: self.buffer(&tensors.gate_up)?,
            down: self.buffer(&tensors.down)?,
        })
    }

    fn buffer(&mut self, tensor: &FusedTensor) -> Result<Buffer, ModelError> {
        let mut memory = self.device.alloc::<u16>(tensor.num_elements())?;
        let mut target = Target { device: self.device, ring: &mut self.ring, memory: &mut memory };
        self.reader.stream(tensor, &mut target)?;
        Ok(memory)
    }
}

/// A buffer that is being filled.
struct Target<'a> {
    device: &'a CudaDevice,
    ring: &'a mut PinnedRing<u16>,
    memory: &'a mut Buffer,
}

impl Staging for Target<'_> {
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    fn stage(
        &mut self,
        places: Range<usize>,
        fill: &mut dyn FnMut(&mut [u16]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let len = places.len();
        let mut target = self.memory.slice_mut(places);
        self.ring.send(self.device, len, &mut target, fill)
    }
}
