//! Stored element types and their conversions, branch-free so that they vectorise on every instruction set.

use half::{bf16, f16};

use crate::isa::{Isa, LANES, widen_f16};

/// An element of the store.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// A vector of zeros.
    const ZEROS: [Self; LANES];

    /// To f32, exactly.
    fn widen(self) -> f32;

    /// From f32, to the nearest, ties to even.
    fn narrow(value: f32) -> Self;

    /// Sixteen elements to f32.
    fn load<I: Isa>(values: &[Self; LANES]) -> I::Vector;
}

impl Element for f32 {
    const ZEROS: [f32; LANES] = [0.0; LANES];

    #[inline(always)]
    fn load<I: Isa>(values: &[f32; LANES]) -> I::Vector {
        I::load(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
}

impl Element for bf16 {
    const ZEROS: [bf16; LANES] = [bf16::ZERO; LANES];

    #[inline(always)]
    fn load<I: Isa>(values: &[bf16; LANES]) -> I::Vector {
        I::load_bf16(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry a NaN into an infinity; setting a fraction bit keeps it a NaN.
        let nan = (bits >> 16) | 0x40;
        let is_nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
        bf16::from_bits(if is_nan { nan } else { rounded } as u16)
    }
}

impl Element for f16 {
    const ZEROS: [f16; LANES] = [f16::ZERO; LANES];

    #[inline(always)]
    fn load<I: Isa>(values: &[f16; LANES]) -> I::Vector {
        I::load_f16(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        widen_f16(self)
    }

    /// Saturates at +-65504; a NaN becomes one of these.
    #[inline(always)]
    fn narrow(value: f32) -> f16 {
        const MAX: u32 = 0x477F_E000;
        let sign = (value.to_bits() >> 16) & 0x8000;
        let bits = (value.to_bits() & 0x7FFF_FFFF).min(MAX);
        let normal = bits.wrapping_sub(112 << 23).wrapping_add(0xFFF + ((bits >> 13) & 1)) >> 13;
        // Below 2^-14 the sum with 1/2 leaves the rounded multiple of 2^-24 in its low bits.
        let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
        let magnitude = if bits < 113 << 23 { subnormal } else { normal };
        f16::from_bits((magnitude | sign) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            if half.is_finite() {
                assert_eq!(half.widen().to_bits(), half.to_f32().to_bits(), "f16 {bits:#x}");
                assert_eq!(f16::narrow(half.widen()).to_bits(), bits);
            }
            assert_eq!(brain.widen().to_bits() >> 16, u32::from(bits), "bf16 {bits:#x}");
            if !brain.is_nan() {
                assert_eq!(bf16::narrow(brain.widen()).to_bits(), bits);
            }
        }
    }

    #[test]
    fn narrowing_rounds_to_the_nearest_even_value() {
        for step in 0..4_000_000u32 {
            let value = f32::from_bits(step.wrapping_mul(2_654_435_761));
            if value.is_nan() {
                assert!(bf16::narrow(value).is_nan());
                continue;
            }
            assert_eq!(bf16::narrow(value).to_bits(), bf16::from_f32(value).to_bits(), "{value}");
            let want = f16::from_f32(value.clamp(-65504.0, 65504.0));
            assert_eq!(f16::narrow(value).to_bits(), want.to_bits(), "{value}");
        }
    }

    #[test]
    fn halves_saturate_instead_of_overflowing() {
        assert_eq!(f16::narrow(f32::INFINITY), f16::MAX);
        assert_eq!(f16::narrow(-1e9), f16::MIN);
        assert_eq!(f16::narrow(f32::NAN), f16::MAX);
    }
}
