// Queries rotated ahead. Where a block has warps that neither compute nor copy, they rotate the queries for the parts to come and
// leave the fragments in shared memory, so that the computing warps wait for keys alone. Elsewhere those rotate for themselves.
#pragma once
#include "async.cuh"
#include "lazy_kernels.h"
#include "rows.cuh"
#include "wgmma.cuh"

namespace la {

constexpr uint32_t kTurningWarps = LA_HAS_WGMMA ? 3 : 0;
constexpr uint32_t kTurnedParts = 2;  // ahead

// Parts, and the queries of an item rotated to them.
template <int HeadDim> struct TurnedParts {
    uint4 queries[kTurnedParts][HeadDim / 16][32];  // fragment k of lane i
    uint64_t full[kTurnedParts];
    uint64_t empty[kTurnedParts];
    LaPart part[kTurnedParts];

    // For `readers` warps. Every lane arrives for what it has stored or read itself.
    __device__ __forceinline__ void init(uint32_t readers) {
        if (kTurningWarps == 0 || threadIdx.x >= kTurnedParts) return;
        barrier_init(shared_address(&full[threadIdx.x]), 32 * kTurningWarps);
        barrier_init(shared_address(&empty[threadIdx.x]), 32 * readers);
    }
};

// What a worker reads, the first of each from its start.
struct Script {
    const LaAttend &p;
    const LaStart &start;

    __device__ __forceinline__ const LaItem *item(int32_t at) const { return at == start.item_begin ? &start.item : p.work.items + at; }
    __device__ __forceinline__ const LaPart *part(int32_t at) const { return at == start.item.part_begin ? &start.part : p.plan.parts + at; }
    __device__ __forceinline__ const LaRow *rows(const LaItem &item) const {
        const bool is_at_hand = item.row_begin == start.item.row_begin && item.row_end - item.row_begin == 1;
        return is_at_hand ? &start.row : p.plan.rows + item.row_begin;
    }
};

// Rotates this warp's share of the fragments, those of one part.
template <class Element, int HeadDim>
__device__ __forceinline__ void turn_part(const LaAttend &p, const QueryRow (&rows)[2], int32_t start, uint32_t warp, uint4 (&sQueries)[HeadDim / 16][32]) {
    const uint32_t lane = threadIdx.x % 32, column = lane % 4 * 2;
    const int32_t distance[2] = {rows[0].base - start, rows[1].base - start};
    if (p.rope.rotary_dim != HeadDim) {
        for (uint32_t k = warp; k < HeadDim / 16; k += kTurningWarps) {
            uint32_t word[4];
#pragma unroll
            for (int j = 0; j < 4; j++) word[j] = rotated_query_pair<Element>(p, rows[j % 2], k * 16 + column + j / 2 * 8, distance[j % 2]);
            sQueries[k][lane] = make_uint4(word[0], word[1], word[2], word[3]);
        }
        return;
    }
    for (uint32_t unit = warp; unit < HeadDim / 16; unit += kTurningWarps) {
        const uint32_t k = unit / 2, half = unit % 2;
        uint2 low, high;
        rotate_pairs<Element, HeadDim>(p, rows, k * 16 + column + half * 8, distance, low, high);
        reinterpret_cast<uint2 *>(&sQueries[k][lane])[half] = low;
        reinterpret_cast<uint2 *>(&sQueries[k + HeadDim / 32][lane])[half] = high;
    }
}

// Rotates the queries of all parts of a worker; `warp` counts from zero.
template <class Element, int HeadDim>
__device__ __forceinline__ void turn_ahead(const LaAttend &p, const LaStart &start, TurnedParts<HeadDim> &turned, uint32_t kv_head, uint32_t warp) {
    const Script script{p, start};
    const uint32_t lane = threadIdx.x % 32;
    constexpr uint32_t kWords = sizeof(LaPart) / 4;
    RingPlace place;
    for (int32_t index = start.item_begin; index < start.item_end; index++) {
        const LaItem item = *script.item(index);
        const LaRow *item_rows = script.rows(item);
        const QueryRow rows[2] = {QueryRow(p, item, item_rows, kv_head, lane / 4), QueryRow(p, item, item_rows, kv_head, lane / 4 + 8)};
        // Lane i holds word i of a part; that of the next is loaded while this one's queries are rotated.
        const auto load = [&](int32_t at) { return at < item.part_end && lane < kWords ? reinterpret_cast<const int32_t *>(script.part(at))[lane] : 0; };
        int32_t next = load(item.part_begin);
        for (int32_t at = item.part_begin; at < item.part_end; at++) {
            const int32_t word = next;
            next = load(at + 1);
            barrier_wait(shared_address(&turned.empty[place.stage]), place.parity ^ 1);
            turn_part<Element, HeadDim>(p, rows, __shfl_sync(~0u, word, offsetof(LaPart, start) / 4), warp, turned.queries[place.stage]);
            if (warp == 0 && lane < kWords) reinterpret_cast<int32_t *>(&turned.part[place.stage])[lane] = word;
            barrier_arrive(shared_address(&turned.full[place.stage]));
            place.advance(kTurnedParts);
        }
    }
}

// The next part, and its queries.
template <class Element, int HeadDim>
__device__ __forceinline__ LaPart take_part(const Script &script, int32_t at, const QueryRow (&rows)[2], TurnedParts<HeadDim> &turned, RingPlace &place, uint32_t (&rQ)[HeadDim / 16][4]) {
    if (kTurningWarps == 0) {
        const LaPart part = *script.part(at);
        rotate_queries<Element, HeadDim>(script.p, rows, part.start, rQ);
        return part;
    }
    const uint32_t lane = threadIdx.x % 32;
    barrier_wait(shared_address(&turned.full[place.stage]), place.parity);
    const LaPart part = turned.part[place.stage];
#pragma unroll
    for (int k = 0; k < HeadDim / 16; k++) {
        const uint4 words = turned.queries[place.stage][k][lane];
        rQ[k][0] = words.x, rQ[k][1] = words.y, rQ[k][2] = words.z, rQ[k][3] = words.w;
    }
    barrier_arrive(shared_address(&turned.empty[place.stage]));
    place.advance(kTurnedParts);
    return part;
}

}  // namespace la
