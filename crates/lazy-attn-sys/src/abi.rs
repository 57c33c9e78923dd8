//! The structs a kernel receives, in the field order and with the sizes of `kernels/abi/lazy_kernels.h`.
//!
//! Every struct has only fields of 4 or 8 bytes, or structs of such fields, and no hidden padding, so the layout is the same for every compiler.
//! [`STRUCTS`] describes them for the test that asks the C compiler.

use std::mem::{align_of, offset_of, size_of};

mod elementwise;

pub use elementwise::*;

/// An address in device memory; never dereferenced on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct DeviceAddress(pub u64);

/// Keys of one segment, as one context or a group of contexts sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaPart {
    /// Entry of [`LaPlan::block_ids`] that would hold the segment's token 0; that of `key_begin` is the part's first.
    pub first_block: i32,
    /// Segment-local index of the first key, a multiple of 64.
    pub key_begin: i32,
    /// One past the last key; what lies behind it in its block is masked.
    pub key_end: i32,
    /// Position of the segment's token 0 in a chain, zero in an item that contexts share.
    pub start: i32,
    /// [`PART_CAUSAL`] or zero.
    pub flags: u32,
}

/// The rows lie inside this segment: each sees it up to itself.
pub const PART_CAUSAL: u32 = 1;

/// A work item: every row reads every part, in one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaItem {
    /// First entry in [`LaPlan::parts`].
    pub part_begin: i32,
    /// One past the last.
    pub part_end: i32,
    /// First entry in [`LaPlan::rows`].
    pub row_begin: i32,
    /// One past the last.
    pub row_end: i32,
    /// Partial slot of the first row, the others follow; or [`WRITES_OUTPUT`].
    pub first_slot: i32,
}

/// [`LaItem::first_slot`] of an item that is all its rows need and writes the output itself.
pub const WRITES_OUTPUT: i32 = -1;

/// A query token of an item. It is rotated by `base - LaPart::start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaRow {
    /// Index of the token in the step.
    pub token: i32,
    /// Its position in a chain, its distance from the segment's token 0 in an item that contexts share.
    pub base: i32,
}

/// The plan of one step: arrays in device memory at addresses that do not change between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaPlan {
    /// [`LaPart`]s of all items.
    pub parts: DeviceAddress,
    /// `u32` blocks in the order in which workers read them; [`LAST_OF_PART`] ends a part.
    pub block_ids: DeviceAddress,
    /// [`LaRow`]s of all items.
    pub rows: DeviceAddress,
    /// One `i32`.
    pub num_merges: DeviceAddress,
    /// `[num_merges]` of `i32`: tokens that no item has finished.
    pub merge_tokens: DeviceAddress,
    /// `[num_merges + 1]` of `i32`: where each one's entries in `merge_slots` begin.
    pub merge_begin: DeviceAddress,
    /// `i32`: their slots, in the order in which they are folded.
    pub merge_slots: DeviceAddress,
}

/// Added to the id of a part's last block in [`LaPlan::block_ids`].
pub const LAST_OF_PART: u32 = 1 << 31;

/// Entries of [`LaStart::block_ids`].
pub const START_BLOCKS: usize = 16;

/// What a worker does, and copies of what it reads first, so that one load is enough to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaStart {
    /// First entry in [`LaWork::items`].
    pub item_begin: i32,
    /// One past the last; the first, if the worker has nothing to do.
    pub item_end: i32,
    /// First entry in [`LaPlan::block_ids`].
    pub block_begin: i32,
    /// Entries there.
    pub num_blocks: i32,
    /// The first item.
    pub item: LaItem,
    /// Its first part.
    pub part: LaPart,
    /// Its first row.
    pub row: LaRow,
    /// The first entries of [`LaPlan::block_ids`].
    pub block_ids: [u32; START_BLOCKS],
}

/// The items of one tile shape. A worker takes its items in order, and so does the same worker of every KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaWork {
    /// [`LaItem`]s.
    pub items: DeviceAddress,
    /// `[num_workers]` of [`LaStart`].
    pub starts: DeviceAddress,
}

