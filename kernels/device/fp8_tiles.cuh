// Tiles of 8-bit elements for the wide classes: copied into a short ring of their own, from which the warps beside the copying one
// widen them into tiles of halves. Those lie as la_block_byte says, so the computing warps see the ring of any 16-bit type.
// Every stored value is a number of half precision (fp8.cuh), so widening rounds nothing.
#pragma once
#include "element.cuh"
#include "fp8.cuh"
#include "producer.cuh"

namespace la {

constexpr uint32_t kRawStages = 2;
constexpr uint32_t kWideningWarps = 3;

struct RawShared {
    uint64_t full[kRawStages];
    uint64_t empty[kRawStages];
    uint2 scales[kRawStages];
};

// Widens a tile; rows that no block fills become zeros. A warp takes eight rows by four groups of 16 elements at once: a lane's place
// among them does not change, and they lie in different banks on both sides.
template <int HeadDim, int Keys> __device__ __forceinline__ void widen_tile(const Ring &raw, uint32_t raw_stage, uint32_t sTo, uint32_t thread) {
    constexpr uint32_t kParts = HeadDim / 64;  // of eight rows
    const uint32_t row = thread % 8, group = thread % 32 / 8;
    const uint32_t sFrom = raw.tiles + raw_stage * kStageBytes<HeadDim, Keys, 1> + fp8_group_byte<HeadDim>(row, group);
    const uint32_t sLow = sTo + group_byte<HeadDim>(row, 2 * group), sHigh = sTo + group_byte<HeadDim>(row, 2 * group + 1);
    const StageScales scales = raw.scales_of(raw_stage);
#pragma unroll 2
    for (uint32_t at = thread / 32; at < Keys / 8 * kParts; at += kWideningWarps) {
        const uint32_t eight = at / kParts, part = at % kParts;
        const __half2 scale = __float2half2_rn(scales.of(eight / 2));
        uint32_t four[4], low[4], high[4];
        // Groups of the second part are four further on, which the swizzle makes a flip of one bit.
        load_shared_16(four, (sFrom ^ part * 64) + eight * 8 * HeadDim);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint2 halves = widen_e4m3(four[i]);
            const __half2 a = __hmul2(*reinterpret_cast<const __half2 *>(&halves.x), scale), b = __hmul2(*reinterpret_cast<const __half2 *>(&halves.y), scale);
            low[i] = *reinterpret_cast<const uint32_t *>(&a);
            high[i] = *reinterpret_cast<const uint32_t *>(&b);
        }
        store_shared_16(sLow + at * 1024, low);
        store_shared_16(sHigh + at * 1024, high);
    }
}

// Widens all tiles of items [item, item_end) from `raw` into `ring`. Called by kWideningWarps warps.
template <int HeadDim, int Keys>
__device__ __forceinline__ void widen(const LaAttend &p, const Ring &raw, const Ring &ring, uint32_t thread, int32_t item, int32_t item_end) {
    RingPlace from, to;
    for (; item < item_end; item++) {
        for (int32_t part = p.work.items[item].part_begin; part < p.work.items[item].part_end; part++) {
            const int32_t num_keys = p.plan.parts[part].key_end - p.plan.parts[part].key_begin;
            // Keys and values in turn.
            for (int32_t tile = 0; tile < 2 * ((num_keys + Keys - 1) / Keys); tile++) {
                barrier_wait(raw.full_of(from.stage), from.parity);
                barrier_wait(ring.empty_of(to.stage), to.parity ^ 1);
                widen_tile<HeadDim, Keys>(raw, from.stage, ring.tiles + to.stage * kStageBytes<HeadDim, Keys>, thread);
                fence_for_copies();  // tensor cores read as the copy engine writes
                warp_arrive(ring.full_of(to.stage));
                warp_arrive(raw.empty_of(from.stage));
                from.advance(kRawStages);
                to.advance(ring.num_stages);
            }
        }
    }
}

}  // namespace la
