//! The candle op against the plain calls, and against attention as a candle model writes it.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use common::{
    LAYER, Request, Rows, SHAPE, Scenario, Shape, bits, first_difference, half_unit, inv_freq, scale,
    tolerance,
};
use lazy_attn::{
    CpuIsa, KvDtype, Plan,
    candle::{SegmentAttention, SegmentStep},
};

/// Two documents, asked in both orders.
fn both_orders(shape: Shape) -> Scenario {
    Scenario::new(shape, &[40, 300]).request(0, &[0, 1], 3, 2).request(0, &[1, 0], 0, 5)
}

fn attention(scenario: &Scenario) -> SegmentAttention {
    let (kernels, store) = scenario.backend(scenario.config(), CpuIsa::detect());
    SegmentAttention::new(kernels, store)
}

/// `[num_tokens, num_heads, head_dim]`
fn heads(shape: Shape, rows: &[f32], num_heads: u32) -> Result<Tensor> {
    let row = (num_heads * shape.head_dim) as usize;
    let dims = (rows.len() / row, num_heads as usize, shape.head_dim as usize);
    Tensor::from_slice(rows, dims, &Device::Cpu)
}

/// The same numbers in memory that holds them in another order.
fn scattered(tensor: &Tensor) -> Result<Tensor> {
    let scattered = tensor.transpose(0, 1)?.contiguous()?.transpose(0, 1)?;
    assert!(!scattered.is_contiguous());
    Ok(scattered)
}

/// Runs `scenario` on tensors that went through `form`.
fn run(scenario: &Scenario, form: impl Fn(&Tensor) -> Result<Tensor>) -> Vec<f32> {
    let attention = attention(scenario);
    let step = |plan: &Plan, rows: &Rows| -> Result<Vec<f32>> {
        let shape = scenario.shape;
        let tensor = |rows, num_heads| form(&heads(shape, rows, num_heads)?);
        let step = attention.step(plan.clone());
        step.append(LAYER, &tensor(&rows.k, shape.num_kv_heads)?, &tensor(&rows.v, shape.num_kv_heads)?)?;
        let q = tensor(&rows.q, shape.num_kv_heads * shape.group_size)?;
        let out = step.attend(LAYER, &q)?;
        assert_eq!(out.dims(), q.dims());
        out.flatten_all()?.to_vec1()
    };
    scenario.run_steps(scenario.config(), |plan, rows| step(plan, rows).unwrap())
}

#[test]
fn the_op_gives_the_bits_of_the_plain_calls_for_every_form_of_tensor() {
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        let scenario = both_orders(Shape { dtype, ..SHAPE });
        let want = bits(&scenario.run(scenario.config(), CpuIsa::detect()));
        let same = |got: Vec<f32>| assert_eq!(first_difference(&bits(&got), &want), None);
        same(run(&scenario, |tensor| Ok(tensor.clone())));
        same(run(&scenario, |tensor| tensor.flatten_from(1)));
        same(run(&scenario, scattered));
        // A view that does not begin where its memory does.
        same(run(&scenario, |tensor| {
            let num_tokens = tensor.dim(0)?;
            Tensor::cat(&[tensor, tensor], 0)?
                .affine(2.0, 0.0)?
                .affine(0.5, 0.0)?
                .narrow(0, num_tokens, num_tokens)
        }));
    }
}

/// Half-split rotation of `[num_tokens, num_heads, head_dim]` to positions 0, 1, 2, ... from `first` on.
fn rotated(shape: Shape, rows: &Tensor, first: u32) -> Result<Tensor> {
    let num_tokens = rows.dim(0)? as u32;
    let positions = Tensor::arange(first, first + num_tokens, &Device::Cpu)?.to_dtype(DType::F64)?;
    let inv_freq = Tensor::new(inv_freq(shape), &Device::Cpu)?.to_dtype(DType::F64)?;
    let angles = positions.unsqueeze(1)?.broadcast_mul(&inv_freq.unsqueeze(0)?)?.unsqueeze(1)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?); // [num_tokens, 1, head_dim / 2]
    let halves = rows.chunk(2, D::Minus1)?;
    let low = (halves[0].broadcast_mul(&cos)? - halves[1].broadcast_mul(&sin)?)?;
    let high = (halves[1].broadcast_mul(&cos)? + halves[0].broadcast_mul(&sin)?)?;
    Tensor::cat(&[low, high], D::Minus1)
}

