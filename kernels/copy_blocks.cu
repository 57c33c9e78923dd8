// copy_blocks: keys and values of blocks, as they are.
//
//   K[to] = K[from]      V[to] = V[from]      with their scales, where they have any
//
// Layout: blocks of any layout, block_stride bytes each; scales [block, num_kv_heads].
// Grid: a copy takes kCopyParts blocks for keys and as many for values; their threads stride over its 16-byte vectors.
// Assumes: blocks inside the store, no target read or written by another copy (checked by the wrapper).
#include "device/copies.cuh"
#include "lazy_kernels.h"

extern "C" __global__ void __launch_bounds__(la::kCopyThreads) la_copy_blocks(const __grid_constant__ LaCopyBlocks p) {
    const LaCopy copy = p.copies[blockIdx.x / (2 * la::kCopyParts)];
    const uint32_t part = blockIdx.x % la::kCopyParts;
    char *gBlocks = static_cast<char *>(blockIdx.x / la::kCopyParts % 2 == 0 ? p.kv.k : p.kv.v);
    const uint4 *__restrict__ gFrom = reinterpret_cast<const uint4 *>(gBlocks + static_cast<int64_t>(copy.from) * p.kv.block_stride);
    uint4 *__restrict__ gTo = reinterpret_cast<uint4 *>(gBlocks + static_cast<int64_t>(copy.to) * p.kv.block_stride);
    const uint32_t num_vectors = static_cast<uint32_t>(p.kv.block_stride / 16);
#pragma unroll 4
    for (uint32_t i = part * la::kCopyThreads + threadIdx.x; i < num_vectors; i += la::kCopyParts * la::kCopyThreads) gTo[i] = gFrom[i];
    float *gScales = blockIdx.x / la::kCopyParts % 2 == 0 ? p.kv.k_scale : p.kv.v_scale;
    if (!gScales || part != 0) return;
    const int64_t num_heads = p.kv.num_kv_heads;
    for (uint32_t head = threadIdx.x; head < num_heads; head += la::kCopyThreads) gScales[copy.to * num_heads + head] = gScales[copy.from * num_heads + head];
}
