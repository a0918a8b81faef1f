// Products of weight panels and activation rows (the order of summation is in device/backend.h).
#pragma once

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

// Blocks of 4-bit codes that are asked for ahead, into the L2 cache: 8 KiB. kernel_bench on a Zen 4 core, 1 row of
// Q4_0 at 14336x4096: 20 GB/s without, 25 with 32 or 128 blocks, 22 when asked into L1. Q8_0 loses by it (26 to 22
// GB/s): its one stream is what the processor's own prefetcher expects.
constexpr int64_t kPrefetchBlocks = 32;

DOGSTAR_INLINE void Prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
DOGSTAR_INLINE const uint8_t* Bytes(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }

// Block formats. kCodeVectors: 64-byte vectors of codes per block of 32 columns; a vector holds 16 rows.
struct Q4_0Format {
  using Dot = NibbleDot;
  static constexpr int kCodeVectors = 4;
  static constexpr int kScaleBytes = 32;
  static constexpr bool kMinimum = false;
  static constexpr bool kNibbles = true;
  static DOGSTAR_INLINE int32_t Start(int32_t minus_8_sum) { return minus_8_sum; }
  static DOGSTAR_INLINE Vec16i CodeInt(Vec16i code) { return code + SplatInt(-8); }
  static DOGSTAR_INLINE Vec16f CodeValue(Vec16i code) { return ToFloat(CodeInt(code)); }
};
struct Q4_1Format {
  using Dot = NibbleDot;
  static constexpr int kCodeVectors = 4;
  static constexpr int kScaleBytes = 64;
  static constexpr bool kMinimum = true;
  static constexpr bool kNibbles = true;
  static DOGSTAR_INLINE int32_t Start(int32_t) { return 0; }
  static DOGSTAR_INLINE Vec16i CodeInt(Vec16i code) { return code; }
  static DOGSTAR_INLINE Vec16f CodeValue(Vec16i code) { return ToFloat(code); }
};
struct Q8_0Format {
  using Dot = ByteDot;
  static constexpr int kCodeVectors = 8;
  static constexpr int kScaleBytes = 32;
  static constexpr bool kMinimum = false;
  static constexpr bool kNibbles = false;
  static DOGSTAR_INLINE int32_t Start(int32_t minus_8_sum) { return minus_8_sum * 16; }
  static DOGSTAR_INLINE Vec16i CodeInt(Vec16i code) { return code; }
  static DOGSTAR_INLINE Vec16f CodeValue(Vec16i code) { return ToFloat(code); }
};

// Adds vector v of a block to each row's exact sum; x: the block's codes of row 0, rows 32 apart.
template <typename Format, int kRows>
DOGSTAR_INLINE void AddCodeVector(const uint8_t* codes, int v, const int8_t* x, typename Format::Dot* dots) {
  const Vec16i raw = LoadBytes(codes + 64 * v);
  if constexpr (Format::kNibbles) {
    const Vec16i low = LowNibbles(raw);
    const Vec16i high = HighNibbles(raw);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      dots[r].Add(low, x + 32 * r + 8 * v);
      dots[r].Add(high, x + 32 * r + 8 * v + 4);
    }
  } else {
    const Vec16i prepared = ByteDot::Prepare(raw);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) dots[r].Add(prepared, x + 32 * r + 4 * v);
  }
}

