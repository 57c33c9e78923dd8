//! Copies of blocks, bit for bit, and re-encoded keys against f64.

use lazy_attn::cuda::{BlockCopies, CudaKvStore, CudaRope};
use lazy_attn::{BlockCopy, KvDtype, KvLayout, RopeTable};
use lazy_attn_sys::BlockLayout;
use lazy_attn_types::{BlockId, BlockSize};

use crate::common::{Shape, cases::SHAPE, inv_freq};
use crate::elementwise::noise;
use crate::gpu::{device, narrow, widen};

const NUM_BLOCKS: u32 = 12;
const LAYER: u32 = 1;

fn copy(from: u32, to: u32, distance: i32) -> BlockCopy {
    BlockCopy { from: BlockId(from), to: BlockId(to), distance }
}

/// A store of two layers of random elements, and its bits.
fn filled(shape: Shape) -> (CudaKvStore, Vec<u16>) {
    let device = device();
    let layout = KvLayout {
        num_layers: 2,
        num_blocks: NUM_BLOCKS,
        block_size: BlockSize::new(shape.block_size).unwrap(),
        num_kv_heads: shape.num_kv_heads,
        head_dim: shape.head_dim,
        dtype: shape.dtype,
    };
    let mut store = CudaKvStore::new(&device, layout).unwrap();
    let bits = narrow(shape.dtype, &noise(9, 4.0, store.memory_mut().len() / 2));
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    device.stream().memcpy_htod(&bytes, store.memory_mut()).unwrap();
    (store, bits)
}

fn bits_of(store: &mut CudaKvStore) -> Vec<u16> {
    let bytes = device().stream().clone_dtoh(store.memory_mut()).unwrap();
    bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Elements of a block, and where those of the layer's keys and values begin.
fn places(shape: Shape) -> (usize, [usize; 2]) {
    let block = (shape.num_kv_heads * shape.block_size * shape.head_dim) as usize;
    let half = NUM_BLOCKS as usize * block;
    (block, [2 * half * LAYER as usize, 2 * half * LAYER as usize + half])
}

/// The last one stays where it is.
const COPIES: [(u32, u32, i32); 6] =
    [(0, 11, 5), (3, 4, -777), (0, 7, 0), (10, 1, 100_003), (2, 9, 1 << 29), (6, 6, 33)];

fn copied(shape: Shape, bits: &[u16]) -> Vec<u16> {
    let mut want = bits.to_vec();
    let (block, halves) = places(shape);
    for (from, to, _) in COPIES {
        for half in halves {
            let from = half + from as usize * block;
            want.copy_within(from..from + block, half + to as usize * block);
        }
    }
    want
}

#[test]
fn blocks_are_copied_and_nothing_else_changes_for_the_sanitizer_too() {
    for (head_dim, block_size, num_kv_heads) in [(64, 16, 1), (128, 32, 2), (128, 64, 3)] {
        let shape = Shape { head_dim, block_size, num_kv_heads, ..SHAPE };
        let (mut store, bits) = filled(shape);
        let copies = COPIES.map(|(from, to, distance)| copy(from, to, distance));
        let copies = BlockCopies::new(&device(), &copies).unwrap();
        device().copy_blocks(&mut store, LAYER, &copies).unwrap();
        assert!(bits_of(&mut store) == copied(shape, &bits), "{shape:?}");
    }
}

fn check_reencoded(shape: Shape) {
    let device = device();
    let (mut store, bits) = filled(shape);
    let rope = RopeTable::from_inv_freq(&inv_freq(shape)).unwrap();
    let copies =
        BlockCopies::new(&device, &COPIES.map(|(from, to, distance)| copy(from, to, distance))).unwrap();
    device.reencode_blocks(&mut store, LAYER, &copies, &CudaRope::new(&device, &rope).unwrap()).unwrap();
    let got = bits_of(&mut store);
    let mut want = copied(shape, &bits);
    let (block, [keys, _]) = places(shape);
    let layout = BlockLayout::new(shape.block_size, shape.head_dim).unwrap();
    let unit = if shape.dtype == KvDtype::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
    for (from, to, distance) in COPIES {
        for (head, slot) in
            (0..shape.num_kv_heads).flat_map(|head| (0..shape.block_size).map(move |slot| (head, slot)))
        {
            let place = |block_id: u32, dim: u32| {
                let head_element = (head * shape.block_size * shape.head_dim) as usize;
                keys + block_id as usize * block + head_element + layout.byte(slot, dim) as usize / 2
            };
            for pair in 0..shape.rotary_dim / 2 {
                let dims = [pair, pair + shape.rotary_dim / 2];
                let [x, y] = dims.map(|dim| f64::from(widen(shape.dtype, &[bits[place(from, dim)]])[0]));
                // A turn has 64 bits behind the point, so the product is exact.
                let turn = rope.turns()[pair as usize].wrapping_mul(i64::from(distance) as u64) as i64;
                let (sin, cos) = (turn as f64 * std::f64::consts::TAU / 2f64.powi(64)).sin_cos();
                for (dim, turned) in dims.into_iter().zip([x * cos - y * sin, y * cos + x * sin]) {
                    let bits = got[place(to, dim)];
                    let value = f64::from(widen(shape.dtype, &[bits])[0]);
                    // One rounding, and angles that are right to 5e-7.
                    let most = turned.abs() * unit + 2e-6 * (x.abs() + y.abs()) + 2f64.powi(-24);
                    assert!(
                        (value - turned).abs() <= most,
                        "{value} is not {turned} within {most}: {shape:?}"
                    );
                    want[place(to, dim)] = bits;
                }
            }
        }
    }
    assert!(got == want, "something else changed: {shape:?}");
}

#[test]
fn copied_keys_are_rotated_and_nothing_else_changes() {
    for dtype in [KvDtype::Bf16, KvDtype::F16] {
        for (head_dim, rotary_dim, block_size) in [(64, 64, 16), (64, 16, 64), (128, 128, 32), (128, 96, 16)]
        {
            check_reencoded(Shape { dtype, head_dim, rotary_dim, block_size, num_kv_heads: 3, ..SHAPE });
        }
    }
}

#[test]
fn copies_that_race_or_leave_the_store_are_refused() {
    let device = device();
    for pair in [[copy(0, 1, 0), copy(2, 1, 0)], [copy(0, 1, 0), copy(1, 2, 0)]] {
        assert!(BlockCopies::new(&device, &pair).is_err(), "{pair:?}");
    }
    let (mut store, _) = filled(SHAPE);
    let outside = BlockCopies::new(&device, &[copy(0, NUM_BLOCKS, 0)]).unwrap();
    assert!(device.copy_blocks(&mut store, LAYER, &outside).is_err());
    let inside = BlockCopies::new(&device, &[copy(0, 1, 0)]).unwrap();
    assert!(device.copy_blocks(&mut store, 2, &inside).is_err());
}
