// The preparing side of attend's wide classes on sm_90a: three warps rotate the queries of the next part while the warpgroups still
// compute with those of the last, and leave them in shared memory with a note of what the part is. One of them reads the plan and starts the
// copies of queries, two parts ahead; the others and the warpgroups read shared memory alone.
#pragma once
#include "async.cuh"
#include "element.cuh"
#include "lazy_kernels.h"
#include "rope.cuh"
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
    int32_t num_tokens;
    uint32_t num_claimed;  // tokens whose queries a warp has begun to rotate
    int32_t padding;
};

// A query token of the item.
struct alignas(8) WideRow {
    int32_t target;    // row of the output or slot of a partial; -1 behind the last token
    int32_t distance;  // from the part's token 0
};

// What a buffer of queries is for.
struct WideSlot {
    WideNote note;
    WideRow rows[128];
};

constexpr uint32_t kQueryBuffers = 2;
constexpr uint32_t kPrepareThreads = 96;

// Buffers of queries, and the barriers of each for "come from memory", "rotated" and "taken".
struct WideBuffers {
    uint64_t raw[kQueryBuffers], full[kQueryBuffers], empty[kQueryBuffers];
    WideSlot slot[kQueryBuffers];
};

// Shared addresses of the same.
struct WidePlace {
    uint32_t queries;  // of buffer 0
    uint32_t bytes;    // of a buffer
    uint32_t raw, full, empty;

    __device__ __forceinline__ uint32_t queries_of(uint32_t buffer) const { return queries + buffer * bytes; }
    __device__ __forceinline__ uint32_t raw_of(uint32_t buffer) const { return raw + 8 * buffer; }
    __device__ __forceinline__ uint32_t full_of(uint32_t buffer) const { return full + 8 * buffer; }
    __device__ __forceinline__ uint32_t empty_of(uint32_t buffer) const { return empty + 8 * buffer; }
    // For `readers` threads that take queries; whoever writes or reads arrives for itself.
    __device__ __forceinline__ void init(uint32_t readers) const {
#pragma unroll
        for (uint32_t buffer = 0; buffer < kQueryBuffers; buffer++) {
            barrier_init(raw_of(buffer), 32);
            barrier_init(full_of(buffer), kPrepareThreads);
            barrier_init(empty_of(buffer), readers);
        }
    }
};

// Where the warp that announces is in its worker's plan. It keeps no more than this, and reads the rest each time: nobody waits for it but
// the part after the next.
struct NextPart {
    int32_t item;
    int32_t part = 0;  // of the item
};

// Begins a part in a buffer of queries that nobody needs any more: writes its rows and note, and starts copying its queries as they
// are. For one warp.
template <int HeadDim, int Rows>
__device__ __forceinline__ void announce_part(const LaAttend &p, const LaItem &item, const LaPart &part, int32_t first_flag, uint32_t kv_head, WideSlot &slot,
                                              uint32_t sQueries, uint32_t sRaw) {
    const uint32_t lane = threadIdx.x % 32, group_size = p.num_q_heads / p.kv.num_kv_heads, width = group_size * HeadDim;
    const int32_t num_tokens = item.row_end - item.row_begin, window = static_cast<int32_t>(p.window);
    const bool is_causal = part.flags & LA_PART_CAUSAL, is_output = item.first_slot == LA_WRITES_OUTPUT;
    int32_t nearest = INT32_MAX, farthest = INT32_MIN;
    fence_for_copies();
#pragma unroll 1
    for (int32_t token = lane; token <= (Rows - 1) / static_cast<int32_t>(group_size); token += 32) {
        WideRow row{-1, 0};
        if (token < num_tokens) {
            const LaRow found = p.plan.rows[item.row_begin + token];
            row = WideRow{is_output ? found.token : item.first_slot + token, found.base - part.start};
            const int64_t first = static_cast<int64_t>(found.token) * p.q_stride + kv_head * width;
            // Bytes may complete before they are announced; the buffer has not come before both.
            copy_bulk(sQueries + token * width * 2, static_cast<const uint16_t *>(p.q) + first, width * 2, sRaw);
            nearest = min(nearest, row.distance), farthest = max(farthest, row.distance);
        }
        slot.rows[token] = row;
    }
    nearest = __reduce_min_sync(~0u, nearest), farthest = __reduce_max_sync(~0u, farthest);
    if (lane == 0) {
        const int32_t flags = (is_causal ? kNoteCausal : 0) | first_flag | (is_output ? kNoteOutput : 0);
        const int2 full = make_int2(window ? farthest - window + 1 : INT32_MIN, is_causal ? min(part.key_end, nearest + 1) : part.key_end);
        slot.note = WideNote{part.key_begin, part.key_end, full.x, full.y, flags, num_tokens, 0};
        barrier_expect(sRaw, num_tokens * width * 2);
    } else {
        barrier_arrive(sRaw);
    }
}

// Announces the next part, or the end. For one warp.
template <int HeadDim, int Rows>
__device__ __forceinline__ void announce_next(const LaAttend &p, const LaStart &start, NextPart &next, RingPlace &buffer, WideBuffers &buffers, const WidePlace &queries, uint32_t kv_head) {
    const bool is_end = next.item >= start.item_end;
    LaItem item;
    LaPart part;
    if (!is_end) {
        // The first of each lie in the start.
        item = next.item == start.item_begin ? start.item : p.work.items[next.item];
        part = next.item == start.item_begin && next.part == 0 ? start.part : p.plan.parts[item.part_begin + next.part];
    }
    barrier_wait(queries.empty_of(buffer.stage), buffer.parity ^ 1);
    if (is_end) {
        if (threadIdx.x % 32 == 0) buffers.slot[buffer.stage].note.flags = kNoteEnd;
        barrier_arrive(queries.raw_of(buffer.stage));
    } else {
        const int32_t first_flag = next.part == 0 ? kNoteFirst : 0;
        announce_part<HeadDim, Rows>(p, item, part, first_flag, kv_head, buffers.slot[buffer.stage], queries.queries_of(buffer.stage), queries.raw_of(buffer.stage));
        if (++next.part == item.part_end - item.part_begin) next = NextPart{next.item + 1};
    }
    buffer.advance(kQueryBuffers);
}

