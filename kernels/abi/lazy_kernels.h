// What a kernel receives. Mirrored in crates/lazy-attn-sys/src/abi.rs and layout.rs; a test compiles this file and
// compares every size, offset, constant and byte address with Rust. Plain C11, C++17 and CUDA C++.
//
// All pointers are device addresses. Every field has 4 or 8 bytes, or is a struct of such fields; there is no hidden padding.
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

// LaPart::flags
enum {
    LA_PART_CAUSAL = 1,  // the rows lie inside this segment: each sees it up to itself
};

// LaItem::first_slot of an item that is all its rows need and writes the output itself
enum { LA_WRITES_OUTPUT = -1 };

// LaPlan::block_ids
#define LA_LAST_OF_PART 0x80000000u  // added to the id of a part's last block

// LaStart
enum { LA_START_BLOCKS = 16 };

// LaKv::dtype
enum {
    LA_KV_BF16 = 0,
    LA_KV_F16 = 1,
    LA_KV_F32 = 2,
    LA_KV_FP8_E4M3 = 3,
};

// LaSeen::flags
enum {
    LA_SEEN_REPEATED = 1,  // in the prompt or the output: the repetition penalty applies
};

// What argmax and sample write instead of a token.
#define LA_NOT_FINITE 0xFFFFFFFFu       // a logit is NaN or plus infinity
#define LA_NOTHING_ALLOWED 0xFFFFFFFEu  // all logits are minus infinity

// Keys of one segment, as one context or a group of contexts sees them.
typedef struct LaPart {
    int32_t first_block;  // entry of LaPlan::block_ids that would hold the segment's token 0; that of key_begin is the part's first
    int32_t key_begin;    // segment-local index of the first key, a multiple of 64
    int32_t key_end;      // one past the last key; what lies behind it in its block is masked
    int32_t start;        // position of the segment's token 0 in a chain, zero in an item that contexts share
    uint32_t flags;       // LA_PART_*
} LaPart;

// A work item: every row reads every part, in one KV head.
typedef struct LaItem {
    int32_t part_begin;  // first entry in LaPlan::parts
    int32_t part_end;    // one past the last
    int32_t row_begin;   // first entry in LaPlan::rows
    int32_t row_end;     // one past the last
    int32_t first_slot;  // partial slot of the first row, the others follow; or LA_WRITES_OUTPUT
} LaItem;

// A query token of an item. It is rotated by base - LaPart::start.
typedef struct LaRow {
    int32_t token;  // index of the token in the step
    int32_t base;   // its position in a chain, its distance from the segment's token 0 in an item that contexts share
} LaRow;

// The plan of one step: arrays at addresses that do not change between steps, so that a captured graph may run any plan.
typedef struct LaPlan {
    const LaPart *parts;          // parts of all items
    const uint32_t *block_ids;    // blocks in the order in which workers read them; LA_LAST_OF_PART ends a part
    const LaRow *rows;            // rows of all items
    const int32_t *num_merges;    // one
    const int32_t *merge_tokens;  // [num_merges], tokens that no item has finished
    const int32_t *merge_begin;   // [num_merges + 1], where each one's entries in merge_slots begin
    const int32_t *merge_slots;   // their slots in the order in which they are folded
} LaPlan;

// What a worker does, and copies of what it reads first, so that one load is enough to begin.
typedef struct LaStart {
    int32_t item_begin;                   // first entry in LaWork::items
    int32_t item_end;                     // one past the last; the first, if the worker has nothing to do
    int32_t block_begin;                  // first entry in LaPlan::block_ids
    int32_t num_blocks;                   // entries there
    LaItem item;                          // the first item
    LaPart part;                          // its first part
    LaRow row;                            // its first row
    uint32_t block_ids[LA_START_BLOCKS];  // the first entries
} LaStart;

// The items of one tile shape. A worker takes its items in order, and so does the same worker of every KV head.
typedef struct LaWork {
    const LaItem *items;
    const LaStart *starts;  // [num_workers]
} LaWork;

// A token whose key and value are stored.
typedef struct LaWrite {
    int32_t token;     // index of the token in the step
    uint32_t block;    // where it goes
    int32_t slot;      // where in the block
    int32_t local;     // segment-local index: what the key is rotated by
    int32_t zero_end;  // slots behind this one and below it become zeros; none if it is not above the slot
} LaWrite;

