#include "base/bit_planes.h"

#include <array>
#include <cstring>

#include "base/panel.h"
#include "base/quant_codes.h"

namespace dogstar {
namespace {

constexpr int64_t kVectorBytes = 64;
using Word = uint64_t;
constexpr int kWords = kVectorBytes / sizeof(Word);

constexpr Word Repeat(uint8_t byte) { return Word{byte} * 0x0101010101010101; }

// Word `word` of code vector `vector`.
Word Get(const std::byte* vectors, int vector, int word) {
  Word value;
  std::memcpy(&value, vectors + vector * kVectorBytes + word * static_cast<int>(sizeof(Word)), sizeof(Word));
  return value;
}

// vectors may be null: nobody wants them.
void Put(Word value, std::byte* vectors, int vector, int word) {
  if (vectors == nullptr) return;
  std::memcpy(vectors + vector * kVectorBytes + word * static_cast<int>(sizeof(Word)), &value, sizeof(Word));
}

void SplitOneOfNibbles(const std::byte* v, int word, std::byte* high, std::byte* low) {
  constexpr Word kLow = Repeat(0x11), kHigh = Repeat(0xEE);
  const Word last = Get(v, 3, word);
  Word lows = (last & kLow) << 3;
  for (int i = 0; i < 3; ++i) {
    const Word codes = Get(v, i, word);
    lows |= (codes & kLow) << i;
    Put((codes & kHigh) | (last >> (i + 1) & kLow), high, i, word);
  }
  Put(lows, low, 0, word);
}

// Pairs of vectors, kBits of each field of 2 * kBits.
template <int kBits>
void SplitHalf(const std::byte* v, int pairs, int word, std::byte* high, std::byte* low) {
  constexpr Word kLow = Repeat(kBits == 2 ? 0x33 : 0x0F);
  for (int j = 0; j < pairs; ++j) {
    const Word first = Get(v, 2 * j, word), second = Get(v, 2 * j + 1, word);
    Put((first & kLow) | (second & kLow) << kBits, low, j, word);
    Put((first & ~kLow) | (second >> kBits & kLow), high, j, word);
  }
}

// Panels of one part of a page; empty planes of types that are not cut.
struct PartPlanes {
  QuantType type;
  int64_t panels, cols;
  uint64_t panel_bytes, high_bytes, low_bytes;
};

void SplitPart(const PartPlanes& part, const std::byte* panels, std::byte* high, std::byte* low) {
  const int64_t blocks = part.cols / kQuantBlock;
  const bool cut = part.low_bytes > 0;
  // Where codes end: scales follow in a panel, and in its high plane.
  const uint64_t codes = cut ? static_cast<uint64_t>(blocks * ShapeOf(part.type).bits() * kVectorBytes) : 0;
  for (int64_t p = 0; p < part.panels; ++p) {
    if (cut) SplitCodes(part.type, panels, blocks, high, low);
    if (high != nullptr) {
      std::memcpy(high + codes - part.low_bytes, panels + codes, part.panel_bytes - codes);
      high += part.high_bytes;
    }
    if (low != nullptr) low += part.low_bytes;
    panels += part.panel_bytes;
  }
}

}  // namespace

int32_t LowPlaneBits(QuantType type) {
  if (IsFloatType(type)) return 0;
  const int32_t bits = ShapeOf(type).bits();
  return bits < 4 ? 0 : bits == 4 ? 1 : bits - 4;
}

void SplitCodes(QuantType type, const std::byte* codes, int64_t blocks, std::byte* high, std::byte* low) {
  const int32_t bits = ShapeOf(type).bits(), low_bits = LowPlaneBits(type);
  CHECK(low_bits > 0);
  const int nibble_vectors = bits == 8 ? 0 : 4, extra = bits == 8 ? 0 : bits - 4;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int word = 0; word < kWords; ++word) {
      if (bits == 8) {
        SplitHalf<4>(codes, 4, word, high, low);
      } else if (low_bits == 2) {
        SplitHalf<2>(codes, 2, word, high, low);
      } else {
        SplitOneOfNibbles(codes, word, high, low);
      }
    }
    if (high != nullptr && extra > 0) {
      std::memcpy(high + (nibble_vectors - low_bits) * kVectorBytes, codes + nibble_vectors * kVectorBytes,
                  static_cast<size_t>(extra * kVectorBytes));
    }
    codes += bits * kVectorBytes;
    if (high != nullptr) high += (bits - low_bits) * kVectorBytes;
    if (low != nullptr) low += low_bits * kVectorBytes;
  }
}

uint64_t LowPanelBytes(QuantType type, int64_t cols) {
  return static_cast<uint64_t>(LowPlaneBits(type)) * static_cast<uint64_t>(cols) * kPanelRows / 8;
}

PlanePanel PanelPlanes(QuantType type, int64_t cols) {
  const uint64_t low = LowPanelBytes(type, cols);
  return {PanelBytes(type, cols) - low, low};
}

uint64_t LowPlanesBytes(QuantType type, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>((rows + kPanelRows - 1) / kPanelRows) * LowPanelBytes(type, cols);
}

void SplitPanels(QuantType type, int64_t cols, int64_t count, const std::byte* panels, std::byte* high,
                 std::byte* low) {
  const PlanePanel planes = PanelPlanes(type, cols);
  SplitPart({type, count, cols, PanelBytes(type, cols), planes.high, planes.low}, panels, high, low);
}

void SplitPage(const FfnPageLayout& layout, const std::byte* page, std::byte* high, std::byte* low) {
  const FfnPlane &h = layout.high, &l = layout.low;
  const int64_t row_panels = layout.page_rows / kPanelRows, outputs = (layout.dim + kPanelRows - 1) / kPanelRows;
  if (high != nullptr) std::memset(high, 0, h.bytes);
  if (low != nullptr) std::memset(low, 0, l.bytes);
  const auto at = [](std::byte* plane, uint64_t offset) { return plane == nullptr ? nullptr : plane + offset; };
  SplitPart(
      {layout.gate_type, row_panels, layout.dim, PanelBytes(layout.gate_type, layout.dim), h.gate_panel, l.gate_panel},
      page + layout.gate_offset, at(high, h.gate_offset), at(low, l.gate_offset));
  SplitPart({layout.up_type, row_panels, layout.dim, PanelBytes(layout.up_type, layout.dim), h.up_panel, l.up_panel},
            page + layout.up_offset, at(high, h.up_offset), at(low, l.up_offset));
  SplitPart({layout.down_type, outputs, layout.page_rows, layout.down_panel_bytes, h.down_panel, l.down_panel},
            page + layout.down_offset, at(high, h.down_offset), at(low, l.down_offset));
}

}  // namespace dogstar
