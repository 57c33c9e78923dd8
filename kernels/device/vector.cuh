// Rows of 16-bit elements in vectors of 8, and sums over a warp or a thread block.
#pragma once
#include <stdint.h>

namespace la {

constexpr uint32_t kVector = 8;  // elements of a vector: 16 bytes

// Applies `f` to each pair of two vectors, and packs what it returns.
template <class Element, class F> __device__ __forceinline__ uint4 zip_pairs(uint4 a, uint4 b, F f) {
    const uint32_t rA[4] = {a.x, a.y, a.z, a.w}, rB[4] = {b.x, b.y, b.z, b.w};
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 x = Element::unpack(rA[i]), y = Element::unpack(rB[i]);
        r[i] = Element::pack(f(x.x, y.x), f(x.y, y.y));
    }
    return make_uint4(r[0], r[1], r[2], r[3]);
}

template <class Element> __device__ __forceinline__ float sum_of_squares(uint4 a) {
    const uint32_t rA[4] = {a.x, a.y, a.z, a.w};
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 x = Element::unpack(rA[i]);
        sum += x.x * x.x + x.y * x.y;
    }
    return sum;
}

// The sum over groups of `Lanes` neighbouring lanes, in each of them, in an order that does not change.
template <int Lanes> __device__ __forceinline__ float sum_of_lanes(float x) {
#pragma unroll
    for (int step = Lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

// The sum over a block of `Threads`, in every thread; `sWarps` is [Threads / 32].
template <int Threads> __device__ __forceinline__ float sum_of_block(float x, float *sWarps) {
    static_assert(Threads % 32 == 0 && Threads <= 1024, "whole warps, and no more than a warp has lanes");
    x = sum_of_lanes<32>(x);
    if (threadIdx.x % 32 == 0) sWarps[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.f;
#pragma unroll
    for (int warp = 0; warp < Threads / 32; warp++) sum += sWarps[warp];
    return sum;
}

}  // namespace la
