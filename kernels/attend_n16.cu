// attend, class N16: up to 16 query rows (token, head of the group) against any number of keys; decoding.
//
//   score(row, key i) = < R(base - start) q , K_i >     out = softmax(score) V      K_i = R(i) k_i, as stored
//
// Layout: q, out [token, num_q_heads, HeadDim]; key and value blocks as la_block_byte says: the image that ldmatrix reads without
// bank conflicts, so that loading a block is one copy.
// Grid: block (worker, KV head), the head running fastest. Warps 0-3 compute, warp 4 copies. A tile of keys is split between the
// four warps, 16 or 32 keys each; every warp keeps its own maximum, sum and output, and the four are merged at the end of an item.
// A query is rotated once per part of its chain, in f32, from the raw query: rotated values are never rotated again. On sm_90a the
// warps that are left do that ahead.
// 8-bit keys and values become halves in registers, behind ldmatrix; the scales of keys multiply scores, those of values weights.
// Assumes: num_q_heads / num_kv_heads times the item's tokens <= 16; parts begin at multiples of 64 keys; block size 16, 32 or 64;
// ids, slots and rows inside their arrays (checked by the planner and the wrapper).
#pragma once  // attend_rotate_keys.cu is this kernel with other keys
#include "device/element.cuh"
#include "device/fp8.cuh"
#include "device/producer.cuh"
#include "device/rows.cuh"
#include "device/softmax.cuh"
#include "device/turned.cuh"
#include "device/wgmma.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr int kComputeWarps = 4;
constexpr int kComputeThreads = 32 * kComputeWarps;

// Keys of a tile: stages of 16 KB, or 8 KB of 64 8-bit elements a key.
template <class Element, int HeadDim> constexpr int kNarrowKeys = Element::kKvBytes == 1 ? 128 : 8192 / HeadDim;
template <class Element, int HeadDim> constexpr uint32_t kNarrowBytes = kStageBytes<HeadDim, kNarrowKeys<Element, HeadDim>, Element::kKvBytes>;
static_assert(kNarrowBytes<Bf16, 64> == 16384 && kNarrowBytes<Bf16, 128> == 16384, "16 KB");
static_assert(kNarrowBytes<Fp8, 64> == 8192 && kNarrowBytes<Fp8, 128> == 16384, "8 or 16 KB");

// Rows that are merged at once.
constexpr uint32_t kOutRows = 4;

// Shared memory besides the stages.
template <int HeadDim> struct N16Shared {
    float out[kComputeWarps][kOutRows][HeadDim];  // columns swizzled by spread_column
    TurnedParts<HeadDim> turned;
    float largest[kComputeWarps][16];
    float sum[kComputeWarps][16];
    LaStart start;
    uint64_t full[kMaxStages];
    uint64_t empty[kMaxStages];
    uint2 scales[kMaxStages];
};
static_assert(2 * (6 * 16384 + sizeof(N16Shared<128>) + 1024) <= 228 * 1024, "two blocks of six stages fit sm_90");

// Rows of `out` are a multiple of 32 banks long; this spreads four of them over all banks.
__device__ __forceinline__ uint32_t spread_column(uint32_t row, uint32_t column) { return column ^ (row % 4 * 8); }

// Multiplies the scores of a warp's keys, those of 16-row steps `step` and on of a stage, by their scales.
template <class Element, int N> __device__ __forceinline__ void scale_keys(const Ring &ring, uint32_t stage, uint32_t step, float (&score)[N][4]) {
    if constexpr (Element::kKvBytes == 1) {
        const StageScales scales = ring.scales_of(stage);
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) score[n][j] *= scales.of(step + n / 2);
    }
}

// Multiplies probabilities by the scales of the values they are for.
template <class Element, int HeadDim, int N>
__device__ __forceinline__ void weigh_values(const Ring &ring, uint32_t stage, uint32_t step, float (&score)[N][4], Accumulator<HeadDim> &sums) {
    if constexpr (Element::kKvBytes == 1) {
        const StageScales scales = ring.scales_of(stage);
        float scale[N / 2];
#pragma unroll
        for (int s = 0; s < N / 2; s++) scale[s] = scales.of(step + s);
        sums.weigh(score, scale);
    }
}

