// key_deviation: how far the keys of a block are from those of another block of the same tokens, and how long those are.
//
//   sums[pair][layer] = { sum |k - k'|^2, sum |k'|^2 }      over the first num_slots tokens, in all KV heads
//
// Layout: blocks as la_block_byte or, 8-bit, la_block_byte_8 says; scales [block, num_kv_heads]. Sums in f32.
// Grid: a thread block takes a (pair, layer); its threads stride over the 16-byte groups of its rows. What they add, and in which
// order, does not change from launch to launch.
// Assumes: blocks inside the store, num_slots no more than a block has (checked by the wrapper).
#include "device/fp8.cuh"
#include "device/vector.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kDeviationThreads = 256;

// Adds the squares of a pair's difference and of its second member.
__device__ __forceinline__ void add_squares(float2 &sums, float2 key, float2 original) {
    const float x = key.x - original.x, y = key.y - original.y;
    sums.x += x * x + y * y;
    sums.y += original.x * original.x + original.y * original.y;
}

__device__ __forceinline__ float2 scaled(float2 x, float scale) { return make_float2(x.x * scale, x.y * scale); }

// The elements of a group lie in the same order in both blocks; which they are does not matter here.
template <class Element> __device__ __forceinline__ void add_group(float2 &sums, uint4 key, uint4 original, float2 scales) {
    const uint32_t rKey[4] = {key.x, key.y, key.z, key.w}, rOriginal[4] = {original.x, original.y, original.z, original.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (Element::kKvBytes == 2) {
            add_squares(sums, Element::unpack(rKey[i]), Element::unpack(rOriginal[i]));
        } else {
            const uint2 a = widen_e4m3(rKey[i]), b = widen_e4m3(rOriginal[i]);
            add_squares(sums, scaled(F16::unpack(a.x), scales.x), scaled(F16::unpack(b.x), scales.y));
            add_squares(sums, scaled(F16::unpack(a.y), scales.x), scaled(F16::unpack(b.y), scales.y));
        }
    }
}

template <class Element, int HeadDim> __device__ __forceinline__ void key_deviation(const LaDeviation &p) {
    constexpr uint32_t kGroups = HeadDim * Element::kKvBytes / 16;  // groups of a row
    __shared__ float sDistance[kDeviationThreads / 32], sLength[kDeviationThreads / 32];
    const uint32_t layer = blockIdx.x % p.num_layers;
    const LaBlockPair pair = p.pairs[blockIdx.x / p.num_layers];
    const char *__restrict__ gLayer = static_cast<const char *>(p.kv.k) + layer * p.layer_stride;
    const char *__restrict__ gKeys = gLayer + static_cast<int64_t>(pair.keys) * p.kv.block_stride;
    const char *__restrict__ gOriginal = gLayer + static_cast<int64_t>(pair.original) * p.kv.block_stride;
    const float *__restrict__ gScales = p.kv.k_scale + layer * p.scale_stride;
    const uint32_t head_groups = pair.num_slots * kGroups, head_bytes = p.kv.block_size * HeadDim * Element::kKvBytes;
    float2 sums = make_float2(0.f, 0.f);
    for (uint32_t at = threadIdx.x; at < p.kv.num_kv_heads * head_groups; at += kDeviationThreads) {
        const uint32_t head = at / head_groups, row = at % head_groups / kGroups, group = at % kGroups;
        uint32_t byte = head * head_bytes;
        float2 scales = make_float2(1.f, 1.f);
        if constexpr (Element::kKvBytes == 2) {
            byte += group_byte<HeadDim>(row, group);
        } else {
            byte += fp8_group_byte<HeadDim>(row, group);
            const int64_t num_heads = p.kv.num_kv_heads;
            scales = make_float2(gScales[pair.keys * num_heads + head], gScales[pair.original * num_heads + head]);
        }
        add_group<Element>(sums, *reinterpret_cast<const uint4 *>(gKeys + byte), *reinterpret_cast<const uint4 *>(gOriginal + byte), scales);
    }
    const float distance = sum_of_block<kDeviationThreads>(sums.x, sDistance);
    const float length = sum_of_block<kDeviationThreads>(sums.y, sLength);
    if (threadIdx.x == 0) reinterpret_cast<float2 *>(p.sums)[blockIdx.x] = make_float2(distance, length);
}

}  // namespace la

#define LA_KEY_DEVIATION(name, element, head_dim)                                                               \
    extern "C" __global__ void __launch_bounds__(la::kDeviationThreads) name(const __grid_constant__ LaDeviation p) { \
        la::key_deviation<la::element, head_dim>(p);                                                            \
    }
LA_KEY_DEVIATION(la_key_deviation_bf16_d64, Bf16, 64)
LA_KEY_DEVIATION(la_key_deviation_bf16_d128, Bf16, 128)
LA_KEY_DEVIATION(la_key_deviation_f16_d64, F16, 64)
LA_KEY_DEVIATION(la_key_deviation_f16_d128, F16, 128)
LA_KEY_DEVIATION(la_key_deviation_fp8_d64, Fp8, 64)
LA_KEY_DEVIATION(la_key_deviation_fp8_d128, Fp8, 128)
