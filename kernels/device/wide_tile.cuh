// What a thread of a warpgroup keeps of 64 query rows, and what it does with one tile of keys and values by wgmma.
#pragma once
#include "async.cuh"
#include "element.cuh"
#include "wgmma.cuh"

namespace la {

#if LA_HAS_WGMMA
// Byte of 16-byte group `group` of row `row` of prepared queries: the same group of eight rows lies in different banks.
template <int HeadDim> __device__ __forceinline__ uint32_t query_byte(uint32_t row, uint32_t group) { return row * HeadDim * 2 + (group ^ row % 8) * 16; }

// Lane q of four holds a piece of each of four neighbours in a row; what it gets is the whole of the q-th, in order.
__device__ __forceinline__ uint4 transpose_quad(const uint32_t (&mine)[4]) {
    const bool is_odd = threadIdx.x & 1, is_high = threadIdx.x & 2;
    uint32_t own[2], other[2];  // of the first or second two: the piece of the one that this lane and its neighbour are about to keep
#pragma unroll
    for (int i = 0; i < 2; i++) {
        own[i] = is_odd ? mine[2 * i + 1] : mine[2 * i];
        other[i] = __shfl_xor_sync(~0u, is_odd ? mine[2 * i] : mine[2 * i + 1], 1);
    }
    const uint32_t low0 = is_odd ? other[0] : own[0], low1 = is_odd ? own[0] : other[0];
    const uint32_t high0 = is_odd ? other[1] : own[1], high1 = is_odd ? own[1] : other[1];
    const uint32_t far0 = __shfl_xor_sync(~0u, is_high ? low0 : high0, 2), far1 = __shfl_xor_sync(~0u, is_high ? low1 : high1, 2);
    return is_high ? make_uint4(far0, far1, high0, high1) : make_uint4(low0, low1, far0, far1);
}

// Queries, scores, probabilities and sums of the thread's two rows.
template <class Element, int HeadDim, int Keys> struct WideTile {
    static constexpr int kSteps = Keys / 16;
    uint32_t rQ[HeadDim / 16][4];
    float score[Keys / 8][4];
    uint32_t rP[kSteps][4];
    float out[HeadDim / 8][4];
    // Exponents are taken less `shift`, until a score passes `limit`: not every rise of the maximum is worth scaling what was summed.
    // Probabilities above one are as exact, and sums end divided by the same.
    static constexpr float kSlack = 8.f;
    float shift[2], limit[2], sum[2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int r = 0; r < 2; r++) shift[r] = 0.f, limit[r] = -INFINITY, sum[r] = 0.f;
    }
    // Takes 16 rows of prepared queries, from `first_row` on.
    __device__ __forceinline__ void load_queries(uint32_t sQueries, uint32_t first_row) {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < HeadDim / 16; k++) load_matrix_x4(rQ[k], sQueries + query_byte<HeadDim>(first_row + lane % 16, 2 * k + lane / 16));
    }
    __device__ __forceinline__ void start_scores(uint32_t sKeys) {
        const uint64_t tile = tile_descriptor(sKeys, 16, HeadDim * 16);
#pragma unroll
        for (int k = 0; k < HeadDim / 16; k++) wgmma<Element, 0>(score, rQ[k], tile + (k / 4 * 1024 + k % 4 * 32) / 16, k != 0);
        wgmma_commit();
    }
    // With the first values of an item, what was in `out` is forgotten.
    __device__ __forceinline__ void start_values(uint32_t sValues, bool is_first) {
        const uint64_t tile = tile_descriptor(sValues, 1024, HeadDim * 16);
#pragma unroll
        for (int s = 0; s < kSteps; s++) wgmma<Element, 1>(out, rP[s], tile + s * HeadDim * 32 / 16, s != 0 || !is_first);
        wgmma_commit();
    }
    // The thread's highest score of each row, in powers of two.
    __device__ __forceinline__ void find_high(float scale_log2, float (&high)[2]) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // Four chains: one alone would wait for its own latency.
            float highs[4];
#pragma unroll
            for (int n = 0; n < Keys / 8; n++) {
                const float pair = fmaxf(score[n][2 * r], score[n][2 * r + 1]);
                highs[n % 4] = n < 4 ? pair : fmaxf(highs[n % 4], pair);
            }
            high[r] = fmaxf(fmaxf(highs[0], highs[1]), fmaxf(highs[2], highs[3])) * scale_log2;
        }
    }
    __device__ __forceinline__ bool passes_limit(const float (&high)[2]) const { return high[0] > limit[0] || high[1] > limit[1]; }
    // Moves `shift` to the row's maximum where that passes the limit, and scales what was summed. For whole warps.
    __device__ __forceinline__ void raise(const float (&high)[2]) {
        float keep[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = fmaxf(high[r], __shfl_xor_sync(~0u, high[r], 1));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
            const bool passes = most > limit[r];
            // Before a row has seen anything there is nothing to keep, and no power of two to keep it by.
            keep[r] = !passes ? 1.f : limit[r] == -INFINITY ? 0.f : exp2_fast(shift[r] - most);
            if (passes) shift[r] = most, limit[r] = most + kSlack;
            sum[r] *= keep[r];
        }
#pragma unroll
        for (int n = 0; n < HeadDim / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) out[n][j] *= keep[j / 2];
    }
    // Scores become probabilities, and operands.
    __device__ __forceinline__ void weigh(float scale_log2) {
#pragma unroll
        for (int s = 0; s < kSteps; s++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float(&pair)[4] = score[2 * s + j / 2];
                const int r = j % 2;
                const float low = exp2_fast(pair[2 * r] * scale_log2 - shift[r]), high = exp2_fast(pair[2 * r + 1] * scale_log2 - shift[r]);
                sum[r] += low + high;
                rP[s][j] = Element::pack(low, high);
            }
    }
    // Hides the scores of columns outside [begin, end) of row r of the two; columns are counted from the thread's first.
    __device__ __forceinline__ void mask(int r, int32_t begin, int32_t end) {
#pragma unroll
        for (int n = 0; n < Keys / 8; n++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (n * 8 + j < begin || n * 8 + j >= end) score[n][2 * r + j] = -INFINITY;
    }
    // Writes row r of the two to the output, 16 bytes a lane: whole sectors. All lanes of a warp come here.
    __device__ __forceinline__ void store_output(int r, float scale, bool exists, uint16_t *gRow) const {
#pragma unroll
        for (int n = 0; n < HeadDim / 8; n += 4) {
            uint32_t rFour[4];
#pragma unroll
            for (int i = 0; i < 4; i++) rFour[i] = Element::pack_out(out[n + i][2 * r] * scale, out[n + i][2 * r + 1] * scale);
            const uint4 row = transpose_quad(rFour);
            if (exists) *reinterpret_cast<uint4 *>(gRow + 8 * n + threadIdx.x % 4 * 8) = row;
        }
    }
    // Writes row r of the two as a partial.
    __device__ __forceinline__ void store_partial(int r, float scale, float *gRow) const {
#pragma unroll
        for (int n = 0; n < HeadDim / 8; n++)
            *reinterpret_cast<float2 *>(gRow + 8 * n + threadIdx.x % 4 * 2) = make_float2(out[n][2 * r] * scale, out[n][2 * r + 1] * scale);
    }
};
#endif

}  // namespace la
