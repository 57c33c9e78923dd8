// Rotation by fixed-point turns: a frequency is a fraction of a turn with 64 bits behind the point, so its product with a
// position, modulo one turn, is exact, and the top 32 bits of it are the angle. Right to 5e-7 at any position.
#pragma once
#include <stdint.h>

#include "lazy_kernels.h"

namespace la {

// (cos, sin) of `turn` taken `distance` times; negative distances turn backwards.
__device__ __forceinline__ float2 angle_of(uint64_t turn, int32_t distance) {
    const uint64_t product = turn * static_cast<uint64_t>(static_cast<int64_t>(distance));
    // In [-pi, pi], where the fast functions are at their best.
    const float radians = static_cast<float>(static_cast<int32_t>(product >> 32)) * (6.283185307179586f / 4294967296.f);
    return make_float2(__cosf(radians), __sinf(radians));
}

// Two neighbouring pairs: `x` holds their low elements, `y` the high ones.
struct PairAngles {
    float2 first, second;

    __device__ __forceinline__ PairAngles(const uint64_t *gTurns, uint32_t pair, int32_t distance) {
        const ulonglong2 turns = __ldg(reinterpret_cast<const ulonglong2 *>(gTurns + pair));
        first = angle_of(turns.x, distance);
        second = angle_of(turns.y, distance);
    }
    __device__ __forceinline__ float2 low(float2 x, float2 y) const {
        return make_float2(x.x * first.x - y.x * first.y, x.y * second.x - y.y * second.y);
    }
    __device__ __forceinline__ float2 high(float2 x, float2 y) const {
        return make_float2(y.x * first.x + x.x * first.y, y.y * second.x + x.y * second.y);
    }
};

// Element `dim` of a row of 16-bit elements and its right neighbour, rotated by `distance`.
template <class Element>
__device__ __forceinline__ float2 rotated_values(const uint32_t *__restrict__ gRow, const LaRope &rope, uint32_t dim, int32_t distance) {
    const uint32_t pairs = rope.rotary_dim / 2;
    const float2 own = Element::unpack(gRow[dim / 2]);
    if (dim >= rope.rotary_dim) return own;
    const bool is_low = dim < pairs;
    const float2 partner = Element::unpack(gRow[(is_low ? dim + pairs : dim - pairs) / 2]);
    const PairAngles angles(rope.turns, is_low ? dim : dim - pairs, distance);
    return is_low ? angles.low(own, partner) : angles.high(partner, own);
}

}  // namespace la
