// attend, classes W64 and W128: up to 64 or 128 query rows (token, head of the group) against any number of keys; prefill, encoding,
// and decoding of documents that many requests share.
//
//   score(row, key i) = < R(base - start) q , K_i >     out = softmax(score) V      K_i = R(i) k_i, as stored
//
// Layout: q, out [token, num_q_heads, HeadDim]; key and value blocks as la_block_byte says: the image that a warpgroup product reads
// from shared memory, so that blocks laid end to end are one operand and loading a block is one copy.
// Grid: block (worker, KV head), the head running fastest. Each warpgroup owns 64 rows, a warp 16 of them; the last warp copies.
// On sm_90a wide_warpgroups.cuh does it all. What is here serves other devices, through mma.sync, and 8-bit keys and values: there the next
// scores are issued behind the values of the tile before, so that the tensor cores wait for no softmax but their own.
// A query is rotated once per part of its chain, in f32, from the raw query: rotated values are never rotated again.
// 8-bit keys and values are widened to halves in shared memory by three warps beside the one that copies.
// Assumes: as attend_n16; and that slots behind the last token of a block are finite (rope_append zeroes them), because
// probability zero times NaN is NaN.
#include "device/element.cuh"
#include "device/fp8_tiles.cuh"
#include "device/producer.cuh"
#include "device/rows.cuh"
#include "device/softmax.cuh"
#include "device/wgmma.cuh"
#include "device/wide_warpgroups.cuh"
#include "lazy_kernels.h"

namespace la {

// Keys of a tile.
constexpr int kWideKeys = 128;

// Shared memory besides the stages.
struct WideShared {
    uint64_t full[kMaxStages];
    uint64_t empty[kMaxStages];
    RawShared raw;  // of 8-bit elements
};

// Threads of a block: with 8-bit elements there are warps that widen them everywhere.
template <class Element, int Groups> constexpr int kWideThreads = std::is_same_v<Element, HalfProducts> ? 128 * Groups + 128 : kBlockThreads<Groups>;

// Where a warp is in the ring, and the stage of values it has not given back yet.
struct WideRing {
    Ring ring;
    RingPlace place;
    int32_t unreleased = -1;

    __device__ __forceinline__ void give_back(uint32_t stage) const { warp_arrive(ring.empty_of(stage)); }
    __device__ __forceinline__ void give_back_values() {
        if (unreleased >= 0) give_back(unreleased);
        unreleased = -1;
    }
    // Waits for the next stage; its shared address.
    template <int HeadDim> __device__ __forceinline__ uint32_t wait() const {
        barrier_wait(ring.full_of(place.stage), place.parity);
        return ring.tiles + place.stage * kStageBytes<HeadDim, kWideKeys>;
    }
};

// Scores of a warp's 16 rows (a warpgroup's 64) against the keys of the next stage. Ends all products started before.
template <class Element, int HeadDim>
__device__ __forceinline__ void wide_scores(WideRing &ring, const uint32_t (&rQ)[HeadDim / 16][4], float (&score)[kWideKeys / 8][4],
                                            float (&out)[HeadDim / 8][4]) {
    const uint32_t sKeys = ring.wait<HeadDim>();
#if LA_HAS_WGMMA
    wgmma_pin(score);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < HeadDim / 16; k++)
        wgmma<Element, 0>(score, rQ[k], tile_descriptor(sKeys + k / 4 * 1024 + k % 4 * 32, 16, HeadDim * 16), k != 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(score);
    wgmma_pin(out);
#else
#pragma unroll
    for (int s = 0; s < kWideKeys / 16; s++) score_keys<Element, HeadDim>(sKeys, 16 * s, rQ, reinterpret_cast<float(&)[2][4]>(score[2 * s]));
#endif
    ring.give_back_values();
    ring.give_back(ring.place.stage);
    ring.place.advance(ring.ring.num_stages);
}

// Adds the values of the next stage, weighted by `score`. The products may still run on return.
template <class Element, int HeadDim>
__device__ __forceinline__ void wide_values(WideRing &ring, const float (&score)[kWideKeys / 8][4], int32_t valid, float (&out)[HeadDim / 8][4]) {
    constexpr int kSteps = kWideKeys / 16;
    uint32_t rP[kSteps][4];
#pragma unroll
    for (int s = 0; s < kSteps; s++)
#pragma unroll
        for (int j = 0; j < 4; j++) rP[s][j] = Element::pack(score[2 * s + j / 2][j % 2 * 2], score[2 * s + j / 2][j % 2 * 2 + 1]);
    const uint32_t sValues = ring.wait<HeadDim>();
#if LA_HAS_WGMMA
    wgmma_pin(out);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < kSteps; s++) wgmma<Element, 1>(out, rP[s], tile_descriptor(sValues + s * HeadDim * 32, 1024, HeadDim * 16), 1);
    wgmma_commit();
    ring.unreleased = ring.place.stage;
#else
#pragma unroll
    for (int s = 0; s < kSteps; s++)
        if (16 * s < valid) add_values<Element, HeadDim>(sValues, 16 * s, rP[s], valid - 16 * s, out);
    ring.give_back(ring.place.stage);
#endif
    ring.place.advance(ring.ring.num_stages);
}

