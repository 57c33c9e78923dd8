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
// Grid: a block takes a row. A border in the order is found in two passes over the row: one sums values by bin, even steps of the
// distance to the largest logit (or ranges of ids), the other collects the bin in which the border lies, and each of its entries
// then counts what comes before it. A bin with more entries than there are threads, as ties can make it, goes digit by digit.
// Assumes: vocab_size <= 2^19 (checked by the wrapper), so that sums fit into 63 bits.
#include <float.h>

#include "device/logits.cuh"
#include "device/philox.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kBins = 2048;
constexpr uint32_t kBinIds = (1u << 19) / kBins;  // ids of a bin, in the order of ids
static_assert(kBins == 2 * kRowThreads, "a thread scans two bins");
static_assert(kBinIds % 32 == 0 && kBinIds <= kRowThreads, "a warp sums a bin of ids, and a block holds one");

// The order is that of 52 bits, key above id, cut into digits.
struct Digit {
    uint32_t shift, bits;
};
constexpr uint32_t kNumDigits = 5, kIdBits = 20;
__device__ __forceinline__ Digit digit_at(uint32_t index) {
    const uint32_t shift = index == 0 ? 41 : index == 1 ? 30 : (kNumDigits - 1 - index) * 10;
    return Digit{shift, index < 2 ? 11u : 10u};
}
__device__ __forceinline__ uint64_t place_of(float logit, uint32_t token) { return static_cast<uint64_t>(rank_key(logit)) << kIdBits | token; }

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

    __device__ __forceinline__ void clear() {
        for (uint32_t bin = threadIdx.x; bin < kBins; bin += kRowThreads) low[bin] = high[bin] = 0;
    }
    __device__ __forceinline__ void add(uint32_t bin, uint64_t value) {
        const uint32_t added = static_cast<uint32_t>(value);
        const uint32_t before = atomicAdd(&low[bin], added);
        const uint32_t carried = static_cast<uint32_t>(value >> 32) + (before + added < before ? 1u : 0u);
        if (carried != 0) atomicAdd(&high[bin], carried);
    }
    __device__ __forceinline__ void set(uint32_t bin, uint64_t value) {
        low[bin] = static_cast<uint32_t>(value);
        high[bin] = static_cast<uint32_t>(value >> 32);
    }
    __device__ __forceinline__ uint64_t at(uint32_t bin) const { return static_cast<uint64_t>(high[bin]) << 32 | low[bin]; }
};

// Entries of a bin, in any order.
struct Entries {
    uint64_t place[kRowThreads], value[kRowThreads];
};

struct SampleShared {
    Histogram bins;
    union {
        Entries entries;
        Histogram digits;
    };
    uint64_t warps[kRowThreads / 32];
    uint64_t before, place, sum;
    uint32_t bin, count;
};

// The block's only one. Functions that are not inlined ask for it: through an argument they would not know where it lies.
__device__ __forceinline__ SampleShared &sample_shared() {
    __shared__ SampleShared shared;
    return shared;
}

// Bins per unit of logit, so that `span` of them fills all bins: neither zero nor infinite.
__device__ __forceinline__ float bins_over(float span) { return fmaxf(fminf(static_cast<float>(kBins - 1) / span, FLT_MAX), FLT_MIN); }

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
    uint32_t vocab_size;
    float max, temperature, weight_min;
    float bin_scale;      // bins per unit of logit
    float last_logit;     // the last entry that is kept
    uint32_t last_token;

    __device__ __forceinline__ void end_at(uint64_t place) {
        last_logit = logit_of(static_cast<uint32_t>(place >> kIdBits));
        last_token = static_cast<uint32_t>(place) & ((1u << kIdBits) - 1);
    }
    __device__ __forceinline__ bool has(float logit, uint32_t token) const { return logit > last_logit || (logit == last_logit && token <= last_token); }
    // Where a logit lies, in bins; the bin is the integer below, the last one if that is none.
    __device__ __forceinline__ float steps_to(float logit) const { return __fmul_rn(__fsub_rn(max, logit), bin_scale); }
    __device__ __forceinline__ uint32_t bin_of(float logit) const { return min(kBins - 1, __float2uint_rz(steps_to(logit))); }
    __device__ __forceinline__ uint64_t weight(float logit) const {
        const float weight = exp_nonpositive(__fdiv_rn(__fsub_rn(logit, max), temperature));
        return weight < weight_min ? 0 : __float2ull_rn(weight * 17592186044416.f);
    }
    __device__ __forceinline__ uint64_t value(Border border, float logit) const { return border == Border::Tokens ? 1 : weight(logit); }
};

// The logits of a bin, in steps from the largest.
struct BinRange {
    float first, end;  // no number for the last bin: nothing is above it

    __device__ __forceinline__ explicit BinRange(uint32_t bin) : first(static_cast<float>(bin)), end(bin == kBins - 1 ? NAN : static_cast<float>(bin + 1)) {}
    __device__ __forceinline__ bool has(float steps) const { return steps >= first && !(steps >= end); }
};

