// vec.h on AVX-512 with VNNI: one register is 16 lanes.
#pragma once

#if defined(__AVX512VNNI__)

// GCC 12 sees an uninitialized value in its own header's _mm512_undefined_epi32 wherever an intrinsic is inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace dogstar::avx512vnni {
namespace {

struct Vec16f {
  __m512 v;
};
struct Vec16i {
  __m512i v;
};

constexpr int kPanelsInFlight = 2;  // with four rows: 8 float + 8 integer sums as well
constexpr bool kPlainProducts = true;
constexpr int kRowsInFlight = 8;  // activation rows per pass: 8 float + 8 integer sums of 32 registers

[[gnu::always_inline]] inline Vec16f Splat(float x) { return {_mm512_set1_ps(x)}; }
[[gnu::always_inline]] inline Vec16i SplatInt(int32_t x) { return {_mm512_set1_epi32(x)}; }
[[gnu::always_inline]] inline Vec16f Load(const float* p) { return {_mm512_loadu_ps(p)}; }
[[gnu::always_inline]] inline void Store(Vec16f a, float* p) { _mm512_storeu_ps(p, a.v); }
[[gnu::always_inline]] inline __mmask16 FirstLanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
// The first n lanes, 0 <= n <= 16; the others are 0, and their memory is not touched.
[[gnu::always_inline]] inline Vec16f LoadPartial(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(FirstLanes(n), p)};
}
[[gnu::always_inline]] inline void StorePartial(Vec16f a, int n, float* p) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), a.v);
}
[[gnu::always_inline]] inline Vec16i LoadBytes(const void* p) { return {_mm512_loadu_si512(p)}; }
[[gnu::always_inline]] inline void StoreBytes(Vec16i a, void* p) { _mm512_storeu_si512(p, a.v); }

