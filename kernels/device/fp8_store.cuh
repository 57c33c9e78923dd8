// Writing blocks of 8-bit elements: a warp owns the keys and the values of a (block, KV head), so that scales need no atomics.
#pragma once
#include "fp8.cuh"
#include "lazy_kernels.h"

namespace la {

// The largest of a warp's numbers, none of them negative, in every lane.
__device__ __forceinline__ float largest_of_warp(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

__device__ __forceinline__ float largest_of_pair(float largest, float2 x) { return fmaxf(largest, fmaxf(fabsf(x.x), fabsf(x.y))); }

// A block of one KV head and its scale, owned by a warp.
template <int HeadDim> struct Fp8Block {
    char *gBytes;
    float *gScale;
    uint32_t num_rows;

    static constexpr uint32_t kPairs = HeadDim / 64;  // pairs of neighbouring elements that a lane has of a row

    __device__ __forceinline__ Fp8Block(const LaKv &kv, void *gKv, float *gScales, uint32_t block, uint32_t head)
        : gBytes(static_cast<char *>(gKv) + static_cast<int64_t>(block) * kv.block_stride + static_cast<int64_t>(head) * kv.block_size * HeadDim),
          gScale(gScales + static_cast<int64_t>(block) * kv.num_kv_heads + head),
          num_rows(kv.block_size) {}

    // First element of the lane's pair `i`.
    static __device__ __forceinline__ uint32_t dim_of(uint32_t i) { return 64 * i + threadIdx.x % 32 * 2; }

    __device__ __forceinline__ void write(uint32_t row, uint32_t dim, float2 x, float inverse) const {
        *reinterpret_cast<uint16_t *>(gBytes + fp8_pair_byte<HeadDim>(row, dim)) = narrow_e4m3(x, inverse);
    }
    // Elements [dim, dim + 2) of a row, to be multiplied by the scale.
    __device__ __forceinline__ float2 read(uint32_t row, uint32_t dim) const {
        return F16::unpack(widen_e4m3(*reinterpret_cast<const uint16_t *>(gBytes + fp8_pair_byte<HeadDim>(row, dim))).x);
    }
    __device__ __forceinline__ void zero_rows(int32_t begin, int32_t end) const {
        for (int32_t at = begin * (HeadDim / 16) + static_cast<int32_t>(threadIdx.x % 32); at < end * (HeadDim / 16); at += 32)
            *reinterpret_cast<uint4 *>(gBytes + fp8_group_byte<HeadDim>(at / (HeadDim / 16), at % (HeadDim / 16))) = make_uint4(0, 0, 0, 0);
    }
    // Divides what is stored by 2^growth; unread rows are zeros, which stay so.
    __device__ __forceinline__ void shrink(int32_t growth) const {
        const float factor = power_of_two(-growth);
        for (uint32_t at = threadIdx.x % 32; at < num_rows * HeadDim / 4; at += 32) {
            uint32_t *gFour = reinterpret_cast<uint32_t *>(gBytes) + at;
            const uint2 halves = widen_e4m3(*gFour);
            *gFour = narrow_e4m3(F16::unpack(halves.x), factor) | static_cast<uint32_t>(narrow_e4m3(F16::unpack(halves.y), factor)) << 16;
        }
        __syncwarp();
    }
    // Makes room for values up to `largest`; what the elements of the block are now divided by.
    __device__ __forceinline__ float raise_scale(float largest, bool is_new) const {
        int32_t exponent = scale_exponent(largest);
        if (!is_new) {
            const int32_t old = exponent_of(*gScale);
            if (exponent > old) shrink(exponent - old);
            exponent = max(exponent, old);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) *gScale = power_of_two(exponent);
        return power_of_two(-exponent);
    }
};

}  // namespace la
