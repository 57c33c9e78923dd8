// Warpgroup products of Hopper: A in registers, B in shared memory as a block of la_block_byte lies there, accumulators in
// registers, in the order of mma.sync's fragments. They run while the warps go on, until wgmma_wait.
#pragma once
#include <stdint.h>

#include <type_traits>

#include "element.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LA_HAS_WGMMA 1
#else
#define LA_HAS_WGMMA 0
#endif

namespace la {

// Threads of a block with `Groups` computing warpgroups. Only sm_90a moves registers between warpgroups, so only there the warp that
// copies has a whole one for itself.
template <int Groups> constexpr int kBlockThreads = 128 * Groups + (LA_HAS_WGMMA ? 128 : 32);

#if LA_HAS_WGMMA
// A tile in shared memory for the tensor core, in the 128-byte swizzle.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes) {
    return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
           static_cast<uint64_t>(stride_bytes >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `Pending` of the committed groups still run.
template <int Pending> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory"); }

// Keeps the compiler from moving uses of accumulators over a wait.
template <int N> __device__ __forceinline__ void wgmma_pin(float (&d)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) asm volatile("" : "+f"(d[n][j])::"memory");
}

#define LA_WGMMA_N64(type)                                                                  \
    asm volatile(                                                                               \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                          \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " "                          \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, " \
        "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}" \
         : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), \
          "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), \
          "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), \
          "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile), "r"(accumulate), "n"(TransposeB))

#define LA_WGMMA_N128(type)                                                                  \
    asm volatile(                                                                               \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                          \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " "                          \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
        "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}" \
         : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), \
          "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), \
          "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), \
          "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), \
          "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), \
          "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), \
          "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), \
          "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile), "r"(accumulate), "n"(TransposeB))

// Moves registers between the warpgroups of a block.
template <int Count> __device__ __forceinline__ void claim_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count)); }
template <int Count> __device__ __forceinline__ void release_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count)); }

// d[64 x 8 N] (+)= a[64 x 16] b; `accumulate` zero: what was in d is forgotten.
template <class Element, int TransposeB, int N>
__device__ __forceinline__ void wgmma(float (&d)[N][4], const uint32_t (&a)[4], uint64_t tile, int accumulate) {
    static_assert(N == 8 || N == 16, "tiles of 64 or 128 columns");
    if constexpr (N == 8) {
        if constexpr (std::is_same_v<Element, Bf16>) {
            LA_WGMMA_N64("bf16");
        } else {
            LA_WGMMA_N64("f16");
        }
    } else {
        if constexpr (std::is_same_v<Element, Bf16>) {
            LA_WGMMA_N128("bf16");
        } else {
            LA_WGMMA_N128("f16");
        }
    }
}
#undef LA_WGMMA_N64
#undef LA_WGMMA_N128
#else
template <int Count> __device__ __forceinline__ void claim_registers() {}
template <int Count> __device__ __forceinline__ void release_registers() {}
#endif

}  // namespace la