/// A token whose key and value are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaWrite {
    /// Index of the token in the step.
    pub token: i32,
    /// Where it goes.
    pub block: u32,
    /// Where in the block.
    pub slot: i32,
    /// Segment-local index: what the key is rotated by.
    pub local: i32,
    /// Slots behind this one and below it become zeros; none if it is not above the slot.
    pub zero_end: i32,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaKv {
    /// `[num_blocks, num_kv_heads]` of key blocks in [`crate::BlockLayout`].
    pub k: DeviceAddress,
    /// The same for values.
    pub v: DeviceAddress,
    /// Bytes from one block to the next.
    pub block_stride: i64,
    /// `[num_blocks, num_kv_heads]` of `f32` scales of 8-bit keys, powers of two, or null.
    pub k_scale: DeviceAddress,
    /// The same for values.
    pub v_scale: DeviceAddress,
    /// A [`KvDtype`].
    pub dtype: u32,
    /// Tokens per block.
    pub block_size: u32,
    /// Heads of keys and values.
    pub num_kv_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
}

/// Rotation and scaling of scores.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaRope {
    /// `[rotary_dim / 2]` of `u64`: turns per position, times 2^64.
    pub turns: DeviceAddress,
    /// Dimensions that rotate, a multiple of 16; pairs are half-split.
    pub rotary_dim: u32,
    /// Softmax scale times log2(e).
    pub scale_log2: f32,
}

/// Where items leave results that others complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaPartials {
    /// `[num_slots, num_q_heads, head_dim]` of `f32`, normalised.
    pub out: DeviceAddress,
    /// `[num_slots, num_q_heads]` of `f32`, base 2, minus infinity where nothing was seen.
    pub lse: DeviceAddress,
}

/// Parameters of `la_attend_*`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaAttend {
    /// What is read by whom.
    pub plan: LaPlan,
    /// The items of this launch.
    pub work: LaWork,
    /// Keys and values.
    pub kv: LaKv,
    /// Rotation and scaling.
    pub rope: LaRope,
    /// Results that others complete.
    pub partials: LaPartials,
    /// `[num_tokens, num_q_heads, head_dim]`, not rotated; a token every `q_stride` elements.
    pub q: DeviceAddress,
    /// The same shape, a token behind the other.
    pub out: DeviceAddress,
    /// A multiple of [`LaKv::num_kv_heads`].
    pub num_q_heads: u32,
    /// A row sees keys at distances below it; zero: all.
    pub window: u32,
    /// Tiles of keys or values in flight.
    pub num_stages: u32,
    /// Even.
    pub q_stride: u32,
}

/// Parameters of `la_merge_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaMerge {
    /// Its merge lists.
    pub plan: LaPlan,
    /// What is merged.
    pub partials: LaPartials,
    /// `[num_tokens, num_q_heads, head_dim]`
    pub out: DeviceAddress,
    /// Heads of `out`.
    pub num_q_heads: u32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of `la_rope_append_*`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct LaAppend {
    /// Where keys and values go.
    pub kv: LaKv,
    /// Rotation.
    pub rope: LaRope,
    /// [`LaWrite`]s; no two to one slot.
    pub writes: DeviceAddress,
    /// One `i32`.
    pub num_writes: DeviceAddress,
    /// `[num_tokens, num_kv_heads, head_dim]`, not rotated; a token every `k_stride` elements.
    pub k: DeviceAddress,
    /// The same, every `v_stride` elements.
    pub v: DeviceAddress,
    /// Elements from one token's keys to the next's.
    pub k_stride: i64,
    /// Elements from one token's values to the next's.
    pub v_stride: i64,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum KvDtype {
    /// bfloat16.
    Bf16 = 0,
    /// IEEE half.
    F16 = 1,
    /// IEEE single, for checks.
    F32 = 2,
    /// 8-bit float (4 bits of exponent, 3 of mantissa) with a power of two as the scale of each block and head.
    Fp8E4m3 = 3,
}

/// Layout of a struct, as Rust sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StructAbi {
    /// Name in both languages.
    pub name: &'static str,
    /// Bytes of one element of an array.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Name and byte offset of every field, in order.
    pub fields: &'static [(&'static str, usize)],
}