__device__ __forceinline__ uint64_t scan_warp(uint64_t x) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const uint64_t other = __shfl_up_sync(~0u, x, step);
        if (threadIdx.x % 32 >= step) x += other;
    }
    return x;
}

// The sum of all bins before this thread's two, and of all.
__device__ __forceinline__ ulonglong2 scan_bins(const Histogram &sums, uint64_t *sWarps) {
    const uint32_t bin = 2 * threadIdx.x, warp = threadIdx.x / 32;
    const uint64_t own = sums.at(bin) + sums.at(bin + 1), inside = scan_warp(own);
    if (threadIdx.x % 32 == 31) sWarps[warp] = inside;
    __syncthreads();
    if (warp == 0) sWarps[threadIdx.x] = scan_warp(sWarps[threadIdx.x]);
    __syncthreads();
    return make_ulonglong2(inside - own + (warp == 0 ? 0 : sWarps[warp - 1]), sWarps[kRowThreads / 32 - 1]);
}

// The bin in which `target` lies goes to `shared.bin`, the sum before it to `shared.before`.
__device__ __forceinline__ void find_bin(const Histogram &sums, uint64_t before, uint64_t target, SampleShared &shared) {
    const uint32_t bin = 2 * threadIdx.x;
    const uint64_t first = sums.at(bin), second = sums.at(bin + 1);
    if (before <= target && target < before + first + second) {
        const bool is_second = target >= before + first;
        shared.bin = bin + (is_second ? 1 : 0);
        shared.before = before + (is_second ? first : 0);
    }
    __syncthreads();
}

// Sums the values of what is kept, by bin.
__device__ __noinline__ void sum_bins(const Kept kept, Border border) {
    SampleShared &shared = sample_shared();
    __syncthreads();
    shared.bins.clear();
    __syncthreads();
    if (border == Border::Tokens) {
        for_row<8>(kept.gLogits, kept.vocab_size, [&](float logit, uint32_t) { atomicAdd(&shared.bins.low[kept.bin_of(logit)], 1); });
    } else {
        for_row<4>(kept.gLogits, kept.vocab_size, [&](float logit, uint32_t token) {
            if (!kept.has(logit, token)) return;
            const uint64_t weight = kept.weight(logit);
            if (weight != 0) shared.bins.add(kept.bin_of(logit), weight);
        });
    }
    __syncthreads();
}

// The same by ranges of ids.
__device__ __forceinline__ void sum_ids(const Kept &kept, SampleShared &shared) {
    const uint32_t lane = threadIdx.x % 32;
    shared.bins.clear();
    __syncthreads();
    for (uint32_t bin = threadIdx.x / 32; bin * kBinIds < kept.vocab_size; bin += kRowThreads / 32) {
        float logit[kBinIds / 32];
#pragma unroll
        for (uint32_t i = 0; i < kBinIds / 32; i++) {
            const uint32_t token = bin * kBinIds + i * 32 + lane;
            logit[i] = token < kept.vocab_size ? kept.gLogits[token] : -INFINITY;
        }
        uint64_t sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < kBinIds / 32; i++) sum += kept.weight(logit[i]);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (lane == 0) shared.bins.set(bin, sum);
    }
    __syncthreads();
}

// An entry of the order, and the sum of values up to and with it.
struct Found {
    uint64_t place, sum;
};

// The entry in which `target` falls, among all those of its bin.
__device__ __forceinline__ Found find_entry(uint32_t count, uint64_t target, SampleShared &shared) {
    const Entries &entries = shared.entries;
    if (threadIdx.x < count) {
        const uint64_t place = entries.place[threadIdx.x], value = entries.value[threadIdx.x];
        uint64_t before = shared.before;
        for (uint32_t other = 0; other < count; other++) before += entries.place[other] < place ? entries.value[other] : 0;
        if (before <= target && target < before + value) {
            shared.place = place;
            shared.sum = before + value;
        }
    }
    __syncthreads();
    return Found{shared.place, shared.sum};
}

// Out of line, for loops that seldom need it.
__device__ __noinline__ uint64_t weight_of(const Kept kept, float logit) { return kept.weight(logit); }

// The same in a bin of any size, which is read again for every digit of the place.
__device__ __noinline__ Found find_by_digits(const Kept kept, Border border, uint64_t target) {
    SampleShared &shared = sample_shared();
    const BinRange range(shared.bin);
    uint64_t rest = target - shared.before, prefix = 0;
    for (uint32_t index = 0; index < kNumDigits; index++) {
        const Digit digit = digit_at(index);
        __syncthreads();
        shared.digits.clear();
        __syncthreads();
        for_row<8>(kept.gLogits, kept.vocab_size, [&](float logit, uint32_t token) {
            if (!range.has(kept.steps_to(logit)) || !kept.has(logit, token)) return;
            const uint64_t place = place_of(logit, token);
            if (place >> (digit.shift + digit.bits) != prefix) return;
            const uint64_t value = border == Border::Tokens ? 1 : weight_of(kept, logit);
            if (value != 0) shared.digits.add(static_cast<uint32_t>(place >> digit.shift) & ((1u << digit.bits) - 1), value);
        });
        __syncthreads();
        find_bin(shared.digits, scan_bins(shared.digits, shared.warps).x, rest, shared);
        rest -= shared.before;
        prefix = prefix << digit.bits | shared.bin;
    }
    return Found{prefix, target - rest + shared.digits.at(shared.bin)};
}

