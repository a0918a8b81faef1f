// Products of weight panels and activation rows (the order of summation is in device/backend.h).
#pragma once

#include "cpu/format_impl.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

// Blocks of 4-bit codes that are asked for ahead, into the L2 cache: 8 KiB. kernel_bench on a Zen 4 core, 1 row of
// Q4_0 at 14336x4096: 20 GB/s without, 25 with 32 or 128 blocks, 22 when asked into L1. One row of Q8_0 loses by it (26
// to 22 GB/s, on Zen 5 36 to 26): its one stream is what the processor's own prefetcher expects, unless panels are
// short (a head of 640 columns: 86 to 96 tokens/s of Gemma 3 270M).
constexpr int64_t kPrefetchBlocks = 32;

DOGSTAR_INLINE void Prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
DOGSTAR_INLINE const uint8_t* Bytes(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }

// Adds quads [kBegin, kEnd) of a block to each row's exact sum; x: the block's codes of row 0, rows 32 apart.
template <typename Format, int kBegin, int kEnd, int kRows>
DOGSTAR_INLINE void AddQuads(const uint8_t* codes, const int8_t* x, typename Format::Dot* dots) {
  Unroll<kBegin, kEnd>([&]<int k>() __attribute__((always_inline)) {
    Vec16i quad = LoadQuad<Format, k>(codes);
    if constexpr (Format::kSigned) quad = ByteDot::Prepare(quad);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) dots[r].Add(quad, x + 32 * r + 4 * k);
  });
}

// The outlier's part of a block's exact sums; outlier: as in TileView.
template <typename Format>
DOGSTAR_INLINE Vec16i OutlierProducts(const uint8_t* codes, int32_t outlier) {
  return ColumnValue<Format>(codes, outlier & 31) * SplatInt(outlier >> 5);
}

// Adds them for the rows whose bit is set in `rows`. The same branches are taken for every panel, so they are
// predicted well.
template <typename Format, int kRows>
DOGSTAR_INLINE void AddOutliers(const uint8_t* codes, const int32_t* outliers, uint32_t rows, Vec16i* exact) {
  if ((rows & ((1u << kRows) - 1)) == 0) return;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if ((rows >> r & 1) != 0) exact[r] = exact[r] + OutlierProducts<Format>(codes, outliers[r]);
  }
}

// Rows of `rows` whose outlier lies in half `half` of the block.
template <int kRows>
DOGSTAR_INLINE uint32_t OutliersOfHalf(const int32_t* outliers, uint32_t rows, int half) {
  rows &= (1u << kRows) - 1;
  if (rows == 0) return 0;
  uint32_t kept = 0;
  for (int r = 0; r < kRows; ++r) {
    if ((rows >> r & 1) != 0 && (outliers[r] >> 4 & 1) == half) kept |= 1u << r;
  }
  return kept;
}

// Adds quads [kBegin, kEnd) of a block of kPanels panels, panel_bytes apart; dots[p * kRows + r]. What is loaded of x
// serves all panels: with one panel, loads are what limits the products (two a cycle, one for each product).
template <typename Format, int kBegin, int kEnd, int kRows, int kPanels>
DOGSTAR_INLINE void AddPanelQuads(const uint8_t* codes, uint64_t panel_bytes, const int8_t* x,
                                  typename Format::Dot* dots) {
  if constexpr (kPanels == 1 || kPanelsInFlight == 1) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      AddQuads<Format, kBegin, kEnd, kRows>(codes + p * panel_bytes, x, dots + p * kRows);
    }
  } else {
    Unroll<kBegin, kEnd>([&]<int k>() __attribute__((always_inline)) {
      Vec16i quads[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        quads[p] = LoadQuad<Format, k>(codes + p * panel_bytes);
        if constexpr (Format::kSigned) quads[p] = ByteDot::Prepare(quads[p]);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec16i four = Format::Dot::SplatFour(x + 32 * r + 4 * k);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) dots[p * kRows + r].AddSplat(quads[p], four);
      }
    });
  }
}

