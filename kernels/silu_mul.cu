// silu_mul: the gated activation of a packed row.
//
//   out = gate / (1 + exp(-gate)) * up
//
// Layout: gate_up [num_rows, 2 * width], the gate first; out [num_rows, width].
// Grid: threads stride over the vectors of 8 elements of out. Arithmetic is in f32, and the result is rounded once.
// Assumes: width a multiple of 8, rows aligned to 16 bytes (checked by the wrapper).
#include "device/async.cuh"
#include "device/element.cuh"
#include "device/vector.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kSiluThreads = 256;

template <class Element> __device__ __forceinline__ void silu_mul(const LaSiluMul &p) {
    const uint32_t num_vectors = p.width / kVector;
    next_grid_may_start();
    wait_for_last_grid();
    const uint64_t num_tasks = static_cast<uint64_t>(p.num_rows) * num_vectors;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * kSiluThreads;
    const uint4 *gGateUp = static_cast<const uint4 *>(p.gate_up);
    uint4 *__restrict__ gOut = static_cast<uint4 *>(p.out);
    for (uint64_t task = static_cast<uint64_t>(blockIdx.x) * kSiluThreads + threadIdx.x; task < num_tasks; task += stride) {
        const uint64_t gate = task / num_vectors * 2 * num_vectors + task % num_vectors;
        gOut[task] = zip_pairs<Element>(gGateUp[gate], gGateUp[gate + num_vectors],
                                        [](float x, float up) { return x / (1.f + __expf(-x)) * up; });
    }
}

}  // namespace la

#define LA_SILU_MUL(name, element)                                                                     \
    extern "C" __global__ void __launch_bounds__(la::kSiluThreads) name(const __grid_constant__ LaSiluMul p) { \
        la::silu_mul<la::element>(p);                                                                  \
    }
LA_SILU_MUL(la_silu_mul_bf16, Bf16)
LA_SILU_MUL(la_silu_mul_f16, F16)