// The border in the order of logits; `total` is what `amount` is a share of, zero: of all bins.
__device__ __noinline__ Found find_border(const Kept kept, Border border, double amount, uint64_t total) {
    SampleShared &shared = sample_shared();
    const ulonglong2 scanned = scan_bins(shared.bins, shared.warps);
    const uint64_t target = target_of(border, amount, total == 0 ? scanned.y : total);
    find_bin(shared.bins, scanned.x, target, shared);
    const BinRange range(shared.bin);
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    for_row<8>(kept.gLogits, kept.vocab_size, [&](float logit, uint32_t token) {
        if (!range.has(kept.steps_to(logit)) || !kept.has(logit, token)) return;
        const uint32_t at = atomicAdd(&shared.count, 1);
        if (at < kRowThreads) shared.entries.place[at] = place_of(logit, token);
    });
    __syncthreads();
    const uint32_t count = shared.count;
    if (count > kRowThreads) return find_by_digits(kept, border, target);
    if (threadIdx.x < count) shared.entries.value[threadIdx.x] = kept.value(border, logit_of(static_cast<uint32_t>(shared.entries.place[threadIdx.x] >> kIdBits)));
    __syncthreads();
    return find_entry(count, target, shared);
}

// A draw in the order of ids.
__device__ __forceinline__ uint32_t draw_id(const Kept &kept, double uniform, SampleShared &shared) {
    sum_ids(kept, shared);
    const ulonglong2 scanned = scan_bins(shared.bins, shared.warps);
    const uint64_t target = target_of(Border::Draw, uniform, scanned.y);
    find_bin(shared.bins, scanned.x, target, shared);
    const uint32_t first = shared.bin * kBinIds, count = min(kBinIds, kept.vocab_size - first);
    if (threadIdx.x < count) {
        shared.entries.place[threadIdx.x] = first + threadIdx.x;
        shared.entries.value[threadIdx.x] = kept.weight(kept.gLogits[first + threadIdx.x]);
    }
    __syncthreads();
    return static_cast<uint32_t>(find_entry(count, target, shared).place);
}

__device__ __forceinline__ uint32_t draw(const LaSampling &row, const float *gLogits, uint32_t vocab_size) {
    SampleShared &shared = sample_shared();
    const RowBest best = best_of_row(gLogits, vocab_size);
    if (best.token >= LA_NOTHING_ALLOWED || row.temperature == 0.f) return best.token;
    const bool has_top_k = row.top_k != 0 && row.top_k < vocab_size, has_top_p = row.top_p < 1.f;
    const float span = best.logit - best.lowest;
    Kept kept{gLogits, vocab_size, best.logit, row.temperature, 0.f, bins_over(fminf(span, 64.f)), -INFINITY, ~0u};
    if (!has_top_k && !has_top_p) {
        kept.weight_min = row.min_p;
        return draw_id(kept, philox_uniform(row.seed, row.step), shared);
    }
    if (has_top_k) {
        sum_bins(kept, Border::Tokens);
        kept.end_at(find_border(kept, Border::Tokens, row.top_k, 0).place);
    }
    // A weight below 2^-45 is none, so its entries may share a bin.
    kept.bin_scale = bins_over(fminf(span, 32.f * row.temperature));
    uint64_t total = 0;
    if (has_top_p) {
        sum_bins(kept, Border::Front);
        const Found front = find_border(kept, Border::Front, row.top_p, 0);
        kept.end_at(front.place);
        total = front.sum;
    }
    // What lies behind the front does not move a border inside it, so that its bins serve again, unless weights changed.
    if (!has_top_p || row.min_p > 0.f) {
        kept.weight_min = row.min_p;
        total = 0;
        sum_bins(kept, Border::Draw);
    }
    return static_cast<uint32_t>(find_border(kept, Border::Draw, philox_uniform(row.seed, row.step), total).place) & ((1u << kIdBits) - 1);
}

}  // namespace la

extern "C" __global__ void __launch_bounds__(la::kRowThreads) la_sample(const __grid_constant__ LaSample p) {
    const float *gLogits = p.logits + static_cast<int64_t>(blockIdx.x) * p.vocab_size;
    const uint32_t token = la::draw(p.rows[blockIdx.x], gLogits, p.vocab_size);
    if (threadIdx.x == 0) p.tokens[blockIdx.x] = token;
}
