//! Plain Rust: whatever the build target guarantees, and what the other instruction sets are tested against.

use half::{bf16, f16};

use super::{CODE_BYTES, Isa, LANES};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

/// `f(lane)` in every lane.
#[inline(always)]
fn lanes<T>(f: impl FnMut(usize) -> T) -> [T; LANES] {
    std::array::from_fn(f)
}

impl Isa for Portable {
    const TILE_ROWS: usize = 4;

    type Floats = [f32; LANES];
    type Ints = [i32; LANES];
    type Codes = [u8; CODE_BYTES];

    #[inline(always)]
    fn splat(value: f32) -> Self::Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self::Floats {
        *values
    }

    #[inline(always)]
    fn load_bf16(values: &[u16; LANES]) -> Self::Floats {
        lanes(|lane| bf16::from_bits(values[lane]).to_f32())
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Self::Floats {
        lanes(|lane| f16::from_bits(values[lane]).to_f32())
    }

    #[inline(always)]
    fn to_array(values: Self::Floats) -> [f32; LANES] {
        values
    }

    #[inline(always)]
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        lanes(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        lanes(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn splat_int(value: i32) -> Self::Ints {
        [value; LANES]
    }

    #[inline(always)]
    fn to_floats(values: Self::Ints) -> Self::Floats {
        lanes(|lane| values[lane] as f32)
    }

    #[inline(always)]
    fn load_codes(codes: &[u8; CODE_BYTES]) -> Self::Codes {
        *codes
    }

    #[inline(always)]
    fn low_nibbles(codes: Self::Codes) -> Self::Codes {
        codes.map(|code| code & 15)
    }

    #[inline(always)]
    fn high_nibbles(codes: Self::Codes) -> Self::Codes {
        codes.map(|code| code >> 4)
    }

    #[inline(always)]
    fn dot_nibbles(sum: Self::Ints, codes: Self::Codes, acts: u32) -> Self::Ints {
        Self::dot_bytes(sum, codes, acts)
    }

    #[inline(always)]
    fn dot_bytes(sum: Self::Ints, codes: Self::Codes, acts: u32) -> Self::Ints {
        let acts = acts.to_le_bytes().map(|act| i32::from(act.cast_signed()));
        lanes(|lane| {
            let products = (0..4).map(|byte| i32::from(codes[4 * lane + byte]) * acts[byte]);
            sum[lane] + products.sum::<i32>()
        })
    }
}
