// merge: the partials of a token become its result.
//
//   out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m),  m = max_i lse_i
//
// Layout: partials [slot, num_q_heads, HeadDim] f32, out [token, num_q_heads, HeadDim].
// Grid: while there are no more rows (token to merge, query head) than blocks, a block takes one and its warps share the list;
// else warps stride over rows. A lane owns HeadDim / 32 neighbouring elements. It may start before attend ends: it reads its lists,
// which attend does not write, and waits before it reads partials.
// Assumes: merge lists inside the arrays of the plan (checked by the planner). A token with an empty list gets zeros.
#include "device/async.cuh"
#include "device/element.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kMergeWarps = 4;
constexpr int kMergeBatch = 8;  // partials a warp loads at once

// A row, and those entries of its list that this warp takes: every `stride`-th. Lane i holds the slot of the i-th.
struct MergeRow {
    uint32_t token, head;
    const int32_t *gSlots;
    int32_t count, stride, slot;

    __device__ __forceinline__ MergeRow(const LaMerge &p, uint32_t row, uint32_t first, uint32_t stride) : stride(static_cast<int32_t>(stride)) {
        const uint32_t index = row / p.num_q_heads;
        head = row % p.num_q_heads;
        token = p.plan.merge_tokens[index];
        const int32_t begin = p.plan.merge_begin[index] + static_cast<int32_t>(first);
        count = max(0, (p.plan.merge_begin[index + 1] - begin + this->stride - 1) / this->stride);
        gSlots = p.plan.merge_slots + begin;
        slot = load(0);
    }
    // The slot of entry `from` plus the lane.
    __device__ __forceinline__ int32_t load(int32_t from) const {
        const int32_t at = from + static_cast<int32_t>(threadIdx.x % 32);
        return at < count ? gSlots[at * stride] : 0;
    }
};

// What a warp has folded: `out` and `sum` are relative to 2^largest.
template <int HeadDim> struct Folded {
    static constexpr int kLane = HeadDim / 32;
    float out[kLane] = {};
    float largest = -INFINITY, sum = 0.f;

    __device__ __forceinline__ void load(const LaMerge &p, const MergeRow &row, int32_t slot, int32_t from, int32_t count, float (&rPart)[kMergeBatch][kLane]) const {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < kMergeBatch; j++) {
            const int64_t entry = static_cast<int64_t>(__shfl_sync(~0u, slot, from + j)) * p.num_q_heads + row.head;
            const float *gPart = p.partials.out + entry * HeadDim + lane * kLane;
#pragma unroll
            for (int d = 0; d < kLane; d += 2) {
                const float2 pair = from + j < count ? *reinterpret_cast<const float2 *>(gPart + d) : make_float2(0.f, 0.f);
                rPart[j][d] = pair.x, rPart[j][d + 1] = pair.y;
            }
        }
    }
    // Folds up to 32 entries, lane i's being that in `slot`.
    __device__ __forceinline__ void add(const LaMerge &p, const MergeRow &row, int32_t slot, int32_t count) {
        float rPart[kMergeBatch][kLane];
        const float lse = static_cast<int32_t>(threadIdx.x % 32) < count ? p.partials.lse[static_cast<int64_t>(slot) * p.num_q_heads + row.head] : -INFINITY;
        load(p, row, slot, 0, count, rPart);
        float high = fmaxf(lse, largest);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, step));
        const float shift = high == -INFINITY ? 0.f : high;
        const float keep = exp2_fast(largest - shift), weight = exp2_fast(lse - shift);
        float added = weight;
#pragma unroll
        for (int step = 16; step > 0; step /= 2) added += __shfl_xor_sync(~0u, added, step);
        largest = high;
        sum = sum * keep + added;
#pragma unroll
        for (int d = 0; d < kLane; d++) out[d] *= keep;
        for (int32_t from = 0; from < count; from += kMergeBatch) {
            if (from > 0) load(p, row, slot, from, count, rPart);
#pragma unroll
            for (int j = 0; j < kMergeBatch; j++) {
                const float own = __shfl_sync(~0u, weight, from + j);
#pragma unroll
                for (int d = 0; d < kLane; d++) out[d] += own * rPart[j][d];
            }
        }
    }
    __device__ __forceinline__ void add_all(const LaMerge &p, const MergeRow &row) {
        add(p, row, row.slot, min(row.count, 32));
        for (int32_t from = 32; from < row.count; from += 32) add(p, row, row.load(from), min(row.count - from, 32));
    }
};