// Four dimensions of a row and their partners, from `low` and from `high` on. Where nothing rotates, partners are merely neighbours.
struct QueryUnit {
    uint32_t low, high;
    bool rotates;

    __device__ __forceinline__ QueryUnit(const LaRope &rope, uint32_t unit) {
        const uint32_t pairs = rope.rotary_dim / 2;
        rotates = 4 * unit < pairs;
        low = rotates ? 4 * unit : rope.rotary_dim + 8 * (unit - pairs / 4);
        high = low + (rotates ? pairs : 4);
    }
    // Cosines and sines of its pairs.
    __device__ __forceinline__ void angles(const LaRope &rope, int32_t distance, float2 (&angle)[4]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const PairAngles two(rope.turns, rotates ? low + 2 * i : 0, rotates ? distance : 0);
            angle[2 * i] = two.first, angle[2 * i + 1] = two.second;
        }
    }
};

// Rotates two pairs.
template <class Element> __device__ __forceinline__ void turn_two(uint32_t &low, uint32_t &high, float2 first, float2 second) {
    const float2 x = Element::unpack(low), y = Element::unpack(high);
    low = Element::pack(x.x * first.x - y.x * first.y, x.y * second.x - y.y * second.y);
    high = Element::pack(y.x * first.x + x.x * first.y, y.y * second.x + x.y * second.y);
}

// Rotates a buffer of queries in place. The lanes of a row read it as it came and write it as query_byte says. There is no branch but
// those of the loops, so that rows of several heads hide each other's latency: a warp is alone here.
template <class Element, int HeadDim>
__device__ __forceinline__ void turn_queries(const LaAttend &p, WideSlot &slot, uint32_t sQueries) {
    constexpr uint32_t kUnits = HeadDim / 8, kBatch = 2;
    static_assert(32 % kUnits == 0, "the lanes of a row are of one warp");
    const uint32_t lane = threadIdx.x % 32, group_size = p.num_q_heads / p.kv.num_kv_heads, num_tokens = slot.note.num_tokens;
    const QueryUnit unit(p.rope, lane % kUnits);
#pragma unroll 1
    for (;;) {
        uint32_t first = 0;
        if (lane == 0) first = atomicAdd(&slot.note.num_claimed, 32 / kUnits);
        first = __shfl_sync(~0u, first, 0);
        if (first >= num_tokens) return;
        const uint32_t token = first + lane / kUnits;
        float2 angle[4];
        unit.angles(p.rope, slot.rows[min(token, num_tokens - 1)].distance, angle);
#pragma unroll 1
        for (uint32_t head = 0; head < group_size; head += kBatch) {
            const uint32_t row = token * group_size + head, num_rows = token < num_tokens ? group_size - head : 0;
            uint2 rLow[kBatch], rHigh[kBatch];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; i++) {
                if (i >= num_rows) continue;
                const uint32_t sRow = sQueries + (row + i) * HeadDim * 2;
                rLow[i] = load_shared(sRow + unit.low * 2);
                rHigh[i] = load_shared(sRow + unit.high * 2);
            }
            __syncwarp();
#pragma unroll
            for (uint32_t i = 0; i < kBatch; i++) {
                turn_two<Element>(rLow[i].x, rHigh[i].x, angle[0], angle[1]);
                turn_two<Element>(rLow[i].y, rHigh[i].y, angle[2], angle[3]);
            }
#pragma unroll
            for (uint32_t i = 0; i < kBatch; i++) {
                if (i >= num_rows) continue;
                store_shared(sQueries + query_byte<HeadDim>(row + i, unit.low / 8) + unit.low % 8 * 2, rLow[i]);
                store_shared(sQueries + query_byte<HeadDim>(row + i, unit.high / 8) + unit.high % 8 * 2, rHigh[i]);
            }
        }
    }
}

// Announces all parts of a worker, each before the queries of the part before it are rotated, and rotates the queries of every part. One warp
// of the three announces, and so rotates less.
template <class Element, int HeadDim, int Rows>
__device__ __forceinline__ void prepare_parts(const LaAttend &p, WideBuffers &buffers, const WidePlace &queries, uint32_t kv_head, const LaStart &start) {
    const bool announces = threadIdx.x % 128 < 64;
    NextPart next{start.item_begin};
    RingPlace buffer, ahead;
    if (announces) announce_next<HeadDim, Rows>(p, start, next, ahead, buffers, queries, kv_head);
#pragma unroll 1
    for (;;) {
        WideSlot &slot = buffers.slot[buffer.stage];
        barrier_wait(queries.raw_of(buffer.stage), buffer.parity);
        const bool is_end = slot.note.flags & kNoteEnd;
        if (!is_end) {
            if (announces) announce_next<HeadDim, Rows>(p, start, next, ahead, buffers, queries, kv_head);
            turn_queries<Element, HeadDim>(p, slot, queries.queries_of(buffer.stage));
        }
        barrier_arrive(queries.full_of(buffer.stage));
        if (is_end) return;
        buffer.advance(kQueryBuffers);
    }
}
#endif

}  // namespace la