// Divides by the sum of probabilities and writes a warp's rows.
template <class Element, int HeadDim>
__device__ __forceinline__ void finish_rows(const LaAttend &p, const LaItem &item, uint32_t kv_head, uint32_t first_row, Accumulator<HeadDim> &sums) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = sums.sum[r];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float scale = sum > 0.f ? 1.f / sum : 0.f;
        const TargetRow row(p, item, kv_head, first_row + lane / 4 + 8 * r);
        if (!row.is_valid) continue;
        const uint32_t column = lane % 4 * 2;
        if (item.first_slot == LA_WRITES_OUTPUT) {
            uint16_t *gRow = static_cast<uint16_t *>(p.out) + row.entry(p, row.token) * HeadDim + column;
#pragma unroll
            for (int n = 0; n < HeadDim / 8; n++)
                *reinterpret_cast<uint32_t *>(gRow + 8 * n) = Element::pack_out(sums.out[n][2 * r] * scale, sums.out[n][2 * r + 1] * scale);
        } else {
            const int64_t entry = row.entry(p, item.first_slot + row.index);
            float *gRow = p.partials.out + entry * HeadDim + column;
#pragma unroll
            for (int n = 0; n < HeadDim / 8; n++)
                *reinterpret_cast<float2 *>(gRow + 8 * n) = make_float2(sums.out[n][2 * r] * scale, sums.out[n][2 * r + 1] * scale);
            if (lane % 4 == 0) p.partials.lse[entry] = sum > 0.f ? sums.largest[r] * p.rope.scale_log2 + log2f(sum) : -INFINITY;
        }
    }
}

template <class Element, int HeadDim>
__device__ __forceinline__ void consume_wide(const LaAttend &p, const Ring &barriers, uint32_t kv_head, int32_t item_index, int32_t item_end) {
    constexpr int kTile = kWideKeys;
    const uint32_t lane = threadIdx.x % 32, first_row = threadIdx.x / 32 * 16;
    WideRing ring{barriers};
    for (; item_index < item_end; item_index++) {
        const LaItem item = p.work.items[item_index];
        const QueryRow rows[2] = {QueryRow(p, item, kv_head, first_row + lane / 4), QueryRow(p, item, kv_head, first_row + lane / 4 + 8)};
        const int2 bases = base_range(rows);
        Accumulator<HeadDim> sums;
        sums.clear();
        for (int32_t at = item.part_begin; at < item.part_end; at++) {
            const LaPart part = p.plan.parts[at];
            uint32_t rQ[HeadDim / 16][4];
            rotate_queries<Element, HeadDim>(p, rows, part.start, rQ);
            const Visibility seen(p, part, bases);
            for (int32_t tile = part.key_begin; tile < part.key_end; tile += kTile) {
                float score[kTile / 8][4];
                wide_scores<Element, HeadDim>(ring, rQ, score, sums.out);
                if (!seen.is_full(tile, tile + kTile)) mask_scores(p, part, rows, tile, score);
                sums.absorb(score, p.rope.scale_log2);
                wide_values<Element, HeadDim>(ring, score, part.key_end - tile, sums.out);
            }
        }
#if LA_HAS_WGMMA
        wgmma_wait<0>();
        wgmma_pin(sums.out);
#endif
        ring.give_back_values();
        finish_rows<Element, HeadDim>(p, item, kv_head, first_row, sums);
    }
}