// Keys as they are stored: rotated to their places in the segment, to which the queries are turned, part by part.
template <class Element, int HeadDim> struct StoredKeys {
    static constexpr bool kTurnsQueriesPerPart = true;
    // 8-bit tiles have no registers left for a second kind of step.
    static constexpr bool kTakesHalves = kNarrowKeys<Element, HeadDim> == 128 && Element::kKvBytes == 2;
    static constexpr int kRegisters = Element::kKvBytes == 1 ? 192 : 200;  // of computing threads; scales take some of the others

    static __device__ __forceinline__ void prepare(const LaAttend &, const N16Shared<HeadDim> &) {}
    __device__ __forceinline__ StoredKeys(const LaAttend &, const N16Shared<HeadDim> &) {}
    __device__ __forceinline__ void begin(const LaPart &) {}
    // Scores of 16 * Steps keys of a tile, those from row `first` on.
    template <int Steps>
    __device__ __forceinline__ void score(uint32_t sTile, uint32_t first, const uint32_t (&rQ)[HeadDim / 16][4], float (&score)[2 * Steps][4]) {
#pragma unroll
        for (int s = 0; s < Steps; s++) score_keys<Element, HeadDim>(sTile, first + 16 * s, rQ, reinterpret_cast<float(&)[2][4]>(score[2 * s]));
    }
};

// One tile: this warp's 16 * Steps keys of it, from keys and values in the next two stages of the ring.
template <class Element, int HeadDim, int Steps, class Keys>
__device__ __forceinline__ void take_tile(const LaAttend &p, Keys &keys, const Ring &ring, RingPlace &place, const LaPart &part, const QueryRow (&rows)[2],
                                          const Visibility &seen, int32_t tile_begin, const uint32_t (&rQ)[HeadDim / 16][4], Accumulator<HeadDim> &sums) {
    constexpr int kWarpKeys = 16 * Steps;
    const uint32_t first = threadIdx.x / 32 * kWarpKeys;
    const int32_t key_begin = tile_begin + static_cast<int32_t>(first);
    const bool has_keys = key_begin < part.key_end;
    float score[2 * Steps][4];

    barrier_wait(ring.full_of(place.stage), place.parity);
    if (has_keys) {
        const uint32_t sKeys = ring.tiles + place.stage * kNarrowBytes<Element, HeadDim>;
        keys.template score<Steps>(sKeys, first, rQ, score);
        scale_keys<Element>(ring, place.stage, first / 16, score);
    }
    warp_arrive(ring.empty_of(place.stage));
    place.advance(ring.num_stages);

    if (has_keys) {
        if (!seen.is_full(key_begin, key_begin + kWarpKeys)) mask_scores(p, part, rows, key_begin, score);
        sums.absorb(score, p.rope.scale_log2);
    }

    barrier_wait(ring.full_of(place.stage), place.parity);
    if (has_keys) {
        weigh_values<Element>(ring, place.stage, first / 16, score, sums);
        const uint32_t sValues = ring.tiles + place.stage * kNarrowBytes<Element, HeadDim>;
#pragma unroll
        for (int s = 0; s < Steps; s++) {
            const uint32_t rP[4] = {Element::pack(score[2 * s][0], score[2 * s][1]), Element::pack(score[2 * s][2], score[2 * s][3]),
                                    Element::pack(score[2 * s + 1][0], score[2 * s + 1][1]), Element::pack(score[2 * s + 1][2], score[2 * s + 1][3])};
            add_values<Element, HeadDim>(sValues, first + 16 * s, rP, part.key_end - key_begin - 16 * s, sums.out);
        }
    }
    warp_arrive(ring.empty_of(place.stage));
    place.advance(ring.num_stages);
}

// All tiles of a part. A tile that is not more than half full is split between the four warps all the same.
template <class Element, int HeadDim, class Keys>
__device__ __forceinline__ void take_part_tiles(const LaAttend &p, Keys &keys, const Ring &ring, RingPlace &place, const LaPart &part, const QueryRow (&rows)[2],
                                                const Visibility &seen, const uint32_t (&rQ)[HeadDim / 16][4], Accumulator<HeadDim> &sums) {
    constexpr int kTile = kNarrowKeys<Element, HeadDim>, kSteps = kTile / (16 * kComputeWarps);
    int32_t tile = part.key_begin;
    const int32_t whole_end = Keys::kTakesHalves ? part.key_end - kTile / 2 : part.key_end;
    for (; tile < whole_end; tile += kTile) take_tile<Element, HeadDim, kSteps>(p, keys, ring, place, part, rows, seen, tile, rQ, sums);
    if constexpr (Keys::kTakesHalves) {
        if (tile < part.key_end) take_tile<Element, HeadDim, kSteps / 2>(p, keys, ring, place, part, rows, seen, tile, rQ, sums);
    }
}

