// attend's wide classes by wgmma: one or two warpgroups of 64 rows compute, and of a last one a warp copies keys and values while three
// prepare queries (wide_prepare.cuh).
//
// A step starts the scores of a tile and the values of the tile before, also from one item to the next, and then does the softmax of the
// scores. Two warpgroups take turns at starting products, so that each has its softmax under the products of the other. Starting values
// takes about as long as they run, since their operands are registers; so a warpgroup has little to gain from its own, and waits for them
// before powers are taken: then probabilities become operands one by one, and there may be branches.
#pragma once
#include "producer.cuh"
#include "wide_prepare.cuh"
#include "wide_tile.cuh"

namespace la {

#if LA_HAS_WGMMA
// Shared memory behind the stages and the queries.
struct WarpgroupShared {
    uint64_t full[kMaxStages];
    uint64_t empty[kMaxStages];
    int32_t zero;
    WideBuffers buffers;
};
static_assert(sizeof(WarpgroupShared) <= 2560, "TileClass::fixed_bytes");

enum class TileMask { kNone, kRows };

template <class Element, int HeadDim, int Keys, int Groups> struct WideConsumer {
    // Where in a chain or a document the warpgroup is, and what the thread's two rows are.
    struct Place {
        int32_t tile, key_end;
        int32_t full_begin, full_end;
        int32_t flags;
        int32_t distance[2], target[2];

        __device__ __forceinline__ bool is_full() const { return tile >= full_begin && tile + Keys <= full_end; }
    };

    const LaAttend &p;
    WarpgroupShared &shared;
    const Ring ring;
    const WidePlace queries;
    const uint32_t kv_head;
    RingPlace place;
    RingPlace buffer;     // of the next queries
    uint32_t tokens = 0;  // of the two rows in their item, 16 bits each
    WideTile<Element, HeadDim, Keys> t;
    Place now;
    bool has_next = false;  // whether the next two stages are known to be full

    __device__ __forceinline__ uint32_t row_of(int r) const { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r; }
    __device__ __forceinline__ uint32_t token_of(int r) const { return tokens >> 16 * r & 0xFFFF; }

    // Waits for the next stage; its number.
    __device__ __forceinline__ uint32_t next_stage() {
        const uint32_t stage = place.stage;
        barrier_wait(ring.full_of(stage), place.parity);
        place.advance(ring.num_stages);
        return stage;
    }
    // The same of two; where they are full already, nothing is asked again.
    __device__ __forceinline__ uint2 next_stages() {
        const RingPlace first = place;
        RingPlace second = place;
        second.advance(ring.num_stages);
        if (!has_next) {
            barrier_wait(ring.full_of(first.stage), first.parity);
            barrier_wait(ring.full_of(second.stage), second.parity);
        }
        place = second;
        place.advance(ring.num_stages);
        return make_uint2(first.stage, second.stage);
    }
    // Asks for the next two, while there is something else to do.
    __device__ __forceinline__ void look_ahead() {
        RingPlace second = place;
        second.advance(ring.num_stages);
        const bool is_first_full = barrier_test(ring.full_of(place.stage), place.parity), is_second_full = barrier_test(ring.full_of(second.stage), second.parity);
        has_next = is_first_full && is_second_full;
    }
    __device__ __forceinline__ uint32_t address_of(uint32_t stage) const { return ring.tiles + stage * kStageBytes<HeadDim, Keys>; }
    __device__ __forceinline__ void give_back(uint32_t stage) const { warp_arrive(ring.empty_of(stage)); }

    // Nobody computes before the first queries are rotated, so all warps rotate them.
    __device__ __forceinline__ void help_with_first() const {
        WideSlot &slot = shared.buffers.slot[0];
        const QueryUnit unit(p.rope, threadIdx.x % (HeadDim / 8));
        barrier_wait(queries.raw_of(0), 0);
        if (!(slot.note.flags & kNoteEnd)) turn_queries<Element, HeadDim>(p, slot, queries.queries_of(0), unit);
        sync_threads_of<1, 128 * Groups>();
    }

    // Takes the next part and its queries.
    __device__ __forceinline__ void load_part() {
        const WideSlot &slot = shared.buffers.slot[buffer.stage];
        barrier_wait(queries.full_of(buffer.stage), buffer.parity);
        const WideNote &note = slot.note;
        now.tile = note.key_begin, now.key_end = note.key_end;
        now.full_begin = note.full_begin, now.full_end = note.full_end;
        now.flags = note.flags;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const WideRow row = slot.rows[token_of(r)];
            now.target[r] = row.target, now.distance[r] = row.distance;
        }
        t.load_queries(queries.queries_of(buffer.stage), threadIdx.x / 32 * 16);
        barrier_arrive(queries.empty_of(buffer.stage));
        buffer.advance(kQueryBuffers);
    }

