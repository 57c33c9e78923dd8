// rope_append: keys rotated once, to their segment-local position, and values, written into their blocks.
//
//   K[slot] = R(local) k      V[slot] = v      slots up to zero_end: 0
//
// The first write to a block zeroes the slots behind it: attend reads them with probability zero, and zero times NaN is NaN.
//
// Layout: k, v [token, num_kv_heads, HeadDim]; blocks as la_block_byte says.
// Grid: a thread moves, for one (token, KV head), group i and group i + HeadDim / 16 of 8 elements: with half-split pairs and
// all dimensions rotating these are each other's partners. Blocks stride over the writes.
// Assumes: 16-byte aligned rows, blocks and slots inside the store (checked by the planner and the wrapper); no two writes to one
// slot. Angles are right to 5e-7, and the key is rounded once.
#include "device/async.cuh"
#include "device/element.cuh"
#include "device/rope.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kAppendThreads = 256;

// Element `dim` of a rotated row, and its right neighbour.
template <class Element>
__device__ __forceinline__ uint32_t rotated_pair(const uint32_t *__restrict__ gRow, const LaRope &rope, uint32_t dim, int32_t distance) {
    if (dim >= rope.rotary_dim) return gRow[dim / 2];
    const float2 turned = rotated_values<Element>(gRow, rope, dim, distance);
    return Element::pack(turned.x, turned.y);
}

template <class Element, int HeadDim> __device__ __forceinline__ void rope_append(const LaAppend &p) {
    constexpr uint32_t kThreads = HeadDim / 16;  // threads of a (token, head)
    constexpr uint32_t kBytes = HeadDim * 2;
    const uint64_t num_tasks = static_cast<uint64_t>(*p.num_writes) * p.kv.num_kv_heads * kThreads;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * kAppendThreads;
    next_grid_may_start();
    wait_for_last_grid();
    for (uint64_t task = static_cast<uint64_t>(blockIdx.x) * kAppendThreads + threadIdx.x; task < num_tasks; task += stride) {
        const uint32_t low = task % kThreads, high = low + kThreads;  // groups of 8 elements
        const uint64_t token_head = task / kThreads;
        const uint32_t head = token_head % p.kv.num_kv_heads;
        const LaWrite write = p.writes[token_head / p.kv.num_kv_heads];
        const int64_t head_byte = static_cast<int64_t>(write.block) * p.kv.block_stride + static_cast<int64_t>(head) * p.kv.block_size * kBytes;
        const uint32_t low_byte = group_byte<HeadDim>(write.slot, low), high_byte = group_byte<HeadDim>(write.slot, high);

        const uint4 *gV = reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(p.v) + write.token * p.v_stride + head * HeadDim);
        char *gValues = static_cast<char *>(p.kv.v) + head_byte;
        *reinterpret_cast<uint4 *>(gValues + low_byte) = gV[low];
        *reinterpret_cast<uint4 *>(gValues + high_byte) = gV[high];

        const uint32_t *gK = reinterpret_cast<const uint32_t *>(static_cast<const uint16_t *>(p.k) + write.token * p.k_stride + head * HeadDim);
        char *gKeys = static_cast<char *>(p.kv.k) + head_byte;
        uint32_t rLow[4], rHigh[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            rLow[i] = rotated_pair<Element>(gK, p.rope, low * 8 + 2 * i, write.local);
            rHigh[i] = rotated_pair<Element>(gK, p.rope, high * 8 + 2 * i, write.local);
        }
        *reinterpret_cast<uint4 *>(gKeys + low_byte) = make_uint4(rLow[0], rLow[1], rLow[2], rLow[3]);
        *reinterpret_cast<uint4 *>(gKeys + high_byte) = make_uint4(rHigh[0], rHigh[1], rHigh[2], rHigh[3]);

        for (int32_t slot = write.slot + 1; slot < write.zero_end; slot++)
            for (uint32_t group = low; group <= high; group += kThreads) {
                *reinterpret_cast<uint4 *>(gKeys + group_byte<HeadDim>(slot, group)) = make_uint4(0, 0, 0, 0);
                *reinterpret_cast<uint4 *>(gValues + group_byte<HeadDim>(slot, group)) = make_uint4(0, 0, 0, 0);
            }
    }
}

}  // namespace la

#define LA_ROPE_APPEND(name, element, head_dim)                                                      \
    extern "C" __global__ void __launch_bounds__(la::kAppendThreads) name(const __grid_constant__ LaAppend p) { \
        la::rope_append<la::element, head_dim>(p);                                                   \
    }
LA_ROPE_APPEND(la_rope_append_bf16_d64, Bf16, 64)
LA_ROPE_APPEND(la_rope_append_bf16_d128, Bf16, 128)
LA_ROPE_APPEND(la_rope_append_f16_d64, F16, 64)
LA_ROPE_APPEND(la_rope_append_f16_d128, F16, 128)
