//! Sixteen lanes at a time, on every instruction set.
//!
//! [`Isa`] is the small set of vector operations the kernels are written in, [`CpuIsa`] picks its implementation once
//! at run time, and a [`Kernel`] is compiled once per implementation. Every operation gives the same bits on every
//! implementation: integer sums are exact and a multiply-add is always fused. So a model answers the same on any
//! machine, and the portable path (where a fused multiply-add may be a call into libm) is the reference for the others.
//!
//! Reading order: this file, `dispatch` (choosing), `portable`, `avx2`, `avx512`, `math` (exp and sums of lanes),
//! `output` (threads that write disjoint rectangles of one matrix).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
mod math;
mod output;
mod portable;

pub use dispatch::CpuIsa;
pub(crate) use dispatch::Kernel;
pub(crate) use math::{exp_nonpositive, reduce_sum};
pub(crate) use output::MatrixMut;

/// Lanes of a vector: one AVX-512 register, two AVX2 registers.
pub(crate) const LANES: usize = 16;

/// Bytes of a vector of packed codes: four codes per lane.
pub(crate) const CODE_BYTES: usize = 4 * LANES;

/// An instruction set, as far as the kernels care. Methods are inlined into the functions of `dispatch`.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// Rows of activations a micro-kernel holds in registers, at most [`MAX_TILE_ROWS`].
    const TILE_ROWS: usize;

    /// Sixteen floats.
    type Floats: Copy;
    /// Sixteen 32-bit integers.
    type Ints: Copy;
    /// Sixteen lanes of four bytes.
    type Codes: Copy;

    fn splat(value: f32) -> Self::Floats;
    fn load(values: &[f32; LANES]) -> Self::Floats;
    /// Widens bfloat16 bits.
    fn load_bf16(values: &[u16; LANES]) -> Self::Floats;
    /// Widens IEEE half bits.
    fn load_f16(values: &[u16; LANES]) -> Self::Floats;
    fn to_array(values: Self::Floats) -> [f32; LANES];
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    fn splat_int(value: i32) -> Self::Ints;
    /// Rounded to nearest even; exact below 2^24.
    fn to_floats(values: Self::Ints) -> Self::Floats;

    fn load_codes(codes: &[u8; CODE_BYTES]) -> Self::Codes;
    fn low_nibbles(codes: Self::Codes) -> Self::Codes;
    fn high_nibbles(codes: Self::Codes) -> Self::Codes;
    /// Adds to each lane the product of its four codes (unsigned, **below 16**) with the four signed bytes of `acts`.
    fn dot_nibbles(sum: Self::Ints, codes: Self::Codes, acts: u32) -> Self::Ints;
    /// Adds to each lane the product of its four codes (unsigned) with the four signed bytes of `acts`.
    fn dot_bytes(sum: Self::Ints, codes: Self::Codes, acts: u32) -> Self::Ints;
}

/// Most rows a micro-kernel handles.
pub(crate) const MAX_TILE_ROWS: usize = 8;
