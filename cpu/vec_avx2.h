// vec.h on AVX2 with FMA and F16C: two registers are 16 lanes.
#pragma once

#if defined(__AVX2__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace dogstar::avx2 {
namespace {

struct Vec16f {
  __m256 lo, hi;
};
struct Vec16i {
  __m256i lo, hi;
};

constexpr int kPanelsInFlight = 1;
constexpr bool kPlainProducts = true;
constexpr int kRowsInFlight = 4;  // of 16 registers 8 hold integer sums; the float sums go to the stack once a block

[[gnu::always_inline]] inline Vec16f Splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
[[gnu::always_inline]] inline Vec16i SplatInt(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
[[gnu::always_inline]] inline Vec16f Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
[[gnu::always_inline]] inline void Store(Vec16f a, float* p) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
[[gnu::always_inline]] inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// The first n lanes, 0 <= n <= 16; the others are 0, and their memory is not touched.
[[gnu::always_inline]] inline Vec16f LoadPartial(const float* p, int n) {
  return {_mm256_maskload_ps(p, FirstLanes(n)), _mm256_maskload_ps(p + 8, FirstLanes(n - 8))};
}
[[gnu::always_inline]] inline void StorePartial(Vec16f a, int n, float* p) {
  _mm256_maskstore_ps(p, FirstLanes(n), a.lo);
  _mm256_maskstore_ps(p + 8, FirstLanes(n - 8), a.hi);
}
[[gnu::always_inline]] inline Vec16i LoadBytes(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
[[gnu::always_inline]] inline void StoreBytes(Vec16i a, void* p) {
  __m256i* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, a.lo);
  _mm256_storeu_si256(q + 1, a.hi);
}

[[gnu::always_inline]] inline Vec16f operator+(Vec16f a, Vec16f b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16f operator-(Vec16f a, Vec16f b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16f operator*(Vec16f a, Vec16f b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16f operator/(Vec16f a, Vec16f b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16f Fma(Vec16f a, Vec16f b, Vec16f c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// a > b ? a : b, so the second where either is NaN.
[[gnu::always_inline]] inline Vec16f Max(Vec16f a, Vec16f b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16f Min(Vec16f a, Vec16f b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16f Round(Vec16f a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
[[gnu::always_inline]] inline Vec16f And(Vec16f a, Vec16i b) {
  return {_mm256_and_ps(a.lo, _mm256_castsi256_ps(b.lo)), _mm256_and_ps(a.hi, _mm256_castsi256_ps(b.hi))};
}
[[gnu::always_inline]] inline Vec16f Xor(Vec16f a, Vec16i b) {
  return {_mm256_xor_ps(a.lo, _mm256_castsi256_ps(b.lo)), _mm256_xor_ps(a.hi, _mm256_castsi256_ps(b.hi))};
}
// a where x >= limit, else 0 (NaN: a).
[[gnu::always_inline]] inline Vec16f KeepUnlessBelow(Vec16f x, Vec16f limit, Vec16f a) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, limit.lo, _CMP_NLT_UQ), a.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, limit.hi, _CMP_NLT_UQ), a.hi)};
}

[[gnu::always_inline]] inline Vec16i operator+(Vec16i a, Vec16i b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16i operator&(Vec16i a, Vec16i b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16i operator|(Vec16i a, Vec16i b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16i operator*(Vec16i a, Vec16i b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
[[gnu::always_inline]] inline Vec16i ShiftRightBy(Vec16i a, int bits) {
  const __m128i count = _mm_cvtsi32_si128(bits);
  return {_mm256_srl_epi32(a.lo, count), _mm256_srl_epi32(a.hi, count)};
}
[[gnu::always_inline]] inline Vec16i ShiftLeftBy(Vec16i a, int bits) {
  const __m128i count = _mm_cvtsi32_si128(bits);
  return {_mm256_sll_epi32(a.lo, count), _mm256_sll_epi32(a.hi, count)};
}
template <int kBits>
[[gnu::always_inline]] inline Vec16i ShiftRight(Vec16i a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline Vec16i ShiftLeft(Vec16i a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
[[gnu::always_inline]] inline Vec16i ShiftRightSigned(Vec16i a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}

[[gnu::always_inline]] inline Vec16f ToFloat(Vec16i a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
[[gnu::always_inline]] inline Vec16i ToIntNearest(Vec16f a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
[[gnu::always_inline]] inline Vec16f BitsAsFloat(Vec16i a) {
  return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}

[[gnu::always_inline]] inline Vec16f LoadHalf(const void* p) {
  const __m128i* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
[[gnu::always_inline]] inline Vec16f SplatHalf(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  const __m256 value = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(half)));
  return {value, value};
}
[[gnu::always_inline]] inline void StoreHalf(Vec16f a, void* p) {
  __m128i* q = static_cast<__m128i*>(p);
  _mm_storeu_si128(q, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(q + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
[[gnu::always_inline]] inline Vec16f LoadBfloat16(const void* p) {
  const __m128i* q = static_cast<const __m128i*>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16))};
}
[[gnu::always_inline]] inline Vec16i LoadU8(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
[[gnu::always_inline]] inline Vec16i LoadS8(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
// The low two bytes, or the low one, of each lane.
[[gnu::always_inline]] inline __m256i Low16(Vec16i a) {
  const __m256i mask = _mm256_set1_epi32(0xffff);
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
[[gnu::always_inline]] inline void StoreLow16(Vec16i a, void* p) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), Low16(a));
}
[[gnu::always_inline]] inline void StoreLow8(Vec16i a, void* p) {
  const __m256i words = _mm256_and_si256(Low16(a), _mm256_set1_epi16(0xff));
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// Lanes 8 apart, 4, 2, 1.
[[gnu::always_inline]] inline float ReduceAdd(Vec16f a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Lane i: ReduceAdd(a[i]).
[[gnu::always_inline]] inline Vec16f ReduceAdd16(const Vec16f* a) {
  __m256 out[2];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    __m256 eight[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) eight[i] = _mm256_add_ps(a[8 * half + i].lo, a[8 * half + i].hi);
    __m256 four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // halves: vectors i, i + 4
      four[i] = _mm256_add_ps(_mm256_permute2f128_ps(eight[i], eight[i + 4], 0x20),
                              _mm256_permute2f128_ps(eight[i], eight[i + 4], 0x31));
    }
    __m256 two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {  // pairs of lanes: vectors i, i + 2
      two[i] =
          _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(four[i]), _mm256_castps_pd(four[i + 2]))),
                        _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(four[i]), _mm256_castps_pd(four[i + 2]))));
    }
    const __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two[0], two[1], 0x88), _mm256_shuffle_ps(two[0], two[1], 0xdd));
    out[half] = _mm256_permute_ps(one, 0xd8);  // within a half 0, 2, 1, 3
  }
  return {out[0], out[1]};
}
[[gnu::always_inline]] inline float ReduceMax(Vec16f a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
[[gnu::always_inline]] inline int32_t ReduceAddInt(Vec16i a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

[[gnu::always_inline]] inline __m256i BroadcastFour(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

// Exact sums of products of codes with four activation codes: lane r += sum_i codes[4r + i] * x[i].
// At most eight Adds: 16-bit sums of eight pairs reach 8 * 2 * 15 * 127 = 30480.
class NibbleDot {  // unsigned codes 0..15
 public:
  NibbleDot() = default;
  [[gnu::always_inline]] explicit NibbleDot(int32_t start)
      : start_(start), lo_(_mm256_setzero_si256()), hi_(_mm256_setzero_si256()) {}
  [[gnu::always_inline]] void Add(Vec16i codes, const int8_t* x) {
    const __m256i four = BroadcastFour(x);
    lo_ = _mm256_add_epi16(lo_, _mm256_maddubs_epi16(codes.lo, four));
    hi_ = _mm256_add_epi16(hi_, _mm256_maddubs_epi16(codes.hi, four));
  }
  [[gnu::always_inline]] Vec16i Sum() const {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i start = _mm256_set1_epi32(start_);
    return {_mm256_add_epi32(start, _mm256_madd_epi16(lo_, ones)),
            _mm256_add_epi32(start, _mm256_madd_epi16(hi_, ones))};
  }

 private:
  int32_t start_;
  __m256i lo_, hi_;
};

class WideDot {  // unsigned codes 0..63: a pair reaches 2 * 63 * 127 = 16002
 public:
  WideDot() = default;
  [[gnu::always_inline]] explicit WideDot(int32_t start) : sum_(SplatInt(start)) {}
  [[gnu::always_inline]] void Add(Vec16i codes, const int8_t* x) {
    const __m256i four = BroadcastFour(x);
    const __m256i ones = _mm256_set1_epi16(1);
    sum_.lo = _mm256_add_epi32(sum_.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.lo, four), ones));
    sum_.hi = _mm256_add_epi32(sum_.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.hi, four), ones));
  }
  [[gnu::always_inline]] Vec16i Sum() const { return sum_; }

 private:
  Vec16i sum_;
};

// |code| * (x with code's sign): a pair reaches 2 * 128 * 127 = 32512, which 16 bits hold (x codes are never -128).
class ByteDot {  // signed codes; start is for sets without signed products
 public:
  ByteDot() = default;
  [[gnu::always_inline]] static Vec16i Prepare(Vec16i codes) { return codes; }
  [[gnu::always_inline]] explicit ByteDot(int32_t) : sum_(SplatInt(0)) {}
  [[gnu::always_inline]] void Add(Vec16i codes, const int8_t* x) {
    const __m256i four = BroadcastFour(x);
    sum_.lo = _mm256_add_epi32(sum_.lo, Products(codes.lo, four));
    sum_.hi = _mm256_add_epi32(sum_.hi, Products(codes.hi, four));
  }
  [[gnu::always_inline]] Vec16i Sum() const { return sum_; }

 private:
  [[gnu::always_inline]] static __m256i Products(__m256i codes, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }

  Vec16i sum_;
};

// Byte i: values[codes byte i]. REQUIRES: codes below 16.
[[gnu::always_inline]] inline Vec16i LookUp(const int8_t* values, Vec16i codes) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  return {_mm256_shuffle_epi8(table, codes.lo), _mm256_shuffle_epi8(table, codes.hi)};
}
// low | (high & mask)
[[gnu::always_inline]] inline Vec16i OrMasked(Vec16i low, Vec16i high, Vec16i mask) { return low | (high & mask); }

// out[j], lane r = the j-th four bytes at rows[r] + offset.
[[gnu::always_inline]] inline void LoadTransposed(const uint8_t* const* rows, int64_t offset, Vec16i out[4]) {
  __m256i half[2][4];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m256i in[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // 128-bit part q: row 8h + 4q + i
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[8 * h + i] + offset));
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[8 * h + 4 + i] + offset));
      in[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(in[0], in[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(in[2], in[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(in[0], in[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(in[2], in[3]);
    half[h][0] = _mm256_unpacklo_epi64(low01, low23);
    half[h][1] = _mm256_unpackhi_epi64(low01, low23);
    half[h][2] = _mm256_unpacklo_epi64(high01, high23);
    half[h][3] = _mm256_unpackhi_epi64(high01, high23);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = {half[0][i], half[1][i]};
}

}  // namespace
}  // namespace dogstar::avx2

#endif  // __AVX2__
