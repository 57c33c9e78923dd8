//! Keys compared with keys on the device: what the CPU's test asks for, and 8-bit keys against f64 over what is stored.

use lazy_attn::KvDtype;
use lazy_attn_types::BlockPairs;

use crate::common::deviation::{NUM_TOKENS, check, scenario, scenarios};
use crate::common::{KEY, LAYER, Scenario, Shape, cases::SHAPE};
use crate::fp8::Stored;
use crate::gpu::Gpu;

/// A store in which the documents were encoded, and which held one number everywhere before.
fn encoded(scenario: &Scenario) -> Gpu {
    let mut gpu = Gpu::new(scenario);
    gpu.fill(0x38, 1.0);
    gpu.encode(scenario);
    gpu
}

fn check_on_device(scenario: &Scenario) {
    let gpu = encoded(scenario);
    let device = &gpu.device;
    check(scenario, |blocks| device.key_deviation(&gpu.store, blocks).map(|sums| sums.means()));
}

#[test]
fn keys_deviate_by_their_distance_and_slots_behind_the_last_token_do_not_count() {
    for dtype in [KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8E4m3] {
        scenarios(Shape { dtype, ..SHAPE }).iter().for_each(check_on_device);
    }
}

#[test]
fn keys_are_compared_for_the_sanitizer_too() {
    for dtype in [KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8E4m3] {
        check_on_device(&scenario(Shape { dtype, num_kv_heads: 3, ..SHAPE }));
    }
}

#[test]
fn keys_of_8_bits_deviate_by_what_is_stored() {
    for scenario in scenarios(Shape { dtype: KvDtype::Fp8E4m3, ..SHAPE }) {
        let (mut gpu, shape) = (encoded(&scenario), scenario.shape);
        let stored = Stored::of(&mut gpu.store, shape);
        let (lists, _) = scenario.blocks();
        let blocks = BlockPairs { keys: &lists[1], originals: &lists[0], num_tokens: NUM_TOKENS };
        let got = gpu.device.key_deviation(&gpu.store, blocks).unwrap().means();
        for ((&key, &original), (first, got)) in
            lists[1].iter().zip(&lists[0]).zip((0..).step_by(shape.block_size as usize).zip(got))
        {
            let (mut distance, mut length) = (0.0, 0.0);
            for slot in 0..shape.block_size.min(NUM_TOKENS - first) {
                for head in 0..shape.num_kv_heads {
                    let [keys, originals] =
                        [key, original].map(|block| stored.values(KEY, block.0, head, slot));
                    for (key, original) in keys.into_iter().zip(originals) {
                        distance += (key - original).powi(2);
                        length += original * original;
                    }
                }
            }
            let want = distance / length / f64::from(LAYER + 1);
            // Each of 256 threads adds up to 320 squares in single precision.
            assert!((f64::from(got) - want).abs() <= 1e-4 * want, "{got} is not {want} in {shape:?}");
        }
    }
}
