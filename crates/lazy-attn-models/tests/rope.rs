//! Frequencies of every RoPE type against their definitions in float64.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::f64::consts::TAU;

use lazy_attn_models::config::{RopeConfig, RopePairing, RopeScaling};

fn rope(theta: f32, rotary_dim: usize, scaling: RopeScaling) -> RopeConfig {
    RopeConfig { theta, rotary_dim, pairing: RopePairing::HalfSplit, scaling }
}

/// Compares every frequency with `expected`, a function of the pair's index and its plain frequency.
fn check(rope: &RopeConfig, expected: impl Fn(f64, f64) -> f64) {
    let found = rope.inv_freq();
    assert_eq!(found.len(), rope.rotary_dim / 2);
    for (pair, found) in found.into_iter().enumerate() {
        let exponent = -2.0 * pair as f64 / rope.rotary_dim as f64;
        let expected = expected(pair as f64, f64::from(rope.theta).powf(exponent));
        let error = (f64::from(found) - expected).abs() / expected;
        // `powf` of an exponent rounded to float32 is off by ln(theta) half-ulps, at most 14 for theta 1e6, and the
        // ramps, at most 8 deep, add a few roundings: 64 ulps bound all of it.
        assert!(error < 64.0 * f64::from(f32::EPSILON), "pair {pair}: {found} is not {expected}");
    }
}

#[test]
fn plain_frequencies_are_powers_of_theta() {
    for (theta, dim) in [(1e4, 64), (5e5, 128), (1e6, 128), (1e5, 64), (1e4, 2), (1e4, 80)] {
        check(&rope(theta, dim, RopeScaling::Default), |_, plain| plain);
    }
}

#[test]
fn linear_scaling_divides_every_frequency() {
    check(&rope(1e4, 128, RopeScaling::Linear { factor: 2.5 }), |_, plain| plain / 2.5);
}

#[test]
fn llama_3_scaling_keeps_short_waves_divides_long_ones_and_ramps_between() {
    let scaling = |factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    };
    for (dim, factor) in [(128, 8.0f32), (64, 32.0)] {
        let config = rope(5e5, dim, scaling(factor));
        check(&config, |_, plain| {
            let turns = 8192.0 * plain / TAU;
            let keep = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            plain * (keep + (1.0 - keep) / f64::from(factor))
        });
        let plain = rope(5e5, dim, RopeScaling::Default).inv_freq();
        let found = config.inv_freq();
        assert_eq!(found[0], plain[0]);
        assert_eq!(found[dim / 2 - 1], plain[dim / 2 - 1] / factor);
    }
}

#[test]
fn yarn_ramps_between_the_pairs_that_turn_32_times_and_once() {
    for (theta, dim, context, truncate) in
        [(1e6f32, 128, 32768.0f32, true), (1e4, 64, 4096.0, true), (1e4, 64, 4096.0, false)]
    {
        let config = rope(
            theta,
            dim,
            RopeScaling::Yarn {
                factor: 4.0,
                original_context: context,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: 1.138_629_4,
                truncate,
            },
        );
        // A pair turns `context * theta^(-2 pair / dim) / tau` times; solved for the pair.
        let pair_at = |turns: f64| {
            let wavelength = f64::from(context) / turns;
            dim as f64 / 2.0 * (wavelength / TAU).ln() / f64::from(theta).ln()
        };
        let (mut first, mut last) = (pair_at(32.0), pair_at(1.0));
        if truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        check(&config, |pair, plain| {
            let divide = ((pair - first) / (last - first)).clamp(0.0, 1.0);
            plain * (1.0 - divide) + plain / 4.0 * divide
        });
        assert_eq!(config.softmax_scale(), 1.138_629_4 * 1.138_629_4);
    }
    assert_eq!(rope(1e4, 64, RopeScaling::Default).softmax_scale(), 1.0);
}
