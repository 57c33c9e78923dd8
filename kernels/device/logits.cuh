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

struct RowBest {
    uint32_t token;  // the lowest of the largest, or LA_NOT_FINITE or LA_NOTHING_ALLOWED
    float logit;
};

// The best token of a row, in every thread of a block of kRowThreads. A NaN or plus infinity anywhere is LA_NOT_FINITE.
__device__ __forceinline__ RowBest best_of_row(const float *__restrict__ gLogits, uint32_t vocab_size) {
    __shared__ uint64_t sBest[kRowThreads / 32];
    // Key above id: the minimum is the largest logit, and of equal ones the lowest id. Zero stands for a number that overflowed.
    uint64_t best = ~0ull;
    for (uint32_t token = threadIdx.x; token < vocab_size; token += kRowThreads) {
        const float logit = gLogits[token];
        const uint64_t key = static_cast<uint64_t>(rank_key(logit)) << 32 | token;
        best = smaller(best, logit < INFINITY ? key : 0);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) best = smaller(best, __shfl_xor_sync(~0u, best, step));
    if (threadIdx.x % 32 == 0) sBest[threadIdx.x / 32] = best;
    __syncthreads();
    best = sBest[threadIdx.x % 32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) best = smaller(best, __shfl_xor_sync(~0u, best, step));
    if (best == 0) return RowBest{LA_NOT_FINITE, 0.f};
    if (best >> 32 >= rank_key(-INFINITY)) return RowBest{LA_NOTHING_ALLOWED, 0.f};
    const uint32_t token = static_cast<uint32_t>(best);
    return RowBest{token, gLogits[token]};
}

}  // namespace la
