// skinny: the product of a few rows and a matrix, bound by reading the matrix.
//
//   out = x w^T                                  or, of a packed w with the gate first,   out = silu(x w_gate^T) * (x w_up^T)
//
// Each weight is read once. It does not depend on the kernel before, so the ring is filled with weights while that still runs; only
// then does a block wait for x.
//
// Layout: x [m, k], w [n, k] or [2 n, k], out [m, n].
// Grid: a block takes every gridDim.x-th tile of 16 rows of w: 16 outputs, or the gates and the ups of 8. kSkinnyCopyWarps warps copy
// pieces of `stage_columns` columns of a tile, and of the rows of x, into a ring; kSkinnyWarps warps share a piece in steps of 32 columns, w
// being the tensor core's 16 rows and x its 8 columns. At the end of a tile their sums are added in the order of the warps. So an output
// is summed in an order that neither the other rows nor the grid change.
// Lanes of a warp start their copies one by one, some 40 ns each: one copying warp starts too few for the memory.
// A lane takes 8 neighbouring columns of a row of w, and the same of x, for two products of 16 columns: which columns those are does
// not matter as long as both sides agree.
// Assumes: m at most 8 times Groups (products of more rows are not built: docs/kernels/skinny.md), n a multiple of 8, k one of 32, stage_columns one of 256, addresses of 16 (checked by the wrapper).
#include "device/async.cuh"
#include "device/element.cuh"
#include "device/vector.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kSkinnyWarps = 8;
constexpr uint32_t kSkinnyCopyWarps = 4;
constexpr uint32_t kSkinnyThreads = 32 * (kSkinnyWarps + kSkinnyCopyWarps);
constexpr uint32_t kSkinnyTile = 16;        // rows of w
constexpr uint32_t kSkinnyMaxStages = 12;
constexpr uint32_t kSkinnyRowPad = 64;      // bytes behind a row of a stage: two rows then lie in different banks

enum class SkinnyOutput { kSame, kF32, kSiluMul };

template <int Groups> struct SkinnyShared {
    float sums[kSkinnyWarps][kSkinnyTile][8 * Groups];
    uint64_t full[kSkinnyMaxStages];
    uint64_t empty[kSkinnyMaxStages];
};
static_assert(sizeof(SkinnyShared<1>) <= 5120 && sizeof(SkinnyShared<2>) <= 9216, "Rows::fixed_bytes");

// What a block does: pieces of its tiles, one behind the other.
struct SkinnyWork {
    uint32_t num_tiles, num_pieces;  // of the matrix; of a tile
    uint32_t row_stride;             // bytes of a row of a stage
    uint32_t stage_bytes;

    __device__ __forceinline__ SkinnyWork(const LaSkinny &p, uint32_t tile_outputs)
        : num_tiles((p.n + tile_outputs - 1) / tile_outputs), num_pieces((p.k + p.stage_columns - 1) / p.stage_columns),
          row_stride(2 * p.stage_columns + kSkinnyRowPad), stage_bytes((kSkinnyTile + p.m) * row_stride) {}
};

struct SkinnyPiece {
    uint32_t tile, piece = 0;

    __device__ __forceinline__ void advance(const SkinnyWork &work) {
        if (++piece == work.num_pieces) {
            piece = 0;
            tile += gridDim.x;
        }
    }
    __device__ __forceinline__ uint32_t num_columns(const LaSkinny &p) const { return min(p.stage_columns, p.k - piece * p.stage_columns); }
};

// The row of w behind row `row` of a tile; one that does not exist is beyond `limit`.
template <SkinnyOutput Output> __device__ __forceinline__ uint32_t skinny_weight_row(const LaSkinny &p, uint32_t tile, uint32_t row) {
    if (Output != SkinnyOutput::kSiluMul) return kSkinnyTile * tile + row;
    return 8 * tile + row % 8 + (row < 8 ? 0 : p.n);
}
template <SkinnyOutput Output> __device__ __forceinline__ uint32_t skinny_rows_of(const LaSkinny &p, uint32_t tile) {
    return Output == SkinnyOutput::kSiluMul ? kSkinnyTile : min(kSkinnyTile, p.n - kSkinnyTile * tile);
}

