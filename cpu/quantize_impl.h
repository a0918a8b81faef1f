// Activation rows to int8 codes, and into the tiles that products read.
#pragma once

#include "cpu/product_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

struct BlockCodes {
  Vec16i low, high;  // codes of columns 0..15 and 16..31
  float scale;
};

// d = max|x| / 127, codes = nearest-even(x * (127 / max|x|)); no codes where 127 / max is not finite (max 0, or so
// small that its products would be 0 anyway).
DOGSTAR_INLINE BlockCodes QuantizeBlock(Vec16f low, Vec16f high) {
  const float most = ReduceMax(Max(Abs(low), Abs(high)));
  const float inverse = 127.0f / most;
  BlockCodes block;
  block.scale = most / 127.0f;
  if (!(inverse <= __FLT_MAX__)) {
    block.low = block.high = SplatInt(0);
    return block;
  }
  block.low = ToIntNearest(low * Splat(inverse));
  block.high = ToIntNearest(high * Splat(inverse));
  return block;
}

inline void Prepare(const float* x, int32_t rows, int32_t cols, int32_t tile, int32_t begin, int32_t end,
                    const ActivationBuffers& out) {
  const int tile_rows = TileRowCount(rows, tile);
  const int64_t values = int64_t{tile} * kTileRows * cols;
  for (int r = 0; r < tile_rows; ++r) {
    const float* row = x + values + int64_t{r} * cols;
    float* f32 = out.f32 + values + r;
    for (int64_t k = int64_t{begin} * 32; k < int64_t{end} * 32; ++k) f32[k * tile_rows] = row[k];
    if (out.codes == nullptr) continue;
    for (int32_t b = begin; b < end; ++b) {
      const BlockCodes block = QuantizeBlock(Load(row + 32 * b), Load(row + 32 * b + 16));
      const int32_t sum = ReduceAddInt(block.low + block.high);
      const int64_t at = values / 32 + int64_t{b} * tile_rows + r;
      StoreLow8(block.low, out.codes + at * 32);
      StoreLow8(block.high, out.codes + at * 32 + 16);
      out.scales[at] = block.scale;
      out.code_sums[at] = -8 * sum;
      out.sums[at] = block.scale * static_cast<float>(sum);
    }
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
