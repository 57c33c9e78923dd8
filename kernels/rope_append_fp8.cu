// rope_append with 8-bit blocks: keys rotated once, to their segment-local position, and values, rounded to e4m3.
//
//   K[slot] = e4m3(R(local) k / s_k)      V[slot] = e4m3(v / s_v)      slots up to zero_end: 0
//
// s is the power of two that the largest number written to the block so far asks for (fp8.cuh). Where a token raises it, the block
// is moved to the new scale in place. So the scale of a block depends on its tokens alone, not on how they were grouped into steps;
// elements differ by a second rounding at most where they are below 2^-6 of the new scale.
//
// Layout: k, v [token, num_kv_heads, HeadDim] bf16; blocks as la_block_byte_8 says; scales [block, num_kv_heads].
// Grid: a warp takes the writes of a (block, KV head), which are neighbours in the list; warps look for the first of them in equal
// ranges of the list. A lane has HeadDim / 32 elements of a row.
// Assumes: as rope_append; that writes are sorted by block, and that a block's slot 0 is written first (the planner does both).
#include "device/async.cuh"
#include "device/element.cuh"
#include "device/fp8_store.cuh"
#include "device/rope.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kAppendFp8Warps = 8;

// Writes of a block from entry `begin` on, and the row of keys or values of each.
struct BlockWrites {
    const LaWrite *gWrites;
    uint32_t count;

    __device__ __forceinline__ BlockWrites(const LaAppend &p, uint32_t begin, uint32_t num_writes) : gWrites(p.writes + begin), count(0) {
        const uint32_t block = gWrites->block;
        for (uint32_t same = ~0u; same == ~0u;) {
            const uint32_t at = count + threadIdx.x % 32;
            same = __ballot_sync(~0u, begin + at < num_writes && gWrites[at].block == block);
            count += __popc(same);
        }
    }
};

// Rounds the rows that `row_pair(write, dim)` gives into a block.
template <int HeadDim, class RowPair>
__device__ __forceinline__ void append_rows(const BlockWrites &writes, const Fp8Block<HeadDim> &block, RowPair row_pair) {
    float largest = 0.f;
    for (uint32_t i = 0; i < writes.count; i++)
#pragma unroll
        for (uint32_t j = 0; j < Fp8Block<HeadDim>::kPairs; j++) largest = largest_of_pair(largest, row_pair(writes.gWrites[i], block.dim_of(j)));
    const float inverse = block.raise_scale(largest_of_warp(largest), writes.gWrites[0].slot == 0);
    for (uint32_t i = 0; i < writes.count; i++) {
        const LaWrite &write = writes.gWrites[i];
#pragma unroll
        for (uint32_t j = 0; j < Fp8Block<HeadDim>::kPairs; j++) {
            const uint32_t dim = block.dim_of(j);
            block.write(write.slot, dim, row_pair(write, dim), inverse);
        }
        block.zero_rows(write.slot + 1, write.zero_end);
    }
}

template <int HeadDim> __device__ __forceinline__ void append_block(const LaAppend &p, const BlockWrites &writes, uint32_t head) {
    const uint32_t block = writes.gWrites[0].block;
    append_rows(writes, Fp8Block<HeadDim>(p.kv, p.kv.k, p.kv.k_scale, block, head), [&](const LaWrite &write, uint32_t dim) {
        const uint16_t *gK = static_cast<const uint16_t *>(p.k) + write.token * p.k_stride + head * HeadDim;
        return rotated_values<Bf16>(reinterpret_cast<const uint32_t *>(gK), p.rope, dim, write.local);
    });
    append_rows(writes, Fp8Block<HeadDim>(p.kv, p.kv.v, p.kv.v_scale, block, head), [&](const LaWrite &write, uint32_t dim) {
        const uint16_t *gV = static_cast<const uint16_t *>(p.v) + write.token * p.v_stride + head * HeadDim;
        return Bf16::unpack(*reinterpret_cast<const uint32_t *>(gV + dim));
    });
}

template <int HeadDim> __device__ __forceinline__ void rope_append_fp8(const LaAppend &p) {
    const uint32_t num_writes = *p.num_writes, num_heads = p.kv.num_kv_heads;
    const uint32_t num_warps = gridDim.x * kAppendFp8Warps, warp = blockIdx.x * kAppendFp8Warps + threadIdx.x / 32;
    const uint32_t num_ranges = max(num_warps / num_heads, 1u);
    const uint32_t range_size = (num_writes + num_ranges - 1) / num_ranges;
    next_grid_may_start();
    wait_for_last_grid();
    for (uint32_t task = warp; task < num_ranges * num_heads; task += num_warps) {
        const uint32_t begin = task / num_heads * range_size, end = min(begin + range_size, num_writes);
        for (uint32_t at = begin; at < end; at++) {
            if (at > 0 && p.writes[at - 1].block == p.writes[at].block) continue;
            const BlockWrites writes(p, at, num_writes);
            append_block<HeadDim>(p, writes, task % num_heads);
            at += writes.count - 1;
        }
    }
}

}  // namespace la

#define LA_ROPE_APPEND_FP8(name, head_dim)                                                               \
    extern "C" __global__ void __launch_bounds__(32 * la::kAppendFp8Warps) name(const __grid_constant__ LaAppend p) { \
        la::rope_append_fp8<head_dim>(p);                                                                \
    }
LA_ROPE_APPEND_FP8(la_rope_append_fp8_d64, 64)
LA_ROPE_APPEND_FP8(la_rope_append_fp8_d128, 128)
