// vec.h in plain C++: sixteen lanes are an array. Slow, and right on any CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/quant.h"

namespace dogstar::portable {
namespace {

struct Vec16f {
  float v[16];
};
struct Vec16i {
  int32_t v[16];
};

constexpr int kPanelsInFlight = 1;
constexpr bool kPlainProducts = false;  // not worth their compile time
constexpr int kRowsInFlight = 1;

template <typename Function>
inline Vec16f MakeFloat(Function lane) {
  Vec16f out;
  for (int i = 0; i < 16; ++i) out.v[i] = lane(i);
  return out;
}
template <typename Function>
inline Vec16i MakeInt(Function lane) {
  Vec16i out;
  for (int i = 0; i < 16; ++i) out.v[i] = lane(i);
  return out;
}
inline int32_t Bits(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float FromBits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline Vec16f Splat(float x) {
  return MakeFloat([&](int) { return x; });
}
inline Vec16i SplatInt(int32_t x) {
  return MakeInt([&](int) { return x; });
}
inline Vec16f Load(const float* p) {
  Vec16f out;
  std::memcpy(out.v, p, 64);
  return out;
}
inline void Store(Vec16f a, float* p) { std::memcpy(p, a.v, 64); }
// The first n lanes, 0 <= n <= 16; the others are 0, and their memory is not touched.
inline Vec16f LoadPartial(const float* p, int n) {
  return MakeFloat([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void StorePartial(Vec16f a, int n, float* p) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline Vec16i LoadBytes(const void* p) {
  Vec16i out;
  std::memcpy(out.v, p, 64);
  return out;
}
inline void StoreBytes(Vec16i a, void* p) { std::memcpy(p, a.v, 64); }

inline Vec16f operator+(Vec16f a, Vec16f b) {
  return MakeFloat([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec16f operator-(Vec16f a, Vec16f b) {
  return MakeFloat([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec16f operator*(Vec16f a, Vec16f b) {
  return MakeFloat([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec16f operator/(Vec16f a, Vec16f b) {
  return MakeFloat([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec16f Fma(Vec16f a, Vec16f b, Vec16f c) {
  return MakeFloat([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
// a > b ? a : b, so the second where either is NaN.
inline Vec16f Max(Vec16f a, Vec16f b) {
  return MakeFloat([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec16f Min(Vec16f a, Vec16f b) {
  return MakeFloat([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec16f Round(Vec16f a) {
  return MakeFloat([&](int i) { return __builtin_nearbyintf(a.v[i]); });
}
inline Vec16f And(Vec16f a, Vec16i b) {
  return MakeFloat([&](int i) { return FromBits(Bits(a.v[i]) & b.v[i]); });
}
inline Vec16f Xor(Vec16f a, Vec16i b) {
  return MakeFloat([&](int i) { return FromBits(Bits(a.v[i]) ^ b.v[i]); });
}
// a where x >= limit, else 0 (NaN: a).
inline Vec16f KeepUnlessBelow(Vec16f x, Vec16f limit, Vec16f a) {
  return MakeFloat([&](int i) { return x.v[i] < limit.v[i] ? 0.0f : a.v[i]; });
}

inline Vec16i operator+(Vec16i a, Vec16i b) {
  return MakeInt([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec16i operator&(Vec16i a, Vec16i b) {
  return MakeInt([&](int i) { return a.v[i] & b.v[i]; });
}
inline Vec16i operator|(Vec16i a, Vec16i b) {
  return MakeInt([&](int i) { return a.v[i] | b.v[i]; });
}
inline Vec16i operator*(Vec16i a, Vec16i b) {
  return MakeInt(
      [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) * static_cast<uint32_t>(b.v[i])); });
}
inline Vec16i ShiftRightBy(Vec16i a, int bits) {
  return MakeInt([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> bits); });
}
inline Vec16i ShiftLeftBy(Vec16i a, int bits) {
  return MakeInt([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << bits); });
}
template <int kBits>
inline Vec16i ShiftRight(Vec16i a) {
  return MakeInt([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) >> kBits); });
}
template <int kBits>
inline Vec16i ShiftLeft(Vec16i a) {
  return MakeInt([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits); });
}
template <int kBits>
inline Vec16i ShiftRightSigned(Vec16i a) {
  return MakeInt([&](int i) { return a.v[i] >> kBits; });
}

inline Vec16f ToFloat(Vec16i a) {
  return MakeFloat([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Vec16i ToIntNearest(Vec16f a) {
  return MakeInt([&](int i) {
    const float x = __builtin_nearbyintf(a.v[i]);
    return x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(x) : INT32_MIN;  // as cvtps2dq does
  });
}
inline Vec16f BitsAsFloat(Vec16i a) {
  return MakeFloat([&](int i) { return FromBits(a.v[i]); });
}

inline uint16_t Word(const void* p, int i) {
  uint16_t word;
  std::memcpy(&word, static_cast<const uint8_t*>(p) + 2 * i, 2);
  return word;
}
inline Vec16f LoadHalf(const void* p) {
  return MakeFloat([&](int i) { return HalfToFloat(Word(p, i)); });
}
inline Vec16f SplatHalf(const void* p) { return Splat(HalfToFloat(Word(p, 0))); }
inline void StoreHalf(Vec16f a, void* p) {
  for (int i = 0; i < 16; ++i) {
    const uint16_t half = FloatToHalf(a.v[i]);
    std::memcpy(static_cast<uint8_t*>(p) + 2 * i, &half, 2);
  }
}
inline Vec16f LoadBfloat16(const void* p) {
  return MakeFloat([&](int i) { return FromBits(static_cast<int32_t>(uint32_t{Word(p, i)} << 16)); });
}
inline Vec16i LoadU8(const void* p) {
  return MakeInt([&](int i) { return int32_t{static_cast<const uint8_t*>(p)[i]}; });
}
inline Vec16i LoadS8(const void* p) {
  return MakeInt([&](int i) { return int32_t{static_cast<const int8_t*>(p)[i]}; });
}
// The low byte, or the low two, of each lane.
inline void StoreLow8(Vec16i a, void* p) {
  for (int i = 0; i < 16; ++i) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(a.v[i] & 0xff);
}
inline void StoreLow16(Vec16i a, void* p) {
  for (int i = 0; i < 16; ++i) {
    const uint16_t word = static_cast<uint16_t>(a.v[i] & 0xffff);
    std::memcpy(static_cast<uint8_t*>(p) + 2 * i, &word, 2);
  }
}

// Lanes 8 apart, 4, 2, 1.
inline float ReduceAdd(Vec16f a) {
  for (int apart = 8; apart >= 1; apart /= 2) {
    for (int i = 0; i < apart; ++i) a.v[i] = a.v[i] + a.v[i + apart];
  }
  return a.v[0];
}
// Lane i: ReduceAdd(a[i]).
inline Vec16f ReduceAdd16(const Vec16f* a) {
  return MakeFloat([&](int i) { return ReduceAdd(a[i]); });
}
inline float ReduceMax(Vec16f a) {
  for (int apart = 8; apart >= 1; apart /= 2) {
    for (int i = 0; i < apart; ++i) a.v[i] = a.v[i] > a.v[i + apart] ? a.v[i] : a.v[i + apart];
  }
  return a.v[0];
}
inline int32_t ReduceAddInt(Vec16i a) {
  int32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += a.v[i];
  return sum;
}

// Exact sums of products of codes with four activation codes: lane r += sum_i codes[4r + i] * x[i].
template <typename Code, bool kUsesStart>
class PortableDot {
 public:
  PortableDot() = default;
  static Vec16i Prepare(Vec16i codes) { return codes; }
  explicit PortableDot(int32_t start) : sum_(SplatInt(kUsesStart ? start : 0)) {}
  void Add(Vec16i codes, const int8_t* x) {
    Code bytes[64];
    std::memcpy(bytes, codes.v, 64);
    for (int r = 0; r < 16; ++r) {
      for (int i = 0; i < 4; ++i) sum_.v[r] += bytes[4 * r + i] * x[i];
    }
  }
  Vec16i Sum() const { return sum_; }

 private:
  Vec16i sum_;
};
using NibbleDot = PortableDot<uint8_t, true>;  // unsigned codes 0..15
using WideDot = PortableDot<uint8_t, true>;    // unsigned codes 0..63
using ByteDot = PortableDot<int8_t, false>;    // signed codes; start is for sets without signed products

// Byte i: values[codes byte i]. REQUIRES: codes below 16.
inline Vec16i LookUp(const int8_t* values, Vec16i codes) {
  uint8_t bytes[64];
  std::memcpy(bytes, codes.v, 64);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(values[byte]);
  Vec16i out;
  std::memcpy(out.v, bytes, 64);
  return out;
}
// low | (high & mask)
inline Vec16i OrMasked(Vec16i low, Vec16i high, Vec16i mask) { return low | (high & mask); }

// out[j], lane r = the j-th four bytes at rows[r] + offset.
inline void LoadTransposed(const uint8_t* const* rows, int64_t offset, Vec16i out[4]) {
  for (int r = 0; r < 16; ++r) {
    for (int j = 0; j < 4; ++j) std::memcpy(&out[j].v[r], rows[r] + offset + 4 * j, 4);
  }
}

}  // namespace
}  // namespace dogstar::portable
