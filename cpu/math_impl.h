// Element-wise kernels: exponential, activations, norms, rotary positions (definitions in device/functions.h).
#pragma once

#include "cpu/kernels.h"
#include "cpu/vec.h"
#include "device/functions.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

DOGSTAR_INLINE Vec16f Exp(Vec16f x) {
  const Vec16f bounded = Max(Splat(kExpLow), Min(Splat(kExpHigh), x));  // NaN stays NaN
  const Vec16f n = Round(bounded * Splat(kLog2E));
  const Vec16f r = Fma(n, Splat(-kLn2Low), Fma(n, Splat(-kLn2High), bounded));
  Vec16f p = Splat(kExpTaylor[7]);
#pragma GCC unroll 8
  for (int i = 6; i >= 0; --i) p = Fma(p, r, Splat(kExpTaylor[i]));
  const Vec16f power = BitsAsFloat(ShiftLeft<23>(ToIntNearest(n) + SplatInt(127)));
  return KeepUnlessBelow(x, Splat(kExpLow), p * power);
}

DOGSTAR_INLINE Vec16f Silu(Vec16f g) { return g / (Splat(1.0f) + Exp(-g)); }
DOGSTAR_INLINE Vec16f GeluTanh(Vec16f g) {
  const Vec16f v = (g * Fma(g * g, Splat(kGeluCubic), Splat(1.0f))) * Splat(kGeluScale);
  return g / (Splat(1.0f) + Exp(-v));
}
DOGSTAR_INLINE Vec16f Activate(FfnActivation activation, Vec16f g) {
  return activation == FfnActivation::kSilu ? Silu(g) : GeluTanh(g);
}

inline void Gated(FfnActivation activation, const float* gate, const float* up, int64_t count, float* z) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) Store(Activate(activation, Load(gate + i)) * Load(up + i), z + i);
  const int left = static_cast<int>(count - i);
  if (left == 0) return;
  StorePartial(Activate(activation, LoadPartial(gate + i, left)) * LoadPartial(up + i, left), left, z + i);
}

inline void Add(const float* y, int64_t count, float* x) {
  for (int64_t i = 0; i < count; ++i) x[i] += y[i];
}

inline void Scale(float factor, int64_t count, float* x) {
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

// out may be x.
inline void RmsNorm(const float* x, int32_t cols, const float* weight, float epsilon, float* out) {
  Vec16f squares = Splat(0.0f);
  int32_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    const Vec16f v = Load(x + i);
    squares = Fma(v, v, squares);
  }
  const int left = cols - i;
  const Vec16f tail = LoadPartial(x + i, left);
  squares = Fma(tail, tail, squares);
  const float mean = ReduceAdd(squares) / static_cast<float>(cols);
  const Vec16f scale = Splat(1.0f / __builtin_sqrtf(mean + epsilon));
  for (i = 0; i + 16 <= cols; i += 16) Store((Load(x + i) * scale) * Load(weight + i), out + i);
  StorePartial((tail * scale) * LoadPartial(weight + i, left), left, out + i);
}

// The largest of 16 values where what is no number counts as -infinity.
DOGSTAR_INLINE Vec16f LargerOf(Vec16f x, Vec16f most) { return Max(x, most); }

// The largest value and the lowest column that has it: first the piece of columns that has it, then the column.
inline void FindLargest(const float* x, int32_t cols, RowPeak* peak) {
  constexpr int32_t kPiece = 1024;
  const float lowest = -__builtin_inff();
  float most = lowest;
  int32_t piece_of_most = 0;
  for (int32_t first = 0; first < cols; first += kPiece) {
    const int32_t end = cols - first < kPiece ? cols : first + kPiece;
    Vec16f a = Splat(lowest), b = a;
    int32_t i = first;
    for (; i + 32 <= end; i += 32) {
      a = LargerOf(Load(x + i), a);
      b = LargerOf(Load(x + i + 16), b);
    }
    float of_piece = ReduceMax(Max(a, b));
    for (; i < end; ++i) of_piece = x[i] > of_piece ? x[i] : of_piece;
    if (of_piece <= most) continue;
    most = of_piece;
    piece_of_most = first;
  }
  peak->value = most;
  peak->col = piece_of_most;
  while (peak->col + 1 < cols && !(x[peak->col] == most)) ++peak->col;
}

inline void FindPeak(const float* x, int32_t cols, float scale, RowPeak* peak) {
  FindLargest(x, cols, peak);
  peak->weight = 1;
  const float lowest = -__builtin_inff();
  if (peak->value == lowest) {
    peak->col = 0;
    return;
  }
  constexpr int kVectors = kPeakLanes / 16;
  const Vec16f value = Splat(peak->value), scales = Splat(scale);
  const auto weight = [&](Vec16f v) __attribute__((always_inline)) {
    return Exp((Max(v, Splat(lowest)) - value) * scales);
  };
  Vec16f sums[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) sums[v] = Splat(0.0f);
  int32_t i = 0;
  for (; i + kPeakLanes <= cols; i += kPeakLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + weight(Load(x + i + 16 * v));
  }
  alignas(64) float rest[kPeakLanes];
  for (int32_t k = 0; k < kPeakLanes; ++k) rest[k] = i + k < cols ? x[i + k] : lowest;
  for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + weight(Load(rest + 16 * v));
  for (int apart = kVectors / 2; apart >= 1; apart /= 2) {
    for (int v = 0; v < apart; ++v) sums[v] = sums[v] + sums[v + apart];
  }
  peak->weight = ReduceAdd(sums[0]);
}

inline void Rope(RopePairing pairing, int32_t head_dim, int32_t rotary_dims, int32_t heads, const float* table,
                 float* x) {
  const int32_t pairs = rotary_dims / 2;
  const float* cosines = table;
  const float* sines = table + pairs;
  const int32_t step = pairing == RopePairing::kAdjacent ? 2 : 1;
  const int32_t apart = pairing == RopePairing::kAdjacent ? 1 : pairs;
  for (int32_t h = 0; h < heads; ++h, x += head_dim) {
    for (int32_t i = 0; i < pairs; ++i) {
      const float a = x[i * step];
      const float b = x[i * step + apart];
      x[i * step] = a * cosines[i] - b * sines[i];
      x[i * step + apart] = a * sines[i] + b * cosines[i];
    }
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
