// sample: a token drawn from every row: temperature, top-k, top-p, min-p.
//
//   w_i = exp((l_i - max l) / temperature)      P(i) = w_i / sum of the w that are kept
//
// A front of the order (logit descending, id ascending) is kept: top_k entries, then the shortest front that holds top_p of their
// weight, then those that weigh min_p or more. The draw walks that order, or that of ids where neither top-k nor top-p drops a
// token, as the CPU sampler does, until u times the total is passed; u is Philox number `step` of `seed`.
//
// Weights have the bits of the CPU's and are summed as 2^-44ths, in integers: any order gives the same sum, and the same token.
// The CPU sums in f64, so the two can differ where u falls within 2^-25 of a border. Temperature zero is argmax; a row that
// argmax refuses is refused here.
//
// Layout: logits [num_rows, vocab_size] f32, rows [num_rows], tokens [num_rows].
// Grid: a block takes a row. A border in the order is found digit by digit, each digit one histogram of the row.
// Assumes: vocab_size <= 2^19 (checked by the wrapper), so that sums fit into 63 bits.
#include "device/logits.cuh"
#include "device/philox.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kBins = 2048;
static_assert(kBins == 2 * kRowThreads, "a thread scans two bins");

// The order is that of 52 bits, key above id, cut into digits.
struct Digit {
    uint32_t shift, bits;
};
constexpr uint32_t kNumDigits = 5, kFirstDigitOfId = 3, kIdBits = 20;
__device__ __forceinline__ Digit digit_at(uint32_t index) {
    const uint32_t shift = index == 0 ? 41 : index == 1 ? 30 : (kNumDigits - 1 - index) * 10;
    return Digit{shift, index < 2 ? 11u : 10u};
}

// exp(x) for x <= 0, operation by operation that of the CPU sampler.
__device__ __forceinline__ float exp_nonpositive(float x) {
    const float kRound = 12582912.f, kMin = -87.f;
    const float clamped = fmaxf(x, kMin);
    const float n = __fsub_rn(__fadd_rn(__fmul_rn(clamped, 1.44269504088896340736f), kRound), kRound);
    const float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(n, 355.f / 512.f)), __fmul_rn(n, -2.1219444e-4f));
    float series = __fadd_rn(1.f / 720.f, __fmul_rn(r, 1.f / 5040.f));
    series = __fadd_rn(1.f / 120.f, __fmul_rn(r, series));
    series = __fadd_rn(1.f / 24.f, __fmul_rn(r, series));
    series = __fadd_rn(1.f / 6.f, __fmul_rn(r, series));
    series = __fadd_rn(0.5f, __fmul_rn(r, series));
    const float exp_r = __fadd_rn(1.f, __fadd_rn(r, __fmul_rn(__fmul_rn(r, r), series)));
    const float power = __uint_as_float(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
    return x < kMin ? 0.f : __fmul_rn(exp_r, power);
}

// 64-bit sums in two halves: the hardware adds 32 bits at once.
struct Histogram {
    uint32_t low[kBins], high[kBins];

    __device__ __forceinline__ void add(uint32_t bin, uint64_t value) {
        const uint32_t added = static_cast<uint32_t>(value);
        const uint32_t before = atomicAdd(&low[bin], added);
        const uint32_t carried = static_cast<uint32_t>(value >> 32) + (before + added < before ? 1u : 0u);
        if (carried != 0) atomicAdd(&high[bin], carried);
    }
    __device__ __forceinline__ uint64_t at(uint32_t bin) const { return static_cast<uint64_t>(high[bin]) << 32 | low[bin]; }
};

// Where a border lies: behind the entry at which the sum passes a target.
enum class Border {
    Tokens,  // `amount` entries
    Front,   // the shortest front with `amount` of the weight
    Draw,    // the entry in which `amount` of the weight falls
};

__device__ __forceinline__ uint64_t target_of(Border border, double amount, uint64_t total) {
    const double share = amount * static_cast<double>(total);
    const double target = border == Border::Tokens ? amount - 1.0 : border == Border::Front ? ceil(share) - 1.0 : floor(share);
    return smaller(static_cast<uint64_t>(fmax(target, 0.0)), total - 1);
}

// A row, and the front of its order that is kept.
struct Kept {
    const float *gLogits;
    uint32_t vocab_size, first_digit;
    float max, temperature, weight_min;
    uint64_t last;  // the last place that is kept