[[gnu::always_inline]] inline Vec16f operator+(Vec16f a, Vec16f b) { return {_mm512_add_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16f operator-(Vec16f a, Vec16f b) { return {_mm512_sub_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16f operator*(Vec16f a, Vec16f b) { return {_mm512_mul_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16f operator/(Vec16f a, Vec16f b) { return {_mm512_div_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16f Fma(Vec16f a, Vec16f b, Vec16f c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// a > b ? a : b, so the second where either is NaN.
[[gnu::always_inline]] inline Vec16f Max(Vec16f a, Vec16f b) { return {_mm512_max_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16f Min(Vec16f a, Vec16f b) { return {_mm512_min_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16f Round(Vec16f a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
[[gnu::always_inline]] inline Vec16f And(Vec16f a, Vec16i b) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), b.v))};
}
[[gnu::always_inline]] inline Vec16f Xor(Vec16f a, Vec16i b) {
  return {_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a.v), b.v))};
}
// a where x >= limit, else 0 (NaN: a).
[[gnu::always_inline]] inline Vec16f KeepUnlessBelow(Vec16f x, Vec16f limit, Vec16f a) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), a.v)};
}

[[gnu::always_inline]] inline Vec16i operator+(Vec16i a, Vec16i b) { return {_mm512_add_epi32(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16i operator&(Vec16i a, Vec16i b) { return {_mm512_and_si512(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16i operator|(Vec16i a, Vec16i b) { return {_mm512_or_si512(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16i operator*(Vec16i a, Vec16i b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
[[gnu::always_inline]] inline Vec16i ShiftRightBy(Vec16i a, int bits) {
  return {_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(bits))};
}
[[gnu::always_inline]] inline Vec16i ShiftLeftBy(Vec16i a, int bits) {
  return {_mm512_sll_epi32(a.v, _mm_cvtsi32_si128(bits))};
}
template <int kBits>
[[gnu::always_inline]] inline Vec16i ShiftRight(Vec16i a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline Vec16i ShiftLeft(Vec16i a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline Vec16i ShiftRightSigned(Vec16i a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}

[[gnu::always_inline]] inline Vec16f ToFloat(Vec16i a) { return {_mm512_cvtepi32_ps(a.v)}; }
[[gnu::always_inline]] inline Vec16i ToIntNearest(Vec16f a) { return {_mm512_cvtps_epi32(a.v)}; }
[[gnu::always_inline]] inline Vec16f BitsAsFloat(Vec16i a) { return {_mm512_castsi512_ps(a.v)}; }

[[gnu::always_inline]] inline Vec16f LoadHalf(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
[[gnu::always_inline]] inline Vec16f SplatHalf(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(half)))};
}
[[gnu::always_inline]] inline void StoreHalf(Vec16f a, void* p) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
[[gnu::always_inline]] inline Vec16f LoadBfloat16(const void* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}
[[gnu::always_inline]] inline Vec16i LoadU8(const void* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
[[gnu::always_inline]] inline Vec16i LoadS8(const void* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
// The low byte, or the low two, of each lane.
[[gnu::always_inline]] inline void StoreLow8(Vec16i a, void* p) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
[[gnu::always_inline]] inline void StoreLow16(Vec16i a, void* p) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v));
}

// Lanes 8 apart, 4, 2, 1.
[[gnu::always_inline]] inline float ReduceAdd(Vec16f a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Lane i: ReduceAdd(a[i]), the same additions for sixteen vectors at a fraction of the shuffles.
[[gnu::always_inline]] inline Vec16f ReduceAdd16(const Vec16f* a) {
  __m512 eight[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // low half: vector i, high half: vector i + 8
    eight[i] =
        _mm512_add_ps(_mm512_shuffle_f32x4(a[i].v, a[i + 8].v, 0x44), _mm512_shuffle_f32x4(a[i].v, a[i + 8].v, 0xee));
  }
  __m512 four[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // quarters: vectors i, i + 8, i + 4, i + 12
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[i], eight[i + 4], 0x88),
                            _mm512_shuffle_f32x4(eight[i], eight[i + 4], 0xdd));
  }
  __m512 two[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    two[i] =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(four[i]), _mm512_castps_pd(four[i + 2]))),
                      _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(four[i]), _mm512_castps_pd(four[i + 2]))));
  }
  // Lanes of a quarter q now stand for vectors base, base, base + 2, base + 2.
  const __m512 one = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd));
  // Quarter order 0, 8, 4, 12; within a quarter 0, 2, 1, 3.
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return {_mm512_permutexvar_ps(order, one)};
}
[[gnu::always_inline]] inline float ReduceMax(Vec16f a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
[[gnu::always_inline]] inline int32_t ReduceAddInt(Vec16i a) { return _mm512_reduce_add_epi32(a.v); }

[[gnu::always_inline]] inline __m512i BroadcastFour(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

// Exact sums of products of codes with four activation codes: lane r += sum_i codes[4r + i] * x[i].
class NibbleDot {  // unsigned codes 0..15
 public:
  NibbleDot() = default;
  [[gnu::always_inline]] explicit NibbleDot(int32_t start) : sum_(_mm512_set1_epi32(start)) {}
  [[gnu::always_inline]] void Add(Vec16i codes, const int8_t* x) {
    sum_ = _mm512_dpbusd_epi32(sum_, codes.v, BroadcastFour(x));
  }
  // Add, with what was loaded of x once for several products.
  [[gnu::always_inline]] static Vec16i SplatFour(const int8_t* x) { return {BroadcastFour(x)}; }
  [[gnu::always_inline]] void AddSplat(Vec16i codes, Vec16i four) { sum_ = _mm512_dpbusd_epi32(sum_, codes.v, four.v); }
  [[gnu::always_inline]] Vec16i Sum() const { return {sum_}; }

 private:
  __m512i sum_;
};

class ByteDot {  // signed codes, made unsigned by adding 128; start: -128 * (sum of the x codes to come)
 public:
  ByteDot() = default;
  [[gnu::always_inline]] static Vec16i Prepare(Vec16i codes) {
    return {_mm512_xor_si512(codes.v, _mm512_set1_epi32(static_cast<int32_t>(0x80808080)))};
  }
  [[gnu::always_inline]] explicit ByteDot(int32_t start) : sum_(_mm512_set1_epi32(start)) {}
  [[gnu::always_inline]] void Add(Vec16i prepared, const int8_t* x) {
    sum_ = _mm512_dpbusd_epi32(sum_, prepared.v, BroadcastFour(x));
  }
  [[gnu::always_inline]] static Vec16i SplatFour(const int8_t* x) { return {BroadcastFour(x)}; }
  [[gnu::always_inline]] void AddSplat(Vec16i prepared, Vec16i four) {
    sum_ = _mm512_dpbusd_epi32(sum_, prepared.v, four.v);
  }
  [[gnu::always_inline]] Vec16i Sum() const { return {sum_}; }

 private:
  __m512i sum_;
};

using WideDot = NibbleDot;  // unsigned codes 0..63

// Byte i: values[codes byte i]. REQUIRES: codes below 16.
[[gnu::always_inline]] inline Vec16i LookUp(const int8_t* values, Vec16i codes) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes.v)};
}
// low | (high & mask)
[[gnu::always_inline]] inline Vec16i OrMasked(Vec16i low, Vec16i high, Vec16i mask) {
  return {_mm512_ternarylogic_epi32(low.v, high.v, mask.v, 0xf8)};
}

// out[j], lane r = the j-th four bytes at rows[r] + offset.
[[gnu::always_inline]] inline void LoadTransposed(const uint8_t* const* rows, int64_t offset, Vec16i out[4]) {
  __m512i in[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // 128-bit part q: row 4q + i
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + offset)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[4 + i] + offset)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[8 + i] + offset)), 2);
    in[i] = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[12 + i] + offset)), 3);
  }
  const __m512i low01 = _mm512_unpacklo_epi32(in[0], in[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(in[2], in[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(in[0], in[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(in[2], in[3]);
  out[0].v = _mm512_unpacklo_epi64(low01, low23);
  out[1].v = _mm512_unpackhi_epi64(low01, low23);
  out[2].v = _mm512_unpacklo_epi64(high01, high23);
  out[3].v = _mm512_unpackhi_epi64(high01, high23);
}

}  // namespace
}  // namespace dogstar::avx512vnni

#endif  // __AVX512VNNI__
