//! A model that all devices of the machine share, be it one: its logits are those of the CPU.

use std::sync::Arc;

use lazy_attn::cuda::{CudaDevice, KernelImage};
use lazy_attn_models::cuda::{CudaGroup, CudaKvBudget, CudaOptions};
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_models::{ModelParts, Silent};
use lazy_attn_testkit::driver::greedy_token;
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::{AttentionMode, BlockPairs, Executor};

use crate::shapes::model;
use crate::{max_difference, on_cpu, tolerance, with_dtype};

/// The largest power of two of them, at most eight.
fn devices() -> Vec<Arc<CudaDevice>> {
    let image = KernelImage::find().unwrap().bytes;
    let open = |ordinal| CudaDevice::new(ordinal, image.clone()).ok().map(Arc::new);
    let mut devices: Vec<Arc<CudaDevice>> = (0..8).map_while(open).collect();
    devices.truncate(1 << devices.len().ilog2());
    devices
}

/// As many KV heads as there may be devices.
const KEYS: &str =
    r#""model_type": "llama", "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64"#;

fn options() -> CudaOptions {
    CudaOptions { kv_budget: CudaKvBudget::Blocks(256), max_step_tokens: 256, ..with_dtype(HalfDtype::F16) }
}

#[test]
fn a_model_that_every_device_shares_answers_as_on_the_cpu() {
    for (name, head) in [("untied", "false"), ("tied", "true")] {
        let model = model(&format!("shared {name}"), &format!(r#"{KEYS}, "tie_word_embeddings": {head}"#));
        let devices = devices();
        let group = CudaGroup::new(&devices, ModelParts::from(&model), &options(), &Silent).unwrap();
        println!("{} devices", group.world());
        assert_eq!(group.world(), devices.len());
        let (mut shared, mut cpu) = (Player::new(group, 1), Player::new(on_cpu(&model), 2));
        let request =
            [Part::text(0..5), Part::document(10..90), Part::document(200..233), Part::text(300..317)];
        let mut got = shared.play(&request, AttentionMode::Block).unwrap();
        let mut want = cpu.play(&request, AttentionMode::Block).unwrap();
        for step in 0..4 {
            let allowed = tolerance(&want.logits, HalfDtype::F16, model.config.num_layers);
            let difference = max_difference(&got.logits, &want.logits);
            println!("{name} step {step}: {difference:.5} of {allowed:.5}");
            assert!(difference <= allowed, "{name} step {step}: {difference} > {allowed}");
            let token = greedy_token(&want.logits);
            shared.advance(&mut got, token).unwrap();
            cpu.advance(&mut want, token).unwrap();
        }
    }
}

/// How far the keys of a document that was encoded alone are from those behind 40 tokens of text.
fn deviation(player: &mut Player<impl Executor>) -> Vec<f32> {
    let request = [Part::text(0..40), Part::document(200..290)];
    let modes = [AttentionMode::Block, AttentionMode::Full];
    let [alone, behind] = modes.map(|mode| player.play(&request, mode).unwrap().segments.remove(1).0.blocks);
    let originals = &behind[..alone.len()];
    player.executor.key_deviation(BlockPairs { keys: &alone, originals, num_tokens: 90 }).unwrap()
}

#[test]
fn keys_deviate_on_devices_that_share_a_model_as_on_the_cpu() {
    let model = model("compared", KEYS);
    let group = CudaGroup::new(&devices(), ModelParts::from(&model), &options(), &Silent).unwrap();
    let (got, want) = (deviation(&mut Player::new(group, 1)), deviation(&mut Player::new(on_cpu(&model), 2)));
    println!("{got:?}\n{want:?}");
    assert_eq!(got.len(), want.len());
    // Half precision moves a key by `e` of its size (see `tolerance`), so that a distance of sqrt(d) is off by two of them.
    let e = (20.0 * model.config.num_layers as f64 / 3.0).sqrt() * 2f64.powi(-11);
    for (got, want) in got.into_iter().zip(want).map(|(got, want)| (f64::from(got), f64::from(want))) {
        let difference = (got.sqrt() - want.sqrt()).abs();
        assert!(want > 1e-3 && difference <= 2.0 * e, "{got} is not {want}: {difference} > {}", 2.0 * e);
    }
}