// What the exact sum of row r of a scale group starts with; at: of the block and the first row in TileView's arrays.
template <typename Format, int kPart>
DOGSTAR_INLINE int32_t StartOfGroup(const TileView& x, int64_t at) {
  if constexpr (Format::kGroup == 32) return Format::Start(x.code_sums[at]);
  const int32_t low = x.low_code_sums[at];
  return Format::Start(kPart == 0 ? low : x.code_sums[at] - low);
}

// Rows, of kRows from `first` on, whose outlier of the block lies in its group kPart.
template <typename Format, int kRows, int kPart>
DOGSTAR_INLINE uint32_t OutlierRows(const TileView& x, int64_t block, int first) {
  const uint32_t rows = uint32_t{x.outlier_rows[block]} >> first;
  if constexpr (Format::kGroup == 32) return rows;
  return OutliersOfHalf<kRows>(x.outliers + block * x.stride + first, rows, kPart);
}

// sums[r] += the exact sums of a scale group with its scales.
template <typename Format, int kRows, int kPart>
DOGSTAR_INLINE void AddScaled(const Vec16i* exact, const GroupScales& scales, const TileView& x, int64_t at,
                              Vec16f* sums) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    sums[r] = Fma(scales.d * Splat(x.scales[at + r]), ToFloat(exact[r]), sums[r]);
  }
  if constexpr (Format::kMinimum) {
    const Vec16f m = x.missing_bits == 0 ? scales.m : Fma(scales.d, Splat(x.missing_bits), scales.m);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float sum = Format::kGroup == 32 ? x.sums[at + r] : x.half_sums[2 * (at + r) + kPart];
      sums[r] = Fma(m, Splat(sum), sums[r]);
    }
  }
}

// sums[p * kRows + r] += what one scale group of a block gives; kPart: which of the block's groups.
template <typename Format, int kRows, int kPart, int kPanels>
DOGSTAR_INLINE void Int8Group(const uint8_t* codes, const uint8_t* scale_table, uint64_t panel_bytes, const TileView& x,
                              int64_t block, int first, Vec16f* sums) {
  constexpr int kParts = 32 / Format::kGroup;
  const int64_t at = block * x.stride + first;
  typename Format::Dot dots[kPanels * kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const int32_t start = StartOfGroup<Format, kPart>(x, at + r);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) dots[p * kRows + r] = typename Format::Dot(start);
  }
  AddPanelQuads<Format, 8 / kParts * kPart, 8 / kParts*(kPart + 1), kRows, kPanels>(codes, panel_bytes,
                                                                                    x.codes + at * 32, dots);
  const uint32_t outlier_rows = OutlierRows<Format, kRows, kPart>(x, block, first);
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    Vec16i exact[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) exact[r] = dots[p * kRows + r].Sum();
    AddOutliers<Format, kRows>(codes + p * panel_bytes, x.outliers + at, outlier_rows, exact);
    const GroupScales scales = LoadGroupScales<Format>(scale_table + p * panel_bytes, block * kParts + kPart, 16, 0);
    AddScaled<Format, kRows, kPart>(exact, scales, x, at, sums + p * kRows);
  }
}

// Asks for the block of a panel that is read kPrefetchBlocks later; past the panel's end that is one of `next`, the
// panel that is read after it.
template <typename Format>
DOGSTAR_INLINE void PrefetchBlock(const uint8_t* panel, const uint8_t* next, int64_t block, int64_t blocks) {
  constexpr int64_t kCodeBytes = 64 * Format::kCodeVectors;
  constexpr int64_t kScaleBytes = Format::kTableBytes * 16 / (Format::kSuperBlocks ? 8 : 1);
  const bool past = block + kPrefetchBlocks >= blocks;
  const uint8_t* from = past ? next : panel;
  const int64_t ahead = past ? block + kPrefetchBlocks - blocks : block + kPrefetchBlocks;
#pragma GCC unroll 8
  for (int v = 0; v < Format::kCodeVectors; ++v) Prefetch(from + ahead * kCodeBytes + 64 * v);
  Prefetch(from + blocks * kCodeBytes + ahead * kScaleBytes);
}

