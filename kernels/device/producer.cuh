// The copying side of attend: one warp walks the parts of a worker's items and fills a ring of stages with tiles of keys and of
// values in turn. It runs ahead over the borders of items, so that memory never waits for arithmetic.
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

    __device__ __forceinline__ uint32_t full_of(uint32_t stage) const { return full + 8 * stage; }
    __device__ __forceinline__ uint32_t empty_of(uint32_t stage) const { return empty + 8 * stage; }
};

constexpr uint32_t kMaxStages = 16;

// Bytes of a stage of `Keys` keys or values.
template <int HeadDim, int Keys> constexpr uint32_t kStageBytes = Keys * HeadDim * 2;

// Copies `num_blocks` blocks, lane i's block being `block_id`, into the stage at `place`.
template <uint32_t StageBytes>
__device__ __forceinline__ void fill_stage(const Ring &ring, RingPlace place, const char *gHead, int64_t block_stride,
                                           uint32_t block_bytes, uint32_t block_id, uint32_t num_blocks) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t sStage = ring.tiles + place.stage * StageBytes;
    barrier_wait(ring.empty_of(place.stage), place.parity ^ 1);
#if LA_HAS_BULK_COPY
    if (lane == 0) barrier_expect(ring.full_of(place.stage), num_blocks * block_bytes);
    __syncwarp();
    if (lane < num_blocks)
        copy_bulk(sStage + lane * block_bytes, gHead + block_id * block_stride, block_bytes, ring.full_of(place.stage));
#else
    const uint32_t groups = block_bytes / 16;
    for (uint32_t block = 0; block < num_blocks; block++) {
        const char *gBlock = gHead + __shfl_sync(~0u, block_id, block) * block_stride;
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

// Fills the ring with all tiles of items [item, item_end), in the order in which the other warps read them.
template <int HeadDim, int TileKeys>
__device__ __forceinline__ void produce(const LaAttend &p, const Ring &ring, uint32_t kv_head, int32_t item, int32_t item_end) {
    const uint32_t block_size = p.kv.block_size, block_bytes = block_size * HeadDim * 2;
    const uint32_t tile_blocks = TileKeys / block_size;
    const char *gKeys = static_cast<const char *>(p.kv.k) + static_cast<int64_t>(kv_head) * block_bytes;
    const char *gValues = static_cast<const char *>(p.kv.v) + static_cast<int64_t>(kv_head) * block_bytes;
    const uint32_t lane = threadIdx.x % 32;
    RingPlace place;
    for (; item < item_end; item++) {
        const int32_t part_begin = p.work.items[item].part_begin, part_end = p.work.items[item].part_end;
        if (part_begin == part_end) continue;
        BlockIds next(p.plan, p.plan.parts[part_begin], block_size);
        uint32_t next_id = next.load(0);
        for (int32_t part = part_begin; part < part_end; part++) {
            const BlockIds ids = next;
            uint32_t id = next_id;
            if (part + 1 < part_end) {  // started before this part's copies, used after them
                next = BlockIds(p.plan, p.plan.parts[part + 1], block_size);
                next_id = next.load(0);
            }
            for (uint32_t batch = 0; batch < ids.count; batch += 32) {
                const uint32_t following = ids.load(batch + 32);
                const uint32_t batch_end = min(ids.count - batch, 32u);
                for (uint32_t at = 0; at < batch_end; at += tile_blocks) {
                    const uint32_t block_id = __shfl_sync(~0u, id, at + lane % tile_blocks);
                    const uint32_t num_blocks = min(tile_blocks, batch_end - at);
                    fill_stage<kStageBytes<HeadDim, TileKeys>>(ring, place, gKeys, p.kv.block_stride, block_bytes, block_id, num_blocks);
                    place.advance(ring.num_stages);
                    fill_stage<kStageBytes<HeadDim, TileKeys>>(ring, place, gValues, p.kv.block_stride, block_bytes, block_id, num_blocks);
                    place.advance(ring.num_stages);
                }
                id = following;
            }
        }
    }
}

}  // namespace la
