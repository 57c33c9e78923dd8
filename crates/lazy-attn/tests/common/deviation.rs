//! How far keys are from keys, for every backend: what is stored, and what should come out.

use lazy_attn::{AttnError, KvDtype};
use lazy_attn_types::{BlockId, BlockPairs};

use super::{LAYER, Rows, Scenario, Shape};

/// Tokens of a document: the last block is not full.
pub(crate) const NUM_TOKENS: u32 = 69;

/// Documents 0 and 2 are one text, 1 is another.
pub(crate) fn scenario(shape: Shape) -> Scenario {
    let mut scenario = Scenario::new(shape, &[NUM_TOKENS; 3]).request(0, &[0], 0, 1);
    scenario.sources = vec![(0, 0), (1, 0), (0, 0)];
    scenario
}

/// Every block size, head size and number of heads that kernels tell apart.
pub(crate) fn scenarios(shape: Shape) -> Vec<Scenario> {
    let sizes = [(64, 16, 1), (64, 32, 3), (64, 64, 2), (128, 16, 5), (128, 32, 2), (128, 64, 1)];
    let of = |(head_dim, block_size, num_kv_heads)| {
        scenario(Shape { head_dim, rotary_dim: head_dim, block_size, num_kv_heads, ..shape })
    };
    sizes.map(of).into()
}

/// Half a unit in the last place of numbers between 1 and 2.
fn half_unit_below_two(dtype: KvDtype) -> f64 {
    match dtype {
        KvDtype::F32 => 2f64.powi(-24),
        KvDtype::F16 => 2f64.powi(-11),
        KvDtype::Bf16 => 2f64.powi(-8),
        // Of numbers just below a power of two, in units of a scale that leaves four bits.
        KvDtype::Fp8E4m3 => 2f64.powi(-4),
    }
}

/// Checks what a backend says of the documents of a scenario, which lie in layer [`LAYER`] of a store that held one number
/// everywhere before: what was not written is the same in all blocks.
///
/// Both keys are rotated to one local position, which keeps their distance: it is that of the raw ones.
///
/// An element, below 2 once it is rotated, is stored with an error `u` at most: half a unit in the last place, and 2e-6 from the
/// angles. Of uniform elements the mean of |a - b| and of (a - b)^2 is 2/3, of |b| 1/2 and of b^2 1/3, so the distance is off
/// by 4 u of itself, the length by 3 u: 7 u together.
pub(crate) fn check(scenario: &Scenario, deviation: impl Fn(BlockPairs<'_>) -> Result<Vec<f32>, AttnError>) {
    let shape = scenario.shape;
    let unit = 2e-6 + half_unit_below_two(shape.dtype);
    let block_size = shape.block_size;
    let (lists, _) = scenario.blocks();
    let blocks =
        |keys: usize| BlockPairs { keys: &lists[keys], originals: &lists[0], num_tokens: NUM_TOKENS };
    assert!(deviation(blocks(2)).unwrap().iter().all(|&same| same == 0.0), "equal keys");
    let got = deviation(blocks(1)).unwrap();
    assert_eq!(got.len(), lists[0].len());
    for (first, got) in (0..).step_by(block_size as usize).zip(got) {
        let mut rows = [Rows::default(), Rows::default()];
        for local in first..NUM_TOKENS.min(first + block_size) {
            (0..).zip(&mut rows).for_each(|(document, rows)| scenario.push_token(rows, 1 - document, local));
        }
        let [keys, originals] = rows.map(|rows| rows.k);
        let pairs = keys.iter().zip(&originals).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let distance: f64 = pairs.clone().map(|(a, b)| (a - b).powi(2)).sum();
        let length: f64 = pairs.map(|(_, b)| b.powi(2)).sum();
        // Of two layers one is the same in both.
        let want = distance / length / f64::from(LAYER + 1);
        assert!((f64::from(got) - want).abs() <= 7.0 * unit * want, "{got} is not {want} in {shape:?}");
    }
    let short = BlockPairs { keys: &lists[1][1..], ..blocks(1) };
    assert!(deviation(short).is_err());
    let mut far = lists[1].clone();
    far[0] = BlockId(scenario.num_blocks());
    assert!(deviation(BlockPairs { keys: &far, ..blocks(1) }).is_err());
    assert!(deviation(BlockPairs { keys: &[], originals: &[], num_tokens: 0 }).unwrap().is_empty());
}