// next: the panels that are read after these.
template <typename Format, int kRows, int kPanels, bool kFetch>
void Int8Panels(const uint8_t* panel, const uint8_t* next, uint64_t panel_bytes, int32_t cols, const TileView& x,
                int first, float* out, int64_t out_stride) {
  const int64_t blocks = cols / 32;
  constexpr int64_t kBlockBytes = 64 * Format::kCodeVectors;
  const uint8_t* codes = panel;
  const uint8_t* scale_table = panel + blocks * kBlockBytes;
  Vec16f sums[kPanels * kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kPanels * kRows; ++i) sums[i] = Splat(0.0f);
  for (int64_t b = 0; b < blocks; ++b, codes += kBlockBytes) {
    if (kFetch && (kPanels == 1 || (first == 0 && x.fetches))) {  // later rows find a pair of panels in the cache
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        PrefetchBlock<Format>(panel + p * panel_bytes, next + p * panel_bytes, b, blocks);
      }
    }
    Int8Group<Format, kRows, 0, kPanels>(codes, scale_table, panel_bytes, x, b, first, sums);
    if constexpr (Format::kGroup == 16) {
      Int8Group<Format, kRows, 1, kPanels>(codes, scale_table, panel_bytes, x, b, first, sums);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) Store(sums[p * kRows + r], out + (first + r) * out_stride + 16 * p);
  }
}

// Calls work.template operator()<kRows>(first) for groups of 8, 4, 2, 1 rows, at most kMost together.
template <int kMost, typename Work>
DOGSTAR_INLINE void ForRowGroups(int rows, const Work& work) {
  int first = 0;
  if constexpr (kMost >= 8) {
    for (; rows - first >= 8; first += 8) work.template operator()<8>(first);
  }
  if constexpr (kMost >= 4) {
    for (; rows - first >= 4; first += 4) work.template operator()<4>(first);
  }
  if constexpr (kMost >= 2) {
    for (; rows - first >= 2; first += 2) work.template operator()<2>(first);
  }
  for (; rows - first >= 1; first += 1) work.template operator()<1>(first);
}

// Pairs of panels where that leaves registers for four rows, else single panels and as many rows as fit.
template <typename Format>
void Int8Product(const std::byte* panels, uint64_t panel_bytes, int64_t panel_count, int32_t cols, const TileView& x,
                 int rows, float* out, int64_t out_stride) {
  // What is read after panels [p, p + count).
  const auto next_of = [&](int64_t p, int64_t count) __attribute__((always_inline)) {
    const std::byte* behind = panels + (p + count) * panel_bytes;
    return Bytes(x.next != nullptr && p + count >= panel_count ? x.next : behind);
  };
  int64_t p = 0;
  if constexpr (kPanelsInFlight == 2) {
    for (; rows >= 4 && p + 2 <= panel_count; p += 2) {
      const uint8_t* pair = Bytes(panels) + p * panel_bytes;
      const uint8_t* next = next_of(p, 2);
      ForRowGroups<4>(rows, [&]<int kRows>(int first) {
        Int8Panels<Format, kRows, 2, true>(pair, next, panel_bytes, cols, x, first, out + 16 * p, out_stride);
      });
    }
  }
  const bool fetch = Format::kLowBits < 8 || cols / 32 < kPrefetchBlocks;
  for (; p < panel_count; ++p) {
    const uint8_t* panel = Bytes(panels) + p * panel_bytes;
    const uint8_t* next = next_of(p, 1);
    ForRowGroups<kRowsInFlight>(rows, [&]<int kRows>(int first) {
      if constexpr (Format::kLowBits == 8) {
        if (!fetch) {
          return Int8Panels<Format, kRows, 1, false>(panel, next, panel_bytes, cols, x, first, out + 16 * p,
                                                     out_stride);
        }
      }
      Int8Panels<Format, kRows, 1, true>(panel, next, panel_bytes, cols, x, first, out + 16 * p, out_stride);
    });
  }
}

