// What a kernel receives. Mirrored in crates/lazy-attn-sys/src/abi.rs and layout.rs; a test compiles this file and
// compares every size, offset, constant and byte address with Rust. Plain C11, C++17 and CUDA C++.
//
// All pointers are device addresses. Every field has 4 or 8 bytes and there is no hidden padding.
#ifndef LAZY_KERNELS_H
#define LAZY_KERNELS_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define LA_HOST_DEVICE __host__ __device__
#else
#define LA_HOST_DEVICE
#endif

// LaSeg::flags
enum {
    LA_SEG_CAUSAL = 1,  // the rows lie inside this segment: each sees it up to itself
    LA_SEG_LAST = 2,    // the last segment of its context
};

// LaItem::partial_begin of an item that is its rows' only one and writes the output itself
enum { LA_WRITES_OUTPUT = -1 };

// LaKv::dtype
enum {
    LA_KV_BF16 = 0,
    LA_KV_F16 = 1,
    LA_KV_F32 = 2,
    LA_KV_FP8_E4M3 = 3,
};

// One segment as one context sees it.
typedef struct LaSeg {
    int32_t first_block;  // first entry of its block list in LaPlan::block_ids
    int32_t num_tokens;   // valid tokens; what lies behind them in the last block is masked
    int32_t start;        // logical position of its token 0
    uint32_t flags;       // LA_SEG_*
} LaSeg;

// A work item: a range of keys and the query rows that read it.
typedef struct LaItem {
    int32_t seg_begin;      // first segment of the chain; an item that many contexts share has one segment
    int32_t seg_end;        // one past the last segment
    int32_t token_begin;    // first token, inside the first segment
    int32_t token_end;      // one past the last token, inside the last segment
    int32_t row_begin;      // first entry in LaPlan::rows
    int32_t num_rows;       // entries in LaPlan::rows
    int32_t partial_begin;  // first partial of the item, or LA_WRITES_OUTPUT
    int32_t tile_class;     // which tile shape runs it
} LaItem;

// A query token of an item: its relative position is position - start for a shared item, position - LaSeg::start for a chain.
typedef struct LaRow {
    int32_t token;     // index of the token in the step
    int32_t position;  // its logical position
    int32_t start;     // start of a shared item's segment in this row's context
    int32_t reserved;  // zero
} LaRow;

// The plan of one step: arrays at addresses that do not change between steps, so that a captured graph may run any plan.
typedef struct LaPlan {
    const LaItem *items;            // [num_items]
    const int32_t *num_items;       // one
    const LaSeg *segs;              // [num_segs]
    const uint32_t *block_ids;      // block lists of all segments
    const LaRow *rows;              // [num_rows]
    const int32_t *merge_begin;     // [num_tokens + 1], where a token's entries in merge_partials begin
    const int32_t *merge_partials;  // partials of each token, in the order they are folded
    int32_t *ticket;                // one: the next item to take
} LaPlan;

// Keys and values of one layer.
typedef struct LaKv {
    void *k;                // [num_blocks, num_kv_heads] of key blocks, each laid out by la_block_byte
    void *v;                // the same for values
    int64_t block_stride;   // bytes from one block to the next
    const float *k_scale;   // [num_blocks, num_kv_heads], scales of 8-bit keys, or null
    const float *v_scale;   // the same for values
    uint32_t dtype;         // LA_KV_*
    uint32_t block_size;    // tokens per block
    uint32_t num_kv_heads;  // heads of keys and values
    uint32_t head_dim;      // elements per head
} LaKv;

static_assert(sizeof(void *) == 8, "device addresses have 64 bits");
static_assert(sizeof(LaSeg) == 16 && offsetof(LaSeg, start) == 8, "LaSeg differs from abi.rs");
static_assert(sizeof(LaItem) == 32 && offsetof(LaItem, partial_begin) == 24, "LaItem differs from abi.rs");
static_assert(sizeof(LaRow) == 16 && offsetof(LaRow, start) == 8, "LaRow differs from abi.rs");
static_assert(sizeof(LaPlan) == 64 && offsetof(LaPlan, ticket) == 56, "LaPlan differs from abi.rs");
static_assert(sizeof(LaKv) == 56 && offsetof(LaKv, head_dim) == 52, "LaKv differs from abi.rs");

// First byte of element `dim` of the token in `slot` of a block of 16-bit elements. Panels of 8 tokens x 64 elements, 1024
// bytes each, swizzled as a tensor core reads them: group g of 16 bytes of row r lies at place g ^ r.
LA_HOST_DEVICE static inline uint32_t la_block_byte(uint32_t slot, uint32_t dim, uint32_t head_dim) {
    const uint32_t panel = slot / 8 * (head_dim / 64) + dim / 64;
    const uint32_t row = slot % 8;
    const uint32_t group = dim % 64 / 8;
    return panel * 1024 + row * 128 + (group ^ row) * 16 + dim % 8 * 2;
}

#endif  // LAZY_KERNELS_H
