/* Sixteen lanes of 32 bits, whatever the processor calls them.

   Arithmetic is the compiler's own on vector types; only what it does not find by itself stands here, for AVX-512 and
   AVX2 by intrinsics, for all others as loops. */
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));

INLINE f32x16 splat(float x) { return (f32x16){} + x; }

INLINE i32x16 splat_int(int32_t x) { return (i32x16){} + x; }

INLINE f32x16 to_float(i32x16 x) { return __builtin_convertvector(x, f32x16); }

INLINE u8x64 load_bytes(const uint8_t *from) {
    u8x64 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

INLINE f32x16 load_floats(const float *from) {
    f32x16 floats;
    memcpy(&floats, from, sizeof floats);
    return floats;
}

INLINE void store_floats(float *to, f32x16 floats) { memcpy(to, &floats, sizeof floats); }

/* Numbers below 2^22, rounded to the nearest by the bits that fall off a float this large. */
INLINE i32x16 to_nearest(f32x16 x) { return (i32x16)(x + 12582912.0f) - 0x4b400000; }

/* Numbers that fit into bytes. */
INLINE void store_bytes(int8_t *to, i32x16 numbers) {
    typedef int8_t i8x16 __attribute__((vector_size(16)));
    i8x16 bytes = __builtin_convertvector(numbers, i8x16);
    memcpy(to, &bytes, sizeof bytes);
}

INLINE f32x16 larger(f32x16 a, f32x16 b) {
    i32x16 first = a > b;
    return (f32x16)((first & (i32x16)a) | (~first & (i32x16)b));
}

/* a in the lanes whose bit is set, b in the others */
INLINE f32x16 choose(uint16_t bits, f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_mask_blend_ps(bits, (__m512)b, (__m512)a);
#else
    const i32x16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    i32x16 set = (splat_int(bits) & bit) != 0;
    return (f32x16)((set & (i32x16)a) | (~set & (i32x16)b));
#endif
}

INLINE float sum_of(f32x16 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float lanes[16];
    memcpy(lanes, &x, sizeof lanes);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
#endif
}

INLINE float largest_of(f32x16 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float lanes[16];
    memcpy(lanes, &x, sizeof lanes);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] = lanes[i + width] > lanes[i] ? lanes[i + width] : lanes[i];
    return lanes[0];
#endif
}

/* Of sixteen rows of sixteen the columns: four rounds, each interleaving the first half of the rows with the second. */
INLINE void transpose(f32x16 rows[16]) {
    for (int round = 0; round < 4; round++) {
        f32x16 next[16];
        for (int i = 0; i < 8; i++) {
            next[2 * i] = __builtin_shufflevector(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                                  7, 23);
            next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                                      29, 14, 30, 15, 31);
        }
        memcpy(rows, next, sizeof next);
    }
}

/* Whether there are 32 registers of 512 bits, or half as many of half the size. */
#if defined(__AVX512F__)
enum { ROOMY = 1 };
#else
enum { ROOMY = 0 };
#endif

/* 2^x as 2^n · 2^f, the latter by a polynomial; relative error below 3e-7. What is below 2^-126 may be 0. */
INLINE f32x16 power_of_two(f32x16 x) {
#if defined(__AVX512F__)
    f32x16 whole = (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const f32x16 rounder = splat(12582912.0f); /* adding it leaves the integer part in the low bits */
    x = larger(x, splat(-126));
    x = -larger(-x, splat(-126));
    f32x16 shifted = x + rounder, whole = shifted - rounder;
#endif
    f32x16 rest = x - whole, power = splat(1.33336498e-3f);
    power = power * rest + 9.61793571e-3f;
    power = power * rest + 5.55036440e-2f;
    power = power * rest + 2.40226510e-1f;
    power = power * rest + 6.93147182e-1f;
    power = power * rest + 1.0f;
#if defined(__AVX512F__)
    return (f32x16)_mm512_scalef_ps((__m512)power, (__m512)whole);
#else
    return (f32x16)((i32x16)power + (((i32x16)shifted - 0x4b400000) << 23));
#endif
}

#define LOG2_E 1.44269504f

INLINE f32x16 exponential(f32x16 x) { return power_of_two(x * LOG2_E); }

INLINE i32x16 load_u16(const uint16_t *from) {
    typedef uint16_t u16x16 __attribute__((vector_size(32)));
    u16x16 numbers;
    memcpy(&numbers, from, sizeof numbers);
    return __builtin_convertvector(numbers, i32x16);
}

INLINE f32x16 load_bf16(const uint16_t *from) { return (f32x16)(load_u16(from) << 16); }

/* Pairs of bfloat16 in numbers of 32 bits: whether the processor multiplies and adds up both at once, or it is made up. */
#if defined(__AVX512BF16__)
enum { HAS_PAIRS = 1 };

INLINE f32x16 add_pairs(f32x16 sums, i32x16 left, i32x16 right) {
    return (f32x16)_mm512_dpbf16_ps((__m512)sums, (__m512bh)left, (__m512bh)right);
}

INLINE void store_bf16(uint16_t *to, f32x16 numbers) {
    __m256bh halves = _mm512_cvtneps_pbh((__m512)numbers);
    memcpy(to, &halves, sizeof halves);
}
#else
enum { HAS_PAIRS = 0 };

INLINE f32x16 add_pairs(f32x16 sums, i32x16 left, i32x16 right) {
    return sums + (f32x16)(left << 16) * (f32x16)(right << 16) + (f32x16)(left & ~0xffff) * (f32x16)(right & ~0xffff);
}

INLINE void store_bf16(uint16_t *to, f32x16 numbers) {
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, (float *)&numbers + i, sizeof bits);
        to[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to the nearest, ties to even */
    }
}
#endif

