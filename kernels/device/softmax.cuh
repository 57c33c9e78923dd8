// What a warp does with one tile by mma.sync: scores, running softmax, values.
#pragma once
#include "element.cuh"
#include "fp8.cuh"
#include "producer.cuh"

namespace la {

// Running softmax of two rows: a lane's part of a warp's keys.
template <int HeadDim> struct Accumulator {
    float out[HeadDim / 8][4];
    float largest[2];
    float sum[2];
    float unit;  // scale of `out`: the largest of the values' scales, where they have any

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < HeadDim / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) out[n][j] = 0.f;
        largest[0] = largest[1] = -INFINITY;
        sum[0] = sum[1] = 0.f;
        unit = power_of_two(kSmallestExponent);
    }

    // Turns probabilities of 8-bit values into weights, 16 keys a scale, and scales what was summed so far to the largest scale.
    template <int N> __device__ __forceinline__ void weigh(float (&score)[N][4], const float (&scale)[N / 2]) {
        float high = unit;
#pragma unroll
        for (int s = 0; s < N / 2; s++) high = fmaxf(high, scale[s]);
        if (high > unit) {
            const float keep = unit / high;
            unit = high;
#pragma unroll
            for (int n = 0; n < HeadDim / 8; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) out[n][j] *= keep;
        }
        const float inverse = power_of_two(-exponent_of(unit));
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) score[n][j] *= scale[n / 2] * inverse;
    }

    // Turns 16 x 8 * N scores into probabilities, and scales what was summed so far to the new maximum.
    template <int N> __device__ __forceinline__ void absorb(float (&score)[N][4], float scale_log2) {
        float keep[2], shift[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float high = largest[r];
#pragma unroll
            for (int n = 0; n < N; n++) high = fmaxf(high, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
            // A row that has seen nothing yet has no finite maximum to subtract.
            shift[r] = high == -INFINITY ? 0.f : high * scale_log2;
            keep[r] = exp2_fast(largest[r] * scale_log2 - shift[r]);
            largest[r] = high;
            sum[r] *= keep[r];
        }
        if (__any_sync(~0u, keep[0] != 1.f || keep[1] != 1.f)) {
#pragma unroll
            for (int n = 0; n < HeadDim / 8; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) out[n][j] *= keep[j / 2];
        }
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                score[n][j] = exp2_fast(score[n][j] * scale_log2 - shift[j / 2]);
                sum[j / 2] += score[n][j];
            }
    }
};

// Scores of 16 keys, those of the tile from row `first` on.
template <class Element, int HeadDim>
__device__ __forceinline__ void score_keys(uint32_t sTile, uint32_t first, const uint32_t (&rQ)[HeadDim / 16][4], float (&score)[2][4]) {
    if constexpr (Element::kKvBytes == 1) return score_keys_fp8<HeadDim>(sTile, first, rQ, score);
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t sRow = sTile + group_byte<HeadDim>(first + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) score[n][j] = 0.f;
#pragma unroll
    for (int k = 0; k < HeadDim / 16; k++) {
        uint32_t rK[4];
        load_matrix_x4(rK, group_address(sRow, 2 * k));
        Element::mma(score[0], rQ[k], rK[0], rK[1]);
        Element::mma(score[1], rQ[k], rK[2], rK[3]);
    }
}

// Adds the values of 16 keys. `valid` keys from the first on exist: what lies behind them may be anything, NaN too.
template <class Element, int HeadDim>
__device__ __forceinline__ void add_values(uint32_t sTile, uint32_t first, const uint32_t (&rP)[4], int32_t valid, float (&out)[HeadDim / 8][4]) {
    if constexpr (Element::kKvBytes == 1) return add_values_fp8<HeadDim>(sTile, first, rP, valid, out);
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t sRow = sTile + group_byte<HeadDim>(first + lane / 8 % 2 * 8 + lane % 8, lane / 16);
    const int32_t key = lane % 4 * 2;
    const uint32_t keep_low = (key < valid ? 0xFFFFu : 0) | (key + 1 < valid ? 0xFFFF0000u : 0);
    const uint32_t keep_high = (key + 8 < valid ? 0xFFFFu : 0) | (key + 9 < valid ? 0xFFFF0000u : 0);
#pragma unroll
    for (int n = 0; n < HeadDim / 16; n++) {
        uint32_t rV[4];
        load_matrix_x4_trans(rV, group_address(sRow, 2 * n));
        if (valid < 16) {
            rV[0] &= keep_low, rV[2] &= keep_low;
            rV[1] &= keep_high, rV[3] &= keep_high;
        }
        Element::mma(out[2 * n], rP, rV[0], rV[1]);
        Element::mma(out[2 * n + 1], rP, rV[2], rV[3]);
    }
}

}  // namespace la
