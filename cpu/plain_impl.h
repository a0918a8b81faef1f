// Products of plain GGUF rows with few activation rows: codes go from the file's blocks through registers into the
// products, and no panel is written. The sums are those of panels, in the same order, so the results are equal.
#pragma once

#include "cpu/pack_impl.h"
#include "cpu/product_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

// Scales are gathered for so many columns at once, a chunk ahead of the products.
constexpr int kChunkColumns = 256;

// One code of quads in memory as a number.
template <typename Format>
DOGSTAR_INLINE Vec16i SpilledValue(const uint8_t* quads, int column) {
  const Vec16i raw = LoadBytes(quads + 64 * (column / 4));
  const int byte = 8 * (column % 4);
  if constexpr (Format::kSigned) {
    return ShiftRightSigned<24>(ShiftLeftBy(raw, 24 - byte));
  } else {
    return Format::CodeInt(ShiftRightBy(raw, byte) & SplatInt(255));
  }
}

// AddOutliers for quads in registers.
template <typename Format, int kRows>
DOGSTAR_INLINE void AddQuadOutliers(const Vec16i* quads, const int32_t* outliers, uint32_t rows, Vec16i* exact) {
  if ((rows & ((1u << kRows) - 1)) == 0) return;
  alignas(64) uint8_t spilled[512];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) StoreBytes(quads[k], spilled + 64 * k);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if ((rows >> r & 1) == 0) continue;
    exact[r] = exact[r] + SpilledValue<Format>(spilled, outliers[r] & 31) * SplatInt(outliers[r] >> 5);
  }
}

// Int8Group for quads in registers; signed formats: their numbers.
template <typename Format, int kRows, int kPart>
DOGSTAR_INLINE void QuadGroup(const Vec16i* quads, const GroupScales& scales, const TileView& x, int64_t block,
                              int first, Vec16f* sums) {
  constexpr int kQuads = Format::kGroup / 4;
  const int64_t at = block * x.stride + first;
  typename Format::Dot dots[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) dots[r] = typename Format::Dot(StartOfGroup<Format, kPart>(x, at + r));
#pragma GCC unroll 8
  for (int k = kPart * kQuads; k < (kPart + 1) * kQuads; ++k) {
    Vec16i quad = quads[k];
    if constexpr (Format::kSigned) quad = ByteDot::Prepare(quad);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) dots[r].Add(quad, x.codes + (at + r) * 32 + 4 * k);
  }
  Vec16i exact[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) exact[r] = dots[r].Sum();
  AddQuadOutliers<Format, kRows>(quads, x.outliers + at, OutlierRows<Format, kRows, kPart>(x, block, first), exact);
  AddScaled<Format, kRows, kPart>(exact, scales, x, at, sums);
}

// The blocks of a type between columns [256 * chunk, 256 * (chunk + 1)), fewer at the end of a row.
template <typename Blocks>
DOGSTAR_INLINE int64_t ChunkBlocks(int64_t chunk, int32_t cols) {
  const int64_t left = cols - chunk * kChunkColumns;
  return (left < kChunkColumns ? left : kChunkColumns) / Blocks::kColumns;
}

template <typename Format, typename Blocks>
DOGSTAR_INLINE void ChunkScales(const RowPointers& rows, int64_t chunk, int32_t cols, uint8_t* table) {
  constexpr int64_t kBlocks = kChunkColumns / Blocks::kColumns;
  const int64_t blocks = ChunkBlocks<Blocks>(chunk, cols);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = (chunk * kBlocks + b) * Blocks::kBytes;
    PackScales<Format, Blocks>(rows, at, table + b * Format::kTableBytes * 16);
  }
}

// Sixteen plain rows times kRows activation rows.
template <typename Format, typename Blocks, int kRows>
void PlainRows(const uint8_t* data, uint64_t row_bytes, int32_t cols, const TileView& x, int first, float* out,
               int64_t out_stride) {
  constexpr int64_t kBlocks = kChunkColumns / Blocks::kColumns;
  constexpr int kParts = Blocks::kColumns / 32;
  const RowPointers rows = PointersOf(data, row_bytes);
  const uint8_t* ahead = data + 16 * row_bytes;  // in the order of memory, as in PackQuant
  const int64_t chunks = (int64_t{cols} + kChunkColumns - 1) / kChunkColumns;
  alignas(64) uint8_t tables[2][kBlocks * Format::kTableBytes * 16];
  Vec16f sums[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = Splat(0.0f);
  ChunkScales<Format, Blocks>(rows, 0, cols, tables[0]);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) ChunkScales<Format, Blocks>(rows, chunk + 1, cols, tables[(chunk + 1) & 1]);
    const uint8_t* table = tables[chunk & 1];
    const int64_t blocks = ChunkBlocks<Blocks>(chunk, cols);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t block = chunk * kBlocks + b;
      for (int64_t i = 0; i < 16 * Blocks::kBytes; i += 64) Prefetch(ahead + block * 16 * Blocks::kBytes + i);
      for (int part = 0; part < kParts; ++part) {
        Vec16i quads[8];
        Blocks::Quads(rows, block * Blocks::kBytes, part, quads);
        if constexpr (Format::kTable) {
#pragma GCC unroll 8
          for (int k = 0; k < 8; ++k) quads[k] = LookUp(kIq4Table, quads[k]);
        }
        const int64_t group = (b * kParts + part) * (32 / Format::kGroup);
        Unroll<0, 32 / Format::kGroup>([&]<int kPart>() __attribute__((always_inline)) {
          const GroupScales scales = LoadGroupScales<Format>(table, group + kPart, 16, 0);
          QuadGroup<Format, kRows, kPart>(quads, scales, x, block * kParts + part, first, sums);
        });
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) Store(sums[r], out + (first + r) * out_stride);
}

// A TileProduct whose panels are sixteen plain rows each, one after the other.
template <typename Format, typename Blocks>
void PlainProduct(const std::byte* panels, uint64_t panel_bytes, int64_t panel_count, int32_t cols, const TileView& x,
                  int rows, float* out, int64_t out_stride) {
  for (int64_t p = 0; p < panel_count; ++p) {
    const uint8_t* data = Bytes(panels) + p * panel_bytes;
    ForRowGroups<4>(rows, [&]<int kRows>(int first) {
      PlainRows<Format, Blocks, kRows>(data, panel_bytes / 16, cols, x, first, out + 16 * p, out_stride);
    });
  }
}

inline TileProduct FindPlainProduct(QuantType type) {
  TileProduct product = nullptr;
  if constexpr (kPlainProducts) {
    WithBlocks(type, [&]<typename Format, typename Blocks>() { product = PlainProduct<Format, Blocks>; });
  }
  return product;
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