// The outlier's part of a block's exact sums; outlier: as in TileView.
template <typename Format>
DOGSTAR_INLINE Vec16i OutlierProducts(const uint8_t* codes, int32_t outlier) {
  const int column = outlier & 31;
  const Vec16i x_code = SplatInt(outlier >> 5);
  const int byte = 8 * (column % 4);
  if constexpr (Format::kNibbles) {
    const Vec16i raw = LoadBytes(codes + 64 * (column / 8));
    return Format::CodeInt(ShiftRightBy(raw, byte + (column & 4)) & SplatInt(15)) * x_code;
  } else {
    const Vec16i raw = LoadBytes(codes + 64 * (column / 4));
    return ShiftRightSigned<24>(ShiftLeftBy(raw, 24 - byte)) * x_code;
  }
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

template <typename Format, int kRows>
DOGSTAR_INLINE void Int8Block(const uint8_t* codes, const uint8_t* scales, const TileView& x, int64_t block, int first,
                              Vec16f* sums) {
  const int64_t at = block * x.stride + first;
  const int8_t* xc = x.codes + at * 32;
  typename Format::Dot dots[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) dots[r] = typename Format::Dot(Format::Start(x.code_sums[at + r]));
#pragma GCC unroll 8
  for (int v = 0; v < Format::kCodeVectors; ++v) AddCodeVector<Format, kRows>(codes, v, xc, dots);
  Vec16i exact[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) exact[r] = dots[r].Sum();
  AddOutliers<Format, kRows>(codes, x.outliers + at, x.outlier_rows[block] >> first, exact);
  const Vec16f d = LoadHalf(scales);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = Fma(d * Splat(x.scales[at + r]), ToFloat(exact[r]), sums[r]);
  if constexpr (Format::kMinimum) {
    const Vec16f m = LoadHalf(scales + 32);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[r] = Fma(m, Splat(x.sums[at + r]), sums[r]);
  }
}

// Asks for what is read kPrefetchBlocks blocks later; past the panel's end that is the start of the next one.
template <typename Format>
DOGSTAR_INLINE void PrefetchBlock(const uint8_t* codes, const uint8_t* scales, int64_t block, int64_t blocks) {
  constexpr int64_t kCodeBytes = 64 * Format::kCodeVectors;
  const bool next_panel = block + kPrefetchBlocks >= blocks;
  const uint8_t* codes_ahead = codes + kPrefetchBlocks * kCodeBytes + (next_panel ? blocks * Format::kScaleBytes : 0);
  const uint8_t* scales_ahead = scales + kPrefetchBlocks * Format::kScaleBytes + (next_panel ? blocks * kCodeBytes : 0);
#pragma GCC unroll 8
  for (int v = 0; v < Format::kCodeVectors; ++v) Prefetch(codes_ahead + 64 * v);
  Prefetch(scales_ahead);
}

template <typename Format, int kRows>
void Int8Panel(const uint8_t* panel, int32_t cols, const TileView& x, int first, float* out, int64_t out_stride) {
  const int64_t blocks = cols / 32;
  constexpr int64_t kBlockBytes = 64 * Format::kCodeVectors;
  const uint8_t* codes = panel;
  const uint8_t* scales = panel + blocks * kBlockBytes;
  Vec16f sums[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = Splat(0.0f);
  for (int64_t b = 0; b < blocks; ++b, codes += kBlockBytes, scales += Format::kScaleBytes) {
    if constexpr (Format::kNibbles) PrefetchBlock<Format>(codes, scales, b, blocks);
    Int8Block<Format, kRows>(codes, scales, x, b, first, sums);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) Store(sums[r], out + (first + r) * out_stride);
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

template <typename Format>
void Int8Product(const std::byte* panels, uint64_t panel_bytes, int64_t panel_count, int32_t cols, const TileView& x,
                 int rows, float* out, int64_t out_stride) {
  for (int64_t p = 0; p < panel_count; ++p) {
    const uint8_t* panel = Bytes(panels) + p * panel_bytes;
    ForRowGroups<kRowsInFlight>(
        rows, [&]<int kRows>(int first) { Int8Panel<Format, kRows>(panel, cols, x, first, out + 16 * p, out_stride); });
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

// The codes of one vector as numbers, in the order of their columns.
template <typename Format>
DOGSTAR_INLINE void CodeValues(Vec16i raw, Vec16f* values) {
  if constexpr (Format::kNibbles) {
    const Vec16i mask = SplatInt(15);
    values[0] = Format::CodeValue(raw & mask);
    values[1] = Format::CodeValue(ShiftRight<8>(raw) & mask);
    values[2] = Format::CodeValue(ShiftRight<16>(raw) & mask);
    values[3] = Format::CodeValue(ShiftRight<24>(raw) & mask);
    values[4] = Format::CodeValue(ShiftRight<4>(raw) & mask);
    values[5] = Format::CodeValue(ShiftRight<12>(raw) & mask);
    values[6] = Format::CodeValue(ShiftRight<20>(raw) & mask);
    values[7] = Format::CodeValue(ShiftRight<28>(raw));
  } else {
    values[0] = Format::CodeValue(ShiftRightSigned<24>(ShiftLeft<24>(raw)));
    values[1] = Format::CodeValue(ShiftRightSigned<24>(ShiftLeft<16>(raw)));
    values[2] = Format::CodeValue(ShiftRightSigned<24>(ShiftLeft<8>(raw)));
    values[3] = Format::CodeValue(ShiftRightSigned<24>(raw));
  }
}

template <typename Format>
struct QuantDecoder {
  static constexpr int kColumns = Format::kNibbles ? 8 : 4;
  static constexpr bool kCheap = false;
  static DOGSTAR_INLINE void Decode(const uint8_t* panel, int64_t cols, int64_t k, Vec16f* w) {
    const uint8_t* scales = panel + cols * 2 * Format::kCodeVectors + (k / 32) * Format::kScaleBytes;
    CodeValues<Format>(LoadBytes(panel + k * 2 * Format::kCodeVectors), w);
    const Vec16f d = LoadHalf(scales);
#pragma GCC unroll 8
    for (int i = 0; i < kColumns; ++i) w[i] = d * w[i];  // exact
    if constexpr (Format::kMinimum) {
      const Vec16f m = LoadHalf(scales + 32);
#pragma GCC unroll 8
      for (int i = 0; i < kColumns; ++i) w[i] = w[i] + m;
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
  view.sums = x.sums + blocks;
  view.outliers = x.outliers + blocks;
  view.outlier_rows = x.outlier_rows + int64_t{tile} * (cols / 32);
  return view;
}

// A tile times panels [begin, end); the last panel of the matrix may have fewer than 16 rows.
inline void MatMulTile(const MatMulTask& task, int32_t tile, int64_t begin, int64_t end) {
  const TileView x = ViewOf(task.x, task.x_rows, task.cols, tile);
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
  if (tiles == 1) return MatMulTile(task, 0, begin, end);
  const int64_t fit = kTileBytesTogether / (int64_t{kTileRows} * task.cols);
  const int32_t together = fit < 1 ? 1 : static_cast<int32_t>(fit);
  for (int32_t first = 0; first < tiles; first += together) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int32_t tile = first; tile < tiles && tile < first + together; ++tile) {
        MatMulTile(task, tile, panel, panel + 1);
      }
    }
  }
}

inline TileProduct FindProduct(QuantType type, ProductKind kind) {
  const bool int8 = kind == ProductKind::kInt8;
  switch (type) {
    case QuantType::kF32:
      return FloatProduct<F32Decoder>;
    case QuantType::kF16:
      return FloatProduct<F16Decoder>;
    case QuantType::kBF16:
      return FloatProduct<Bf16Decoder>;
    case QuantType::kQ4_0:
      return int8 ? Int8Product<Q4_0Format> : FloatProduct<QuantDecoder<Q4_0Format>>;
    case QuantType::kQ4_1:
      return int8 ? Int8Product<Q4_1Format> : FloatProduct<QuantDecoder<Q4_1Format>>;
    case QuantType::kQ8_0:
      return int8 ? Int8Product<Q8_0Format> : FloatProduct<QuantDecoder<Q8_0Format>>;
  }
  return nullptr;
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
