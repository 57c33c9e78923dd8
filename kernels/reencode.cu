// reencode: what others do where attend rotates the query: a copy of the blocks for every place, its keys moved to that place.
//
//   K[to] = R(distance) K[from]      V[to] = V[from]
//
// The comparison path of Block-Attention (arXiv:2409.15355): R(a) R(b) = R(a + b). Each use rounds the keys once more.
//
// Layout: blocks as la_block_byte says.
// Grid: a copy takes kCopyParts thread blocks; HeadDim / 16 threads take a slot, two groups of 8 elements each, which are partners
// where they rotate, and go through the heads with the angles they computed once.
// Assumes: blocks inside the store, no target read or written by another copy (checked by the wrapper).
#include "device/copies.cuh"
#include "device/element.cuh"
#include "device/rope.cuh"
#include "lazy_kernels.h"

namespace la {

// Groups of 8 elements: partners if they rotate, else neighbours.
struct GroupPair {
    uint32_t low, high;
    bool rotates;

    __device__ __forceinline__ GroupPair(uint32_t index, uint32_t rotary_dim) {
        const uint32_t partners = rotary_dim / 16;
        rotates = index < partners;
        low = rotates ? index : 2 * index;
        high = rotates ? index + partners : 2 * index + 1;
    }
};

template <class Element> __device__ __forceinline__ void rotate(uint4 &low, uint4 &high, const PairAngles (&angles)[4]) {
    uint32_t rLow[4] = {low.x, low.y, low.z, low.w}, rHigh[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 x = Element::unpack(rLow[i]), y = Element::unpack(rHigh[i]);
        const float2 a = angles[i].low(x, y), b = angles[i].high(x, y);
        rLow[i] = Element::pack(a.x, a.y);
        rHigh[i] = Element::pack(b.x, b.y);
    }
    low = make_uint4(rLow[0], rLow[1], rLow[2], rLow[3]);
    high = make_uint4(rHigh[0], rHigh[1], rHigh[2], rHigh[3]);
}

template <class Element, int HeadDim> __device__ __forceinline__ void reencode(const LaCopyBlocks &p) {
    constexpr uint32_t kThreads = HeadDim / 16;  // threads of a slot
    const LaCopy copy = p.copies[blockIdx.x / kCopyParts];
    const uint32_t part = blockIdx.x % kCopyParts;
    const int64_t from = static_cast<int64_t>(copy.from) * p.kv.block_stride, to = static_cast<int64_t>(copy.to) * p.kv.block_stride;
    const char *__restrict__ gKeysFrom = static_cast<const char *>(p.kv.k) + from, *__restrict__ gValuesFrom = static_cast<const char *>(p.kv.v) + from;
    char *__restrict__ gKeysTo = static_cast<char *>(p.kv.k) + to, *__restrict__ gValuesTo = static_cast<char *>(p.kv.v) + to;

    const GroupPair groups(threadIdx.x % kThreads, p.rope.rotary_dim);
    // Groups that do not rotate read the first pairs, and do not use them.
    const uint32_t pair = groups.rotates ? groups.low * 8 : 0;
    const int32_t distance = groups.rotates ? copy.distance : 0;
    const uint64_t *turns = p.rope.turns;
    const PairAngles angles[4] = {PairAngles(turns, pair, distance), PairAngles(turns, pair + 2, distance),
                                  PairAngles(turns, pair + 4, distance), PairAngles(turns, pair + 6, distance)};
    const uint32_t num_rows = p.kv.block_size * p.kv.num_kv_heads;  // (head, slot)
    const uint32_t head_bytes = p.kv.block_size * HeadDim * 2;
#pragma unroll 2
    for (uint32_t row = (part * kCopyThreads + threadIdx.x) / kThreads; row < num_rows; row += kCopyParts * kCopyThreads / kThreads) {
        const uint32_t slot = row % p.kv.block_size, head_byte = row / p.kv.block_size * head_bytes;
        const uint32_t low = head_byte + group_byte<HeadDim>(slot, groups.low), high = head_byte + group_byte<HeadDim>(slot, groups.high);
        uint4 rLow = *reinterpret_cast<const uint4 *>(gKeysFrom + low), rHigh = *reinterpret_cast<const uint4 *>(gKeysFrom + high);
        const uint4 vLow = *reinterpret_cast<const uint4 *>(gValuesFrom + low), vHigh = *reinterpret_cast<const uint4 *>(gValuesFrom + high);
        if (groups.rotates) rotate<Element>(rLow, rHigh, angles);
        *reinterpret_cast<uint4 *>(gKeysTo + low) = rLow;
        *reinterpret_cast<uint4 *>(gKeysTo + high) = rHigh;
        *reinterpret_cast<uint4 *>(gValuesTo + low) = vLow;
        *reinterpret_cast<uint4 *>(gValuesTo + high) = vHigh;
    }
}

}  // namespace la

#define LA_REENCODE(name, element, head_dim)                                                            \
    extern "C" __global__ void __launch_bounds__(la::kCopyThreads) name(const __grid_constant__ LaCopyBlocks p) { \
        la::reencode<la::element, head_dim>(p);                                                         \
    }
LA_REENCODE(la_reencode_bf16_d64, Bf16, 64)
LA_REENCODE(la_reencode_bf16_d128, Bf16, 128)
LA_REENCODE(la_reencode_f16_d64, F16, 64)
LA_REENCODE(la_reencode_f16_d128, F16, 128)
