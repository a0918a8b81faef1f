#include "bench/machine_peaks.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dogstar {
namespace {

#if defined(__x86_64__)
bool HasVnni() { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"); }

// GCC 12 sees an uninitialized value in its own header's _mm512_undefined_epi32.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
__attribute__((target("avx512f,avx512bw,avx512dq"))) uint64_t SumWide(const std::byte* data, int64_t bytes) {
  __m512i sums[4] = {};
  for (int64_t at = 0; at + 256 <= bytes; at += 256) {
    for (int i = 0; i < 4; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(data + at + 64 * i + 4096), _MM_HINT_T0);
      sums[i] = _mm512_add_epi64(sums[i], _mm512_loadu_si512(data + at + 64 * i));
    }
  }
  const __m512i sum = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) int32_t ProductsWide(int64_t count) {
  __m512i s0{}, s1{}, s2{}, s3{}, s4{}, s5{}, s6{}, s7{};
  const __m512i a = _mm512_set1_epi32(0x01020304), b = _mm512_set1_epi32(0x04030201);
  for (int64_t i = 0; i < count; i += 8) {
    s0 = _mm512_dpbusd_epi32(s0, a, b);
    s1 = _mm512_dpbusd_epi32(s1, a, b);
    s2 = _mm512_dpbusd_epi32(s2, a, b);
    s3 = _mm512_dpbusd_epi32(s3, a, b);
    s4 = _mm512_dpbusd_epi32(s4, a, b);
    s5 = _mm512_dpbusd_epi32(s5, a, b);
    s6 = _mm512_dpbusd_epi32(s6, a, b);
    s7 = _mm512_dpbusd_epi32(s7, a, b);
    asm volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7));
  }
  return _mm512_reduce_add_epi32(
      _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3)),
                       _mm512_add_epi32(_mm512_add_epi32(s4, s5), _mm512_add_epi32(s6, s7))));
}
#pragma GCC diagnostic pop

__attribute__((target("avx2"))) int32_t ProductsAvx2(int64_t count) {
  __m256i sums[8] = {};
  const __m256i a = _mm256_set1_epi32(0x01020304);
  __m256i b = _mm256_set1_epi32(0x04030201);
  for (int64_t i = 0; i < count; i += 8) {
    for (__m256i& sum : sums) {
      asm volatile("" : "+x"(b));  // or the compiler takes the product out of the loop
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b));
    }
  }
  int32_t total = 0;
  for (const __m256i& sum : sums) total += _mm256_extract_epi16(sum, 0);
  return total;
}
#endif

uint64_t SumWords(const std::byte* data, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t at = 0; at + 8 <= bytes; at += 8) {
    uint64_t word;
    std::memcpy(&word, data + at, 8);
    sum += word;
  }
  return sum;
}

int32_t ProductsPortable(int64_t count) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    asm volatile("" : "+r"(sum));
    sum += 3 * static_cast<int32_t>(i);
  }
  return sum;
}

template <typename T>
T Keep(T value) {
  asm volatile("" : "+r"(value));  // the compiler must not drop the work
  return value;
}

}  // namespace

uint64_t SumBytes(const std::byte* data, int64_t bytes) {
#if defined(__x86_64__)
  if (HasVnni()) return Keep(SumWide(data, bytes));
#endif
  return Keep(SumWords(data, bytes));
}

int32_t Int8Products(int64_t count) {
#if defined(__x86_64__)
  if (HasVnni()) return Keep(ProductsWide(count));
  if (__builtin_cpu_supports("avx2")) return Keep(ProductsAvx2(count));
#endif
  return Keep(ProductsPortable(count));
}

int64_t Int8ProductsDone(int64_t count) {
#if defined(__x86_64__)
  if (HasVnni()) return count * 64;
  if (__builtin_cpu_supports("avx2")) return count * 32;
#endif
  return count;
}

}  // namespace dogstar