    // Hides what the rows do not see. `late` is zero, and not known before the scores are: the assembler would else compare columns
    // and bounds in front of the products, while the other warpgroup waits for its turn.
    __device__ __forceinline__ void mask(int32_t late) {
        const int32_t window = static_cast<int32_t>(p.window), first = now.tile + static_cast<int32_t>(threadIdx.x % 4) * 2 + late;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int32_t begin = window ? now.distance[r] - window + 1 - first : 0;
            t.mask(r, begin, (now.flags & kNoteCausal ? min(now.key_end, now.distance[r] + 1) : now.key_end) - first);
        }
    }

    // Divides by the sum of probabilities and writes the rows.
    __device__ __forceinline__ void finish(const int32_t (&target)[2], bool is_output) {
        const uint32_t group_size = p.num_q_heads / p.kv.num_kv_heads;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = t.sum[r];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            const float scale = sum > 0.f ? 1.f / sum : 0.f;
            const bool exists = target[r] >= 0;
            const uint32_t head = kv_head * group_size + row_of(r) - token_of(r) * group_size;
            const int64_t entry = static_cast<int64_t>(max(target[r], 0)) * p.num_q_heads + head;
            if (is_output) {
                t.store_output(r, scale, exists, static_cast<uint16_t *>(p.out) + entry * HeadDim);
            } else if (exists) {
                t.store_partial(r, scale, p.partials.out + entry * HeadDim);
                if (threadIdx.x % 4 == 0) p.partials.lse[entry] = sum > 0.f ? t.shift[r] + log2f(sum) : -INFINITY;
            }
        }
    }

    // Scores of the first tile of all. Nothing runs before or after.
    __device__ __forceinline__ void first_scores() {
        const uint32_t keys = next_stage();
        wgmma_pin(t.score);
        wgmma_fence();
        t.start_scores(address_of(keys));
        wgmma_wait<0>();
        wgmma_pin(t.score);
        give_back(keys);
        if (!now.is_full()) mask(0);
        t.clear();
        float high[2];
        t.find_high(p.rope.scale_log2, high);
        t.raise(high);
        now.tile += Keys;
        t.weigh(p.rope.scale_log2);
    }

    // Values of the tile before and scores of the tile at hand. `was_first`, `is_first`: they begin an item; then the rows of the item
    // before are written to `target`. Nothing runs before or after. There is no branch while something runs, or the assembler would
    // have products run one by one (`cargo xtask kernels` fails then).
    template <TileMask Mask> __device__ __forceinline__ void step(bool was_first, bool is_first, const int32_t (&target)[2], bool is_output) {
        const uint2 stages = next_stages();
        const uint32_t values = stages.x, keys = stages.y;
        if (Groups == 2) sync_threads_with<256>(2 + threadIdx.x / 128);
        wgmma_pin(t.score);
        wgmma_pin(t.out);
        wgmma_fence();
        t.start_scores(address_of(keys));
        t.start_values(address_of(values), was_first);
        if (Groups == 2) arrive_at_threads<256>(3 - threadIdx.x / 128);
        wgmma_wait<1>();
        wgmma_pin(t.score);
        give_back(keys);
        if (Mask == TileMask::kRows) mask(load_shared_word(shared_address(&shared.zero)));
        float high[2];
        t.find_high(p.rope.scale_log2, high);
        wgmma_wait<0>();
        wgmma_pin(t.out);
        give_back(values);
        if (is_first) {
            finish(target, is_output);
            t.clear();
        }
        if (__any_sync(~0u, t.passes_limit(high))) t.raise(high);
        // What the next step asks first is asked under the powers.
        look_ahead();
        now.tile += Keys;
        t.weigh(p.rope.scale_log2);
    }

    __device__ __forceinline__ void last_values(bool was_first, const int32_t (&target)[2], bool is_output) {
        const uint32_t values = next_stage();
        wgmma_pin(t.out);
        wgmma_fence();
        t.start_values(address_of(values), was_first);
        wgmma_wait<0>();
        wgmma_pin(t.out);
        finish(target, is_output);
    }

    // All tiles of all parts, from the second tile on.
    __device__ __forceinline__ void all_steps() {
        bool was_first = true;
        for (;;) {
            const int32_t target[2] = {now.target[0], now.target[1]};
            const bool is_output = now.flags & kNoteOutput;
            bool is_first = false;
            if (now.tile >= now.key_end) {
                load_part();
                if (now.flags & kNoteEnd) return last_values(was_first, target, is_output);
                is_first = now.flags & kNoteFirst;
            }
            if (now.is_full()) {
                step<TileMask::kNone>(was_first, is_first, target, is_output);
            } else {
                step<TileMask::kRows>(was_first, is_first, target, is_output);
            }
            was_first = is_first;
        }
    }

    __device__ __forceinline__ void run() {
        const uint32_t group_size = p.num_q_heads / p.kv.num_kv_heads;
        tokens = row_of(0) / group_size | row_of(1) / group_size << 16;
        help_with_first();
        // The first turn is that of the first warpgroup, and the one that nobody takes is taken at the end.
        if (Groups == 2 && threadIdx.x >= 128) arrive_at_threads<256>(2);
        load_part();
        if (!(now.flags & kNoteEnd)) {
#pragma unroll
            for (int n = 0; n < HeadDim / 8; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) t.out[n][j] = 0.f;
            first_scores();
            all_steps();
        }
        if (Groups == 2 && threadIdx.x < 128) sync_threads_with<256>(2);
    }
};

