// gather: rows of a table by index: embeddings of tokens, or the last rows of sequences.
//
//   out[i] = table[ids[i]]      zeros where the table has no such row
//
// Layout: table [num_table_rows, width], ids [num_rows], out [num_rows, width], of any 16-bit type.
// Grid: threads stride over the vectors of 8 elements of out.
// Assumes: width a multiple of 8, rows aligned to 16 bytes (checked by the wrapper). Ids lie in device memory, where nobody has
// checked them, so this does.
#include "device/vector.cuh"
#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kGatherThreads = 256;

}  // namespace la

extern "C" __global__ void __launch_bounds__(la::kGatherThreads) la_gather(const __grid_constant__ LaGather p) {
    const uint32_t num_vectors = p.width / la::kVector;
    const uint64_t num_tasks = static_cast<uint64_t>(p.num_rows) * num_vectors;
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * la::kGatherThreads;
    const uint4 *__restrict__ gTable = static_cast<const uint4 *>(p.table);
    uint4 *__restrict__ gOut = static_cast<uint4 *>(p.out);
    for (uint64_t task = static_cast<uint64_t>(blockIdx.x) * la::kGatherThreads + threadIdx.x; task < num_tasks; task += stride) {
        const uint64_t id = p.ids[task / num_vectors];
        gOut[task] = id < p.num_table_rows ? gTable[id * num_vectors + task % num_vectors] : make_uint4(0, 0, 0, 0);
    }
}
