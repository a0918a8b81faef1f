// Panels whose codes are cut in two planes (base/bit_planes.h), put together again where a kernel wants them: in memory
// of the thread's own that stays in its cache. What comes out are the panel's own bits, so products of them are those
// of a whole panel; without the low plane the draft's, whose missing bits count as their mean.
#pragma once

#include "cpu/format_impl.h"
#include "cpu/kernels.h"
#include "cpu/product_impl.h"
#include "cpu/vec.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

// A mask of one byte on all.
template <int kByte>
DOGSTAR_INLINE Vec16i ByteMask() {
  return SplatInt(static_cast<int32_t>(uint32_t{kByte} * 0x01010101u));
}

// The vectors of a low plane, or what stands in for each of them.
struct LowPlane {
  const uint8_t* vectors = nullptr;
  Vec16i fill;
  DOGSTAR_INLINE Vec16i Get(int i) const { return vectors == nullptr ? fill : LoadBytes(vectors + 64 * i); }
};

DOGSTAR_INLINE void JoinOneOfNibbles(const uint8_t* high, const LowPlane& low, uint8_t* out) {
  const Vec16i l = low.Get(0), low_mask = ByteMask<0x11>(), high_mask = ByteMask<0xEE>();
  const Vec16i h0 = LoadBytes(high), h1 = LoadBytes(high + 64), h2 = LoadBytes(high + 128);
  StoreBytes((h0 & high_mask) | (l & low_mask), out);
  StoreBytes((h1 & high_mask) | (ShiftRight<1>(l) & low_mask), out + 64);
  StoreBytes((h2 & high_mask) | (ShiftRight<2>(l) & low_mask), out + 128);
  const Vec16i last = ShiftLeft<1>(h0 & low_mask) | ShiftLeft<2>(h1 & low_mask) | ShiftLeft<3>(h2 & low_mask);
  StoreBytes(last | (ShiftRight<3>(l) & low_mask), out + 192);
}

template <int kBits, int kPairs>
DOGSTAR_INLINE void JoinHalf(const uint8_t* high, const LowPlane& low, uint8_t* out) {
  const Vec16i low_mask = kBits == 2 ? ByteMask<0x33>() : ByteMask<0x0F>();
  const Vec16i high_mask = kBits == 2 ? ByteMask<0xCC>() : ByteMask<0xF0>();
#pragma GCC unroll 4
  for (int j = 0; j < kPairs; ++j) {
    const Vec16i l = low.Get(j), h = LoadBytes(high + 64 * j);
    StoreBytes((h & high_mask) | (l & low_mask), out + 128 * j);
    StoreBytes(ShiftLeft<kBits>(h & low_mask) | (ShiftRight<kBits>(l) & low_mask), out + 128 * j + 64);
  }
}

// Formats that are cut, and how.
template <typename Format>
struct PlanesOf {
  static constexpr int kBits = Format::kLowBits + Format::kHighBits;
  static constexpr int kLowBits = kBits < 4 ? 0 : kBits == 4 ? 1 : kBits - 4;
  // Of the missing bits of a code. Those of Q8_0 are set to 8, half a step off; IQ4_NL's codes are places in a table,
  // so their missing bit is 0 in one column and 1 in the next.
  static constexpr bool kFilled = Format::kSigned;
  static constexpr float kMean = kFilled ? 0.0f : static_cast<float>((1 << kLowBits) - 1) / 2;
  // What StartOfGroup gives, over that of whole codes.
  static constexpr float kStart = Format::kOffset == 0 ? 1.0f : 1.0f - kMean / static_cast<float>(Format::kOffset);
  // Whether products read high planes where they are (HighOf), for so few rows.
  static constexpr bool kDirect = kLowBits > 0 && !Format::kTable;
  static constexpr uint32_t kFill = !kFilled ? 0 : Format::kTable ? 0xFF00FF00u : 0x88888888u;
};

// One block of 32 columns.
template <typename Format>
DOGSTAR_INLINE void JoinBlock(const uint8_t* high, const LowPlane& low, uint8_t* out) {
  using Planes = PlanesOf<Format>;
  if constexpr (Format::kLowBits == 8) {
    JoinHalf<4, 4>(high, low, out);
  } else if constexpr (Planes::kLowBits == 2) {
    JoinHalf<2, 2>(high, low, out);
  } else {
    JoinOneOfNibbles(high, low, out);
  }
  if constexpr (Format::kHighBits > 0) {
#pragma GCC unroll 2
    for (int i = 0; i < Format::kHighBits; ++i) {
      StoreBytes(LoadBytes(high + 64 * (4 - Planes::kLowBits + i)), out + 256 + 64 * i);
    }
  }
}

template <typename Format>
DOGSTAR_INLINE LowPlane LowPlaneAt(const uint8_t* vectors) {
  return {vectors, SplatInt(static_cast<int32_t>(PlanesOf<Format>::kFill))};
}

// A panel from its planes; low may be null. out: panel_bytes.
template <typename Format>
inline void JoinPanel(const PlanePanel& sizes, uint64_t panel_bytes, int32_t cols, const uint8_t* high,
                      const uint8_t* low, uint8_t* out) {
  using Planes = PlanesOf<Format>;
  if constexpr (Planes::kLowBits > 0) {
    constexpr int kHighVectors = Format::kCodeVectors - Planes::kLowBits;
    const int64_t blocks = cols / 32;
    for (int64_t b = 0; b < blocks; ++b) {
      const LowPlane block_low = LowPlaneAt<Format>(low == nullptr ? nullptr : low + b * 64 * Planes::kLowBits);
      JoinBlock<Format>(high + b * 64 * kHighVectors, block_low, out + b * 64 * Format::kCodeVectors);
    }
    const int64_t codes = blocks * 64 * Format::kCodeVectors;
    __builtin_memcpy(out + codes, high + blocks * 64 * kHighVectors, panel_bytes - codes);
  } else {
    __builtin_memcpy(out, high, sizes.high);
  }
}

