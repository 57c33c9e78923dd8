// attend_rotate_keys: what engines do that store keys as they are: attend N16, with every key rotated to its absolute position
// each time it is read.
//
//   score(row, key i) = < R(base) q , R(start + i) k_i >     out = softmax(score) V
//
// The comparison path of MEPIC, for benches and tests: a document has one copy here too, but its readers cannot share a read.
//
// Layout, grid and the rest are those of attend_n16.cu. A key is rotated in the registers of the one warp that reads it, in f32. A
// lane holds elements d and d + HeadDim / 2 of keys r and r + 8 of its strip of 16: it computes the angles of its pairs at the
// beginning of a part, and turns them on from strip to strip by steps that all lanes share.
// Assumes: besides attend_n16.cu's assumptions, that all dimensions rotate, and that the launch has room for KeySteps behind
// N16Shared (checked by the wrapper, which gives up a stage for it).
#include "attend_n16.cu"

namespace la {

// Strips after which angles are computed afresh: rounding errors of the steps between stay below 2e-6.
constexpr uint32_t kFreshAngles = 16;

// Angles of the steps of each pair.
template <int HeadDim> struct KeySteps {
    static constexpr int kStrips = kNarrowKeys<Bf16, HeadDim> / kComputeWarps / 16;  // of a warp in a tile
    struct Pair {
        float2 row;          // eight keys on
        float2 strip;        // 16 keys on, to the next strip in a tile
        float2 tile;         // from the last strip of a tile to the first of the next
        float2 unused;
    } pair[HeadDim / 2];
};

// (cos, sin) of the sum of two angles.
__device__ __forceinline__ float2 turn_on(float2 angle, float2 step) {
    return make_float2(angle.x * step.x - angle.y * step.y, angle.y * step.x + angle.x * step.y);
}

template <class Element, int HeadDim> struct RotatingKeys {
    static constexpr bool kTurnsQueriesPerPart = false;  // but once per item
    static constexpr bool kTakesHalves = false;
    static constexpr int kRegisters = 216;
    static constexpr int kStrips = KeySteps<HeadDim>::kStrips;
    static constexpr int kPairs = HeadDim / 8;  // of a lane
    using Pair = typename KeySteps<HeadDim>::Pair;

    const uint64_t *gTurns;
    const Pair *sSteps;                              // of the lane's first pair
    float2 angle[kPairs];                            // of the lane's first key in the coming strip
    int32_t position;                                // of that key
    uint32_t strips_left;                            // until the angles are computed afresh

    static __device__ __forceinline__ KeySteps<HeadDim> *steps(const N16Shared<HeadDim> &shared) {
        return reinterpret_cast<KeySteps<HeadDim> *>(reinterpret_cast<uintptr_t>(&shared + 1));
    }
    static __device__ __forceinline__ void prepare(const LaAttend &p, const N16Shared<HeadDim> &shared) {
        for (uint32_t pair = threadIdx.x; pair < HeadDim / 2; pair += blockDim.x) {
            const uint64_t turn = p.rope.turns[pair];
            steps(shared)->pair[pair] = {angle_of(turn, 8), angle_of(turn, 16), angle_of(turn, kNarrowKeys<Bf16, HeadDim> - 16 * (kStrips - 1)), {}};
        }
    }
    __device__ __forceinline__ RotatingKeys(const LaAttend &p, const N16Shared<HeadDim> &shared)
        : gTurns(p.rope.turns + threadIdx.x % 4 * 2), sSteps(steps(shared)->pair + threadIdx.x % 4 * 2) {}

    __device__ __forceinline__ void begin(const LaPart &part) {
        const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 * kStrips;
        position = part.start + part.key_begin + static_cast<int32_t>(first + lane / 4);
        strips_left = 0;
    }
    // Pair i of the lane is pair i / 2 * 8 + i % 2 behind its first one.
    static __device__ __forceinline__ constexpr int place(int i) { return i / 2 * 8 + i % 2; }

    __device__ __forceinline__ void refresh() {
#pragma unroll
        for (int i = 0; i < kPairs; i++) angle[i] = angle_of(__ldg(gTurns + place(i)), position);
        strips_left = kFreshAngles;
    }

    template <int Steps>
    __device__ __forceinline__ void score(uint32_t sTile, uint32_t first, const uint32_t (&rQ)[HeadDim / 16][4], float (&score)[2 * Steps][4]) {
        static_assert(Steps == kStrips, "a warp's strips of a tile");
#pragma unroll
        for (int s = 0; s < Steps; s++) {
            if (strips_left == 0) refresh();
            const auto next = s + 1 == Steps ? &Pair::tile : &Pair::strip;
            strip(sTile, first + 16 * s, rQ, next, reinterpret_cast<float(&)[2][4]>(score[2 * s]));
            strips_left--;
            position += s + 1 == Steps ? kNarrowKeys<Bf16, HeadDim> - 16 * (kStrips - 1) : 16;
        }
    }

    // Scores of 16 keys, those of the tile from row `first` on; `next` is the step to the warp's next strip.
    __device__ __forceinline__ void strip(uint32_t sTile, uint32_t first, const uint32_t (&rQ)[HeadDim / 16][4], float2 Pair::*next, float (&score)[2][4]) {
        constexpr int kHalf = HeadDim / 32;  // fragments to a pair's partner
        const uint32_t lane = threadIdx.x % 32;
        const uint32_t sRow = sTile + group_byte<HeadDim>(first + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) score[n][j] = 0.f;
#pragma unroll
        for (int k = 0; k < kHalf; k++) {
            uint32_t rLow[4], rHigh[4];
            load_matrix_x4(rLow, group_address(sRow, 2 * k));
            load_matrix_x4(rHigh, group_address(sRow, 2 * (k + kHalf)));
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int i = 4 * k + 2 * half;
                const Pair step[2] = {sSteps[place(i)], sSteps[place(i) + 1]};
                rotate(rLow[half], rHigh[half], angle[i], angle[i + 1]);
                rotate(rLow[half + 2], rHigh[half + 2], turn_on(angle[i], step[0].row), turn_on(angle[i + 1], step[1].row));
                angle[i] = turn_on(angle[i], step[0].*next);
                angle[i + 1] = turn_on(angle[i + 1], step[1].*next);
            }
            Element::mma(score[0], rQ[k], rLow[0], rLow[1]);
            Element::mma(score[1], rQ[k], rLow[2], rLow[3]);
            Element::mma(score[0], rQ[k + kHalf], rHigh[0], rHigh[1]);
            Element::mma(score[1], rQ[k + kHalf], rHigh[2], rHigh[3]);
        }
    }

