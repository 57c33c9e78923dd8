//! The structs a kernel receives, in the field order and with the sizes of `kernels/abi/lazy_kernels.h`.
//!
//! Every struct has only fields of 4 or 8 bytes and no hidden padding, so the layout is the same for every compiler.
//! [`STRUCTS`] describes them for the test that asks the C compiler.

use std::mem::{align_of, offset_of, size_of};

/// An address in device memory; never dereferenced on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct DeviceAddress(pub u64);

/// One segment as one context sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaSeg {
    /// First entry of its block list in [`LaPlan::block_ids`].
    pub first_block: i32,
    /// Valid tokens; what lies behind them in the last block is masked.
    pub num_tokens: i32,
    /// Logical position of its token 0.
    pub start: i32,
    /// Bits of [`SEG_CAUSAL`] and [`SEG_LAST`].
    pub flags: u32,
}

/// The rows lie inside this segment: each sees it up to itself.
pub const SEG_CAUSAL: u32 = 1;
/// The last segment of its context.
pub const SEG_LAST: u32 = 2;

/// A work item: a range of keys and the query rows that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaItem {
    /// First segment of the chain; an item that many contexts share has one segment.
    pub seg_begin: i32,
    /// One past the last segment.
    pub seg_end: i32,
    /// First token, inside the first segment.
    pub token_begin: i32,
    /// One past the last token, inside the last segment.
    pub token_end: i32,
    /// First entry in [`LaPlan::rows`].
    pub row_begin: i32,
    /// Entries in [`LaPlan::rows`].
    pub num_rows: i32,
    /// First partial of the item, or [`WRITES_OUTPUT`].
    pub partial_begin: i32,
    /// Which tile shape runs it.
    pub tile_class: i32,
}

/// [`LaItem::partial_begin`] of an item that is its rows' only one and writes the output itself.
pub const WRITES_OUTPUT: i32 = -1;

/// A query token of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaRow {
    /// Index of the token in the step.
    pub token: i32,
    /// Its logical position.
    pub position: i32,
    /// Start of a shared item's segment in this row's context; a chain takes [`LaSeg::start`] instead.
    pub start: i32,
    /// Zero.
    pub reserved: i32,
}

/// The plan of one step: arrays in device memory at addresses that do not change between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct LaPlan {
    /// `[num_items]` of [`LaItem`].
    pub items: DeviceAddress,
    /// One `i32`: read by the device, so that a captured graph may run another plan.
    pub num_items: DeviceAddress,
    /// `[num_segs]` of [`LaSeg`].
    pub segs: DeviceAddress,
    /// `u32` block ids of all segments.
    pub block_ids: DeviceAddress,
    /// `[num_rows]` of [`LaRow`].
    pub rows: DeviceAddress,
    /// `[num_tokens + 1]` of `i32`: where a token's entries in `merge_partials` begin.
    pub merge_begin: DeviceAddress,
    /// `i32` partials of each token, in the order they are folded.
    pub merge_partials: DeviceAddress,
    /// One `i32`: the next item to take.
    pub ticket: DeviceAddress,
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
    /// `[num_blocks, num_kv_heads]` of `f32` scales of 8-bit keys, or null.
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

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum KvDtype {
    /// bfloat16.
    Bf16 = 0,
    /// IEEE half.
    F16 = 1,
    /// IEEE single, for checks.
    F32 = 2,
    /// 8-bit float with a scale per block and head.
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
pub const STRUCTS: [StructAbi; 5] = [
    struct_abi!(LaSeg { first_block, num_tokens, start, flags }),
    struct_abi!(LaItem {
        seg_begin,
        seg_end,
        token_begin,
        token_end,
        row_begin,
        num_rows,
        partial_begin,
        tile_class
    }),
    struct_abi!(LaRow { token, position, start, reserved }),
    struct_abi!(LaPlan { items, num_items, segs, block_ids, rows, merge_begin, merge_partials, ticket }),
    struct_abi!(LaKv { k, v, block_stride, k_scale, v_scale, dtype, block_size, num_kv_heads, head_dim }),
];

/// Every named constant of the header.
pub const CONSTANTS: [(&str, i64); 7] = [
    ("LA_SEG_CAUSAL", SEG_CAUSAL as i64),
    ("LA_SEG_LAST", SEG_LAST as i64),
    ("LA_WRITES_OUTPUT", WRITES_OUTPUT as i64),
    ("LA_KV_BF16", KvDtype::Bf16 as i64),
    ("LA_KV_F16", KvDtype::F16 as i64),
    ("LA_KV_F32", KvDtype::F32 as i64),
    ("LA_KV_FP8_E4M3", KvDtype::Fp8E4m3 as i64),
];

// The header asserts the same numbers; a change that forgets one side stops one of the two builds.
const _: () = assert!(size_of::<LaSeg>() == 16 && offset_of!(LaSeg, start) == 8);
const _: () = assert!(size_of::<LaItem>() == 32 && offset_of!(LaItem, partial_begin) == 24);
const _: () = assert!(size_of::<LaRow>() == 16 && offset_of!(LaRow, start) == 8);
const _: () = assert!(size_of::<LaPlan>() == 64 && offset_of!(LaPlan, ticket) == 56);
const _: () = assert!(size_of::<LaKv>() == 56 && offset_of!(LaKv, head_dim) == 52);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_struct_has_hidden_padding() {
        for abi in STRUCTS {
            let ends = abi.fields.iter().skip(1).map(|field| field.1).chain([abi.size]);
            for ((name, begin), end) in abi.fields.iter().zip(ends) {
                assert!(matches!(end - begin, 4 | 8), "{}.{name} takes {} bytes", abi.name, end - begin);
            }
        }
    }
}
