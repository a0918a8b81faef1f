// Plain rows of a GGUF file (base/quant_codes.h) made into panels (base/panel.h), which is what kernels multiply with:
// for weights that come over the link as the file has them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/panel.h"
#include "base/quant.h"
#include "base/quant_codes.h"
#include "gpu/arithmetic.h"
#include "gpu/formats.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// A type as the kernel reads it.
struct PlainFormat {
  QuantShape shape;  // of block formats
  BlockOffsets offsets;
  int32_t block_weights = 1, block_bytes = 0;
  bool has_shifted_scales = false;  // Q3_K: six bits of a group's scale, 32 above it

  static PlainFormat Of(QuantType type) {
    const QuantTraits& traits = TraitsOf(type);
    PlainFormat format{.shape = {}, .offsets = {}, .block_weights = traits.block_weights};
    format.block_bytes = static_cast<int32_t>(traits.block_bytes);
    if (IsFloatType(type)) return format;
    format.shape = ShapeOf(type);
    format.offsets = OffsetsOf(type);
    format.has_shifted_scales = type == QuantType::kQ3_K;
    return format;
  }
  DOGSTAR_HD bool is_float() const { return block_weights == 1; }
  DOGSTAR_HD int32_t bits() const { return shape.low_bits + shape.high_bits; }
};

// A thread makes four bytes of codes, or the scales of a group, of one row.
struct PanelsKernel {
  static constexpr int kThreads = kElementThreads;
  using Shared = Nothing;
  using Local = Nothing;
  PlainFormat format;
  const CodePlace* places = nullptr;  // [block_weights], of block formats
  const std::byte* plain = nullptr;   // rows, one after the other
  uint64_t row_bytes = 0;
  int32_t rows = 0, cols = 0;
  std::byte* panels = nullptr;
  uint64_t panel_bytes = 0;