template <class Element, int HeadDim, int Keys, int Groups> __device__ __forceinline__ void attend_warpgroups(const LaAttend &p) {
    constexpr uint32_t kComputeThreads = 128 * Groups, kBufferBytes = 64 * Groups * HeadDim * 2;
    extern __shared__ __align__(1024) uint8_t sMemory[];
    uint8_t *sQueries = sMemory + p.num_stages * kStageBytes<HeadDim, Keys>;
    WarpgroupShared &shared = *reinterpret_cast<WarpgroupShared *>(sQueries + kQueryBuffers * kBufferBytes);
    const Ring ring{shared_address(sMemory), shared_address(shared.full), shared_address(shared.empty), p.num_stages};
    const WideBuffers &buffers = shared.buffers;
    const WidePlace queries{shared_address(sQueries), kBufferBytes, shared_address(buffers.raw), shared_address(buffers.full), shared_address(buffers.empty)};
    next_grid_may_start();
    if (threadIdx.x < p.num_stages) {
        barrier_init(ring.full_of(threadIdx.x), kFillArrivals);
        barrier_init(ring.empty_of(threadIdx.x), 4 * Groups * kWarpArrivals);
    } else if (threadIdx.x == 32) {
        queries.init(kComputeThreads);
        shared.zero = 0;
    }
    barrier_init_fence();
    __syncthreads();
    const uint32_t kv_head = blockIdx.x % p.kv.num_kv_heads, worker = blockIdx.x / p.kv.num_kv_heads;
    const LaStart &start = p.work.starts[worker];
    if (threadIdx.x < kComputeThreads) {
        if (Groups == 2) claim_registers<224>();
        WideConsumer<Element, HeadDim, Keys, Groups>{p, shared, ring, queries, kv_head}.run();
    } else {
        if (Groups == 2) release_registers<56>();
        if (threadIdx.x < kComputeThreads + 32) {
            produce<Element, HeadDim, Keys, TileEnd::kNumbers>(p, ring, kv_head, start);
        } else if (threadIdx.x < kComputeThreads + 64) {
            prepare_parts<Element, HeadDim, 64 * Groups, true>(p, shared.buffers, queries, kv_head, start);
        } else {
            prepare_parts<Element, HeadDim, 64 * Groups, false>(p, shared.buffers, queries, kv_head, start);
        }
    }
    wait_for_last_grid();
}
#endif

}  // namespace la
