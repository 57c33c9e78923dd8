// The preparing side of attend's wide classes on sm_90a: three warps rotate the queries of the next part while the warpgroups still
// compute with those of the last, and leave them in shared memory with a note of what the part is. The warpgroups read no plan.
#pragma once
#include "async.cuh"
#include "element.cuh"
#include "rope.cuh"
#include "lazy_kernels.h"
#include "wide_tile.cuh"

namespace la {

#if LA_HAS_WGMMA
// WideNote::flags
enum : int32_t {
    kNoteCausal = 1,  // as LA_PART_CAUSAL
    kNoteFirst = 2,   // the first part of an item
    kNoteOutput = 4,  // the item writes the output, not partials
    kNoteEnd = 8,     // there is no further part
};

// A part, as those who compute need it. Tiles inside [full_begin, full_end) are seen whole by all rows.
struct alignas(16) WideNote {
    int32_t key_begin, key_end;
    int32_t full_begin, full_end;
    int32_t flags;
    int32_t padding[3];
};

// A query token of the item.
struct alignas(8) WideRow {
    int32_t target;    // row of the output or slot of a partial; -1 behind the last token
    int32_t distance;  // from the part's token 0
};

// One note and its queries: written once all have taken the one before.
struct WideSlot {
    WideNote note;
    WideRow rows[128];
};

constexpr uint32_t kPrepareThreads = 96;

// Shared addresses: of prepared queries, and of the barriers for "come from memory", "prepared" and "taken".
struct WidePlace {
    uint32_t queries;
    uint32_t raw, full, empty;
};

// Four dimensions of a row and their partners, from `low` and from `high` on. Where nothing rotates, partners are merely neighbours.
struct QueryUnit {
    uint32_t low, high;

    __device__ __forceinline__ QueryUnit(const LaRope &rope, uint32_t unit) {
        const uint32_t pairs = rope.rotary_dim / 2;
        const bool rotates = 4 * unit < pairs;
        low = rotates ? 4 * unit : rope.rotary_dim + 8 * (unit - pairs / 4);
        high = low + (rotates ? pairs : 4);
    }
};

// Rotates two pairs.
template <class Element> __device__ __forceinline__ void turn_two(uint32_t &low, uint32_t &high, float2 first, float2 second) {
    const float2 x = Element::unpack(low), y = Element::unpack(high);
    low = Element::pack(x.x * first.x - y.x * first.y, x.y * second.x - y.y * second.y);
    high = Element::pack(y.x * first.x + x.x * first.y, y.y * second.x + x.y * second.y);
}

// Cosines and sines of a unit's pairs.
__device__ __forceinline__ void unit_angles(const LaRope &rope, const QueryUnit &unit, int32_t distance, float2 (&angle)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) angle[i] = make_float2(1.f, 0.f);
    if (unit.low >= rope.rotary_dim) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const PairAngles two(rope.turns, unit.low + 2 * i, distance);
        angle[2 * i] = two.first, angle[2 * i + 1] = two.second;
    }
}

// Rotates a unit of all heads of a token in place, from matrix row `row` on. The lanes of a row read it as it came and write it as
// query_byte says, so all of them must be here; those of a token that does not exist write nothing.
template <class Element, int HeadDim>
__device__ __forceinline__ void turn_token(uint32_t sQueries, uint32_t row, uint32_t group_size, bool exists, const QueryUnit &unit, const float2 (&angle)[4]) {
    constexpr uint32_t kBatch = 4;
#pragma unroll 1
    for (uint32_t head = 0; head < group_size; head += kBatch) {
        uint2 rLow[kBatch], rHigh[kBatch];
#pragma unroll
        for (uint32_t i = 0; i < kBatch; i++) {
            const uint32_t sRow = sQueries + (row + min(head + i, group_size - 1)) * HeadDim * 2;
            rLow[i] = load_shared(sRow + unit.low * 2);
            rHigh[i] = load_shared(sRow + unit.high * 2);
        }
        __syncwarp();
#pragma unroll
        for (uint32_t i = 0; i < kBatch; i++) {
            turn_two<Element>(rLow[i].x, rHigh[i].x, angle[0], angle[1]);
            turn_two<Element>(rLow[i].y, rHigh[i].y, angle[2], angle[3]);
            if (!exists || head + i >= group_size) continue;
            store_shared(sQueries + query_byte<HeadDim>(row + head + i, unit.low / 8) + unit.low % 8 * 2, rLow[i]);
            store_shared(sQueries + query_byte<HeadDim>(row + head + i, unit.high / 8) + unit.high % 8 * 2, rHigh[i]);
        }
    }
}

// Smallest and largest base among the rows of an item; for whole warps.
__device__ __forceinline__ int2 item_bases(const LaAttend &p, const LaItem &item) {
    int32_t low = INT32_MAX, high = INT32_MIN;
#pragma unroll 1
    for (int32_t at = item.row_begin + static_cast<int32_t>(threadIdx.x % 32); at < item.row_end; at += 32) {
        const int32_t base = p.plan.rows[at].base;
        low = min(low, base), high = max(high, base);
    }
    return make_int2(__reduce_min_sync(~0u, low), __reduce_max_sync(~0u, high));
}

