// The query rows of an item as a thread of a matrix fragment sees them, and their rotation in registers.
//
// Rows of the matrix are (token, query head of the group) pairs, the head running fastest. In a 16 x 16 fragment a lane holds
// rows lane / 4 and lane / 4 + 8. Elements d and d + HeadDim / 2 of a row lie in fragments of the same lane, so that rotating
// needs no exchange between lanes.
#pragma once
#include "element.cuh"
#include "lazy_kernels.h"
#include "rope.cuh"

namespace la {

// A row of an item: a query token and head.
struct TargetRow {
    int32_t index;  // of the token in the item
    int32_t token;
    uint32_t head;
    bool is_valid;

    // `rows` are those of the item. Rows past the last one repeat the first token, so that they do not widen the range of distances.
    __device__ __forceinline__ TargetRow(const LaAttend &p, const LaItem &item, const LaRow *rows, uint32_t kv_head, uint32_t matrix_row) {
        const uint32_t group_size = p.num_q_heads / p.kv.num_kv_heads;
        const uint32_t wanted = matrix_row / group_size;
        is_valid = wanted < static_cast<uint32_t>(item.row_end - item.row_begin);
        index = is_valid ? wanted : 0;
        token = rows[index].token;
        head = kv_head * group_size + matrix_row % group_size;
    }
    __device__ __forceinline__ TargetRow(const LaAttend &p, const LaItem &item, uint32_t kv_head, uint32_t matrix_row)
        : TargetRow(p, item, p.plan.rows + item.row_begin, kv_head, matrix_row) {}
    // Entry of this head in an array of [rows, num_q_heads].
    __device__ __forceinline__ int64_t entry(const LaAttend &p, int64_t row) const { return row * p.num_q_heads + head; }
};

// The same, as far as scores need it.
struct QueryRow {
    int32_t base;
    uint32_t first_pair;  // where the row's elements begin in q, in pairs; kNone for a row past the last

    static constexpr uint32_t kNone = ~0u;

    __device__ __forceinline__ QueryRow(const LaAttend &p, const LaItem &item, const LaRow *rows, uint32_t kv_head, uint32_t matrix_row) {
        const TargetRow row(p, item, rows, kv_head, matrix_row);
        base = rows[row.index].base;
        first_pair = row.is_valid ? row.token * (p.q_stride / 2) + row.head * (p.kv.head_dim / 2) : kNone;
    }
    __device__ __forceinline__ QueryRow(const LaAttend &p, const LaItem &item, uint32_t kv_head, uint32_t matrix_row)
        : QueryRow(p, item, p.plan.rows + item.row_begin, kv_head, matrix_row) {}
    // Elements [dim, dim + 2), or zeros.
    __device__ __forceinline__ uint32_t pair(const void *gQ, uint32_t dim) const {
        return first_pair == kNone ? 0 : __ldg(static_cast<const uint32_t *>(gQ) + first_pair + dim / 2);
    }
};

// Rotates elements [dim, dim + 2) of a row when not all dimensions rotate: partners come from memory.
template <class Element>
__device__ __forceinline__ uint32_t rotated_query_pair(const LaAttend &p, const QueryRow &row, uint32_t dim, int32_t distance) {
    const LaRope &rope = p.rope;
    const uint32_t pairs = rope.rotary_dim / 2;
    const uint32_t own = row.pair(p.q, dim);
    if (dim >= rope.rotary_dim) return Element::operand(own);
    const bool is_low = dim < pairs;
    const float2 partner = Element::unpack(row.pair(p.q, is_low ? dim + pairs : dim - pairs));
    const float2 mine = Element::unpack(own);
    const PairAngles angles(rope.turns, is_low ? dim : dim - pairs, distance);
    const float2 turned = is_low ? angles.low(mine, partner) : angles.high(partner, mine);
    return Element::pack(turned.x, turned.y);
}

// Rotates elements [pair, pair + 2) of two rows, and their partners half a head further on: of row r in component r.
template <class Element, int HeadDim>
__device__ __forceinline__ void rotate_pairs(const LaAttend &p, const QueryRow (&rows)[2], uint32_t pair, const int32_t (&distance)[2], uint2 &low, uint2 &high) {
    PairAngles angles(p.rope.turns, pair, distance[0]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (r == 1 && distance[1] != distance[0]) angles = PairAngles(p.rope.turns, pair, distance[1]);
        const float2 x = Element::unpack(rows[r].pair(p.q, pair)), y = Element::unpack(rows[r].pair(p.q, pair + HeadDim / 2));
        const float2 turned_low = angles.low(x, y), turned_high = angles.high(x, y);
        (r == 0 ? low.x : low.y) = Element::pack(turned_low.x, turned_low.y);
        (r == 0 ? high.x : high.y) = Element::pack(turned_high.x, turned_high.y);
    }
}

// Fills the fragments of two rows with queries rotated to their distances from a part's token 0.
template <class Element, int HeadDim>
__device__ __forceinline__ void rotate_queries(const LaAttend &p, const QueryRow (&rows)[2], int32_t start, uint32_t (&rQ)[HeadDim / 16][4]) {
    const uint32_t column = threadIdx.x % 4 * 2;
    const int32_t distance[2] = {rows[0].base - start, rows[1].base - start};
    if (p.rope.rotary_dim != HeadDim) {
#pragma unroll
        for (int k = 0; k < HeadDim / 16; k++)
#pragma unroll
            for (int j = 0; j < 4; j++) rQ[k][j] = rotated_query_pair<Element>(p, rows[j % 2], k * 16 + column + j / 2 * 8, distance[j % 2]);
        return;
    }
#pragma unroll
    for (int k = 0; k < HeadDim / 32; k++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint2 low, high;
            rotate_pairs<Element, HeadDim>(p, rows, k * 16 + column + half * 8, distance, low, high);
            rQ[k][2 * half] = low.x, rQ[k][2 * half + 1] = low.y;
            rQ[k + HeadDim / 32][2 * half] = high.x, rQ[k + HeadDim / 32][2 * half + 1] = high.y;
        }
    }
}

