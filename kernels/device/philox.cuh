// Philox4x32-10 (Salmon et al., SC 2011): number `step` of a seed, the same as the CPU sampler's.
#pragma once
#include <stdint.h>

namespace la {

// Evenly spread over [0, 1) with 53 bits.
__device__ __forceinline__ double philox_uniform(uint64_t seed, uint64_t step) {
    uint32_t c0 = static_cast<uint32_t>(step), c1 = static_cast<uint32_t>(step >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t first = static_cast<uint64_t>(0xD2511F53u) * c0, second = static_cast<uint64_t>(0xCD9E8D57u) * c2;
        c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(second);
        c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(first);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const uint64_t bits = (static_cast<uint64_t>(c0) << 32 | c1) >> 11;
    return static_cast<double>(bits) / 9007199254740992.0;
}

}  // namespace la
