// The copying side of attend: one warp walks the parts of a worker's items and fills a ring of stages with tiles of keys and of
// values in turn. It runs ahead over the borders of items, so that memory never waits for arithmetic.
//
// With 8-bit elements a stage has, beside its tile, the scale of each 16 of its rows, as the exponent byte of the scale's bits.
#pragma once
#include "async.cuh"
#include "lazy_kernels.h"

namespace la {

// A ring of `num_stages` tiles in shared memory, each with a barrier for "full" and one for "empty".
struct Ring {
    uint32_t tiles;  // shared address of stage 0
    uint32_t full;   // shared address of the first of kMaxStages barriers
    uint32_t empty;
    uint32_t num_stages;
    uint8_t (*scales)[8] = nullptr;  // of each stage, where elements have 8 bits: of 16 rows each, zero where no block is

    __device__ __forceinline__ uint32_t full_of(uint32_t stage) const { return full + 8 * stage; }
    __device__ __forceinline__ uint32_t empty_of(uint32_t stage) const { return empty + 8 * stage; }
    // Scale of rows [16 * step, 16 * step + 16) of a stage.
    __device__ __forceinline__ float scale_of(uint32_t stage, uint32_t step) const {
        return __uint_as_float(static_cast<uint32_t>(scales[stage][step]) << 23);
    }
};

constexpr uint32_t kMaxStages = 16;

// Bytes of a stage of `Keys` keys or values of `Bytes` each element.
template <int HeadDim, int Keys, int Bytes = 2> constexpr uint32_t kStageBytes = Keys * HeadDim * Bytes;

// Blocks of a tile: lane i has the id of block i, and the exponent byte of rows 16 i and on.
struct TileBlocks {
    uint32_t id;
    uint32_t count;
    uint32_t scale;
};

// Copies the blocks of a tile of a KV head's keys or values into the stage at `place`.
template <class Element, int HeadDim, int TileKeys>
__device__ __forceinline__ void fill_stage(const LaKv &kv, const void *gKv, uint32_t kv_head, const Ring &ring, RingPlace place, const TileBlocks &tile) {
    const uint32_t lane = threadIdx.x % 32, block_bytes = kv.block_size * HeadDim * Element::kKvBytes;
    const uint32_t sStage = ring.tiles + place.stage * kStageBytes<HeadDim, TileKeys, Element::kKvBytes>;
    const char *gHead = static_cast<const char *>(gKv) + static_cast<int64_t>(kv_head) * block_bytes;
    barrier_wait(ring.empty_of(place.stage), place.parity ^ 1);
#if LA_HAS_BULK_COPY
    if constexpr (Element::kKvBytes == 2) {
        if (lane == 0) barrier_expect(ring.full_of(place.stage), tile.count * block_bytes);
        __syncwarp();
    }
    if (lane < tile.count) copy_bulk(sStage + lane * block_bytes, gHead + tile.id * kv.block_stride, block_bytes, ring.full_of(place.stage));
    if constexpr (Element::kKvBytes == 1) {
        // Copies need not wait for scales: bytes may complete before they are announced, the stage is not full before both.
        if (lane < 8) ring.scales[place.stage][lane] = static_cast<uint8_t>(tile.scale);
        __syncwarp();
        if (lane == 0) barrier_expect(ring.full_of(place.stage), tile.count * block_bytes);
    }
#else
    if constexpr (Element::kKvBytes == 1) {
        if (lane < 8) ring.scales[place.stage][lane] = static_cast<uint8_t>(tile.scale);
        __threadfence_block();
    }
    const uint32_t groups = block_bytes / 16;
    for (uint32_t block = 0; block < tile.count; block++) {
        const char *gBlock = gHead + __shfl_sync(~0u, tile.id, block) * kv.block_stride;
        for (uint32_t group = lane; group < groups; group += 32) copy_16(sStage + block * block_bytes + group * 16, gBlock + group * 16);
    }
    barrier_arrive_after_copies(ring.full_of(place.stage));
#endif
}

// Block ids of a part, 32 at a time, one a lane.
struct BlockIds {
    const uint32_t *gIds = nullptr;
    uint32_t count = 0;

