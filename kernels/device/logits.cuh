// A row of logits: its largest entry, and what stops a token from being chosen.
#pragma once
#include <math.h>
#include <stdint.h>

#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kRowThreads = 1024;

// Ascending in this order is descending in logits; the two zeros are equal.
__device__ __forceinline__ uint32_t rank_key(float logit) {
    const uint32_t bits = __float_as_uint(logit + 0.f);
    return (bits & 0x80000000u) != 0 ? bits : ~bits & 0x7FFFFFFFu;
}

__device__ __forceinline__ uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

// The logit of a key, the positive one of the zeros.
__device__ __forceinline__ float logit_of(uint32_t key) { return __uint_as_float((key & 0x80000000u) != 0 ? key : ~key & 0x7FFFFFFFu); }

// Calls take(logit, token) for every entry of a row, in a block of kRowThreads; a thread has `Batch` of them in flight.
template <int Batch, class Take> __device__ __forceinline__ void for_row(const float *__restrict__ gLogits, uint32_t vocab_size, Take take) {
    float logit[Batch];
    uint32_t first = threadIdx.x;
    for (; first + (Batch - 1) * kRowThreads < vocab_size; first += Batch * kRowThreads) {
#pragma unroll
        for (int i = 0; i < Batch; i++) logit[i] = gLogits[first + i * kRowThreads];
#pragma unroll
        for (int i = 0; i < Batch; i++) take(logit[i], first + i * kRowThreads);
    }
#pragma unroll
    for (int i = 0; i < Batch; i++) logit[i] = first + i * kRowThreads < vocab_size ? gLogits[first + i * kRowThreads] : 0.f;
#pragma unroll
    for (int i = 0; i < Batch; i++)
        if (first + i * kRowThreads < vocab_size) take(logit[i], first + i * kRowThreads);
}

struct RowBest {
    uint32_t token;  // the lowest of the largest, or LA_NOT_FINITE or LA_NOTHING_ALLOWED
    float logit;
    float lowest;  // the smallest logit
};

// The best token of a row, in every thread of a block of kRowThreads. A NaN or plus infinity anywhere is LA_NOT_FINITE.
__device__ __forceinline__ RowBest best_of_row(const float *__restrict__ gLogits, uint32_t vocab_size) {
    __shared__ uint64_t sBest[kRowThreads / 32];
    __shared__ float sLowest[kRowThreads / 32];
    float largest = -INFINITY, lowest = INFINITY;
    uint32_t at = 0;
    bool is_finite = true;
    for_row<12>(gLogits, vocab_size, [&](float logit, uint32_t token) {
        is_finite = is_finite && logit < INFINITY;
        if (logit > largest) {
            largest = logit;
            at = token;
        }
        lowest = fminf(lowest, logit);
    });
    // Key above id: the minimum is the largest logit, and of equal ones the lowest id. Zero stands for a number that overflowed.
    uint64_t best = is_finite ? static_cast<uint64_t>(rank_key(largest)) << 32 | at : 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        best = smaller(best, __shfl_xor_sync(~0u, best, step));
        lowest = fminf(lowest, __shfl_xor_sync(~0u, lowest, step));
    }
    if (threadIdx.x % 32 == 0) {
        sBest[threadIdx.x / 32] = best;
        sLowest[threadIdx.x / 32] = lowest;
    }
    __syncthreads();
    best = sBest[threadIdx.x % 32];
    lowest = sLowest[threadIdx.x % 32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        best = smaller(best, __shfl_xor_sync(~0u, best, step));
        lowest = fminf(lowest, __shfl_xor_sync(~0u, lowest, step));
    }
    if (best == 0) return RowBest{LA_NOT_FINITE, 0.f, 0.f};
    if (best >> 32 >= rank_key(-INFINITY)) return RowBest{LA_NOTHING_ALLOWED, 0.f, 0.f};
    return RowBest{static_cast<uint32_t>(best), logit_of(static_cast<uint32_t>(best >> 32)), lowest};
}

}  // namespace la
