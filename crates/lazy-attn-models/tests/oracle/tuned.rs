//! A checkpoint that the recipe for block tuning wrote, against what torch computes from it.
//!
//! `docs/recipes/block-finetune/tests/make_fixture.py` made both: weights in bfloat16, logits in float64 but for norms and
//! rotation angles, which transformers takes in float32.

use std::path::{Path, PathBuf};

use lazy_attn::KvDtype;
use lazy_attn_models::config::HeadWeights;
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelParts, ModelRef, Silent, load};
use lazy_attn_testkit::driver::greedy_token;
use lazy_attn_testkit::fixture::{GoldenCase, GoldenMode, golden_set};
use lazy_attn_testkit::oracle::OracleConfig;
use lazy_attn_testkit::{Player, TinyModel};

use crate::tolerance;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes/block-finetune/tests/tiny")
}

fn tuned() -> LoadedModel {
    load(&ModelRef::Directory(folder()), &LoadOptions::default()).unwrap()
}

fn cases() -> Vec<GoldenCase> {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

/// The sizes that the tolerance depends on.
fn sizes(model: &LoadedModel) -> OracleConfig {
    let (_, TinyModel { config: base, .. }, _) = golden_set().swap_remove(0);
    let c = &model.config;
    OracleConfig {
        num_layers: c.num_layers,
        hidden_size: c.hidden_size,
        ffn_size: c.intermediate_size,
        num_q_heads: c.num_q_heads,
        head_dim: c.head_dim,
        ..base
    }
}

#[test]
fn a_block_tuned_checkpoint_loads_with_its_template_and_the_token_that_ends_answers() {
    let model = tuned();
    assert_eq!(model.config.head, HeadWeights::Tied);
    assert_eq!(model.special.end.len(), 1);
    assert!(!model.special.add_bos);
    assert!(model.special.chat_template.is_some_and(|template| template.contains("<|im_start|>")));
}

#[test]
fn a_block_tuned_checkpoint_computes_what_torch_does_in_both_modes() {
    let model = tuned();
    let options = CpuOptions {
        weight_dtype: WeightDtype::F32,
        kv_dtype: Some(KvDtype::F32),
        kv_budget: KvBudget::Blocks(64),
        ..CpuOptions::default()
    };
    let executor = CpuExecutor::new(ModelParts::from(&model), &options, &Silent).unwrap();
    let (mut player, sizes) = (Player::new(executor, 5), sizes(&model));
    let (cases, mut compared) = (cases(), 0);
    for case in &cases {
        let at = format!("{} ({:?})", case.name, case.mode);
        // Both sides round norms and angles to float32, each within the bound.
        let tolerance = 2.0 * tolerance::of_case(&sizes, case);
        let mut played = player.play(&case.prompt(), case.mode.mode()).unwrap();
        for &(token, logit) in &case.top {
            let got = f64::from(played.logits[token as usize]);
            assert!((got - logit).abs() <= tolerance, "{at}: {got} is not {logit} within {tolerance}");
        }
        for &(token, _) in case.greedy.iter().take_while(|(_, margin)| *margin > 2.0 * tolerance) {
            let got = greedy_token(&played.logits);
            assert_eq!(got.0, token, "{at}");
            compared += 1;
            player.advance(&mut played, got).unwrap();
        }
        player.release(played);
    }
    assert!(compared > 2 * cases.len(), "only {compared} greedy tokens had a margin to compare by");
}

#[test]
fn the_modes_of_the_fixture_differ_by_far_more_than_the_tolerance() {
    let (model, cases) = (tuned(), cases());
    for pair in cases.chunks(2) {
        let [block, full] = pair else { panic!("each prompt comes in both modes") };
        assert_eq!((block.mode, full.mode), (GoldenMode::Block, GoldenMode::Full));
        assert_eq!(block.parts, full.parts);
        let tolerance = 2.0 * tolerance::of_case(&sizes(&model), block);
        let other = |token: u32| full.top.iter().find(|(id, _)| *id == token).map(|(_, logit)| *logit);
        let moved = block.top.iter().filter_map(|&(token, logit)| Some((logit - other(token)?).abs()));
        let most = moved.fold(0.0, f64::max);
        assert!(most > 10.0 * tolerance, "{}: a wrong mask would move logits by {most} only", block.name);
    }
}
