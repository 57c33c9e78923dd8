// 16-bit element types: packing, and the tensor-core product of each.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace la {

struct Bf16 {
    static constexpr int kKvBytes = 2;  // of a stored element
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&pair);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t pair) {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
    }
    // What a product takes, from a pair of queries; and what is written, from a pair of results.
    static __device__ __forceinline__ uint32_t operand(uint32_t pair) { return pair; }
    static __device__ __forceinline__ uint32_t pack_out(float low, float high) { return pack(low, high); }
    // d[16 x 8] += a[16 x 16] b[16 x 8]
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct F16 {
    static constexpr int kKvBytes = 2;
    // Saturates: half has a small range, and an infinity in a key would poison every score.
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
        const __half2 pair = __floats2half2_rn(fminf(fmaxf(low, -65504.f), 65504.f), fminf(fmaxf(high, -65504.f), 65504.f));
        return *reinterpret_cast<const uint32_t *>(&pair);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t pair) {
        return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
    }
    static __device__ __forceinline__ uint32_t operand(uint32_t pair) { return pair; }
    static __device__ __forceinline__ uint32_t pack_out(float low, float high) { return pack(low, high); }
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void load_matrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void load_shared_16(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void store_shared_16(uint32_t address, const uint32_t (&r)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Byte of 16-byte group `group` of row `row` in a block of HeadDim columns: la_block_byte in units of groups.
template <int HeadDim> __device__ __forceinline__ uint32_t group_byte(uint32_t row, uint32_t group) {
    const uint32_t panel = row / 8 * (HeadDim / 64) + group / 8;
    return panel * 1024 + row % 8 * 128 + ((group ^ row) % 8) * 16;
}

// Address of an even group of a row, given the address of its group 0 or 1; blocks are aligned to 1024 bytes. Computed from the
// address, not from the row, so that the compiler does not keep one register per group over a whole loop.
__device__ __forceinline__ uint32_t group_address(uint32_t first_group, uint32_t even_group) {
    return (first_group ^ (even_group % 8 * 16)) + even_group / 8 * 1024;
}

}  // namespace la