// Keys and values of one layer.
typedef struct LaKv {
    void *k;                // [num_blocks, num_kv_heads] of key blocks, each laid out by la_block_byte
    void *v;                // the same for values
    int64_t block_stride;   // bytes from one block to the next
    float *k_scale;         // [num_blocks, num_kv_heads], scales of 8-bit keys, powers of two, or null
    float *v_scale;         // the same for values
    uint32_t dtype;         // LA_KV_*
    uint32_t block_size;    // tokens per block
    uint32_t num_kv_heads;  // heads of keys and values
    uint32_t head_dim;      // elements per head
} LaKv;

// Rotation and scaling of scores.
typedef struct LaRope {
    const uint64_t *turns;  // [rotary_dim / 2], turns per position times 2^64
    uint32_t rotary_dim;    // dimensions that rotate, a multiple of 16; pairs are half-split
    float scale_log2;       // softmax scale times log2(e)
} LaRope;

// Where items leave results that others complete.
typedef struct LaPartials {
    float *out;  // [num_slots, num_q_heads, head_dim], normalised
    float *lse;  // [num_slots, num_q_heads], base 2, -inf where nothing was seen
} LaPartials;

// Parameters of la_attend_*.
typedef struct LaAttend {
    LaPlan plan;
    LaWork work;
    LaKv kv;
    LaRope rope;
    LaPartials partials;
    const void *q;         // [num_tokens, num_q_heads, head_dim], not rotated; a token every q_stride elements
    void *out;             // the same shape, a token behind the other
    uint32_t num_q_heads;  // a multiple of LaKv::num_kv_heads
    uint32_t window;       // a row sees keys at distances below it; zero: all
    uint32_t num_stages;   // tiles of keys or values in flight
    uint32_t q_stride;     // even
} LaAttend;

// Parameters of la_merge_*.
typedef struct LaMerge {
    LaPlan plan;
    LaPartials partials;
    void *out;  // [num_tokens, num_q_heads, head_dim]
    uint32_t num_q_heads;
    uint32_t reserved;  // zero
} LaMerge;

// Parameters of la_rope_append_*.
typedef struct LaAppend {
    LaKv kv;
    LaRope rope;
    const LaWrite *writes;
    const int32_t *num_writes;  // one
    const void *k;              // [num_tokens, num_kv_heads, head_dim], not rotated; a token every k_stride elements
    const void *v;              // the same, every v_stride elements
    int64_t k_stride;
    int64_t v_stride;
} LaAppend;

// Parameters of la_rms_norm_*.
typedef struct LaNorm {
    const void *x;       // [num_rows, width]
    void *residual;      // the same shape: x is added to it; or null
    const void *weight;  // [width]
    void *out;           // [num_rows, width]
    uint32_t num_rows;
    uint32_t width;  // a multiple of 8
    float eps;
    uint32_t reserved;  // zero
} LaNorm;

// Parameters of la_silu_mul_*.
typedef struct LaSiluMul {
    const void *gate_up;  // [num_rows, 2 * width], the gate first
    void *out;            // [num_rows, width]
    uint32_t num_rows;
    uint32_t width;  // a multiple of 8
} LaSiluMul;

// Parameters of la_skinny_*.
typedef struct LaSkinny {
    const void *x;           // [m, k]
    const void *w;           // [n, k], or of la_skinny_*_silu_* [2 * n, k], the gate first
    void *out;               // [m, n]
    uint32_t m;              // 1 to 8
    uint32_t n;              // a multiple of 8
    uint32_t k;              // a multiple of 32
    uint32_t stage_columns;  // columns of a stage of the ring, a multiple of 256
    uint32_t num_stages;     // 2 to 12
    uint32_t reserved;       // zero
} LaSkinny;

// Parameters of la_gather.
typedef struct LaGather {
    const void *table;    // [num_table_rows, width] of 16-bit elements
    const uint32_t *ids;  // [num_rows]
    void *out;            // [num_rows, width]
    uint32_t num_rows;
    uint32_t width;  // a multiple of 8
    uint32_t num_table_rows;
    uint32_t reserved;  // zero
} LaGather;