// Two neighbouring panels, those of `used` rows alone. Parts that are not cut are read where they are.
inline const std::byte* JoinPanels(QuantType type, const PlanePanel& sizes, uint64_t panel_bytes, int32_t cols,
                                   const std::byte* high, const std::byte* low, uint32_t used, std::byte* out) {
  if (sizes.low == 0) return high;
  WithFormat(type, [&]<typename Format>() {
    for (int p = 0; p < 2; ++p) {
      if ((used >> (16 * p) & 0xffff) == 0) continue;
      const uint8_t* of_panel = low == nullptr ? nullptr : Bytes(low) + p * sizes.low;
      JoinPanel<Format>(sizes, panel_bytes, cols, Bytes(high) + p * sizes.high, of_panel,
                        reinterpret_cast<uint8_t*>(out) + p * panel_bytes);
    }
  });
  return out;
}

// What an outlier's product lacks where the missing bits count as their mean; outlier: as in TileView.
template <typename Format>
DOGSTAR_INLINE int32_t MissingOfOutlier(int32_t outlier) {
  return static_cast<int32_t>(PlanesOf<Format>::kMean * static_cast<float>(outlier >> 5));
}

// Activation rows for which high planes are read where they are; for more, joining is little beside the products.
constexpr int kDirectRows = 2;

template <typename Format>
void HighProduct(const std::byte* panels, uint64_t panel_bytes, int64_t panel_count, int32_t cols, const TileView& x,
                 int rows, float* out, int64_t out_stride) {
  for (int64_t p = 0; p < panel_count; ++p) {
    const uint8_t* panel = Bytes(panels) + p * panel_bytes;
    const std::byte* behind = x.next != nullptr && p + 1 == panel_count ? x.next : panels + (p + 1) * panel_bytes;
    ForRowGroups<kDirectRows>(rows, [&]<int kRows>(int first) {
      Int8Panels<Format, kRows, 1, true>(panel, Bytes(behind), panel_bytes, cols, x, first, out + 16 * p, out_stride);
    });
  }
}

// Of panels without their low planes; null: they are joined.
inline TileProduct FindHighProduct(QuantType type) {
  TileProduct product = nullptr;
  WithFormat(type, [&]<typename Format>() {
    if constexpr (PlanesOf<Format>::kDirect) product = HighProduct<HighOf<Format>>;
  });
  return product;
}

// x as products with codes without their low bits see it: the missing bits count as their mean. sums: room for the code
// sums of x, twice.
inline void CountMissingBits(QuantType type, int32_t cols, int32_t* sums, TileView* x) {
  WithFormat(type, [&]<typename Format>() {
    using Planes = PlanesOf<Format>;
    if constexpr (Planes::kLowBits == 0 || Planes::kFilled) {
      return;
    } else if constexpr (Format::kMinimum) {
      x->missing_bits = Planes::kMean;
    } else {
      const int64_t count = int64_t{cols} / 32 * x->stride;
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = static_cast<int32_t>(Planes::kStart * static_cast<float>(x->code_sums[i]));
        sums[count + i] = static_cast<int32_t>(Planes::kStart * static_cast<float>(x->low_code_sums[i]));
        const int64_t row = i % x->stride;
        if ((x->outlier_rows[i / x->stride] >> row & 1) == 0) continue;
        const int32_t missing = MissingOfOutlier<Format>(x->outliers[i]) / (Format::kOffset / 8);
        sums[i] += missing;
        if ((x->outliers[i] & 31) < 16) sums[count + i] += missing;
      }
      x->code_sums = sums;
      x->low_code_sums = sums + count;
    }
  });
}

// Panels [begin, end), two at a time joined in the thread's memory and multiplied with every tile.
inline void JoinedMatMul(const CutMatMulTask& task, int64_t begin, int64_t end) {
  const int32_t tiles = (task.whole.rows + kTileRows - 1) / kTileRows;
  const bool misses_bits = task.low == nullptr;
  for (int64_t panel = begin; panel < end; panel += 2) {
    const int64_t count = end - panel < 2 ? 1 : 2;
    MatMulTask joined = task.whole;
    joined.panels = JoinPanels(task.type, task.planes, task.whole.panel_bytes, task.whole.cols,
                               task.whole.panels + panel * task.planes.high,
                               misses_bits ? nullptr : task.low + panel * task.planes.low,
                               count == 2 ? ~uint32_t{0} : uint32_t{0xffff}, task.joined);
    joined.out += 16 * panel;
    joined.w_rows -= static_cast<int32_t>(16 * panel);
    for (int32_t tile = 0; tile < tiles; ++tile) {
      TileView x = ViewOf(joined.x, joined.x_rows, joined.cols, tile);
      x.fetches = false;
      if (misses_bits) CountMissingBits(task.type, joined.cols, task.sums, &x);
      MatMulTile(joined, x, tile, 0, count);
    }
  }
}

inline void CutMatMul(const CutMatMulTask& task, int64_t begin, int64_t end) {
  const MatMulTask& whole = task.whole;
  if (task.low != nullptr || task.high_product == nullptr || whole.rows > kDirectRows) {
    return JoinedMatMul(task, begin, end);
  }
  MatMulTask direct = whole;
  direct.product = task.high_product;
  direct.panel_bytes = task.planes.high;
  TileView x = ViewOf(whole.x, whole.x_rows, whole.cols, 0);
  CountMissingBits(task.type, whole.cols, task.sums, &x);
  MatMulTile(direct, x, 0, begin, end);
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