// A copying warp: of the rows of a piece it takes every kSkinnyCopyWarps-th.
template <SkinnyOutput Output> struct SkinnyProducer {
    const LaSkinny &p;
    const SkinnyWork work;
    const uint32_t stages, full, empty;

    // Copies this warp's share of `num_rows` rows, of which `source` gives each one's first byte; a lane takes a row.
    template <class Source> __device__ __forceinline__ void copy(uint32_t to, uint32_t barrier, uint32_t num_rows, uint32_t bytes, Source source) const {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 - kSkinnyWarps;
#if LA_HAS_BULK_COPY
        const uint32_t row = warp + kSkinnyCopyWarps * lane;
        if (lane == 0) barrier_expect(barrier, (num_rows + kSkinnyCopyWarps - 1 - warp) / kSkinnyCopyWarps * bytes);
        __syncwarp();
        if (row < num_rows) copy_bulk(to + row * work.row_stride, source(row), bytes, barrier);
#else
        for (uint32_t row = warp; row < num_rows; row += kSkinnyCopyWarps)
            for (uint32_t at = 16 * lane; at < bytes; at += 512) copy_16(to + row * work.row_stride + at, source(row) + at);
#endif
    }
    __device__ __forceinline__ void fetch_weights(const SkinnyPiece &at, uint32_t stage) const {
        const uint64_t first = at.piece * static_cast<uint64_t>(p.stage_columns);
        copy(stages + stage * work.stage_bytes, full + 8 * stage, skinny_rows_of<Output>(p, at.tile), 2 * at.num_columns(p), [&](uint32_t row) {
            return static_cast<const uint8_t *>(p.w) + 2 * (skinny_weight_row<Output>(p, at.tile, row) * static_cast<uint64_t>(p.k) + first);
        });
    }
    __device__ __forceinline__ void fetch_x(const SkinnyPiece &at, uint32_t stage) const {
        const uint64_t first = at.piece * static_cast<uint64_t>(p.stage_columns);
        copy(stages + stage * work.stage_bytes + kSkinnyTile * work.row_stride, full + 8 * stage, p.m, 2 * at.num_columns(p),
             [&](uint32_t row) { return static_cast<const uint8_t *>(p.x) + 2 * (row * static_cast<uint64_t>(p.k) + first); });
#if !LA_HAS_BULK_COPY
        barrier_arrive_after_copies(full + 8 * stage);
#endif
    }
    __device__ __forceinline__ void run() const {
        SkinnyPiece weights{blockIdx.x}, x{blockIdx.x};
        uint32_t num_filled = 0;
        for (; num_filled < p.num_stages && weights.tile < work.num_tiles; num_filled++, weights.advance(work)) fetch_weights(weights, num_filled);
        wait_for_last_grid();
        for (uint32_t stage = 0; stage < num_filled; stage++, x.advance(work)) fetch_x(x, stage);
        RingPlace place;
        for (; weights.tile < work.num_tiles; weights.advance(work), place.advance(p.num_stages)) {
            barrier_wait(empty + 8 * place.stage, place.parity);
            fetch_weights(weights, place.stage);
            fetch_x(weights, place.stage);
        }
    }
};

