// Activation rows to int8 codes, and into the tiles that products read.
#pragma once

#include "cpu/product_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

struct BlockCodes {
  Vec16i low, high;  // codes of columns 0..15 and 16..31, 0 for the outlier
  float scale;
  int32_t outlier_code;  // 0: none
  int column;            // the outlier's
};

// Codes nearest-even(x * (127 / most)); none where 127 / most is not finite (most is 0, or so small that its products
// would be 0 anyway).
DOGSTAR_INLINE BlockCodes CodesOf(Vec16f low, Vec16f high, float most) {
  const float inverse = 127.0f / most;
  BlockCodes block;
  block.scale = most / 127.0f;
  block.outlier_code = 0;
  block.column = 0;
  if (!(inverse <= __FLT_MAX__)) {
    block.low = block.high = SplatInt(0);
    return block;
  }
  block.low = ToIntNearest(low * Splat(inverse));
  block.high = ToIntNearest(high * Splat(inverse));
  return block;
}

alignas(64) constexpr float kColumnNumbers[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                  16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// As device/backend.h says under "int8 activations".
DOGSTAR_INLINE BlockCodes QuantizeBlock(Vec16f low, Vec16f high) {
  const Vec16f abs_low = Abs(low), abs_high = Abs(high);
  const float m1 = ReduceMax(Max(abs_low, abs_high));
  // Values of at least half the largest; only one of them says m1 > 2 * m2. Doubling is exact.
  const Vec16f twice_low = abs_low + abs_low, twice_high = abs_high + abs_high;
  const Vec16f one = Splat(1.0f), limit = Splat(m1);
  const float large = ReduceAdd(KeepUnlessBelow(twice_low, limit, one) + KeepUnlessBelow(twice_high, limit, one));
  if (large != 1.0f) return CodesOf(low, high, m1);
  const Vec16f large_low = KeepUnlessBelow(twice_low, limit, low),
               large_high = KeepUnlessBelow(twice_high, limit, high);
  const Vec16f other_low = low - large_low, other_high = high - large_high;
  const float m2 = ReduceMax(Max(Abs(other_low), Abs(other_high)));
  const float inverse = 127.0f / m2;
  if (!(m2 > 0 && m1 <= 4000.0f * m2 && inverse <= __FLT_MAX__)) return CodesOf(low, high, m1);
  BlockCodes block = CodesOf(other_low, other_high, m2);
  block.outlier_code =
      ReduceAddInt(ToIntNearest(large_low * Splat(inverse)) + ToIntNearest(large_high * Splat(inverse)));
  block.column = static_cast<int>(ReduceAdd(KeepUnlessBelow(twice_low, limit, Load(kColumnNumbers)) +
                                            KeepUnlessBelow(twice_high, limit, Load(kColumnNumbers + 16))));
  return block;
}

inline void PrepareBlock(const float* x, int64_t at, uint32_t row_bit, uint8_t* outlier_rows,
                         const ActivationBuffers& out) {
  const BlockCodes block = QuantizeBlock(Load(x), Load(x + 16));
  const int32_t low_sum = ReduceAddInt(block.low), sum = low_sum + ReduceAddInt(block.high);
  const int32_t low_outlier = block.column < 16 ? block.outlier_code : 0;
  StoreLow8(block.low, out.codes + at * 32);
  StoreLow8(block.high, out.codes + at * 32 + 16);
  out.scales[at] = block.scale;
  out.code_sums[at] = -8 * sum;
  out.low_code_sums[at] = -8 * low_sum;
  out.sums[at] = block.scale * static_cast<float>(sum + block.outlier_code);
  out.half_sums[2 * at] = block.scale * static_cast<float>(low_sum + low_outlier);
  out.half_sums[2 * at + 1] = block.scale * static_cast<float>(sum - low_sum + block.outlier_code - low_outlier);
  if (block.outlier_code == 0) return;
  out.outliers[at] = block.outlier_code * 32 + block.column;
  *outlier_rows = static_cast<uint8_t>(*outlier_rows | row_bit);
}

inline void Prepare(const float* x, int32_t rows, int32_t cols, int32_t tile, int32_t begin, int32_t end,
                    const ActivationBuffers& out) {
  const int tile_rows = TileRowCount(rows, tile);
  const int64_t values = int64_t{tile} * kTileRows * cols;
  uint8_t* outlier_rows = nullptr;
  if (out.codes != nullptr) {
    outlier_rows = out.outlier_rows + int64_t{tile} * (cols / 32);
    __builtin_memset(outlier_rows + begin, 0, end - begin);
  }
  for (int r = 0; r < tile_rows; ++r) {
    const float* row = x + values + int64_t{r} * cols;
    float* f32 = out.f32 + values + r;
    for (int64_t k = int64_t{begin} * 32; k < int64_t{end} * 32; ++k) f32[k * tile_rows] = row[k];
    if (out.codes == nullptr) continue;
    for (int32_t b = begin; b < end; ++b) {
      PrepareBlock(row + 32 * b, values / 32 + int64_t{b} * tile_rows + r, 1u << r, outlier_rows + b, out);
    }
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
