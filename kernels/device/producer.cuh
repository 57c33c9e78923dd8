// The copying side of attend: one warp walks the list of a worker's blocks and fills a ring of stages with tiles of keys and of
// values in turn. It runs ahead over the borders of items, so that memory never waits for arithmetic.
//
// With 8-bit elements a stage has, beside its tile, the scale of each 16 of its rows, as the exponent byte of the scale's bits. Lane 0,
// which arrives for its warp, is the one that stores them and the one that reads them; the others get them from its registers.
#pragma once
#include "async.cuh"
#include "lazy_kernels.h"

namespace la {

// The scales of a stage's rows.
struct StageScales {
    uint2 bytes;

    // Of rows [16 * step, 16 * step + 16).
    __device__ __forceinline__ float of(uint32_t step) const { return __uint_as_float(((step < 4 ? bytes.x : bytes.y) >> step % 4 * 8 & 0xFF) << 23); }
};

// A ring of `num_stages` tiles in shared memory, each with a barrier for "full" and one for "empty".
struct Ring {
    uint32_t tiles;  // shared address of stage 0
    uint32_t full;   // shared address of the first of kMaxStages barriers
    uint32_t empty;
    uint32_t num_stages;
    uint2 *scales = nullptr;  // of each stage, where elements have 8 bits: bytes of 16 rows each, zero where no block is