    // Two neighbouring pairs of a key: their low elements and their high ones.
    static __device__ __forceinline__ void rotate(uint32_t &low, uint32_t &high, float2 first, float2 second) {
        const float2 x = Element::unpack(low), y = Element::unpack(high);
        low = Element::pack(x.x * first.x - y.x * first.y, x.y * second.x - y.y * second.y);
        high = Element::pack(y.x * first.x + x.x * first.y, y.y * second.x + x.y * second.y);
    }
};

}  // namespace la

#define LA_ATTEND_ROTATE_KEYS(name, element, head_dim)                                                    \
    extern "C" __global__ void __launch_bounds__(la::kBlockThreads<1>, LA_N16_BLOCKS) name(const __grid_constant__ LaAttend p) { \
        la::attend_n16<la::element, head_dim, la::RotatingKeys<la::element, head_dim>>(p);                 \
    }
LA_ATTEND_ROTATE_KEYS(la_attend_rotate_keys_bf16_d64, Bf16, 64)
LA_ATTEND_ROTATE_KEYS(la_attend_rotate_keys_bf16_d128, Bf16, 128)
LA_ATTEND_ROTATE_KEYS(la_attend_rotate_keys_f16_d64, F16, 64)
LA_ATTEND_ROTATE_KEYS(la_attend_rotate_keys_f16_d128, F16, 128)
