// argmax: the most likely token of every row.
//
//   token = min { i : logits[i] = max(logits) }
//
// A row with a NaN or plus infinity gives LA_NOT_FINITE, one of minus infinities LA_NOTHING_ALLOWED.
//
// Layout: logits [num_rows, vocab_size] f32, tokens [num_rows].
// Grid: a block takes a row.
#include "device/logits.cuh"
#include "lazy_kernels.h"

extern "C" __global__ void __launch_bounds__(la::kRowThreads) la_argmax(const __grid_constant__ LaSample p) {
    const la::RowBest best = la::best_of_row(p.logits + static_cast<int64_t>(blockIdx.x) * p.vocab_size, p.vocab_size);
    if (threadIdx.x == 0) p.tokens[blockIdx.x] = best.token;
}
