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

// Four dimensions of a row and their partners, from `low` and from `high` on. Where nothing rotates, partners are merely neighbours, and
// turn by nothing.
struct QueryUnit {
    uint32_t low, high;
    uint64_t turns[4];

    __device__ __forceinline__ QueryUnit(const LaRope &rope, uint32_t unit) {
        const uint32_t pairs = rope.rotary_dim / 2;
        const bool rotates = 4 * unit < pairs;
        low = rotates ? 4 * unit : rope.rotary_dim + 8 * (unit - pairs / 4);
        high = low + (rotates ? pairs : 4);
#pragma unroll
        for (int i = 0; i < 4; i++) turns[i] = rotates ? __ldg(rope.turns + low + i) : 0;
    }
    // Cosines and sines of its pairs.
    __device__ __forceinline__ void angles(int32_t distance, float2 (&angle)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) angle[i] = angle_of(turns[i], distance);
    }
};

// Rotates two pairs.
template <class Element> __device__ __forceinline__ void turn_two(uint32_t &low, uint32_t &high, float2 first, float2 second) {
    const float2 x = Element::unpack(low), y = Element::unpack(high);
    low = Element::pack(x.x * first.x - y.x * first.y, x.y * second.x - y.y * second.y);
    high = Element::pack(y.x * first.x + x.x * first.y, y.y * second.x + x.y * second.y);
}

// Rotates a unit of `Rows` rows in place, neighbours if there are two, of which the first is even: reads it as it came and writes it as
// query_byte says. `exists`: else lanes do nothing, but wait for those beside them.
template <class Element, int HeadDim, int Rows>
__device__ __forceinline__ void turn_rows(uint32_t sQueries, uint32_t row, const QueryUnit &unit, const float2 (&angle)[4], bool exists) {
    const uint32_t sRow = sQueries + row * HeadDim * 2;
    uint2 rLow[Rows], rHigh[Rows];
    if (exists) {
#pragma unroll
        for (uint32_t i = 0; i < Rows; i++) {
            rLow[i] = load_shared(sRow + unit.low * 2 + i * HeadDim * 2);
            rHigh[i] = load_shared(sRow + unit.high * 2 + i * HeadDim * 2);
        }
    }
    __syncwarp();
    if (exists) {
        // The row behind an even one flips the last bit of a group's place.
        const uint32_t sLow = sQueries + query_byte<HeadDim>(row, unit.low / 8) + unit.low % 8 * 2;
        const uint32_t sHigh = sQueries + query_byte<HeadDim>(row, unit.high / 8) + unit.high % 8 * 2;
#pragma unroll
        for (uint32_t i = 0; i < Rows; i++) {
            turn_two<Element>(rLow[i].x, rHigh[i].x, angle[0], angle[1]);
            turn_two<Element>(rLow[i].y, rHigh[i].y, angle[2], angle[3]);
            store_shared((sLow ^ i * 16) + i * HeadDim * 2, rLow[i]);
            store_shared((sHigh ^ i * 16) + i * HeadDim * 2, rHigh[i]);
        }
    }
}

// Rotates a buffer of queries, token by token, until no warp finds one. A warp is alone here: two rows hide each other's latency.
template <class Element, int HeadDim>
__device__ __forceinline__ void turn_queries(const LaAttend &p, WideSlot &slot, uint32_t sQueries, const QueryUnit &unit) {
    constexpr uint32_t kUnits = HeadDim / 8;
    static_assert(32 % kUnits == 0, "the lanes of a row are of one warp");
    const uint32_t lane = threadIdx.x % 32, group_size = p.num_q_heads / p.kv.num_kv_heads, num_tokens = slot.note.num_tokens;
    const bool has_pairs = group_size % 2 == 0;
    uint32_t claim = 0;
    if (lane == 0) claim = atomicAdd(&slot.note.num_claimed, 32 / kUnits);
#pragma unroll 1
    for (;;) {
        const uint32_t first = __shfl_sync(~0u, claim, 0);
        if (first >= num_tokens) return;
        if (lane == 0) claim = atomicAdd(&slot.note.num_claimed, 32 / kUnits);
        const uint32_t token = first + lane / kUnits;
        const bool exists = token < num_tokens;
        float2 angle[4];
        unit.angles(slot.rows[min(token, num_tokens - 1)].distance, angle);
        uint32_t row = token * group_size;
        if (has_pairs) {
#pragma unroll 1
            for (const uint32_t end = row + group_size; row < end; row += 2) turn_rows<Element, HeadDim, 2>(sQueries, row, unit, angle, exists);
        } else {
#pragma unroll 1
            for (const uint32_t end = row + group_size; row < end; row++) turn_rows<Element, HeadDim, 1>(sQueries, row, unit, angle, exists);
        }
    }
}

// Rotates the queries of every part. `Announces`: also announces all parts of a worker, each before the queries of the part before it are
// rotated, and so rotates less.
template <class Element, int HeadDim, int Rows, bool Announces>
__device__ __forceinline__ void prepare_parts(const LaAttend &p, WideBuffers &buffers, const WidePlace &queries, uint32_t kv_head, const LaStart &start) {
    const QueryUnit unit(p.rope, threadIdx.x % (HeadDim / 8));
    NextPart next{start.item_begin};
    RingPlace buffer, ahead;
    if (Announces) announce_next<HeadDim, Rows>(p, start, next, ahead, buffers, queries, kv_head);
#pragma unroll 1
    for (;;) {
        WideSlot &slot = buffers.slot[buffer.stage];
        barrier_wait(queries.raw_of(buffer.stage), buffer.parity);
        const bool is_end = slot.note.flags & kNoteEnd;
        if (!is_end) {
            if (Announces) announce_next<HeadDim, Rows>(p, start, next, ahead, buffers, queries, kv_head);
            turn_queries<Element, HeadDim>(p, slot, queries.queries_of(buffer.stage), unit);
        }
        barrier_arrive(queries.full_of(buffer.stage));
        if (is_end) return;
        buffer.advance(kQueryBuffers);
    }
}
#endif

}  // namespace la