// Float kernels. A decoder gives kColumns columns of 16 weights at a time.
struct F32Decoder {
  static constexpr int kColumns = 1;
  static constexpr bool kCheap = true;
  static DOGSTAR_INLINE void Decode(const uint8_t* panel, int64_t, int64_t k, Vec16f* w) {
    *w = Load(reinterpret_cast<const float*>(panel) + 16 * k);
  }
};
struct F16Decoder {
  static constexpr int kColumns = 1;
  static constexpr bool kCheap = true;
  static DOGSTAR_INLINE void Decode(const uint8_t* panel, int64_t, int64_t k, Vec16f* w) {
    *w = LoadHalf(panel + 32 * k);
  }
};
struct Bf16Decoder {
  static constexpr int kColumns = 1;
  static constexpr bool kCheap = true;
  static DOGSTAR_INLINE void Decode(const uint8_t* panel, int64_t, int64_t k, Vec16f* w) {
    *w = LoadBfloat16(panel + 32 * k);
  }
};

template <typename Format>
struct QuantDecoder {
  static constexpr int kColumns = 8;
  static constexpr bool kCheap = false;
  static DOGSTAR_INLINE void Decode(const uint8_t* panel, int64_t cols, int64_t k, Vec16f* w) {
    const uint8_t* codes = panel + k / 32 * 64 * Format::kCodeVectors;
    switch (k % 32) {
      case 0:
        return Scaled<0>(panel, codes, cols, k, w);
      case 8:
        return Scaled<2>(panel, codes, cols, k, w);
      case 16:
        return Scaled<4>(panel, codes, cols, k, w);
      default:
        return Scaled<6>(panel, codes, cols, k, w);
    }
  }

 private:
  template <int kQuad>
  static DOGSTAR_INLINE void Scaled(const uint8_t* panel, const uint8_t* codes, int64_t cols, int64_t k, Vec16f* w) {
    QuadValues<Format, kQuad>(codes, w);
    QuadValues<Format, kQuad + 1>(codes, w + 4);
    const GroupScales scales =
        LoadGroupScales<Format>(panel + cols * 2 * Format::kCodeVectors, k / Format::kGroup, 16, 0);
#pragma GCC unroll 8
    for (int i = 0; i < kColumns; ++i) w[i] = scales.d * w[i];  // exact
    if constexpr (Format::kMinimum) {
#pragma GCC unroll 8
      for (int i = 0; i < kColumns; ++i) w[i] = w[i] + scales.m;
    }
  }
};

// kPanels panels in flight: one sum alone waits for the latency of each fma.
template <typename Decoder, int kRows, int kPanels>
void FloatPanels(const uint8_t* panel, uint64_t panel_bytes, int32_t cols, const TileView& x, int first, float* out,
                 int64_t out_stride) {
  Vec16f sums[kPanels][kRows];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[p][r] = Splat(0.0f);
  }
  for (int64_t k = 0; k < cols; k += Decoder::kColumns) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      Vec16f w[Decoder::kColumns];
      Decoder::Decode(panel + p * panel_bytes, cols, k, w);
#pragma GCC unroll 8
      for (int i = 0; i < Decoder::kColumns; ++i) {
        const float* column = x.f32 + (k + i) * x.stride + first;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[p][r] = Fma(w[i], Splat(column[r]), sums[p][r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) Store(sums[p][r], out + (first + r) * out_stride + 16 * p);
  }
}

template <typename Decoder>
void FloatProduct(const std::byte* panels, uint64_t panel_bytes, int64_t panel_count, int32_t cols, const TileView& x,
                  int rows, float* out, int64_t out_stride) {
  const uint8_t* panel = Bytes(panels);
  ForRowGroups<kRowsInFlight>(rows, [&]<int kRows>(int first) {
    constexpr int kPanels = kRows <= 2 && Decoder::kCheap ? 4 : kRows <= 4 && Decoder::kCheap ? 2 : 1;
    int64_t p = 0;
    for (; p + kPanels <= panel_count; p += kPanels) {
      FloatPanels<Decoder, kRows, kPanels>(panel + p * panel_bytes, panel_bytes, cols, x, first, out + 16 * p,
                                           out_stride);
    }
    for (; p < panel_count; ++p) {
      FloatPanels<Decoder, kRows, 1>(panel + p * panel_bytes, panel_bytes, cols, x, first, out + 16 * p, out_stride);
    }
  });
}