    __device__ __forceinline__ uint64_t place(float logit, uint32_t token) const {
        return first_digit == kFirstDigitOfId ? token : static_cast<uint64_t>(rank_key(logit)) << kIdBits | token;
    }
    __device__ __forceinline__ uint64_t value(Border border, float logit) const {
        if (border == Border::Tokens) return 1;
        const float weight = exp_nonpositive(__fdiv_rn(__fsub_rn(logit, max), temperature));
        return weight < weight_min ? 0 : __float2ull_rn(weight * 17592186044416.f);
    }
};

__device__ __forceinline__ uint64_t scan_warp(uint64_t x) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const uint64_t other = __shfl_up_sync(~0u, x, step);
        if (threadIdx.x % 32 >= step) x += other;
    }
    return x;
}

// Running sums over all bins: the sum before this thread's two, and the total.
__device__ __forceinline__ ulonglong2 scan_bins(uint64_t own, uint64_t *sWarps) {
    const uint32_t warp = threadIdx.x / 32;
    const uint64_t inside = scan_warp(own);
    if (threadIdx.x % 32 == 31) sWarps[warp] = inside;
    __syncthreads();
    if (warp == 0) sWarps[threadIdx.x] = scan_warp(sWarps[threadIdx.x]);
    __syncthreads();
    return make_ulonglong2(inside - own + (warp == 0 ? 0 : sWarps[warp - 1]), sWarps[kRowThreads / 32 - 1]);
}

// Adds to `sums` the entries whose leading digits are `prefix`, by their next digit.
__device__ __forceinline__ void count_digit(const Kept &kept, Border border, Digit digit, uint64_t prefix, Histogram &sums) {
    for (uint32_t token = threadIdx.x; token < kept.vocab_size; token += kRowThreads) {
        const float logit = kept.gLogits[token];
        const uint64_t place = kept.place(logit, token);
        if (place > kept.last || place >> (digit.shift + digit.bits) != prefix) continue;
        const uint64_t value = kept.value(border, logit);
        if (value != 0) sums.add(static_cast<uint32_t>(place >> digit.shift) & ((1u << digit.bits) - 1), value);
    }
}

// The place of the border, in every thread.
__device__ __forceinline__ uint64_t find_border(const Kept &kept, Border border, double amount) {
    __shared__ Histogram sSums;
    __shared__ uint64_t sWarps[kRowThreads / 32];
    __shared__ uint64_t sBefore;
    __shared__ uint32_t sBin;
    const uint32_t bin = 2 * threadIdx.x;
    uint64_t prefix = 0, target = 0;
    for (uint32_t index = kept.first_digit; index < kNumDigits; index++) {
        const Digit digit = digit_at(index);
        for (uint32_t i = 0; i < 2; i++) sSums.low[bin + i] = sSums.high[bin + i] = 0;
        __syncthreads();
        count_digit(kept, border, digit, prefix, sSums);
        __syncthreads();
        const uint64_t first = sSums.at(bin), second = sSums.at(bin + 1);
        const ulonglong2 sums = scan_bins(first + second, sWarps);
        if (index == kept.first_digit) target = target_of(border, amount, sums.y);
        if (sums.x <= target && target < sums.x + first + second) {
            const bool is_second = target >= sums.x + first;
            sBin = bin + (is_second ? 1 : 0);
            sBefore = sums.x + (is_second ? first : 0);
        }
        __syncthreads();
        target -= sBefore;
        prefix = prefix << digit.bits | sBin;
    }
    return prefix;
}

__device__ __forceinline__ uint32_t draw(const LaSampling &row, const float *gLogits, uint32_t vocab_size) {
    const RowBest best = best_of_row(gLogits, vocab_size);
    if (best.token >= LA_NOTHING_ALLOWED || row.temperature == 0.f) return best.token;
    const bool has_top_k = row.top_k != 0 && row.top_k < vocab_size, has_top_p = row.top_p < 1.f;
    Kept kept{gLogits, vocab_size, has_top_k || has_top_p ? 0 : kFirstDigitOfId, best.logit, row.temperature, 0.f, ~0ull};
    if (has_top_k) kept.last = find_border(kept, Border::Tokens, row.top_k);
    if (has_top_p) kept.last = find_border(kept, Border::Front, row.top_p);
    kept.weight_min = row.min_p;
    return find_border(kept, Border::Draw, philox_uniform(row.seed, row.step)) & ((1u << kIdBits) - 1);
}

}  // namespace la

extern "C" __global__ void __launch_bounds__(la::kRowThreads) la_sample(const __grid_constant__ LaSample p) {
    const float *gLogits = p.logits + static_cast<int64_t>(blockIdx.x) * p.vocab_size;
    const uint32_t token = la::draw(p.rows[blockIdx.x], gLogits, p.vocab_size);
    if (threadIdx.x == 0) p.tokens[blockIdx.x] = token;
}
