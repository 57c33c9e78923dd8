// Barriers in shared memory, and copies from global to shared memory that complete on them.
//
// From sm_90 on a copy is one instruction of the bulk copy engine. Before, every lane of the warp copies 16 bytes at a
// time with cp.async, and its arrival on the barrier waits for its copies.
#pragma once
#include <stdint.h>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define LA_HAS_BULK_COPY 0
#else
#define LA_HAS_BULK_COPY 1
#endif

namespace la {

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine; a __syncthreads must follow.
__device__ __forceinline__ void barrier_init_fence() {
#if LA_HAS_BULK_COPY
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Orders this thread's stores to shared memory before later copies of the engine; a __syncthreads must follow.
__device__ __forceinline__ void fence_for_copies() {
#if LA_HAS_BULK_COPY
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}

// Arrives for a warp whose lanes have all stored or read what the barrier is about: one lane for all of them, behind a __syncwarp that
// orders what they did. A tool that does not follow that (compute-sanitizer's racecheck) is given a build with LA_SANITIZER, in which
// every lane arrives for itself.
#ifndef LA_SANITIZER
#define LA_SANITIZER 0
#endif
constexpr uint32_t kWarpArrivals = LA_SANITIZER ? 32 : 1;
__device__ __forceinline__ void warp_arrive(uint32_t barrier) {
    if (!LA_SANITIZER) __syncwarp();
    if (LA_SANITIZER || threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t done = 0;
    while (!done) {
#if LA_HAS_BULK_COPY
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
#else
        asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
#endif
    }
}

// Whether a wait would end at once.
__device__ __forceinline__ bool barrier_test(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    return done;
}

// Arrivals that complete a fill: one that announces the bytes, or one of every lane.
constexpr uint32_t kFillArrivals = LA_HAS_BULK_COPY ? 1 : 32;

#if LA_HAS_BULK_COPY
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// True in one lane of a whole warp. The copy engine takes its operands from registers of the warp: where lanes pass their own, they
// take turns in a loop.
__device__ __forceinline__ bool is_elected() {
    uint32_t elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected;
}

__device__ __forceinline__ void copy_bulk(uint32_t dst, const void *src, uint32_t bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
                 "l"(src), "r"(bytes), "r"(barrier) : "memory");
}
#else
__device__ __forceinline__ void copy_16(uint32_t dst, const void *src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

// Arrives once all copies this thread has started are complete.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
#endif

// Brings the 128 bytes around an address to L2.
__device__ __forceinline__ void prefetch_line(const void *src) { asm volatile("prefetch.global.L2 [%0];" ::"l"(src)); }

// Place of a ring of stages: which one, and the parity of its barrier. Both sides count alike.
struct RingPlace {
    uint32_t stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance(uint32_t num_stages) {
        if (++stage == num_stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Lets the next launch of the stream start before this grid ends, if it was launched so.
__device__ __forceinline__ void next_grid_may_start() {
#if LA_HAS_BULK_COPY
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until all grids before this one have ended and their writes are seen, if this one was launched before that. Every grid that
// may start early ends with it, so that the end of a grid is the end of all before it.
__device__ __forceinline__ void wait_for_last_grid() {
#if LA_HAS_BULK_COPY
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void store_shared(uint32_t address, uint2 x) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(x.x), "r"(x.y) : "memory");
}

__device__ __forceinline__ uint2 load_shared(uint32_t address) {
    uint2 x;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(address) : "memory");
    return x;
}

__device__ __forceinline__ int32_t load_shared_word(uint32_t address) {
    int32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}

// A barrier among `Threads` threads of a block whose number is known at run time only: waiting at it, and arriving without waiting.
template <int Threads> __device__ __forceinline__ void sync_threads_with(uint32_t id) { asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(Threads) : "memory"); }
template <int Threads> __device__ __forceinline__ void arrive_at_threads(uint32_t id) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(Threads) : "memory"); }

// A barrier among `threads` threads of a block; 0 is __syncthreads.
template <int Id, int Threads> __device__ __forceinline__ void sync_threads_of() {
    asm volatile("bar.sync %0, %1;" ::"n"(Id), "n"(Threads) : "memory");
}

}  // namespace la