// Parameters of la_qkv_norm_*.
typedef struct LaQkvNorm {
    void *qkv;             // [num_tokens, num_q_heads + 2 * num_kv_heads, head_dim]: queries, keys, values; changed in place
    const void *bias;      // [num_q_heads + 2 * num_kv_heads, head_dim], or null
    const void *q_weight;  // [head_dim], or null: no norm
    const void *k_weight;  // [head_dim], null if the other is
    uint32_t num_tokens;
    uint32_t num_q_heads;
    uint32_t num_kv_heads;
    float eps;
} LaQkvNorm;

// How the token of one row is chosen.
typedef struct LaSampling {
    uint64_t seed;      // of the sequence
    uint64_t step;      // tokens it has generated: the number of the draw
    float temperature;  // zero: the most likely token
    float top_p;        // share of weight that is kept; one: all
    float min_p;        // weight below which a token is dropped, the most likely one weighing one
    uint32_t top_k;     // tokens that are kept; zero: all
    float repetition;   // logits of repeated tokens are divided by it, or multiplied if negative
    float presence;     // taken from logits of generated tokens
    float frequency;    // the same, for each time
    uint32_t reserved;  // zero
} LaSampling;

// A token of a row whose logit changes.
typedef struct LaSeen {
    uint32_t row;
    uint32_t token;
    uint32_t count;  // times it was generated
    uint32_t flags;  // LA_SEEN_*
    float bias;      // added last
} LaSeen;

// Parameters of la_penalize.
typedef struct LaPenalize {
    float *logits;           // [num_rows, vocab_size], changed in place
    const LaSampling *rows;  // [num_rows]
    const LaSeen *seen;      // [num_seen], no token twice in a row
    uint32_t num_rows;
    uint32_t vocab_size;
    uint32_t num_seen;
    uint32_t reserved;  // zero
} LaPenalize;

// Parameters of la_argmax and la_sample.
typedef struct LaSample {
    const float *logits;     // [num_rows, vocab_size]
    const LaSampling *rows;  // [num_rows]; argmax reads none
    uint32_t *tokens;        // [num_rows], or LA_NOT_FINITE or LA_NOTHING_ALLOWED
    uint32_t num_rows;
    uint32_t vocab_size;  // 2^19 at most
} LaSample;

// A block that is copied.
typedef struct LaCopy {
    uint32_t from;
    uint32_t to;        // read by no copy of the launch, and written by one
    int32_t distance;   // re-encoding: what its keys are rotated by
    uint32_t reserved;  // zero
} LaCopy;

// Parameters of la_copy_blocks and la_reencode_*.
typedef struct LaCopyBlocks {
    LaKv kv;
    LaRope rope;           // re-encoding only
    const LaCopy *copies;  // [num_copies]
    uint32_t num_copies;
    uint32_t reserved;  // zero
} LaCopyBlocks;

// Two blocks whose keys are compared.
typedef struct LaBlockPair {
    uint32_t keys;       // whose keys are looked at
    uint32_t original;   // what they are compared with
    uint32_t num_slots;  // tokens of each
    uint32_t reserved;   // zero
} LaBlockPair;

// Parameters of la_key_deviation_*.
typedef struct LaDeviation {
    LaKv kv;                   // of the first layer
    int64_t layer_stride;      // bytes from the keys of one layer to those of the next
    int64_t scale_stride;      // scales from those of one layer's keys to those of the next
    const LaBlockPair *pairs;  // [num_pairs]
    float *sums;               // [num_pairs, num_layers, 2]: squared distance, squared length of the original
    uint32_t num_pairs;
    uint32_t num_layers;
} LaDeviation;

