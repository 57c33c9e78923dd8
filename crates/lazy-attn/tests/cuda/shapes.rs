//! What the CUDA kernels do not take is refused with what they do take.

use lazy_attn::cuda::{CudaAttention, CudaKvStore};
use lazy_attn::{AttnError, AttnParams, KvDtype, KvLayout, RopeTable};
use lazy_attn_types::BlockSize;

use crate::gpu::device;

const LAYOUT: KvLayout = KvLayout {
    num_layers: 1,
    num_blocks: 2,
    block_size: BlockSize::DEFAULT,
    num_kv_heads: 2,
    head_dim: 128,
    dtype: KvDtype::Bf16,
};

fn refused(result: Result<impl Sized, AttnError>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted what should have been refused with {parts:?}") };
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text} lacks one of {parts:?}");
}

#[test]
fn attention_without_kernels_is_refused_with_what_there_is() {
    let device = device();
    let store = CudaKvStore::new(&device, LAYOUT).unwrap();
    let attention = |num_q_heads, pairs: usize| {
        let rope = RopeTable::from_inv_freq(&vec![0.5; pairs]).unwrap();
        let params = AttnParams { num_q_heads, rope, softmax_scale: 0.1 };
        CudaAttention::new(&device, &store, params, 1, 0)
    };
    for num_q_heads in [2, 6, 32] {
        assert!(attention(num_q_heads, 64).is_ok());
    }
    for num_q_heads in [0, 3, 34] {
        refused(
            attention(num_q_heads, 64),
            &["num_q_heads", &num_q_heads.to_string(), "one to sixteen times"],
        );
    }
    for rotary_dim in [8, 100, 144] {
        refused(
            attention(8, rotary_dim / 2),
            &["rotary_dim", &rotary_dim.to_string(), "multiples of 16 up to head_dim"],
        );
    }
    let partly = attention(8, 32).unwrap();
    refused(partly.rotating_keys(&store), &["rotary_dim", "64", "head_dim"]);
    assert!(attention(8, 64).unwrap().rotating_keys(&store).is_ok());
}