// Which keys of a part a row sees, and between which bounds every row of the warp sees all of them. What one row sees is worked
// out where a tile needs a mask, so that no registers hold it over the others.
struct Visibility {
    int32_t full_begin;
    int32_t full_end;

    __device__ __forceinline__ Visibility(const LaAttend &p, const LaPart &part, int2 bases) {
        const bool is_causal = part.flags & LA_PART_CAUSAL;
        const int32_t window = static_cast<int32_t>(p.window);
        full_end = is_causal ? min(part.key_end, bases.x - part.start + 1) : part.key_end;
        full_begin = window ? bases.y - part.start - window + 1 : INT32_MIN;
    }
    __device__ __forceinline__ bool is_full(int32_t key_begin, int32_t key_end) const { return key_begin >= full_begin && key_end <= full_end; }

    // Keys [first, one past the last) of one row.
    static __device__ __forceinline__ int2 of_row(const LaAttend &p, const LaPart &part, const QueryRow &row) {
        const int32_t distance = row.base - part.start, window = static_cast<int32_t>(p.window);
        return make_int2(window ? distance - window + 1 : INT32_MIN, part.flags & LA_PART_CAUSAL ? min(part.key_end, distance + 1) : part.key_end);
    }
};

// Hides the scores of keys that a row does not see. Column `n * 8 + 2 * (lane % 4) + j % 2` is key `key_begin` and on.
template <int N>
__device__ __forceinline__ void mask_scores(const LaAttend &p, const LaPart &part, const QueryRow (&rows)[2], int32_t key_begin, float (&score)[N][4]) {
    const int32_t first = key_begin + static_cast<int32_t>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int2 seen = Visibility::of_row(p, part, rows[r]);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int32_t key = first + n * 8 + j;
                if (key < seen.x || key >= seen.y) score[n][2 * r + j] = -INFINITY;
            }
    }
}

// Smallest and largest base among the rows of the warp.
__device__ __forceinline__ int2 base_range(const QueryRow (&rows)[2]) {
    int32_t low = min(rows[0].base, rows[1].base), high = max(rows[0].base, rows[1].base);
#pragma unroll
    for (int step = 16; step > 2; step /= 2) {
        low = min(low, __shfl_xor_sync(~0u, low, step));
        high = max(high, __shfl_xor_sync(~0u, high, step));
    }
    return make_int2(low, high);
}

}  // namespace la