    __device__ __forceinline__ BlockIds() {}
    __device__ __forceinline__ BlockIds(const LaPlan &plan, const LaPart &part, uint32_t block_size) {
        const uint32_t first = part.key_begin / block_size;
        gIds = plan.block_ids + part.first_block + first;
        count = (part.key_end + block_size - 1) / block_size - first;
    }
    __device__ __forceinline__ uint32_t load(uint32_t begin) const {
        const uint32_t at = begin + threadIdx.x % 32;
        return at < count ? __ldg(gIds + at) : 0;
    }
};

// Exponent bytes of the scales of a batch's blocks, one a lane, keys below values; nothing with 16-bit elements.
template <class Element> struct BatchScales {
    uint32_t bytes = 0;

    __device__ __forceinline__ void load(const LaKv &kv, uint32_t kv_head, uint32_t block_id) {
        if constexpr (Element::kKvBytes == 1) {
            const int64_t at = static_cast<int64_t>(block_id) * kv.num_kv_heads + kv_head;
            bytes = __float_as_uint(__ldg(kv.k_scale + at)) >> 23 | __float_as_uint(__ldg(kv.v_scale + at)) >> 23 << 8;
        }
    }
    // Those of 16 rows each, of blocks [at, end) of the batch, in lanes 0 to 7.
    __device__ __forceinline__ uint32_t of_tile(uint32_t at, uint32_t end, uint32_t block_size) const {
        if constexpr (Element::kKvBytes == 2) return 0;
        const uint32_t block = at + threadIdx.x % 8 * 16 / block_size;
        const uint32_t both = __shfl_sync(~0u, bytes, block % 32);
        return block < end ? both : 0;
    }
};

// Fills the ring with all tiles of items [item, item_end), in the order in which the other warps read them.
template <class Element, int HeadDim, int TileKeys>
__device__ __forceinline__ void produce(const LaAttend &p, const Ring &ring, uint32_t kv_head, int32_t item, int32_t item_end) {
    const uint32_t block_size = p.kv.block_size, tile_blocks = TileKeys / block_size;
    const uint32_t lane = threadIdx.x % 32;
    RingPlace place;
    for (; item < item_end; item++) {
        const int32_t part_begin = p.work.items[item].part_begin, part_end = p.work.items[item].part_end;
        if (part_begin == part_end) continue;
        BlockIds next(p.plan, p.plan.parts[part_begin], block_size);
        uint32_t next_id = next.load(0);
        BatchScales<Element> next_scales;
        next_scales.load(p.kv, kv_head, next_id);
        for (int32_t part = part_begin; part < part_end; part++) {
            const BlockIds ids = next;
            uint32_t id = next_id;
            BatchScales<Element> scales = next_scales;
            if (part + 1 < part_end) {  // started before this part's copies, used after them
                next = BlockIds(p.plan, p.plan.parts[part + 1], block_size);
                next_id = next.load(0);
            }
            for (uint32_t batch = 0; batch < ids.count; batch += 32) {
                const uint32_t following = ids.load(batch + 32);
                BatchScales<Element> following_scales;
                const uint32_t batch_end = min(ids.count - batch, 32u);
                for (uint32_t at = 0; at < batch_end; at += tile_blocks) {
                    const uint32_t end = min(at + tile_blocks, batch_end);
                    TileBlocks tile{__shfl_sync(~0u, id, at + lane % tile_blocks), end - at, scales.of_tile(at, end, block_size)};
                    fill_stage<Element, HeadDim, TileKeys>(p.kv, p.kv.k, kv_head, ring, place, tile);
                    place.advance(ring.num_stages);
                    tile.scale >>= 8;
                    fill_stage<Element, HeadDim, TileKeys>(p.kv, p.kv.v, kv_head, ring, place, tile);
                    place.advance(ring.num_stages);
                    if (at == 0) {  // the ids are here by now
                        following_scales.load(p.kv, kv_head, following);
                        if (batch == 0) next_scales.load(p.kv, kv_head, next_id);
                    }
                }
                id = following;
                scales = following_scales;
            }
        }
    }
}

}  // namespace la