template <class Element> __device__ __forceinline__ void write_pair(const LaMerge &p, const MergeRow &row, uint32_t head_dim, uint32_t dim, float low, float high) {
    const int64_t entry = static_cast<int64_t>(row.token) * p.num_q_heads + row.head;
    static_cast<uint32_t *>(p.out)[(entry * head_dim + dim) / 2] = Element::pack(low, high);
}

// A block takes one row.
template <class Element, int HeadDim> __device__ __forceinline__ void merge_by_block(const LaMerge &p, uint32_t row_index) {
    __shared__ float sOut[kMergeWarps][HeadDim];
    __shared__ float2 sScale[kMergeWarps];  // largest, sum
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const MergeRow row(p, row_index, warp, kMergeWarps);
    wait_for_last_grid();
    Folded<HeadDim> folded;
    folded.add_all(p, row);
#pragma unroll
    for (int d = 0; d < folded.kLane; d++) sOut[warp][lane * folded.kLane + d] = folded.out[d];
    if (lane == 0) sScale[warp] = make_float2(folded.largest, folded.sum);
    __syncthreads();
    const uint32_t dim = 2 * threadIdx.x;
    if (dim >= HeadDim) return;
    float largest = -INFINITY, sum = 0.f, low = 0.f, high = 0.f;
#pragma unroll
    for (uint32_t w = 0; w < kMergeWarps; w++) largest = fmaxf(largest, sScale[w].x);
#pragma unroll
    for (uint32_t w = 0; w < kMergeWarps; w++) {
        const float weight = sScale[w].x == -INFINITY ? 0.f : exp2_fast(sScale[w].x - largest);
        sum += weight * sScale[w].y;
        low += weight * sOut[w][dim];
        high += weight * sOut[w][dim + 1];
    }
    const float scale = sum > 0.f ? 1.f / sum : 0.f;
    write_pair<Element>(p, row, HeadDim, dim, low * scale, high * scale);
}

// A warp takes one row after another.
template <class Element, int HeadDim> __device__ __forceinline__ void merge_by_warps(const LaMerge &p, uint32_t num_rows) {
    uint32_t index = blockIdx.x * kMergeWarps + threadIdx.x / 32;
    if (index >= num_rows) return wait_for_last_grid();
    MergeRow row(p, index, 0, 1);
    wait_for_last_grid();
    for (;;) {
        Folded<HeadDim> folded;
        folded.add_all(p, row);
        const float scale = folded.sum > 0.f ? 1.f / folded.sum : 0.f;
#pragma unroll
        for (int d = 0; d < folded.kLane; d += 2)
            write_pair<Element>(p, row, HeadDim, threadIdx.x % 32 * folded.kLane + d, folded.out[d] * scale, folded.out[d + 1] * scale);
        index += gridDim.x * kMergeWarps;
        if (index >= num_rows) return;
        row = MergeRow(p, index, 0, 1);
    }
}

template <class Element, int HeadDim> __device__ __forceinline__ void merge(const LaMerge &p) {
    next_grid_may_start();
    const uint32_t num_rows = *p.plan.num_merges * p.num_q_heads;
    if (num_rows > gridDim.x) {
        merge_by_warps<Element, HeadDim>(p, num_rows);
    } else if (blockIdx.x < num_rows) {
        merge_by_block<Element, HeadDim>(p, blockIdx.x);
    } else {
        wait_for_last_grid();
    }
}

}  // namespace la

#define LA_MERGE(name, element, head_dim)                                                              \
    extern "C" __global__ void __launch_bounds__(32 * la::kMergeWarps) name(const __grid_constant__ LaMerge p) { \
        la::merge<la::element, head_dim>(p);                                                           \
    }
LA_MERGE(la_merge_bf16_d64, Bf16, 64)
LA_MERGE(la_merge_bf16_d128, Bf16, 128)
LA_MERGE(la_merge_f16_d64, F16, 64)
LA_MERGE(la_merge_f16_d128, F16, 128)
