//! What the elementwise kernels, sampling, block copies and the comparison of blocks receive.

use super::{DeviceAddress, LaKv, LaRope};

/// Repeated: in the prompt or the output, so that the repetition penalty applies; in [`LaSeen::flags`].
pub const SEEN_REPEATED: u32 = 1;

/// Instead of a token: a logit is NaN or plus infinity.
pub const NOT_FINITE: u32 = 0xFFFF_FFFF;

/// Instead of a token: all logits are minus infinity.
pub const NOTHING_ALLOWED: u32 = 0xFFFF_FFFE;

/// Parameters of `la_rms_norm_*`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaNorm {
    /// `[num_rows, width]`.
    pub x: DeviceAddress,
    /// The same shape: x is added to it; or null.
    pub residual: DeviceAddress,
    /// `[width]`.
    pub weight: DeviceAddress,
    /// `[num_rows, width]`.
    pub out: DeviceAddress,
    /// Rows.
    pub num_rows: u32,
    /// A multiple of 8.
    pub width: u32,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_silu_mul_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaSiluMul {
    /// `[num_rows, 2 * width]`, the gate first.
    pub gate_up: DeviceAddress,
    /// `[num_rows, width]`.
    pub out: DeviceAddress,
    /// Rows.
    pub num_rows: u32,
    /// A multiple of 8.
    pub width: u32,
}

/// Parameters of `la_skinny_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaSkinny {
    /// `[m, k]`.
    pub x: DeviceAddress,
    /// `[n, k]`, or of `la_skinny_*_silu_*` `[2 * n, k]`, the gate first.
    pub w: DeviceAddress,
    /// `[m, n]`.
    pub out: DeviceAddress,
    /// 1 to 8.
    pub m: u32,
    /// A multiple of 8.
    pub n: u32,
    /// A multiple of 32.
    pub k: u32,
    /// Columns of a stage of the ring, a multiple of 256; chosen by the launch.
    pub stage_columns: u32,
    /// 2 to 12; chosen by the launch.
    pub num_stages: u32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_gather`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaGather {
    /// `[num_table_rows, width]` of 16-bit elements.
    pub table: DeviceAddress,
    /// `[num_rows]`, of `u32`.
    pub ids: DeviceAddress,
    /// `[num_rows, width]`.
    pub out: DeviceAddress,
    /// Rows of `out`.
    pub num_rows: u32,
    /// A multiple of 8.
    pub width: u32,
    /// Rows of the table; other ids give zeros.
    pub num_table_rows: u32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_qkv_norm_*`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaQkvNorm {
    /// `[num_tokens, num_q_heads + 2 * num_kv_heads, head_dim]`: queries, keys, values; changed in place.
    pub qkv: DeviceAddress,
    /// `[num_q_heads + 2 * num_kv_heads, head_dim]`, or null.
    pub bias: DeviceAddress,
    /// `[head_dim]`, or null: no norm.
    pub q_weight: DeviceAddress,
    /// `[head_dim]`, null if the other is.
    pub k_weight: DeviceAddress,
    /// Tokens.
    pub num_tokens: u32,
    /// Query heads.
    pub num_q_heads: u32,
    /// Heads of keys, and of values.
    pub num_kv_heads: u32,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// How the token of one row is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaSampling {
    /// Of the sequence.
    pub seed: u64,
    /// Tokens it has generated: the number of the draw.
    pub step: u64,
    /// Zero: the most likely token.
    pub temperature: f32,
    /// Share of weight that is kept; one: all.
    pub top_p: f32,
    /// Weight below which a token is dropped, the most likely one weighing one.
    pub min_p: f32,
    /// Tokens that are kept; zero: all.
    pub top_k: u32,
    /// Logits of repeated tokens are divided by it, or multiplied if negative.
    pub repetition: f32,
    /// Taken from logits of generated tokens.
    pub presence: f32,
    /// The same, for each time.
    pub frequency: f32,
    /// Zero.
    pub reserved: u32,
}

/// A token of a row whose logit changes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaSeen {
    /// Row of logits.
    pub row: u32,
    /// Token.
    pub token: u32,
    /// Times it was generated.
    pub count: u32,
    /// [`SEEN_REPEATED`] or zero.
    pub flags: u32,
    /// Added last.
    pub bias: f32,
}

/// Parameters of `la_penalize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaPenalize {
    /// `[num_rows, vocab_size]`, changed in place, of `f32`.
    pub logits: DeviceAddress,
    /// [`LaSampling`]s, `[num_rows]`.
    pub rows: DeviceAddress,
    /// [`LaSeen`]s, `[num_seen]`, no token twice in a row.
    pub seen: DeviceAddress,
    /// Rows.
    pub num_rows: u32,
    /// Logits of a row.
    pub vocab_size: u32,
    /// Entries of `seen`.
    pub num_seen: u32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_argmax` and `la_sample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaSample {
    /// `[num_rows, vocab_size]`, of `f32`.
    pub logits: DeviceAddress,
    /// [`LaSampling`]s, `[num_rows]`; argmax reads none.
    pub rows: DeviceAddress,
    /// `[num_rows]`, or [`NOT_FINITE`] or [`NOTHING_ALLOWED`], of `u32`.
    pub tokens: DeviceAddress,
    /// Rows.
    pub num_rows: u32,
    /// 2^19 at most.
    pub vocab_size: u32,
}

/// A block that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaCopy {
    /// Block that is read.
    pub from: u32,
    /// Read by no copy of the launch, and written by one.
    pub to: u32,
    /// Re-encoding: what its keys are rotated by.
    pub distance: i32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_copy_blocks` and `la_reencode_*`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaCopyBlocks {
    /// Keys and values of a layer.
    pub kv: LaKv,
    /// Re-encoding only.
    pub rope: LaRope,
    /// [`LaCopy`]s, `[num_copies]`.
    pub copies: DeviceAddress,
    /// Entries of `copies`.
    pub num_copies: u32,
    /// Zero.
    pub reserved: u32,
}

/// Two blocks whose keys are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaBlockPair {
    /// Whose keys are looked at.
    pub keys: u32,
    /// What they are compared with.
    pub original: u32,
    /// Tokens of each.
    pub num_slots: u32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_key_deviation_*`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaDeviation {
    /// Keys and values of the first layer.
    pub kv: LaKv,
    /// Bytes from the keys of one layer to those of the next.
    pub layer_stride: i64,
    /// Scales from those of one layer's keys to those of the next.
    pub scale_stride: i64,
    /// [`LaBlockPair`]s, `[num_pairs]`.
    pub pairs: DeviceAddress,
    /// `[num_pairs, num_layers, 2]` of `f32`: squared distance, squared length of the original.
    pub sums: DeviceAddress,
    /// Entries of `pairs`.
    pub num_pairs: u32,
    /// Layers.
    pub num_layers: u32,
}