// Writes one merged row's HeadDim elements: 4 of them, from `dim` on.
template <class Element>
__device__ __forceinline__ void write_row(const LaAttend &p, const LaItem &item, const TargetRow &row, uint32_t dim, float4 value) {
    if (item.first_slot == LA_WRITES_OUTPUT) {
        const uint2 packed = make_uint2(Element::pack_out(value.x, value.y), Element::pack_out(value.z, value.w));
        *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(p.out) + row.entry(p, row.token) * p.kv.head_dim + dim) = packed;
    } else {
        *reinterpret_cast<float4 *>(p.partials.out + row.entry(p, item.first_slot + row.index) * p.kv.head_dim + dim) = value;
    }
}

// Merges what the four warps have summed, and writes it, kOutRows rows at a time.
template <class Element, int HeadDim>
__device__ __forceinline__ void finish_item(const LaAttend &p, N16Shared<HeadDim> &shared, const LaItem &item, const LaRow *rows, uint32_t kv_head,
                                            Accumulator<HeadDim> &sums) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t group_size = p.num_q_heads / p.kv.num_kv_heads;
    const uint32_t num_rows = (item.row_end - item.row_begin) * group_size;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sums.sum[r] += __shfl_xor_sync(~0u, sums.sum[r], 1);
        sums.sum[r] += __shfl_xor_sync(~0u, sums.sum[r], 2);
        if (lane % 4 == 0) {
            shared.largest[warp][lane / 4 + 8 * r] = sums.largest[r];
            shared.sum[warp][lane / 4 + 8 * r] = sums.sum[r];
        }
    }
    sync_threads_of<1, kComputeThreads>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (8 * r >= num_rows) break;
        const uint32_t row = lane / 4 + 8 * r;
        float high = -INFINITY, sum = 0.f;
#pragma unroll
        for (int w = 0; w < kComputeWarps; w++) high = fmaxf(high, shared.largest[w][row]);
        const float shift = high == -INFINITY ? 0.f : high;
#pragma unroll
        for (int w = 0; w < kComputeWarps; w++) sum += shared.sum[w][row] * exp2_fast((shared.largest[w][row] - shift) * p.rope.scale_log2);
        const float unit = Element::kKvBytes == 1 ? sums.unit : 1.f;
        const float scale = sum > 0.f ? unit * exp2_fast((sums.largest[r] - shift) * p.rope.scale_log2) / sum : 0.f;
        if (warp == 0 && lane % 4 == 0 && row < num_rows && item.first_slot != LA_WRITES_OUTPUT) {
            const TargetRow target(p, item, rows, kv_head, row);
            p.partials.lse[target.entry(p, item.first_slot + target.index)] = sum > 0.f ? high * p.rope.scale_log2 + log2f(sum) : -INFINITY;
        }
#pragma unroll
        for (uint32_t first = 0; first < 8; first += kOutRows) {
            if (8 * r + first >= num_rows) break;
            if (lane / 4 - first < kOutRows) {
#pragma unroll
                for (int n = 0; n < HeadDim / 8; n++)
                    *reinterpret_cast<float2 *>(&shared.out[warp][lane / 4 - first][spread_column(lane / 4, n * 8 + lane % 4 * 2)]) =
                        make_float2(sums.out[n][2 * r] * scale, sums.out[n][2 * r + 1] * scale);
            }
            sync_threads_of<1, kComputeThreads>();
            for (uint32_t at = threadIdx.x; at < kOutRows * HeadDim / 4; at += kComputeThreads) {
                const uint32_t out_row = at / (HeadDim / 4), dim = at % (HeadDim / 4) * 4;
                float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
                for (int w = 0; w < kComputeWarps; w++) {
                    const float4 part = *reinterpret_cast<const float4 *>(&shared.out[w][out_row][spread_column(out_row, dim)]);
                    total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
                }
                const TargetRow target(p, item, rows, kv_head, out_row + first + 8 * r);
                if (target.is_valid) write_row<Element>(p, item, target, dim, total);
            }
            sync_threads_of<1, kComputeThreads>();
        }
    }
}