/// What the last `request.num_tokens` tokens of one causal context get, in f64, `[num_tokens, num_q_heads, head_dim]`, and
/// how far from it the kernels may be.
fn causal(scenario: &Scenario, index: usize) -> Result<(Tensor, f64)> {
    let (shape, request) = (scenario.shape, &scenario.requests[index]);
    let mut rows = Rows::default();
    let tail = (scenario.documents.len() + index, request.num_stored + request.num_tokens);
    let documents = request.documents.iter().map(|&(document, _)| (document, scenario.documents[document]));
    for (segment, num_tokens) in documents.chain([tail]) {
        (0..num_tokens).for_each(|local| scenario.push_token(&mut rows, segment, local));
    }
    let tensor = |rows, num_heads| heads(shape, rows, num_heads)?.to_dtype(DType::F64);
    let q = rotated(shape, &tensor(&rows.q, shape.num_kv_heads * shape.group_size)?, 0)?;
    let num_keys = q.dim(0)?;
    let first = num_keys - request.num_tokens as usize;
    let per_query_head = |rows: Tensor| -> Result<Tensor> {
        let copies = vec![&rows; shape.group_size as usize];
        Tensor::stack(&copies, 2)?.reshape(q.dims())?.transpose(0, 1)?.contiguous()
    };
    let k = per_query_head(rotated(shape, &tensor(&rows.k, shape.num_kv_heads)?, 0)?)?;
    let v = per_query_head(tensor(&rows.v, shape.num_kv_heads)?)?; // [num_q_heads, num_keys, head_dim]
    let q = q.narrow(0, first, request.num_tokens as usize)?.transpose(0, 1)?.contiguous()?;

    let k = k.transpose(1, 2)?.contiguous()?;
    let mass = (q.abs()?.matmul(&k.abs()?)? * scale(shape))?.max_all()?.to_scalar::<f64>()?;
    let keys = Tensor::arange(0, num_keys as u32, &Device::Cpu)?.unsqueeze(0)?;
    let queries = Tensor::arange(first as u32, num_keys as u32, &Device::Cpu)?.unsqueeze(1)?;
    let hidden = keys.broadcast_gt(&queries)?.to_dtype(DType::F64)?; // [num_tokens, num_keys]
    let scores = (q.matmul(&k)? * scale(shape))?.broadcast_sub(&(hidden * 1e9)?)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(2)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(2)?)?;
    let out = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?;
    Ok((out, tolerance(half_unit(shape.dtype), shape.head_dim, mass, num_keys)))
}

#[test]
fn the_op_is_causal_attention_over_the_documents_in_either_order() {
    let scenario = both_orders(SHAPE);
    let got = run(&scenario, |tensor| Ok(tensor.clone()));
    let mut got = got.as_slice();
    for index in 0..scenario.requests.len() {
        let (want, tolerance) = causal(&scenario, index).unwrap();
        let want: Vec<f64> = want.flatten_all().unwrap().to_vec1().unwrap();
        let (own, rest) = got.split_at(want.len());
        let error =
            own.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max);
        assert!(error <= tolerance, "request {index}: off by {error}, allowed {tolerance}");
        got = rest;
    }
    assert!(got.is_empty());
}

/// A step of the two requests, and its number of tokens.
fn step() -> (SegmentStep, usize) {
    let scenario = both_orders(SHAPE);
    let num_tokens = |request: &Request| request.num_tokens as usize;
    let step = attention(&scenario).step(scenario.plan(scenario.config()));
    (step, scenario.requests.iter().map(num_tokens).sum())
}

fn zeros(dims: &[usize]) -> Tensor {
    Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn other_dtypes_are_refused_with_the_way_out() {
    let (step, num_tokens) = step();
    let (q, kv) = (zeros(&[num_tokens, 6, 64]), zeros(&[num_tokens, 2, 64]));
    for dtype in [DType::F16, DType::BF16, DType::F64, DType::U32] {
        let other = kv.to_dtype(dtype).unwrap();
        for refused in [
            step.attend(LAYER, &q.to_dtype(dtype).unwrap()).map(drop),
            step.append(LAYER, &other, &kv),
            step.append(LAYER, &kv, &other),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("to_dtype") && message.contains(&format!("{dtype:?}")), "{message}");
        }
    }
}

#[test]
fn other_shapes_are_refused_by_name() {
    let (step, num_tokens) = step();
    step.append(LAYER, &zeros(&[num_tokens, 2, 64]), &zeros(&[num_tokens, 128])).unwrap();
    let wrong: [&[usize]; 5] =
        [&[num_tokens + 1, 2, 64], &[num_tokens, 64, 2], &[num_tokens * 128], &[1, num_tokens, 2, 64], &[]];
    for dims in wrong {
        let (bad, good) = (zeros(dims), zeros(&[num_tokens, 2, 64]));
        let refused = step.append(LAYER, &bad, &good).unwrap_err().to_string();
        assert!(refused.contains("k is"), "{refused}");
        let refused = step.append(LAYER, &good, &bad).unwrap_err().to_string();
        assert!(refused.contains("v is"), "{refused}");
        let refused = step.attend(LAYER, &bad).unwrap_err().to_string();
        assert!(refused.contains("q is"), "{refused}");
    }
    let kv_heads_of_q = step.attend(LAYER, &zeros(&[num_tokens, 2, 64]));
    assert!(kv_heads_of_q.is_err());
}

#[test]
fn errors_of_the_kernels_come_through() {
    let (step, num_tokens) = step();
    let refused = step.attend(LAYER + 1, &zeros(&[num_tokens, 384])).unwrap_err().to_string();
    assert!(refused.contains("the store has fewer layers"), "{refused}");
    let kv = zeros(&[num_tokens, 128]);
    assert!(step.append(LAYER + 1, &kv, &kv).is_err());
}

#[test]
fn a_backward_pass_is_an_error_and_not_a_missing_gradient() {
    let (step, num_tokens) = step();
    let q = Var::from_tensor(&zeros(&[num_tokens, 6, 64])).unwrap();
    let kv = zeros(&[num_tokens, 2, 64]);
    step.append(LAYER, &kv, &kv).unwrap();
    let out = step.attend(LAYER, &q).unwrap();
    let refused = out.sum_all().unwrap().backward().unwrap_err();
    assert!(refused.to_string().contains("segment-attention"), "{refused}");
}
