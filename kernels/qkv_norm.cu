// qkv_norm: bias, and the norm of every query and key head, in place, before rope_append and attend rotate them.
//
//   x = round(x + bias)      q, k heads: x = x / sqrt(mean(x^2) + eps) * weight
//
// Layout: qkv [num_tokens, (num_q_heads + 2 * num_kv_heads) * HeadDim], queries, keys, values; bias of one such row or null;
// q_weight, k_weight [HeadDim] or both null.
// Grid: HeadDim / 8 lanes take a head, a vector of 8 elements each; groups of lanes stride over the heads of all tokens.
// Assumes: rows aligned to 16 bytes (checked by the wrapper). The mean is in f32, of the rounded sum.
#include "device/element.cuh"
#include "device/vector.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kQkvThreads = 256;

template <class Element, int HeadDim> __device__ __forceinline__ void qkv_norm(const LaQkvNorm &p) {
    constexpr int kLanes = HeadDim / kVector;  // lanes of a head
    static_assert(32 % kLanes == 0, "a head lies in one warp");
    const uint32_t num_heads = p.num_q_heads + 2 * p.num_kv_heads;
    const uint64_t num_tasks = static_cast<uint64_t>(p.num_tokens) * num_heads * kLanes;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * kQkvThreads;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * kQkvThreads + threadIdx.x;
    uint4 *gQkv = static_cast<uint4 *>(p.qkv);
    const uint32_t lane = threadIdx.x % kLanes;
    // Whole warps go round together: the sum below is over all lanes of a head.
    for (uint64_t task = first; task - threadIdx.x % 32 < num_tasks; task += stride) {
        const bool is_inside = task < num_tasks;
        const uint32_t head = static_cast<uint32_t>(task / kLanes % num_heads);
        uint4 x = is_inside ? gQkv[task] : make_uint4(0, 0, 0, 0);
        if (p.bias != nullptr)
            x = zip_pairs<Element>(x, static_cast<const uint4 *>(p.bias)[head * kLanes + lane], [](float x, float bias) { return x + bias; });
        const float mean = sum_of_lanes<kLanes>(sum_of_squares<Element>(x)) / HeadDim;
        const bool is_key = head >= p.num_q_heads;
        if (p.q_weight != nullptr && head < p.num_q_heads + p.num_kv_heads) {
            const float scale = rsqrtf(mean + p.eps);
            const uint4 weight = static_cast<const uint4 *>(is_key ? p.k_weight : p.q_weight)[lane];
            x = zip_pairs<Element>(x, weight, [scale](float x, float weight) { return x * scale * weight; });
        }
        if (is_inside) gQkv[task] = x;
    }
}

}  // namespace la

#define LA_QKV_NORM(name, element, head_dim)                                                          \
    extern "C" __global__ void __launch_bounds__(la::kQkvThreads) name(const __grid_constant__ LaQkvNorm p) { \
        la::qkv_norm<la::element, head_dim>(p);                                                       \
    }
LA_QKV_NORM(la_qkv_norm_bf16_d64, Bf16, 64)
LA_QKV_NORM(la_qkv_norm_bf16_d128, Bf16, 128)
LA_QKV_NORM(la_qkv_norm_f16_d64, F16, 64)
LA_QKV_NORM(la_qkv_norm_f16_d128, F16, 128)
