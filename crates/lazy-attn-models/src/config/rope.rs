//! Frequencies of the rotary embedding, in float32 and in the order of operations of `transformers`, so that both
//! compute the same angles.

use std::f64::consts::TAU;

use super::{RopeConfig, RopeScaling};

/// Why Dynamic NTK and LongRoPE are refused.
pub const LENGTH_DEPENDENT: &str = "selects a RoPE whose angles depend on the total length of the context (dynamic NTK or \
     LongRoPE), so keys that are stored once would be wrong at other lengths; default, linear, llama3 and yarn are supported";

impl RopeConfig {
    /// Angle per position of each rotated pair: `[rotary_dim / 2]`, radians.
    ///
    /// Plain RoPE (arXiv:2104.09864) gives `theta^(-2i / rotary_dim)`; [`RopeScaling`] changes it.
    #[must_use]
    pub fn inv_freq(&self) -> Vec<f32> {
        let half = self.rotary_dim / 2;
        let wavelengths: Vec<f32> =
            (0..half).map(|pair| self.theta.powf((2 * pair) as f32 / self.rotary_dim as f32)).collect();
        match self.scaling {
            RopeScaling::Default => wavelengths.iter().map(|w| 1.0 / w).collect(),
            RopeScaling::Linear { factor } => wavelengths.iter().map(|w| 1.0 / w / factor).collect(),
            RopeScaling::Llama3 { .. } => wavelengths.iter().map(|w| self.llama3(1.0 / w)).collect(),
            RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.yarn_range();
                let blend = |(pair, w): (usize, &f32)| {
                    let keep = 1.0 - ((pair as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    1.0 / (factor * w) * (1.0 - keep) + 1.0 / w * keep
                };
                wavelengths.iter().enumerate().map(blend).collect()
            }
        }
    }

    /// Factor on the softmax scale: YaRN multiplies cos and sin of both q and k by its attention factor, so every
    /// score carries its square. 1 without YaRN.
    #[must_use]
    pub fn softmax_scale(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor * attention_factor,
            _ => 1.0,
        }
    }

    fn llama3(&self, frequency: f32) -> f32 {
        let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
            self.scaling
        else {
            return frequency;
        };
        #[allow(clippy::cast_possible_truncation, reason = "float32, as transformers computes it")]
        let wavelength = TAU as f32 / frequency;
        if wavelength < original_context / high_freq_factor {
            frequency
        } else if wavelength > original_context / low_freq_factor {
            frequency / factor
        } else {
            let smooth =
                (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }

    /// First and last pair of YaRN's ramp: below, frequencies are kept; above, divided (arXiv:2309.00071, Eq. 23).
    fn yarn_range(&self) -> (f32, f32) {
        let RopeScaling::Yarn { original_context, beta_fast, beta_slow, truncate, .. } = self.scaling else {
            return (0.0, 0.0);
        };
        let dim = self.rotary_dim as f64;
        let pair_that_turns = |turns: f32| {
            dim * (f64::from(original_context) / (f64::from(turns) * TAU)).ln()
                / (2.0 * f64::from(self.theta).ln())
        };
        let (mut low, mut high) = (pair_that_turns(beta_fast), pair_that_turns(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            // As transformers does, to keep the ramp finite.
            high += 0.001;
        }
        #[allow(clippy::cast_possible_truncation, reason = "float32, as transformers computes it")]
        (low as f32, high as f32)
    }
}

/// The attention factor of YaRN where a config gives none: `0.1 ln(factor) + 1`.
#[must_use]
pub fn yarn_attention_factor(factor: f32) -> f32 {
    yarn_mscale(factor, 1.0)
}

/// `0.1 mscale ln(factor) + 1`, and 1 for factors up to 1.
#[must_use]
pub(super) fn yarn_mscale(factor: f32, mscale: f32) -> f32 {
    if factor <= 1.0 {
        return 1.0;
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "transformers computes it in float64 and uses it in float32"
    )]
    let value = (0.1 * f64::from(mscale) * f64::from(factor).ln() + 1.0) as f32;
    value
}

impl RopeScaling {
    /// Contexts and ramp bounds that Llama 3 models were made with: (original context, low, high).
    const LLAMA3_RAMPS: [(f32, f32, f32); 2] = [(8192.0, 1.0, 4.0), (4096.0, 1.0, 4.0)];

    /// The scaling whose frequencies are the plain ones of `rope` divided by `divisors`; `None` if there is none.
    ///
    /// GGUF files of Llama 3.1 and later hold the divisors instead of the four numbers they came from.
    #[must_use]
    pub fn from_divisors(rope: &RopeConfig, divisors: &[f32]) -> Option<RopeScaling> {
        if divisors.len() != rope.rotary_dim / 2 || divisors.iter().any(|d| !d.is_finite() || *d < 1.0) {
            return None;
        }
        let plain = RopeConfig { scaling: RopeScaling::Default, ..rope.clone() };
        let wanted: Vec<f32> = plain.inv_freq().iter().zip(divisors).map(|(f, d)| f / d).collect();
        let factor = divisors.iter().copied().fold(1.0, f32::max);
        let llama3 = Self::LLAMA3_RAMPS.map(|(original_context, low_freq_factor, high_freq_factor)| {
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }
        });
        let matches = |scaling: &RopeScaling| {
            let found = RopeConfig { scaling: *scaling, ..rope.clone() }.inv_freq();
            // The divisors were computed in float64 or float32 and rounded once; the ramp amplifies by less than 2^4.
            found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= 64.0 * f32::EPSILON * b.abs())
        };
        std::iter::once(RopeScaling::Default).chain(llama3).find(matches)
    }
}