INLINE f32x16 load_f16(const uint8_t *from) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__F16C__)
    f32x16 floats;
    __m256 *parts = (__m256 *)&floats;
    for (int i = 0; i < 2; i++) parts[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from + i));
    return floats;
#else
    _Float16 halves[16];
    memcpy(halves, from, sizeof halves);
    f32x16 floats;
    for (int i = 0; i < 16; i++) floats[i] = (float)halves[i];
    return floats;
#endif
}

INLINE f32x16 load_i8(const uint8_t *from) {
    typedef int8_t i8x16 __attribute__((vector_size(16)));
    i8x16 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, f32x16);
}

INLINE u8x64 low_nibbles(u8x64 bytes) { return bytes & 15; }

INLINE u8x64 high_nibbles(u8x64 bytes) { return (u8x64)((u16x32)bytes >> 4) & 15; }

/* bytes + value where the bit of the byte's number is set */
INLINE u8x64 add_where(u8x64 bytes, uint64_t bits, uint8_t value) {
#if defined(__AVX512BW__)
    __m512i wide = (__m512i)bytes;
    return (u8x64)_mm512_mask_add_epi8(wide, bits, wide, _mm512_set1_epi8((char)value));
#elif defined(__AVX2__)
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i *parts = (__m256i *)&bytes;
    for (int i = 0; i < 2; i++) {
        __m256i repeated = _mm256_shuffle_epi8(_mm256_set1_epi32((int)(bits >> (32 * i))), spread);
        __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(repeated, bit), bit);
        parts[i] = _mm256_add_epi8(parts[i], _mm256_and_si256(set, _mm256_set1_epi8((char)value)));
    }
    return bytes;
#else
    for (int i = 0; i < 64; i++) bytes[i] += (uint8_t)((bits >> i & 1) * value);
    return bytes;
#endif
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
INLINE __m256i dot_half(__m256i sums, __m256i weights, __m256i x, int wide) {
#if defined(__AVXVNNI__)
    (void)wide;
    return _mm256_dpbusd_avx_epi32(sums, weights, x);
#else
    const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(127);
    /* two products of 8 bits each overflow 16 bits, so the highest bit is multiplied on its own */
    __m256i seven = wide ? _mm256_and_si256(weights, low) : weights;
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(seven, x), ones));
    if (!wide) return sums;
    __m256i eighth = _mm256_maddubs_epi16(_mm256_andnot_si256(low, weights), x);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(eighth, ones));
#endif
}
#endif

/* sums[i] + the products of weights[4i … 4i + 3], unsigned, and the four signed bytes of x; `wide` if they have 8 bits */
INLINE i32x16 dot(i32x16 sums, u8x64 weights, int32_t x, int wide) {
#if defined(__AVX512VNNI__)
    (void)wide;
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(x));
#elif defined(__AVX2__)
    __m256i *to = (__m256i *)&sums, *from = (__m256i *)&weights;
    for (int i = 0; i < 2; i++) to[i] = dot_half(to[i], from[i], _mm256_set1_epi32(x), wide);
    return sums;
#else
    (void)wide;
    int8_t bytes[4];
    memcpy(bytes, &x, sizeof bytes);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) sums[i] += weights[4 * i + j] * bytes[j];
    return sums;
#endif
}