/// Describes a struct; does not compile unless every field is named.
macro_rules! struct_abi {
    ($name:ident { $($field:ident),* }) => {{
        const fn all_fields($name { $($field: _),* }: $name) {}
        let _ = all_fields;
        StructAbi {
            name: stringify!($name),
            size: size_of::<$name>(),
            align: align_of::<$name>(),
            fields: &[$((stringify!($field), offset_of!($name, $field))),*],
        }
    }};
}

/// Every struct of the header.
pub const STRUCTS: [StructAbi; 26] = [
    struct_abi!(LaPart { first_block, key_begin, key_end, start, flags }),
    struct_abi!(LaItem { part_begin, part_end, row_begin, row_end, first_slot }),
    struct_abi!(LaRow { token, base }),
    struct_abi!(LaPlan { parts, block_ids, rows, num_merges, merge_tokens, merge_begin, merge_slots }),
    struct_abi!(LaStart { item_begin, item_end, block_begin, num_blocks, item, part, row, block_ids }),
    struct_abi!(LaWork { items, starts }),
    struct_abi!(LaWrite { token, block, slot, local, zero_end }),
    struct_abi!(LaKv { k, v, block_stride, k_scale, v_scale, dtype, block_size, num_kv_heads, head_dim }),
    struct_abi!(LaRope { turns, rotary_dim, scale_log2 }),
    struct_abi!(LaPartials { out, lse }),
    struct_abi!(LaAttend {
        plan,
        work,
        kv,
        rope,
        partials,
        q,
        out,
        num_q_heads,
        window,
        num_stages,
        q_stride
    }),
    struct_abi!(LaMerge { plan, partials, out, num_q_heads, reserved }),
    struct_abi!(LaAppend { kv, rope, writes, num_writes, k, v, k_stride, v_stride }),
    struct_abi!(LaNorm { x, residual, weight, out, num_rows, width, eps, reserved }),
    struct_abi!(LaSiluMul { gate_up, out, num_rows, width }),
    struct_abi!(LaSkinny { x, w, out, m, n, k, stage_columns, num_stages, reserved }),
    struct_abi!(LaGather { table, ids, out, num_rows, width, num_table_rows, reserved }),
    struct_abi!(LaQkvNorm { qkv, bias, q_weight, k_weight, num_tokens, num_q_heads, num_kv_heads, eps }),
    struct_abi!(LaSampling {
        seed,
        step,
        temperature,
        top_p,
        min_p,
        top_k,
        repetition,
        presence,
        frequency,
        reserved
    }),
    struct_abi!(LaSeen { row, token, count, flags, bias }),
    struct_abi!(LaPenalize { logits, rows, seen, num_rows, vocab_size, num_seen, reserved }),
    struct_abi!(LaSample { logits, rows, tokens, num_rows, vocab_size }),
    struct_abi!(LaCopy { from, to, distance, reserved }),
    struct_abi!(LaCopyBlocks { kv, rope, copies, num_copies, reserved }),
    struct_abi!(LaBlockPair { keys, original, num_slots, reserved }),
    struct_abi!(LaDeviation { kv, layer_stride, scale_stride, pairs, sums, num_pairs, num_layers }),
];