DOGSTAR_INLINE int TileRowCount(int32_t rows, int32_t tile) {
  const int32_t left = rows - tile * kTileRows;
  return left < kTileRows ? left : kTileRows;
}

DOGSTAR_INLINE TileView ViewOf(const ActivationBuffers& x, int32_t x_rows, int32_t cols, int32_t tile) {
  const int64_t values = int64_t{tile} * kTileRows * cols;
  const int64_t blocks = values / 32;
  TileView view;
  view.stride = TileRowCount(x_rows, tile);
  view.f32 = x.f32 + values;
  if (x.codes == nullptr) return view;
  view.codes = x.codes + values;
  view.scales = x.scales + blocks;
  view.code_sums = x.code_sums + blocks;
  view.low_code_sums = x.low_code_sums + blocks;
  view.sums = x.sums + blocks;
  view.half_sums = x.half_sums + 2 * blocks;
  view.outliers = x.outliers + blocks;
  view.outlier_rows = x.outlier_rows + int64_t{tile} * (cols / 32);
  return view;
}

// A tile, as x, times panels [begin, end); the last panel of the matrix may have fewer than 16 rows.
inline void MatMulTile(const MatMulTask& task, const TileView& x, int32_t tile, int64_t begin, int64_t end) {
  const int rows = TileRowCount(task.rows, tile);
  float* out = task.out + int64_t{tile} * kTileRows * task.out_stride;
  const int64_t whole = task.w_rows / 16;
  const int64_t whole_end = end < whole ? end : whole;
  task.product(task.panels + begin * task.panel_bytes, task.panel_bytes, whole_end - begin, task.cols, x, rows,
               out + 16 * begin, task.out_stride);
  if (end == whole_end) return;
  float last[16 * kTileRows];
  task.product(task.panels + whole * task.panel_bytes, task.panel_bytes, 1, task.cols, x, rows, last, 16);
  for (int r = 0; r < rows; ++r) {
    StorePartial(Load(last + 16 * r), task.w_rows % 16, out + r * task.out_stride + 16 * whole);
  }
}

// Tiles that are multiplied with a panel before the next panel: their codes should stay in a 1 MiB L2 cache.
constexpr int64_t kTileBytesTogether = 512 << 10;

inline void MatMul(const MatMulTask& task, int64_t begin, int64_t end) {
  const int32_t tiles = (task.rows + kTileRows - 1) / kTileRows;
  const auto view = [&](int32_t tile, bool fetches) {
    TileView x = ViewOf(task.x, task.x_rows, task.cols, tile);
    x.fetches = fetches;
    return x;
  };
  if (tiles == 1) return MatMulTile(task, view(0, true), 0, begin, end);
  const int64_t fit = kTileBytesTogether / (int64_t{kTileRows} * task.cols);
  const int32_t together = fit < 1 ? 1 : static_cast<int32_t>(fit);
  for (int32_t first = 0; first < tiles; first += together) {
    for (int64_t panel = begin; panel < end; panel += kPanelsInFlight) {
      const int64_t panel_end = panel + kPanelsInFlight < end ? panel + kPanelsInFlight : end;
      for (int32_t tile = first; tile < tiles && tile < first + together; ++tile) {
        MatMulTile(task, view(tile, tile == first), tile, panel, panel_end);
      }
    }
  }
}

inline TileProduct FindProduct(QuantType type, ProductKind kind) {
  switch (type) {
    case QuantType::kF32:
      return FloatProduct<F32Decoder>;
    case QuantType::kF16:
      return FloatProduct<F16Decoder>;
    case QuantType::kBF16:
      return FloatProduct<Bf16Decoder>;
    default:
      break;
  }
  TileProduct product = nullptr;
  WithFormat(type, [&]<typename Format>() {
    product = kind == ProductKind::kInt8 ? Int8Product<Format> : FloatProduct<QuantDecoder<Format>>;
  });
  return product;
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
