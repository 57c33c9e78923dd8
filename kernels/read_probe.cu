// read_probe: what reading costs alone: attend N16 without arithmetic, over the same lists of blocks.
//
//   nothing is computed and nothing is written
//
// The ceiling that benches put beside a figure of the same card: the same workers fill the same rings with the same blocks, and the
// warps that would compute only give every stage back.
// Layout, grid and assumptions are those of attend_n16.cu.
#include "attend_n16.cu"

namespace la {

template <class Element, int HeadDim> __device__ __forceinline__ void read_probe(const LaAttend &p) {
    extern __shared__ __align__(1024) uint8_t sMemory[];
    N16Shared<HeadDim> &shared = *reinterpret_cast<N16Shared<HeadDim> *>(sMemory + p.num_stages * kNarrowBytes<Element, HeadDim>);
    const Ring ring{shared_address(sMemory), shared_address(shared.full), shared_address(shared.empty), p.num_stages, shared.scales};
    const uint32_t kv_head = blockIdx.x % p.kv.num_kv_heads, worker = blockIdx.x / p.kv.num_kv_heads, warp = threadIdx.x / 32;
    next_grid_may_start();
    if (threadIdx.x < p.num_stages) {
        barrier_init(ring.full_of(threadIdx.x), kFillArrivals);
        barrier_init(ring.empty_of(threadIdx.x), kComputeWarps * kWarpArrivals);
        barrier_init_fence();
    }
    __syncthreads();
    const LaStart &start = p.work.starts[worker];
    if (warp == kComputeWarps) {
        produce<Element, HeadDim, kNarrowKeys<Element, HeadDim>>(p, ring, kv_head, start);
    } else if (warp < kComputeWarps) {
        RingPlace place;
        for (int32_t item = start.item_begin; item < start.item_end; item++) {
            for (int32_t at = p.work.items[item].part_begin; at < p.work.items[item].part_end; at++) {
                constexpr int32_t kKeys = kNarrowKeys<Element, HeadDim>;
                const int32_t num_keys = p.plan.parts[at].key_end - p.plan.parts[at].key_begin;
                // Keys and values of a tile in turn.
                for (int32_t stage = 0; stage < 2 * ((num_keys + kKeys - 1) / kKeys); stage++) {
                    barrier_wait(ring.full_of(place.stage), place.parity);
                    warp_arrive(ring.empty_of(place.stage));
                    place.advance(ring.num_stages);
                }
            }
        }
    }
    wait_for_last_grid();
}

}  // namespace la

#define LA_READ_PROBE(name, element, head_dim)                                                         \
    extern "C" __global__ void __launch_bounds__(la::kBlockThreads<1>, LA_N16_BLOCKS) name(const __grid_constant__ LaAttend p) { \
        la::read_probe<la::element, head_dim>(p);                                                      \
    }
LA_READ_PROBE(la_read_probe_bf16_d64, Bf16, 64)
LA_READ_PROBE(la_read_probe_bf16_d128, Bf16, 128)
LA_READ_PROBE(la_read_probe_fp8_d64, Fp8, 64)
LA_READ_PROBE(la_read_probe_fp8_d128, Fp8, 128)