// `Groups` warpgroups of 64 rows each, and one of which a single warp copies: registers move between warpgroups, not warps.
template <class Element, int HeadDim, int Groups> __device__ __forceinline__ void attend_tiles(const LaAttend &p) {
    // Two groups need the registers that only sm_90a can move to them; elsewhere items have at most 64 rows.
    if (Groups == 2 && !LA_HAS_WGMMA) return;
    constexpr uint32_t kComputeThreads = 128 * Groups;
    constexpr bool kWidens = std::is_same_v<Element, HalfProducts>;  // the tiles come from 8-bit ones
    extern __shared__ __align__(1024) uint8_t sMemory[];
    const uint32_t ring_bytes = p.num_stages * kStageBytes<HeadDim, kWideKeys>, raw_bytes = kWidens ? kRawStages * kStageBytes<HeadDim, kWideKeys, 1> : 0;
    WideShared &shared = *reinterpret_cast<WideShared *>(sMemory + ring_bytes + raw_bytes);
    const Ring ring{shared_address(sMemory), shared_address(shared.full), shared_address(shared.empty), p.num_stages};
    const Ring raw{ring.tiles + ring_bytes, shared_address(shared.raw.full), shared_address(shared.raw.empty), kRawStages, shared.raw.scales};
    next_grid_may_start();
    if (threadIdx.x < p.num_stages) {
        barrier_init(ring.full_of(threadIdx.x), kWidens ? kWideningWarps * kWarpArrivals : kFillArrivals);
        barrier_init(ring.empty_of(threadIdx.x), 4 * Groups * kWarpArrivals);
        if (kWidens && threadIdx.x < kRawStages) {
            barrier_init(raw.full_of(threadIdx.x), kFillArrivals);
            barrier_init(raw.empty_of(threadIdx.x), kWideningWarps * kWarpArrivals);
        }
        barrier_init_fence();
    }
    // The end of a tile that no copy fills is multiplied by zero, and must be a number for that.
    for (uint32_t at = threadIdx.x; at < (ring_bytes + raw_bytes) / 16; at += blockDim.x)
        reinterpret_cast<uint4 *>(sMemory)[at] = make_uint4(0, 0, 0, 0);
    fence_for_copies();
    __syncthreads();
    const uint32_t kv_head = blockIdx.x % p.kv.num_kv_heads, worker = blockIdx.x / p.kv.num_kv_heads;
    const LaStart &start = p.work.starts[worker];
    if (threadIdx.x < kComputeThreads) {
        if (Groups == 2) claim_registers<kWidens ? 224 : 232>();
        consume_wide<Element, HeadDim>(p, ring, kv_head, start.item_begin, start.item_end);
    } else {
        if (Groups == 2) release_registers<kWidens ? 56 : 40>();
        if (threadIdx.x < kComputeThreads + 32) {
            if constexpr (kWidens) {
                produce<Fp8, HeadDim, kWideKeys>(p, raw, kv_head, start);
            } else {
                produce<Element, HeadDim, kWideKeys>(p, ring, kv_head, start);
            }
        } else if constexpr (kWidens) {
            widen<HeadDim, kWideKeys>(p, raw, ring, threadIdx.x - kComputeThreads - 32, start.item_begin, start.item_end);
        }
    }
    wait_for_last_grid();
}

template <class Element, int HeadDim, int Groups> __device__ __forceinline__ void attend_wide(const LaAttend &p) {
#if LA_HAS_WGMMA
    if constexpr (!std::is_same_v<Element, HalfProducts>) return attend_warpgroups<Element, HeadDim, kWideKeys, Groups>(p);
#endif
    attend_tiles<Element, HeadDim, Groups>(p);
}

}  // namespace la

#define LA_ATTEND_WIDE(name, element, head_dim, groups)                                              \
    extern "C" __global__ void __launch_bounds__(la::kWideThreads<la::element, groups>, 1) name(const __grid_constant__ LaAttend p) { \
        la::attend_wide<la::element, head_dim, groups>(p);                                           \
    }
LA_ATTEND_WIDE(la_attend_w64_bf16_d64, Bf16, 64, 1)
LA_ATTEND_WIDE(la_attend_w64_bf16_d128, Bf16, 128, 1)
LA_ATTEND_WIDE(la_attend_w64_f16_d64, F16, 64, 1)
LA_ATTEND_WIDE(la_attend_w64_f16_d128, F16, 128, 1)
LA_ATTEND_WIDE(la_attend_w128_bf16_d64, Bf16, 64, 2)
LA_ATTEND_WIDE(la_attend_w128_bf16_d128, Bf16, 128, 2)
LA_ATTEND_WIDE(la_attend_w128_f16_d64, F16, 64, 2)
LA_ATTEND_WIDE(la_attend_w128_f16_d128, F16, 128, 2)
LA_ATTEND_WIDE(la_attend_w64_fp8_d64, HalfProducts, 64, 1)
LA_ATTEND_WIDE(la_attend_w64_fp8_d128, HalfProducts, 128, 1)
LA_ATTEND_WIDE(la_attend_w128_fp8_d64, HalfProducts, 64, 2)
LA_ATTEND_WIDE(la_attend_w128_fp8_d128, HalfProducts, 128, 2)