    __device__ __forceinline__ uint32_t full_of(uint32_t stage) const { return full + 8 * stage; }
    __device__ __forceinline__ uint32_t empty_of(uint32_t stage) const { return empty + 8 * stage; }
    // Scales of a full stage; for whole warps.
    __device__ __forceinline__ StageScales scales_of(uint32_t stage) const {
        const uint2 bytes = threadIdx.x % 32 == 0 ? scales[stage] : make_uint2(0, 0);
        return StageScales{make_uint2(__shfl_sync(~0u, bytes.x, 0), __shfl_sync(~0u, bytes.y, 0))};
    }
};

constexpr uint32_t kMaxStages = 12;

// Bytes of a stage of `Keys` keys or values of `Bytes` each element.
template <int HeadDim, int Keys, int Bytes = 2> constexpr uint32_t kStageBytes = Keys * HeadDim * Bytes;

// Blocks of a tile: lane i has the id of block i, and the exponent byte of rows 16 i and on.
struct TileBlocks {
    uint32_t id;
    uint32_t count;
    uint32_t scale;
    uint32_t num_copies;  // more than `count` where the last block is repeated
};

// Blocks of a tile, at most: those of the smallest size.
template <int TileKeys> constexpr uint32_t kMostBlocks = TileKeys / 16;

// The low bytes of lanes 0 to 7, as lane 0 gets them.
__device__ __forceinline__ uint2 gather_bytes(uint32_t byte) {
    const uint32_t two = byte & 0xFF | __shfl_down_sync(~0u, byte & 0xFF, 1) << 8;
    const uint32_t four = two | __shfl_down_sync(~0u, two, 2) << 16;
    return make_uint2(four, __shfl_down_sync(~0u, four, 4));
}

// Copies the blocks of a tile of a KV head's keys or values into the stage at `place`.
template <class Element, int HeadDim, int TileKeys>
__device__ __forceinline__ void fill_stage(const LaKv &kv, const void *gKv, uint32_t kv_head, const Ring &ring, RingPlace place, const TileBlocks &tile) {
    const uint32_t lane = threadIdx.x % 32, block_bytes = kv.block_size * HeadDim * Element::kKvBytes;
    const uint32_t sStage = ring.tiles + place.stage * kStageBytes<HeadDim, TileKeys, Element::kKvBytes>;
    const char *gHead = static_cast<const char *>(gKv) + static_cast<int64_t>(kv_head) * block_bytes;
    uint2 scales = {};
    if constexpr (Element::kKvBytes == 1) scales = gather_bytes(tile.scale);
    barrier_wait(ring.empty_of(place.stage), place.parity ^ 1);
#if LA_HAS_BULK_COPY
    if constexpr (Element::kKvBytes == 2) {
        if (lane == 0) barrier_expect(ring.full_of(place.stage), tile.num_copies * block_bytes);
        __syncwarp();
    }
    // Lane i has the source of block i.
    const uint64_t gBlock = reinterpret_cast<uint64_t>(gHead + tile.id * kv.block_stride);
    uint64_t gBlocks[kMostBlocks<TileKeys>];
#pragma unroll
    for (uint32_t i = 0; i < kMostBlocks<TileKeys>; i++) gBlocks[i] = __shfl_sync(~0u, gBlock, i);
    if (is_elected()) {
#pragma unroll
        for (uint32_t i = 0; i < kMostBlocks<TileKeys>; i++)
            if (i < tile.num_copies) copy_bulk(sStage + i * block_bytes, reinterpret_cast<const void *>(gBlocks[i]), block_bytes, ring.full_of(place.stage));
    }
    if constexpr (Element::kKvBytes == 1) {
        // Copies need not wait for scales: bytes may complete before they are announced, the stage is not full before both.
        if (lane == 0) {
            ring.scales[place.stage] = scales;
            barrier_expect(ring.full_of(place.stage), tile.num_copies * block_bytes);
        }
    }
#else
    if constexpr (Element::kKvBytes == 1) {
        if (lane == 0) ring.scales[place.stage] = scales;
        __threadfence_block();
    }
    const uint32_t groups = block_bytes / 16;
    for (uint32_t block = 0; block < tile.num_copies; block++) {
        const char *gBlock = gHead + __shfl_sync(~0u, tile.id, block) * kv.block_stride;
        for (uint32_t group = lane; group < groups; group += 32) copy_16(sStage + block * block_bytes + group * 16, gBlock + group * 16);
    }
    barrier_arrive_after_copies(ring.full_of(place.stage));
#endif
}

// Scales of blocks, one a lane: of their keys in `x`, of their values in `y`. Taken as they are loaded, so that no one waits for them
// before they are needed.
using ScaleBits = uint2;

// The blocks of a worker in reading order: lane i holds entry i of the 32 at hand and of the 32 behind them, and with 8-bit elements
// their scales.
template <class Element> struct BlockList {
    static constexpr bool kHasScales = Element::kKvBytes == 1;
    const LaKv &kv;
    uint32_t kv_head;
    const uint32_t *gIds;
    int32_t count;           // of all entries
    int32_t loaded;          // entries that are at hand, or behind
    uint32_t at;             // the next entry, among those at hand
    uint32_t near, far;
    uint32_t ends;           // which of those at hand end a part
    ScaleBits near_scales = {}, far_scales = {};
    uint32_t ahead = 1;      // tiles taken since `far` was loaded; the first 16 entries may be two

    // The first entries lie in `start`, as if they ended 32 at hand: a worker's first copies wait for nothing else.
    __device__ __forceinline__ BlockList(const LaAttend &p, uint32_t kv_head, const LaStart &start)
        : kv(p.kv), kv_head(kv_head), gIds(p.plan.block_ids + start.block_begin), count(start.num_blocks), loaded(LA_START_BLOCKS), at(32 - LA_START_BLOCKS) {
        const uint32_t lane = threadIdx.x % 32;
        near = lane >= at ? start.block_ids[lane - at] : 0;
        ends = __ballot_sync(~0u, near & LA_LAST_OF_PART);
        near_scales = scales_of(near);
        far = load();
    }
    __device__ __forceinline__ uint32_t load() {
        const int32_t entry = loaded + static_cast<int32_t>(threadIdx.x % 32);
        loaded += 32;
        return entry < count ? __ldg(gIds + entry) : LA_LAST_OF_PART;
    }
    __device__ __forceinline__ ScaleBits scales_of(uint32_t entry) const {
        if constexpr (!kHasScales) return {};
        const int64_t block = static_cast<int64_t>(entry & ~LA_LAST_OF_PART) * kv.num_kv_heads + kv_head;
        return make_uint2(__float_as_uint(__ldg(kv.k_scale + block)), __float_as_uint(__ldg(kv.v_scale + block)));
    }
    // Loads scales of the entries behind, behind the second tile since these were asked for: by then they are here, and `take` needs no
    // scale of theirs before the fourth.
    __device__ __forceinline__ void look_ahead() {
        if constexpr (!kHasScales) return;
        if (++ahead == 2) far_scales = scales_of(far);
    }
    // One of two values per lane, that of entry `entry` of the 64.
    __device__ __forceinline__ uint32_t pick(uint32_t near_value, uint32_t far_value, uint32_t entry, bool may_be_far) const {
        const uint32_t value = __shfl_sync(~0u, near_value, entry);
        if (!may_be_far) return value;
        const uint32_t other = __shfl_sync(~0u, far_value, entry);
        return entry < 32 ? value : other;
    }
    // The next blocks of one part, `most` if it has as many; a power of two.
    __device__ __forceinline__ TileBlocks take(uint32_t most) {
        const uint32_t lane = threadIdx.x % 32, step = lane % 8 * 16 / kv.block_size;
        const bool may_be_far = at + most > 32;
        uint64_t ends_here = ends;
        if (may_be_far) ends_here |= static_cast<uint64_t>(__ballot_sync(~0u, far & LA_LAST_OF_PART)) << 32;
        TileBlocks tile{pick(near, far, at + (lane & (most - 1)), may_be_far) & ~LA_LAST_OF_PART, 0, 0, 0};
        // Without an end among them, number -1 is larger than any.
        tile.count = 1 + min(most - 1, static_cast<uint32_t>(__ffsll(static_cast<int64_t>(ends_here >> at)) - 1));
        if constexpr (kHasScales) {
            const uint32_t keys = pick(near_scales.x, far_scales.x, at + step, may_be_far);
            const uint32_t values = pick(near_scales.y, far_scales.y, at + step, may_be_far);
            tile.scale = step < tile.count ? keys >> 23 | values >> 23 << 8 : 0;
        }
        tile.num_copies = tile.count;
        at += tile.count;
        if (at >= 32) {
            at -= 32;
            near = far;
            near_scales = far_scales;
            ends = __ballot_sync(~0u, near & LA_LAST_OF_PART);
            far = load();
            ahead = 0;
        }
        return tile;
    }
};

// What a tile holds behind the last block of its keys.
enum class TileEnd {
    kAnything,
    kNumbers,  // a first fill of a stage repeats its last block, and later ones leave what was there
};

// Fills the ring with all tiles of a worker, in the order in which the other warps read them.
template <class Element, int HeadDim, int TileKeys, TileEnd End = TileEnd::kAnything>
__device__ __forceinline__ void produce(const LaAttend &p, const Ring &ring, uint32_t kv_head, const LaStart &start) {
    const uint32_t tile_blocks = TileKeys / p.kv.block_size;
    RingPlace place;
    BlockList<Element> list(p, kv_head, start);
    int32_t num_unfilled = End == TileEnd::kNumbers ? static_cast<int32_t>(ring.num_stages) : 0;
    for (int32_t rest = start.num_blocks; rest > 0; num_unfilled -= 2) {
        TileBlocks tile = list.take(tile_blocks);
        if (End == TileEnd::kNumbers && num_unfilled > 0) {
            tile.id = __shfl_sync(~0u, tile.id, min(threadIdx.x % 32, tile.count - 1));
            tile.num_copies = tile_blocks;
        }
        fill_stage<Element, HeadDim, TileKeys>(p.kv, p.kv.k, kv_head, ring, place, tile);
        place.advance(ring.num_stages);
        tile.scale >>= 8;
        fill_stage<Element, HeadDim, TileKeys>(p.kv, p.kv.v, kv_head, ring, place, tile);
        place.advance(ring.num_stages);
        list.look_ahead();
        rest -= static_cast<int32_t>(tile.count);
    }
}

}  // namespace la