/// Every named constant of the header.
pub const CONSTANTS: [(&str, i64); 11] = [
    ("LA_PART_CAUSAL", PART_CAUSAL as i64),
    ("LA_SEEN_REPEATED", SEEN_REPEATED as i64),
    ("LA_NOT_FINITE", NOT_FINITE as i64),
    ("LA_NOTHING_ALLOWED", NOTHING_ALLOWED as i64),
    ("LA_WRITES_OUTPUT", WRITES_OUTPUT as i64),
    ("LA_LAST_OF_PART", LAST_OF_PART as i64),
    ("LA_START_BLOCKS", START_BLOCKS as i64),
    ("LA_KV_BF16", KvDtype::Bf16 as i64),
    ("LA_KV_F16", KvDtype::F16 as i64),
    ("LA_KV_F32", KvDtype::F32 as i64),
    ("LA_KV_FP8_E4M3", KvDtype::Fp8E4m3 as i64),
];

// The header asserts the same numbers; a change that forgets one side stops one of the two builds.
const _: () = assert!(size_of::<LaPart>() == 20 && offset_of!(LaPart, start) == 12);
const _: () = assert!(size_of::<LaItem>() == 20 && offset_of!(LaItem, first_slot) == 16);
const _: () = assert!(size_of::<LaRow>() == 8 && offset_of!(LaRow, base) == 4);
const _: () = assert!(size_of::<LaStart>() == 128 && offset_of!(LaStart, block_ids) == 64);
const _: () = assert!(size_of::<LaPlan>() == 56 && offset_of!(LaPlan, merge_slots) == 48);
const _: () = assert!(size_of::<LaWrite>() == 20 && offset_of!(LaWrite, local) == 12);
const _: () = assert!(size_of::<LaKv>() == 56 && offset_of!(LaKv, head_dim) == 52);
const _: () = assert!(size_of::<LaAttend>() == 192 && offset_of!(LaAttend, num_q_heads) == 176);
const _: () = assert!(size_of::<LaMerge>() == 88 && offset_of!(LaMerge, num_q_heads) == 80);
const _: () = assert!(size_of::<LaAppend>() == 120 && offset_of!(LaAppend, k_stride) == 104);
const _: () = assert!(size_of::<LaNorm>() == 48 && offset_of!(LaNorm, num_rows) == 32);
const _: () = assert!(size_of::<LaSiluMul>() == 24 && offset_of!(LaSiluMul, width) == 20);
const _: () = assert!(size_of::<LaSkinny>() == 48 && offset_of!(LaSkinny, m) == 24);
const _: () = assert!(size_of::<LaGather>() == 40 && offset_of!(LaGather, num_table_rows) == 32);
const _: () = assert!(size_of::<LaQkvNorm>() == 48 && offset_of!(LaQkvNorm, eps) == 44);
const _: () = assert!(size_of::<LaSampling>() == 48 && offset_of!(LaSampling, top_k) == 28);
const _: () = assert!(size_of::<LaSeen>() == 20 && offset_of!(LaSeen, bias) == 16);
const _: () = assert!(size_of::<LaPenalize>() == 40 && offset_of!(LaPenalize, num_seen) == 32);
const _: () = assert!(size_of::<LaSample>() == 32 && offset_of!(LaSample, vocab_size) == 28);
const _: () = assert!(size_of::<LaCopy>() == 16 && offset_of!(LaCopy, distance) == 8);
const _: () = assert!(size_of::<LaCopyBlocks>() == 88 && offset_of!(LaCopyBlocks, copies) == 72);
const _: () = assert!(size_of::<LaBlockPair>() == 16 && offset_of!(LaBlockPair, num_slots) == 8);
const _: () = assert!(size_of::<LaDeviation>() == 96 && offset_of!(LaDeviation, pairs) == 72);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_struct_has_hidden_padding() {
        let nested: Vec<usize> = STRUCTS.iter().map(|abi| abi.size).chain([4, 8, 4 * START_BLOCKS]).collect();
        for abi in STRUCTS {
            let ends = abi.fields.iter().skip(1).map(|field| field.1).chain([abi.size]);
            for ((name, begin), end) in abi.fields.iter().zip(ends) {
                assert!(nested.contains(&(end - begin)), "{}.{name} takes {} bytes", abi.name, end - begin);
            }
        }
    }
}
