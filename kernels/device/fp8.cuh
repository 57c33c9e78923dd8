// 8-bit keys and values: e4m3 elements with a power of two as the scale of each (block, KV head).
//
//   stored value = e4m3 * 2^e,  e = floor(log2(largest of the block)) - 7, kept within [-15, 7]
//
// Every stored value is thus a number of half precision, products of scales are exact, and a block whose scale grows is moved to
// the new one without another rounding of its normal numbers. Values beyond 448 * 2^7 = 57344 saturate, NaNs too.
#pragma once
#include <cuda_fp8.h>
#include <stdint.h>

#include "element.cuh"

namespace la {

// Queries and outputs in bf16, products in half precision: what the tensor cores get where keys and values were 8 bits wide.
struct HalfProducts {
    static constexpr int kKvBytes = 2;
    static __device__ __forceinline__ uint32_t pack(float low, float high) { return F16::pack(low, high); }
    static __device__ __forceinline__ float2 unpack(uint32_t pair) { return Bf16::unpack(pair); }
    static __device__ __forceinline__ uint32_t operand(uint32_t pair) {
        const float2 x = unpack(pair);
        return pack(x.x, x.y);
    }
    static __device__ __forceinline__ uint32_t pack_out(float low, float high) { return Bf16::pack(low, high); }
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { F16::mma(d, a, b0, b1); }
};

// The same, reading keys and values as they are stored.
struct Fp8 : HalfProducts {
    static constexpr int kKvBytes = 1;
};

constexpr int32_t kSmallestExponent = -15, kLargestExponent = 7;

__device__ __forceinline__ float power_of_two(int32_t exponent) { return __uint_as_float(static_cast<uint32_t>(exponent + 127) << 23); }

// Exponent of a power of two.
__device__ __forceinline__ int32_t exponent_of(float scale) { return static_cast<int32_t>(__float_as_uint(scale) >> 23 & 0xFF) - 127; }

// Exponent of the scale of values up to `largest`, which is no NaN and not negative.
__device__ __forceinline__ int32_t scale_exponent(float largest) { return min(max(exponent_of(largest) - 7, kSmallestExponent), kLargestExponent); }

// Four e4m3 numbers as halves: the lower two, the upper two.
__device__ __forceinline__ uint2 widen_e4m3(uint32_t four) {
    uint2 halves;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    // Exponent and mantissa moved to where half precision has them are the number times 2^-8, subnormal ones too.
    const uint32_t spread[2] = {__byte_perm(four, 0, 0x1404), __byte_perm(four, 0, 0x3424)};
    uint32_t r[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t bits = (spread[i] & 0x80008000u) | (spread[i] & 0x7F007F00u) >> 1;
        const __half2 scaled = __hmul2(*reinterpret_cast<const __half2 *>(&bits), __float2half2_rn(256.f));
        r[i] = *reinterpret_cast<const uint32_t *>(&scaled);
    }
    halves = make_uint2(r[0], r[1]);
#else
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.rn.f16x2.e4m3x2 %0, low;\ncvt.rn.f16x2.e4m3x2 %1, high;\n}"
        : "=r"(halves.x), "=r"(halves.y) : "r"(four));
#endif
    return halves;
}

// Two numbers times `inverse` as e4m3, rounded to nearest, saturated.
__device__ __forceinline__ uint16_t narrow_e4m3(float2 x, float inverse) {
    const float low = fminf(fmaxf(x.x * inverse, -448.f), 448.f), high = fminf(fmaxf(x.y * inverse, -448.f), 448.f);
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

// Byte of 16-byte group `group` of row `row` in a block of HeadDim columns: la_block_byte_8 in units of groups.
template <int HeadDim> __device__ __forceinline__ uint32_t fp8_group_byte(uint32_t row, uint32_t group) {
    static_assert(HeadDim == 64 || HeadDim == 128, "rows of half a line or of one");
    if constexpr (HeadDim == 64) return row * 64 + ((group ^ row / 2) % 4) * 16;
    return row * 128 + ((group ^ row) % 8) * 16;
}

// Byte of elements [dim, dim + 2), `dim` even.
template <int HeadDim> __device__ __forceinline__ uint32_t fp8_pair_byte(uint32_t row, uint32_t dim) {
    return fp8_group_byte<HeadDim>(row, dim / 16) + dim % 8 / 2 * 4 + dim % 16 / 8 * 2;
}

// Scores of 16 keys, those of the tile from row `first` on; to be multiplied by the keys' scale.
template <int HeadDim>
__device__ __forceinline__ void score_keys_fp8(uint32_t sTile, uint32_t first, const uint32_t (&rQ)[HeadDim / 16][4], float (&score)[2][4]) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t sRow = sTile + fp8_group_byte<HeadDim>(first + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) score[n][j] = 0.f;
#pragma unroll
    for (int k = 0; k < HeadDim / 16; k += 2) {
        uint32_t rK[4];
        load_matrix_x4(rK, sRow ^ (16 * k));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint2 halves = widen_e4m3(rK[i]);
            F16::mma(score[i / 2], rQ[k + i % 2], halves.x, halves.y);
        }
    }
}

// Adds the values of 16 keys. `valid` keys from the first on exist: what lies behind them may be anything.
//
// Transposed by pairs of bytes, a word holds two neighbouring elements of two keys: one column of each of two products. Which
// columns these are, the order of the bytes in a group decides: column 2i is element 2i, column 2i + 1 element 2i + 8.
template <int HeadDim>
__device__ __forceinline__ void add_values_fp8(uint32_t sTile, uint32_t first, const uint32_t (&rP)[4], int32_t valid, float (&out)[HeadDim / 8][4]) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t sRow = sTile + fp8_group_byte<HeadDim>(first + lane / 8 % 2 * 8 + lane % 8, lane / 16);
    const int32_t key = lane % 4 * 2;
    const uint32_t keep_low = (key < valid ? 0xFFFFu : 0) | (key + 1 < valid ? 0xFFFF0000u : 0);
    const uint32_t keep_high = (key + 8 < valid ? 0xFFFFu : 0) | (key + 9 < valid ? 0xFFFF0000u : 0);
#pragma unroll
    for (int g = 0; g < HeadDim / 16; g += 2) {
        uint32_t rV[4];
        load_matrix_x4_trans(rV, sRow ^ (16 * g));
        if (valid < 16) {
            rV[0] &= keep_low, rV[2] &= keep_low;
            rV[1] &= keep_high, rV[3] &= keep_high;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint2 low = widen_e4m3(__byte_perm(rV[2 * i], 0, 0x3120)), high = widen_e4m3(__byte_perm(rV[2 * i + 1], 0, 0x3120));
            float(&a)[4] = out[2 * (g + i)], (&b)[4] = out[2 * (g + i) + 1];
            float even[4] = {a[0], b[0], a[2], b[2]}, odd[4] = {a[1], b[1], a[3], b[3]};
            F16::mma(even, rP, low.x, high.x);
            F16::mma(odd, rP, low.y, high.y);
            a[0] = even[0], b[0] = even[1], a[2] = even[2], b[2] = even[3];
            a[1] = odd[0], b[1] = odd[1], a[3] = odd[2], b[3] = odd[3];
        }
    }
}

}  // namespace la