// What a warp leaves for those who compute with a part; for whole warps.
__device__ __forceinline__ void write_note(const LaAttend &p, const LaItem &item, const LaPart &part, int32_t flags, WideNote &sNote) {
    const bool is_causal = part.flags & LA_PART_CAUSAL;
    const int32_t window = static_cast<int32_t>(p.window);
    int2 full = make_int2(INT32_MIN, part.key_end);
    if (is_causal || window) {
        const int2 bases = item_bases(p, item);
        if (window) full.x = bases.y - part.start - window + 1;
        if (is_causal) full.y = min(full.y, bases.x - part.start + 1);
    }
    if (threadIdx.x % 32 != 0) return;
    sNote.key_begin = part.key_begin, sNote.key_end = part.key_end;
    sNote.full_begin = full.x, sNote.full_end = full.y;
    sNote.flags = flags | (is_causal ? kNoteCausal : 0) | (item.first_slot == LA_WRITES_OUTPUT ? kNoteOutput : 0);
}

// Starts copying the queries of an item as they are; for one warp.
template <int HeadDim> __device__ __forceinline__ void fetch_queries(const LaAttend &p, const LaItem &item, const WidePlace &place, uint32_t kv_head) {
    const uint32_t width = p.num_q_heads / p.kv.num_kv_heads * HeadDim, num_tokens = item.row_end - item.row_begin;
    fence_for_copies();
    if (threadIdx.x % 32 == 0) barrier_expect(place.raw, num_tokens * width * 2);
    __syncwarp();
#pragma unroll 1
    for (uint32_t token = threadIdx.x % 32; token < num_tokens; token += 32) {
        const int64_t first = static_cast<int64_t>(p.plan.rows[item.row_begin + token].token) * p.q_stride + kv_head * width;
        copy_bulk(place.queries + token * width * 2, static_cast<const uint16_t *>(p.q) + first, width * 2, place.raw);
    }
}

// Targets and queries of one part, whose queries are on their way.
template <class Element, int HeadDim, int Rows>
__device__ __forceinline__ void prepare_part(const LaAttend &p, const LaItem &item, const LaPart &part, WideSlot &slot, const WidePlace &place, uint32_t parity) {
    constexpr uint32_t kUnits = HeadDim / 8, kStep = kPrepareThreads / kUnits;
    static_assert(kPrepareThreads % kUnits == 0 && 32 % kUnits == 0, "a thread has the same unit of every token, a row one warp");
    const uint32_t thread = threadIdx.x % 128 - 32, group_size = p.num_q_heads / p.kv.num_kv_heads;
    const uint32_t num_tokens = item.row_end - item.row_begin;
#pragma unroll 1
    for (uint32_t token = thread; token <= (Rows - 1) / group_size; token += kPrepareThreads) {
        WideRow row{-1, 0};
        if (token < num_tokens) {
            const LaRow found = p.plan.rows[item.row_begin + token];
            row = WideRow{item.first_slot == LA_WRITES_OUTPUT ? found.token : item.first_slot + static_cast<int32_t>(token), found.base - part.start};
        }
        slot.rows[token] = row;
    }
    const QueryUnit unit(p.rope, thread % kUnits);
    bool has_come = false;
#pragma unroll 1
    for (uint32_t first = 0; first < num_tokens; first += kStep) {
        const uint32_t token = first + thread / kUnits, nearest = min(token, num_tokens - 1);
        float2 angle[4];
        unit_angles(p.rope, unit, p.plan.rows[item.row_begin + nearest].base - part.start, angle);
        if (!has_come) barrier_wait(place.raw, parity);
        has_come = true;
        turn_token<Element, HeadDim>(place.queries, nearest * group_size, group_size, token < num_tokens, unit, angle);
    }
}

// Prepares every part of items [item, item_end), and a last note that says so.
template <class Element, int HeadDim, int Rows>
__device__ __forceinline__ void prepare_queries(const LaAttend &p, WideSlot &slot, const WidePlace &place, uint32_t kv_head, int32_t item_index, int32_t item_end) {
    const uint32_t thread = threadIdx.x % 128 - 32;
    uint32_t parity = 0;
    for (; item_index < item_end; item_index++) {
        const LaItem item = p.work.items[item_index];
        for (int32_t at = item.part_begin; at < item.part_end; at++) {
            const LaPart part = p.plan.parts[at];
            barrier_wait(place.empty, parity ^ 1);
            if (thread < 32) {
                fetch_queries<HeadDim>(p, item, place, kv_head);
                write_note(p, item, part, at == item.part_begin ? kNoteFirst : 0, slot.note);
            }
            prepare_part<Element, HeadDim, Rows>(p, item, part, slot, place, parity);
            barrier_arrive(place.full);
            parity ^= 1;
        }
    }
    barrier_wait(place.empty, parity ^ 1);
    if (thread == 0) slot.note.flags = kNoteEnd;
    barrier_arrive(place.full);
}
#endif

}  // namespace la
