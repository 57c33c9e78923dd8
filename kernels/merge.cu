// merge: the partials of a token become its result.
//
//   out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m),  m = max_i lse_i
//
// Layout: partials [slot, num_q_heads, HeadDim] f32, out [token, num_q_heads, HeadDim].
// Grid: warps stride over (token to merge, query head); a lane owns HeadDim / 32 neighbouring elements. It may start before attend
// ends.
// Assumes: merge lists inside the arrays of the plan (checked by the planner). A token with an empty list gets zeros.
#include "device/async.cuh"
#include "device/element.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kMergeWarps = 4;

// Merges entry `index` of the list of tokens, for one head.
template <class Element, int HeadDim> __device__ __forceinline__ void merge_row(const LaMerge &p, uint32_t index, uint32_t head) {
    constexpr int kLane = HeadDim / 32;  // elements of a lane
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = p.plan.merge_tokens[index] * p.num_q_heads + head;
    const int32_t begin = p.plan.merge_begin[index], end = p.plan.merge_begin[index + 1];
    const int32_t *__restrict__ gSlots = p.plan.merge_slots;

    float largest = -INFINITY;
    for (int32_t i = begin + static_cast<int32_t>(lane); i < end; i += 32)
        largest = fmaxf(largest, p.partials.lse[static_cast<int64_t>(gSlots[i]) * p.num_q_heads + head]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));

    float sum = 0.f, rOut[kLane] = {};
#pragma unroll 4
    for (int32_t i = begin; i < end; i++) {
        const int64_t at = static_cast<int64_t>(gSlots[i]) * p.num_q_heads + head;
        const float lse = p.partials.lse[at];
        const float weight = lse == -INFINITY ? 0.f : exp2_fast(lse - largest);
        sum += weight;
        const float *gPartial = p.partials.out + at * HeadDim + lane * kLane;
#pragma unroll
        for (int d = 0; d < kLane; d += 2) {
            const float2 pair = *reinterpret_cast<const float2 *>(gPartial + d);
            rOut[d] += weight * pair.x;
            rOut[d + 1] += weight * pair.y;
        }
    }
    const float scale = sum > 0.f ? 1.f / sum : 0.f;
    uint32_t *gOut = static_cast<uint32_t *>(p.out) + (static_cast<int64_t>(row) * HeadDim + lane * kLane) / 2;
#pragma unroll
    for (int d = 0; d < kLane; d += 2) gOut[d / 2] = Element::pack(rOut[d] * scale, rOut[d + 1] * scale);
}

template <class Element, int HeadDim> __device__ __forceinline__ void merge(const LaMerge &p) {
    wait_for_last_grid();
    const uint32_t num_rows = *p.plan.num_merges * p.num_q_heads;
    for (uint32_t row = blockIdx.x * kMergeWarps + threadIdx.x / 32; row < num_rows; row += gridDim.x * kMergeWarps)
        merge_row<Element, HeadDim>(p, row / p.num_q_heads, row % p.num_q_heads);
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
