// reencode with 8-bit blocks: a copy of the blocks for every place, its keys moved to that place and rounded again.
//
//   K[to] = e4m3(R(distance) s_from K[from] / s_to)      V[to] = V[from], scale and all
//
// Layout: blocks as la_block_byte_8 says; scales [block, num_kv_heads].
// Grid: a copy takes kCopyParts thread blocks, whose warps stride over the KV heads. A lane has HeadDim / 32 elements of a row,
// whose angles it computes once for all rows.
// Assumes: as reencode.
#include "device/copies.cuh"
#include "device/fp8_store.cuh"
#include "device/rope.cuh"
#include "lazy_kernels.h"

namespace la {

// A lane's pair of elements of a row: what it is turned by, and where its partners are.
struct TurnedPair {
    PairAngles angles;
    uint32_t low, high;
    bool rotates, is_low;

    __device__ __forceinline__ TurnedPair(const LaRope &rope, uint32_t dim, int32_t distance)
        : angles(rope.turns, dim < rope.rotary_dim ? dim % (rope.rotary_dim / 2) : 0, distance), rotates(dim < rope.rotary_dim), is_low(dim < rope.rotary_dim / 2) {
        low = rotates ? dim % (rope.rotary_dim / 2) : dim;
        high = rotates ? low + rope.rotary_dim / 2 : dim;
    }
    template <int HeadDim> __device__ __forceinline__ float2 of(const Fp8Block<HeadDim> &block, uint32_t row, float scale) const {
        float2 x = block.read(row, low), y = block.read(row, high);
        x.x *= scale, x.y *= scale, y.x *= scale, y.y *= scale;
        return !rotates ? x : is_low ? angles.low(x, y) : angles.high(x, y);
    }
};

template <int HeadDim> __device__ __forceinline__ void reencode_keys(const LaCopyBlocks &p, const LaCopy &copy, uint32_t head) {
    const Fp8Block<HeadDim> from(p.kv, p.kv.k, p.kv.k_scale, copy.from, head), to(p.kv, p.kv.k, p.kv.k_scale, copy.to, head);
    const float scale = *from.gScale;
    float largest = 0.f;
    for (uint32_t j = 0; j < Fp8Block<HeadDim>::kPairs; j++) {
        const TurnedPair pair(p.rope, from.dim_of(j), copy.distance);
        for (uint32_t row = 0; row < p.kv.block_size; row++) largest = largest_of_pair(largest, pair.of(from, row, scale));
    }
    const float inverse = to.raise_scale(largest_of_warp(largest), true);
    for (uint32_t j = 0; j < Fp8Block<HeadDim>::kPairs; j++) {
        const TurnedPair pair(p.rope, from.dim_of(j), copy.distance);
        for (uint32_t row = 0; row < p.kv.block_size; row++) to.write(row, from.dim_of(j), pair.of(from, row, scale), inverse);
    }
}

template <int HeadDim> __device__ __forceinline__ void copy_values(const LaCopyBlocks &p, const LaCopy &copy, uint32_t head) {
    const Fp8Block<HeadDim> from(p.kv, p.kv.v, p.kv.v_scale, copy.from, head), to(p.kv, p.kv.v, p.kv.v_scale, copy.to, head);
    for (uint32_t at = threadIdx.x % 32; at < p.kv.block_size * HeadDim / 16; at += 32)
        reinterpret_cast<uint4 *>(to.gBytes)[at] = reinterpret_cast<const uint4 *>(from.gBytes)[at];
    if (threadIdx.x % 32 == 0) *to.gScale = *from.gScale;
}

template <int HeadDim> __device__ __forceinline__ void reencode_fp8(const LaCopyBlocks &p) {
    constexpr uint32_t kWarps = kCopyThreads / 32;
    const LaCopy copy = p.copies[blockIdx.x / kCopyParts];
    for (uint32_t head = blockIdx.x % kCopyParts * kWarps + threadIdx.x / 32; head < p.kv.num_kv_heads; head += kCopyParts * kWarps) {
        reencode_keys<HeadDim>(p, copy, head);
        copy_values<HeadDim>(p, copy, head);
    }
}

}  // namespace la

#define LA_REENCODE_FP8(name, head_dim)                                                                       \
    extern "C" __global__ void __launch_bounds__(la::kCopyThreads) name(const __grid_constant__ LaCopyBlocks p) { \
        la::reencode_fp8<head_dim>(p);                                                                        \
    }
LA_REENCODE_FP8(la_reencode_fp8_d64, 64)
LA_REENCODE_FP8(la_reencode_fp8_d128, 128)