  DOGSTAR_HD int64_t panel_count() const { return (int64_t{rows} + kLanes - 1) / kLanes; }
  DOGSTAR_HD int32_t words() const {  // of codes or floats, of a row
    return format.is_float() ? cols : cols / kBlockColumns * format.bits();
  }
  DOGSTAR_HD int32_t groups() const { return format.is_float() ? 0 : cols / format.shape.group_weights; }
  DOGSTAR_HD int64_t ItemsOfPanel() const { return int64_t{kLanes} * (words() + groups()); }
  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(panel_count() * ItemsOfPanel()); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t at = block * kThreads + thread;
    if (at >= panel_count() * ItemsOfPanel()) return;
    const int64_t panel = at / ItemsOfPanel(), item = at % ItemsOfPanel();
    const int lane = static_cast<int>(item % kLanes);
    const auto index = static_cast<int32_t>(item / kLanes);
    const int64_t row = panel * kLanes + lane;
    const std::byte* from = row < rows ? plain + static_cast<uint64_t>(row) * row_bytes : nullptr;
    std::byte* to = panels + static_cast<uint64_t>(panel) * panel_bytes;
    if (format.is_float()) {
      CopyFloat(from, index, to + (int64_t{index} * kLanes + lane) * format.block_bytes);
    } else if (index < words()) {
      *reinterpret_cast<uint32_t*>(to + int64_t{index} * kVectorBytes + lane * 4) = Codes(from, index);
    } else {
      const int64_t codes = int64_t{words()} * kVectorBytes;
      StoreScales(from, index - words(), lane, to + codes);
    }
  }

 private:
  DOGSTAR_HD void CopyFloat(const std::byte* row, int32_t column, std::byte* to) const {
    for (int32_t i = 0; i < format.block_bytes; ++i) {
      to[i] = row == nullptr ? std::byte{0} : row[int64_t{column} * format.block_bytes + i];
    }
  }

  // Word `word` of the row's code vectors: quads of columns, a code a byte (LoadQuad reads them).
  DOGSTAR_HD uint32_t Codes(const std::byte* row, int32_t word) const {
    if (row == nullptr) return 0;
    const int32_t block = word / format.bits(), vector = word % format.bits();
    const bool is_low = vector < format.shape.low_bits;
    const int bits = is_low ? format.shape.low_bits : format.shape.high_bits, quads = 8 / bits;
    const int first_quad = (is_low ? vector : vector - format.shape.low_bits) * quads;
    const int32_t column = block * kBlockColumns, first = column % format.block_weights;
    const std::byte* of_row = row + int64_t{column / format.block_weights} * format.block_bytes;
    uint32_t codes = 0;
    for (int k = 0; k < quads; ++k) {
      for (int i = 0; i < 4; ++i) {
        const CodePlace& place = places[first + 4 * (first_quad + k) + i];
        const auto byte = static_cast<uint32_t>(of_row[is_low ? place.low_byte : place.high_byte]);
        const uint32_t code = byte >> (is_low ? place.low_shift : place.high_shift) & ((1u << bits) - 1);
        codes |= code << (8 * i + k * bits);
      }
    }
    return codes;
  }

  DOGSTAR_HD static void CopyHalf(const std::byte* from, std::byte* to) {
    to[0] = from == nullptr ? std::byte{0} : from[0];
    to[1] = from == nullptr ? std::byte{0} : from[1];
  }

  // Of one group and row, into the panel's scale table.
  DOGSTAR_HD void StoreScales(const std::byte* row, int32_t group, int lane, std::byte* table) const {
    const QuantShape& shape = format.shape;
    const int32_t groups = format.block_weights / shape.group_weights, of_block = group % groups;
    const bool minimum = shape.scales != ScaleKind::kHalf && shape.scales != ScaleKind::kByte;
    const std::byte* block = row == nullptr ? nullptr : row + int64_t{group / groups} * format.block_bytes;
    const bool supers = shape.scales != ScaleKind::kHalf && shape.scales != ScaleKind::kHalfPair;
    const int group_bytes = !supers ? 0 : shape.scales == ScaleKind::kBytePair ? 2 : 1;
    std::byte* to = table + int64_t{group / groups} * ((minimum ? 4 : 2) + groups * group_bytes) * kLanes;
    if (of_block == 0) {
      CopyHalf(block == nullptr ? nullptr : block + format.offsets.d, to + 2 * lane);
      if (minimum) CopyHalf(block == nullptr ? nullptr : block + format.offsets.m, to + 2 * (kLanes + lane));
    }
    if (!supers) return;
    to += ((minimum ? 4 : 2) + of_block * group_bytes) * kLanes + lane;
    const std::byte* scales = block == nullptr ? nullptr : block + format.offsets.scales;
    to[0] = scales == nullptr ? std::byte{0} : GroupScaleByte(scales, of_block);
    if (group_bytes == 2) to[kLanes] = scales == nullptr ? std::byte{0} : SixBits(scales, of_block, true);
  }

  DOGSTAR_HD std::byte GroupScaleByte(const std::byte* scales, int32_t group) const {
    if (format.shape.scales == ScaleKind::kBytePair) return SixBits(scales, group, false);
    if (!format.has_shifted_scales) return scales[group];
    // Q3_K: low nibbles in bytes 0..7 (groups 0..7 below, 8..15 above), upper two bits in bytes 8..11.
    const uint32_t low = Field(scales[group % 8], group / 8 * 4, 4),
                   high = Field(scales[8 + group % 4], group / 4 * 2, 2);
    return static_cast<std::byte>(static_cast<uint8_t>(static_cast<int32_t>(low | high << 4) - 32));
  }
  // Q4_K and Q5_K: scales and minimums 0..3 are the low six bits of bytes 0..3 and 4..7; those of 4..7 have their low
  // nibbles in bytes 8..11 (scale below, minimum above) and their upper two bits on top of bytes 0..7.
  DOGSTAR_HD static std::byte SixBits(const std::byte* scales, int32_t group, bool minimum) {
    const int32_t base = minimum ? 4 : 0;
    if (group < 4) return static_cast<std::byte>(Field(scales[base + group], 0, 6));
    const uint32_t low = Field(scales[4 + group], minimum ? 4 : 0, 4);
    return static_cast<std::byte>(low | Field(scales[base + group - 4], 6, 2) << 4);
  }
  DOGSTAR_HD static uint32_t Field(std::byte byte, int shift, int bits) {
    return static_cast<uint32_t>(byte) >> shift & ((1u << bits) - 1);
  }
};

}  // namespace dogstar::gpu
