// penalize: penalties and bias, on the logits of tokens that were seen or are favoured.
//
//   l > 0 ? l / repetition : l * repetition,   then l - presence - frequency * count,   then l + bias
//
// The operations and their order are those of the CPU sampler, each rounded by itself, so the bits are the same. What is not a
// number stays so, for argmax and sample to find.
//
// Layout: logits [num_rows, vocab_size] f32; seen [num_seen], no token twice in a row.
// Grid: a thread takes an entry. Entries outside the logits are skipped.
#include <math.h>

#include "lazy_kernels.h"

namespace la {

constexpr uint32_t kPenalizeThreads = 256;

}  // namespace la

extern "C" __global__ void __launch_bounds__(la::kPenalizeThreads) la_penalize(const __grid_constant__ LaPenalize p) {
    const uint64_t entry = static_cast<uint64_t>(blockIdx.x) * la::kPenalizeThreads + threadIdx.x;
    if (entry >= p.num_seen) return;
    const LaSeen seen = p.seen[entry];
    if (seen.row >= p.num_rows || seen.token >= p.vocab_size) return;
    const LaSampling row = p.rows[seen.row];
    float *gLogit = p.logits + static_cast<int64_t>(seen.row) * p.vocab_size + seen.token;
    float logit = *gLogit;
    if (!(logit < INFINITY)) return;
    const float largest = 3.4028234663852886e38f;
    if ((seen.flags & LA_SEEN_REPEATED) != 0 && row.repetition != 1.f) {
        logit = logit > 0.f ? __fdiv_rn(logit, row.repetition) : __fmul_rn(logit, row.repetition);
        logit = fminf(logit, largest);
    }
    if (seen.count > 0) {
        const float frequency = __fmul_rn(row.frequency, static_cast<float>(seen.count));
        logit = fminf(__fsub_rn(__fsub_rn(logit, row.presence), frequency), largest);
    }
    *gLogit = fminf(__fadd_rn(logit, seen.bias), largest);
}