static_assert(sizeof(void *) == 8, "device addresses have 64 bits");
static_assert(sizeof(LaPart) == 20 && offsetof(LaPart, start) == 12, "LaPart differs from abi.rs");
static_assert(sizeof(LaItem) == 20 && offsetof(LaItem, first_slot) == 16, "LaItem differs from abi.rs");
static_assert(sizeof(LaRow) == 8 && offsetof(LaRow, base) == 4, "LaRow differs from abi.rs");
static_assert(sizeof(LaStart) == 128 && offsetof(LaStart, block_ids) == 64, "LaStart differs from abi.rs");
static_assert(sizeof(LaPlan) == 56 && offsetof(LaPlan, merge_slots) == 48, "LaPlan differs from abi.rs");
static_assert(sizeof(LaWrite) == 20 && offsetof(LaWrite, local) == 12, "LaWrite differs from abi.rs");
static_assert(sizeof(LaKv) == 56 && offsetof(LaKv, head_dim) == 52, "LaKv differs from abi.rs");
static_assert(sizeof(LaAttend) == 192 && offsetof(LaAttend, num_q_heads) == 176, "LaAttend differs from abi.rs");
static_assert(sizeof(LaMerge) == 88 && offsetof(LaMerge, num_q_heads) == 80, "LaMerge differs from abi.rs");
static_assert(sizeof(LaAppend) == 120 && offsetof(LaAppend, k_stride) == 104, "LaAppend differs from abi.rs");
static_assert(sizeof(LaNorm) == 48 && offsetof(LaNorm, num_rows) == 32, "LaNorm differs from abi.rs");
static_assert(sizeof(LaSiluMul) == 24 && offsetof(LaSiluMul, width) == 20, "LaSiluMul differs from abi.rs");
static_assert(sizeof(LaSkinny) == 48 && offsetof(LaSkinny, m) == 24, "LaSkinny differs from abi.rs");
static_assert(sizeof(LaGather) == 40 && offsetof(LaGather, num_table_rows) == 32, "LaGather differs from abi.rs");
static_assert(sizeof(LaQkvNorm) == 48 && offsetof(LaQkvNorm, eps) == 44, "LaQkvNorm differs from abi.rs");
static_assert(sizeof(LaSampling) == 48 && offsetof(LaSampling, top_k) == 28, "LaSampling differs from abi.rs");
static_assert(sizeof(LaSeen) == 20 && offsetof(LaSeen, bias) == 16, "LaSeen differs from abi.rs");
static_assert(sizeof(LaPenalize) == 40 && offsetof(LaPenalize, num_seen) == 32, "LaPenalize differs from abi.rs");
static_assert(sizeof(LaSample) == 32 && offsetof(LaSample, vocab_size) == 28, "LaSample differs from abi.rs");
static_assert(sizeof(LaCopy) == 16 && offsetof(LaCopy, distance) == 8, "LaCopy differs from abi.rs");
static_assert(sizeof(LaCopyBlocks) == 88 && offsetof(LaCopyBlocks, copies) == 72, "LaCopyBlocks differs from abi.rs");
static_assert(sizeof(LaBlockPair) == 16 && offsetof(LaBlockPair, num_slots) == 8, "LaBlockPair differs from abi.rs");
static_assert(sizeof(LaDeviation) == 96 && offsetof(LaDeviation, pairs) == 72, "LaDeviation differs from abi.rs");

// First byte of element `dim` of the token in `slot` of a block of 16-bit elements. Panels of 8 tokens x 64 elements, 1024
// bytes each, swizzled as a tensor core reads them: group g of 16 bytes of row r lies at place g ^ r.
LA_HOST_DEVICE static inline uint32_t la_block_byte(uint32_t slot, uint32_t dim, uint32_t head_dim) {
    const uint32_t panel = slot / 8 * (head_dim / 64) + dim / 64;
    const uint32_t row = slot % 8;
    const uint32_t group = dim % 64 / 8;
    return panel * 1024 + row * 128 + (group ^ row) * 16 + dim % 8 * 2;
}

// The same for 8-bit elements, `head_dim` 64 or a multiple of 128. Panels of 8 tokens x 128 (or 64) elements, swizzled alike;
// a group of 16 bytes holds 16 elements, of which 2j, 2j + 1, 2j + 8 and 2j + 9 are neighbours: a lane's share of an operand.
LA_HOST_DEVICE static inline uint32_t la_block_byte_8(uint32_t slot, uint32_t dim, uint32_t head_dim) {
    const uint32_t in_group = dim % 16;
    const uint32_t inner = in_group % 8 / 2 * 4 + in_group / 8 * 2 + in_group % 2;
    if (head_dim == 64) return slot * 64 + ((dim / 16 ^ slot / 2) % 4) * 16 + inner;
    const uint32_t panel = slot / 8 * (head_dim / 128) + dim / 128;
    return panel * 1024 + slot % 8 * 128 + ((dim / 16 ^ slot) % 8) * 16 + inner;
}

#endif  // LAZY_KERNELS_H
