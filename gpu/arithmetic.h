// Numbers as device/functions.h and device/backend.h define them, for host and device.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/activation.h"
#include "base/quant.h"
#include "device/functions.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

DOGSTAR_HD float Fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

DOGSTAR_HD float FloatOfBits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

DOGSTAR_HD uint32_t BitsOfFloat(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

// *sum += value, where all threads of a block may add.
DOGSTAR_HD void AddShared(int32_t* sum, int32_t value) {
#if defined(__CUDA_ARCH__)
  atomicAdd(sum, value);
#else
  *sum += value;
#endif
}

DOGSTAR_HD bool IsFinite(float x) { return x - x == 0; }
DOGSTAR_HD float Magnitude(float x) { return x < 0 ? -x : x; }
DOGSTAR_HD float Nearest(float x) { return rintf(x); }  // even where it is halfway

DOGSTAR_HD float FromHalf(uint16_t half) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#else
  return HalfToFloat(half);
#endif
}

DOGSTAR_HD uint16_t ToHalf(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
#else
  return FloatToHalf(value);
#endif
}

template <typename T>
DOGSTAR_HD T LoadAs(const std::byte* from) {  // aligned for T
  return *reinterpret_cast<const T*>(from);
}

// Four values that a thread loads and stores at once.
struct alignas(16) Quad {
  float v[4];
};

// c + the sum of products of four signed bytes.
DOGSTAR_HD int32_t Dot4(uint32_t a, uint32_t b, int32_t c) {
#if defined(__CUDA_ARCH__)
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
#else
  for (int i = 0; i < 32; i += 8) c += int32_t{static_cast<int8_t>(a >> i)} * static_cast<int8_t>(b >> i);
  return c;
#endif
}

DOGSTAR_HD float Exp(float x) {
  constexpr float kTaylor[8] = {kExpTaylor[0], kExpTaylor[1], kExpTaylor[2], kExpTaylor[3],
                                kExpTaylor[4], kExpTaylor[5], kExpTaylor[6], kExpTaylor[7]};
  if (x < kExpLow) return 0;
  const float bounded = x > kExpHigh ? kExpHigh : x;
  const float n = Nearest(bounded * kLog2E);
  const float r = Fma(n, -kLn2Low, Fma(n, -kLn2High, bounded));
  float p = kTaylor[7];
  p = Fma(p, r, kTaylor[6]);
  p = Fma(p, r, kTaylor[5]);
  p = Fma(p, r, kTaylor[4]);
  p = Fma(p, r, kTaylor[3]);
  p = Fma(p, r, kTaylor[2]);
  p = Fma(p, r, kTaylor[1]);
  p = Fma(p, r, kTaylor[0]);
  return p * FloatOfBits(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
}

DOGSTAR_HD float Activate(FfnActivation activation, float gate) {
  if (activation == FfnActivation::kSilu) return gate / (1.0f + Exp(-gate));
  const float v = (gate * Fma(gate * gate, kGeluCubic, 1.0f)) * kGeluScale;
  return gate / (1.0f + Exp(-v));
}

// Sum of 16 lanes: 8 apart, 4, 2, 1. Changes them.
DOGSTAR_HD float SumLanes(float* lanes) {
  for (int apart = 8; apart >= 1; apart /= 2) {
    for (int i = 0; i < apart; ++i) lanes[i] = lanes[i] + lanes[i + apart];
  }
  return lanes[0];
}

}  // namespace dogstar::gpu