template <class Element, int HeadDim, class Keys>
__device__ __forceinline__ void consume(const LaAttend &p, const Ring &ring, N16Shared<HeadDim> &shared, uint32_t kv_head) {
    const uint32_t lane = threadIdx.x % 32;
    const Script script{p, shared.start};
    RingPlace place, turned_place;
    Keys keys(p, shared);
    if (shared.start.item_begin >= shared.start.item_end) return;
    const auto row_of = [&](const LaItem &item, int row) { return QueryRow(p, item, script.rows(item), kv_head, lane / 4 + 8 * row); };
    LaItem item = *script.item(shared.start.item_begin);
    QueryRow rows[2] = {row_of(item, 0), row_of(item, 1)};
#pragma unroll 1
    for (int32_t index = shared.start.item_begin; index < shared.start.item_end; index++) {
        // Loaded here, so that nobody waits for it between items.
        const LaItem next = *script.item(min(index + 1, shared.start.item_end - 1));
        const int2 bases = base_range(rows);
        Accumulator<HeadDim> sums;
        sums.clear();
        uint32_t rQ[HeadDim / 16][4];
        if (!Keys::kTurnsQueriesPerPart) rotate_queries<Element, HeadDim>(p, rows, 0, rQ);
        for (int32_t at = item.part_begin; at < item.part_end; at++) {
            const LaPart part = Keys::kTurnsQueriesPerPart ? take_part<Element, HeadDim>(script, at, rows, shared.turned, turned_place, rQ) : *script.part(at);
            keys.begin(part);
            const Visibility seen(p, part, bases);
            take_part_tiles<Element, HeadDim>(p, keys, ring, place, part, rows, seen, rQ, sums);
        }
        rows[0] = row_of(next, 0), rows[1] = row_of(next, 1);
        finish_item<Element, HeadDim>(p, shared, item, script.rows(item), kv_head, sums);
        item = next;
    }
}

template <class Element, int HeadDim, class Keys = StoredKeys<Element, HeadDim>> __device__ __forceinline__ void attend_n16(const LaAttend &p) {
    extern __shared__ __align__(1024) uint8_t sMemory[];
    N16Shared<HeadDim> &shared = *reinterpret_cast<N16Shared<HeadDim> *>(sMemory + p.num_stages * kNarrowBytes<Element, HeadDim>);
    const Ring ring{shared_address(sMemory), shared_address(shared.full), shared_address(shared.empty), p.num_stages,
                    Element::kKvBytes == 1 ? shared.scales : nullptr};
    const uint32_t kv_head = blockIdx.x % p.kv.num_kv_heads, worker = blockIdx.x / p.kv.num_kv_heads, warp = threadIdx.x / 32;
    next_grid_may_start();
    // The last warp loads while the first prepares the barriers.
    constexpr uint32_t kStartWords = sizeof(LaStart) / 4;
    const uint32_t word = threadIdx.x - kComputeThreads;
    if (word < kStartWords) reinterpret_cast<uint32_t *>(&shared.start)[word] = reinterpret_cast<const uint32_t *>(p.work.starts + worker)[word];
    if (threadIdx.x < p.num_stages) {
        barrier_init(ring.full_of(threadIdx.x), kFillArrivals);
        barrier_init(ring.empty_of(threadIdx.x), kComputeWarps * kWarpArrivals);
        shared.turned.init(kComputeWarps);
        barrier_init_fence();
    }
    Keys::prepare(p, shared);
    __syncthreads();
    if (warp < kComputeWarps) {
        claim_registers<Keys::kRegisters>();
        consume<Element, HeadDim, Keys>(p, ring, shared, kv_head);
    } else {
        release_registers<256 - Keys::kRegisters>();
        if (warp == kComputeWarps) {
            produce<Element, HeadDim, kNarrowKeys<Element, HeadDim>>(p, ring, kv_head, shared.start);
        } else if (kTurningWarps > 0 && Keys::kTurnsQueriesPerPart) {
            turn_ahead<Element, HeadDim>(p, shared.start, shared.turned, kv_head, warp - kComputeWarps - 1);
        }
    }
    wait_for_last_grid();
}

}  // namespace la

// Multiprocessors with 100 KB of shared memory hold one block, so its threads may have all registers.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ % 100 > 20 || __CUDA_ARCH__ >= 1200)
#define LA_N16_BLOCKS 1
#else
#define LA_N16_BLOCKS 2
#endif

#define LA_ATTEND_N16(name, element, head_dim)                                                         \
    extern "C" __global__ void __launch_bounds__(la::kBlockThreads<1>, LA_N16_BLOCKS) name(const __grid_constant__ LaAttend p) { \
        la::attend_n16<la::element, head_dim>(p);                                                      \
    }
LA_ATTEND_N16(la_attend_n16_bf16_d64, Bf16, 64)
LA_ATTEND_N16(la_attend_n16_bf16_d128, Bf16, 128)
LA_ATTEND_N16(la_attend_n16_f16_d64, F16, 64)
LA_ATTEND_N16(la_attend_n16_f16_d128, F16, 128)
LA_ATTEND_N16(la_attend_n16_fp8_d64, Fp8, 64)
LA_ATTEND_N16(la_attend_n16_fp8_d128, Fp8, 128)
