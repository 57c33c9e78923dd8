// rms_norm: the residual stream takes a layer's output in, and the next layer's input comes out.
//
//   r = round(residual + x)      out = r / sqrt(mean(r^2) + eps) * weight
//
// Without a residual, r = x. The mean is that of the rounded sum, so that it depends on nothing but what is stored.
//
// Layout: x, residual, out [num_rows, width], weight [width]. out may be x.
// Grid: a block takes a row; a thread every kNormThreads-th vector of 8 elements. Sums are in f32.
// Assumes: width a multiple of 8, rows aligned to 16 bytes (checked by the wrapper).
#include "device/async.cuh"
#include "device/element.cuh"
#include "device/vector.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr int kNormThreads = 256;

template <class Element> __device__ __forceinline__ void rms_norm(const LaNorm &p) {
    __shared__ float sWarps[kNormThreads / 32];
    next_grid_may_start();
    const uint32_t num_vectors = p.width / kVector;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * num_vectors;
    const uint4 *gX = static_cast<const uint4 *>(p.x) + row;
    const uint4 *__restrict__ gWeight = static_cast<const uint4 *>(p.weight);
    // The weight does not depend on the grid before: with a few rows its way from memory would be a third of the time.
    for (uint32_t i = 8 * threadIdx.x; i < num_vectors; i += 8 * kNormThreads) prefetch_line(gWeight + i);
    wait_for_last_grid();
    uint4 *gResidual = p.residual == nullptr ? nullptr : static_cast<uint4 *>(p.residual) + row;
    uint4 *gOut = static_cast<uint4 *>(p.out) + row;

    float squares = 0.f;
    for (uint32_t i = threadIdx.x; i < num_vectors; i += kNormThreads) {
        uint4 r = gX[i];
        if (gResidual != nullptr) {
            r = zip_pairs<Element>(r, gResidual[i], [](float x, float residual) { return x + residual; });
            gResidual[i] = r;
        }
        squares += sum_of_squares<Element>(r);
    }
    const float mean = sum_of_block<kNormThreads>(squares, sWarps) / static_cast<float>(p.width);
    const float scale = rsqrtf(mean + p.eps);
    for (uint32_t i = threadIdx.x; i < num_vectors; i += kNormThreads) {
        // What this thread stored, or what it read before.
        const uint4 r = gResidual != nullptr ? gResidual[i] : gX[i];
        gOut[i] = zip_pairs<Element>(r, gWeight[i], [scale](float x, float weight) { return x * scale * weight; });
    }
}

}  // namespace la

#define LA_RMS_NORM(name, element)                                                                  \
    extern "C" __global__ void __launch_bounds__(la::kNormThreads) name(const __grid_constant__ LaNorm p) { \
        la::rms_norm<la::element>(p);                                                               \
    }
LA_RMS_NORM(la_rms_norm_bf16, Bf16)
LA_RMS_NORM(la_rms_norm_f16, F16)