// The multiplying warps.
template <class Element, SkinnyOutput Output, int Groups> struct SkinnyConsumer {
    using Sums = float[kSkinnyWarps][kSkinnyTile][8 * Groups];

    const LaSkinny &p;
    const SkinnyWork work;
    const uint32_t stages, full, empty;
    float sum[2][Groups][4];

    __device__ __forceinline__ void multiply(uint32_t stage, uint32_t num_columns) {
        const uint32_t lane = threadIdx.x % 32, row = lane / 4;
        const uint32_t weights = stages + stage * work.stage_bytes + row * work.row_stride + lane % 4 * 16;
        const uint32_t x = weights + kSkinnyTile * work.row_stride;
#pragma unroll 2
        for (uint32_t column = threadIdx.x / 32 * 32; column < num_columns; column += 32 * kSkinnyWarps) {
            uint32_t rLow[4], rHigh[4];
            load_shared_16(rLow, weights + 2 * column);
            load_shared_16(rHigh, weights + 8 * work.row_stride + 2 * column);
#pragma unroll
            for (int group = 0; group < Groups; group++) {
                uint32_t rX[4] = {0, 0, 0, 0};
                if (8 * group + row < p.m) load_shared_16(rX, x + 8 * group * work.row_stride + 2 * column);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const uint32_t a[4] = {rLow[2 * half], rHigh[2 * half], rLow[2 * half + 1], rHigh[2 * half + 1]};
                    Element::mma(sum[half][group], a, rX[2 * half], rX[2 * half + 1]);
                }
            }
        }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int group = 0; group < Groups; group++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[half][group][i] = 0.f;
    }

    __device__ __forceinline__ void leave(Sums &sSums) const {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (int group = 0; group < Groups; group++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                *reinterpret_cast<float2 *>(&sSums[threadIdx.x / 32][lane / 4 + 8 * i][8 * group + lane % 4 * 2]) =
                    make_float2(sum[0][group][2 * i] + sum[1][group][2 * i], sum[0][group][2 * i + 1] + sum[1][group][2 * i + 1]);
    }
    static __device__ __forceinline__ float total(const Sums &sSums, uint32_t row, uint32_t column) {
        float total = 0.f;
#pragma unroll
        for (uint32_t warp = 0; warp < kSkinnyWarps; warp++) total += sSums[warp][row][column];
        return total;
    }
    // What the unfused product would have stored.
    static __device__ __forceinline__ float rounded(float x) { return Element::unpack(Element::pack(x, 0.f)).x; }
    static __device__ __forceinline__ float gated(const Sums &sSums, uint32_t row, uint32_t column) {
        const float gate = rounded(total(sSums, row, column)), up = rounded(total(sSums, row + 8, column));
        return gate / (1.f + __expf(-gate)) * up;
    }

    // Adds the warps' sums and writes the tile; a thread takes two neighbouring outputs of a row of x.
    __device__ __forceinline__ void write(const Sums &sSums, uint32_t tile) const {
        constexpr uint32_t kPairs = Output == SkinnyOutput::kSiluMul ? 4 : 8;
        const uint32_t pair = threadIdx.x % kPairs, column = threadIdx.x / kPairs;
        const uint32_t first = 2 * (kPairs * tile + pair);
        if (column >= p.m || first >= p.n) return;
        const uint64_t at = column * static_cast<uint64_t>(p.n) + first;
        if (Output == SkinnyOutput::kSiluMul) {
            static_cast<uint32_t *>(p.out)[at / 2] = Element::pack(gated(sSums, 2 * pair, column), gated(sSums, 2 * pair + 1, column));
            return;
        }
        const float low = total(sSums, 2 * pair, column), high = total(sSums, 2 * pair + 1, column);
        if (Output == SkinnyOutput::kF32) {
            static_cast<float2 *>(p.out)[at / 2] = make_float2(low, high);
        } else {
            static_cast<uint32_t *>(p.out)[at / 2] = Element::pack(low, high);
        }
    }

    __device__ __forceinline__ void run(Sums &sSums) {
        RingPlace place;
        for (uint32_t tile = blockIdx.x; tile < work.num_tiles; tile += gridDim.x) {
            clear();
            for (SkinnyPiece at{tile}; at.tile == tile; at.advance(work), place.advance(p.num_stages)) {
                barrier_wait(full + 8 * place.stage, place.parity);
                multiply(place.stage, at.num_columns(p));
                __syncwarp();
                if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * place.stage);
            }
            // Once all have read the sums of the tile before.
            sync_threads_of<1, 32 * kSkinnyWarps>();
            leave(sSums);
            sync_threads_of<1, 32 * kSkinnyWarps>();
            write(sSums, tile);
        }
    }
};

template <class Element, SkinnyOutput Output, int Groups> __device__ __forceinline__ void skinny(const LaSkinny &p) {
    extern __shared__ __align__(128) uint8_t sStages[];
    __shared__ SkinnyShared<Groups> shared;
    const SkinnyWork work(p, Output == SkinnyOutput::kSiluMul ? 8 : kSkinnyTile);
    const uint32_t stages = shared_address(sStages), full = shared_address(shared.full), empty = shared_address(shared.empty);
    next_grid_may_start();
    if (threadIdx.x < p.num_stages) {
        // Each copying warp comes once for w and once for x, or each of its lanes.
        barrier_init(full + 8 * threadIdx.x, kSkinnyCopyWarps * (LA_HAS_BULK_COPY ? 2 : 32));
        barrier_init(empty + 8 * threadIdx.x, kSkinnyWarps);
    }
    barrier_init_fence();
    __syncthreads();
    if (threadIdx.x < 32 * kSkinnyWarps) {
        SkinnyConsumer<Element, Output, Groups>{p, work, stages, full, empty}.run(shared.sums);
    } else {
        SkinnyProducer<Output>{p, work, stages, full, empty}.run();
    }
}

}  // namespace la

#define LA_SKINNY(name, element, output, groups)                                                          \
    extern "C" __global__ void __launch_bounds__(la::kSkinnyThreads) name(const __grid_constant__ LaSkinny p) { \
        la::skinny<la::element, la::SkinnyOutput::output, groups>(p);                                      \
    }
LA_SKINNY(la_skinny_bf16_same_m8, Bf16, kSame, 1)
LA_SKINNY(la_skinny_bf16_f32_m8, Bf16, kF32, 1)
LA_SKINNY(la_skinny_bf16_silu_m8, Bf16, kSiluMul, 1)
LA_SKINNY(la_skinny_f16_same_m8, F16, kSame, 1)
LA_SKINNY(la_skinny_f16_f32_m8, F16, kF32, 1)
LA_SKINNY(la_skinny_f16_silu_m8, F16, kSiluMul, 1)
