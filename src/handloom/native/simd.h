/* Vectors of 32 bytes, by the compiler's vector extensions: what depends on the instruction set stands here alone.

   A product of four inputs at once: each 32-bit lane r of `weights` and `inputs` holds four 8-bit numbers; lane r of
   the sum grows by their four products. AVX2 has it in two steps, VNNI in one, others get plain C. */

#ifndef HANDLOOM_SIMD_H
#define HANDLOOM_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define VECTOR(bytes, alignment) __attribute__((vector_size(bytes), aligned(alignment), may_alias))

typedef float f32x8 VECTOR(32, 4);
typedef int32_t i32x8 VECTOR(32, 4);
typedef int16_t i16x16 VECTOR(32, 2);
typedef int8_t i8x32 VECTOR(32, 1);
typedef uint8_t u8x32 VECTOR(32, 1);

INLINE f32x8 load8(const float *from) { return *(const f32x8 *)from; }
INLINE void store8(float *to, f32x8 v) { *(f32x8 *)to = v; }
INLINE f32x8 to_float(i32x8 v) { return __builtin_convertvector(v, f32x8); }
INLINE float sum8(f32x8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

INLINE f32x8 absolute8(f32x8 v) { return (f32x8)((i32x8)v & 0x7fffffff); }
INLINE f32x8 larger8(f32x8 a, f32x8 b) {
  i32x8 first = a > b;
  return (f32x8)(((i32x8)a & first) | ((i32x8)b & ~first));
}

/* The same four bytes in each lane. */
INLINE i8x32 repeat4(const int8_t *four) {
  int32_t bits;
  memcpy(&bits, four, 4);
  return (i8x32)((i32x8){0} + bits);
}

/* Eight half-precision numbers, widened. */
INLINE f32x8 load_half8(const uint16_t *from) {
#if defined(__F16C__)
  return (f32x8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#else
  f32x8 wide;
  for (int r = 0; r < 8; r++) {
    uint32_t half = from[r], sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
    uint32_t bits = rest >= 0x7c00u ? rest << 13 | 0x7f800000u : (rest << 13) + 0x38000000u;
    float value = rest < 0x0400u ? (float)rest * 0x1p-24f : 0;
    if (rest >= 0x0400u) memcpy(&value, &bits, 4);
    wide[r] = sign ? -value : value;
  }
  return wide;
#endif
}

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define HAS_VNNI 1
#else
#define HAS_VNNI 0
#endif
enum { EXCESS = HAS_VNNI ? 16 : 0 };

#if defined(__AVX2__)
/* sum + unsigned weights * signed inputs; two products at a time have to fit 16 bits. */
INLINE i32x8 dot4(i32x8 sum, u8x32 weights, i8x32 inputs) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return (i32x8)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)weights, (__m256i)inputs);
#elif defined(__AVXVNNI__)
  return (i32x8)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, (__m256i)inputs);
#else
  __m256i pairs = _mm256_maddubs_epi16((__m256i)weights, (__m256i)inputs);
  return sum + (i32x8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

/* Signed weights within -127 to 127: |w| * (sign(w) * x). VNNI takes w + 128 in one step; what that is too much, 128
   times the sum of the inputs, is `EXCESS` times what quantize_row keeps. */
INLINE i32x8 dot4_signed(i32x8 sum, i8x32 weights, i8x32 inputs) {
#if HAS_VNNI
  return dot4(sum, (u8x32)weights ^ 128, inputs);
#else
  __m256i magnitude = _mm256_abs_epi8((__m256i)weights);
  return dot4(sum, (u8x32)magnitude, (i8x32)_mm256_sign_epi8((__m256i)inputs, (__m256i)weights));
#endif
}
#else
INLINE i32x8 dot4(i32x8 sum, u8x32 weights, i8x32 inputs) {
  for (int r = 0; r < 8; r++)
    for (int i = 0; i < 4; i++) sum[r] += (int32_t)weights[4 * r + i] * inputs[4 * r + i];
  return sum;
}

INLINE i32x8 dot4_signed(i32x8 sum, i8x32 weights, i8x32 inputs) {
  for (int r = 0; r < 8; r++)
    for (int i = 0; i < 4; i++) sum[r] += (int32_t)weights[4 * r + i] * inputs[4 * r + i];
  return sum;
}
#endif

/* The sum of products of 4-bit weights (0 to 15). AVX2 without VNNI adds up to eight of them in 16 bits first:
   8 * 2 * 15 * 127 still fits. */
#if defined(__AVX2__) && !HAS_VNNI
typedef i16x16 NibbleSum;
INLINE NibbleSum add_nibbles(NibbleSum sum, u8x32 weights, i8x32 inputs) {
  return sum + (i16x16)_mm256_maddubs_epi16((__m256i)weights, (__m256i)inputs);
}
INLINE i32x8 total_of_nibbles(NibbleSum sum) { return (i32x8)_mm256_madd_epi16((__m256i)sum, _mm256_set1_epi16(1)); }
#else
typedef i32x8 NibbleSum;
INLINE NibbleSum add_nibbles(NibbleSum sum, u8x32 weights, i8x32 inputs) { return dot4(sum, weights, inputs); }
INLINE i32x8 total_of_nibbles(NibbleSum sum) { return sum; }
#endif

/* e^x to about one unit in the last place, without a branch, so that loops of it become vector code. x = n ln 2 + r,
   and e^r is its Taylor polynomial, |r| <= 0.35. -fassociative-math would undo the rounding to n. */
INLINE float exp_smooth(float x) {
  x = x < -87.f ? -87.f : x;
  x = x > 88.f ? 88.f : x;
  float shifted = x * 1.44269504f + 12582912.f, n = shifted - 12582912.f; /* 1.5 * 2^23 rounds to whole numbers */
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.f / 120 + r * (1.f / 720 + r * (1.f / 5040));
  p = 1.f + r * (1.f + r * (0.5f + r * (1.f / 6 + r * (1.f / 24 + r * p))));
  uint32_t bits;
  float power;
  memcpy(&bits, &shifted, 4);
  bits = (bits + 127) << 23; /* the low bits of `shifted` are n */
  memcpy(&power, &bits, 4);
  return p * power;
}

#endif
