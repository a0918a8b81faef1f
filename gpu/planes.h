// Panels whose codes are cut in two planes (base/bit_planes.h), put together in a room that a GPU's cache holds, where
// the kernels of products read them: global memory gives the planes' bytes alone. Without low planes the missing bits
// are filled, and count as their mean where products begin (products.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bit_planes.h"
#include "base/quant_codes.h"
#include "gpu/arithmetic.h"
#include "gpu/formats.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// How a type's codes are cut.
struct PlaneCut {
  int low_bits = 0;   // of a code
  int vectors = 0;    // of a block's codes
  uint32_t fill = 0;  // in place of four bytes of a low plane

  static PlaneCut Of(QuantType type) {
    const uint32_t fill = type == QuantType::kQ8_0 ? 0x88888888u : type == QuantType::kIQ4_NL ? 0xFF00FF00u : 0u;
    return {LowPlaneBits(type), ShapeOf(type).bits(), fill};
  }
};

// A page, or panels of a matrix: its planes, and where it is to be. low may be null: there is none.
struct JoinPiece {
  const std::byte* high = nullptr;
  const std::byte* low = nullptr;
  std::byte* out = nullptr;
};

// Neighbouring panels of every piece.
struct JoinKernel {
  static constexpr int kThreads = kElementThreads;
  static constexpr int kWordsTogether = 4;  // of a thread
  using Shared = Nothing;
  using Local = Nothing;
  PlaneCut cut;
  const JoinPiece* pieces = nullptr;  // null: `piece` alone
  JoinPiece piece;
  int32_t piece_count = 1;
  uint64_t high_offset = 0, low_offset = 0, out_offset = 0;  // of the first panel in a piece
  uint64_t high_panel = 0, low_panel = 0, out_panel = 0;     // bytes of a panel
  uint32_t panels = 0;                                       // of a piece
  uint32_t blocks = 0;                                       // of 32 columns of a panel

  DOGSTAR_HD uint32_t words() const { return static_cast<uint32_t>(out_panel / 4); }
  DOGSTAR_HD int64_t BlocksOfPiece() const {
    return (int64_t{panels} * words() + kThreads * kWordsTogether - 1) / (kThreads * kWordsTogether);
  }
  DOGSTAR_HD int64_t Blocks() const { return piece_count * BlocksOfPiece(); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t of_piece = BlocksOfPiece();
    const JoinPiece& from = pieces != nullptr ? pieces[block / of_piece] : piece;
    const auto first = static_cast<uint32_t>(block % of_piece) * (kThreads * kWordsTogether);
    for (int i = 0; i < kWordsTogether; ++i) {
      const uint32_t at = first + static_cast<uint32_t>(i * kThreads + thread);
      if (at < panels * words()) Join(from, at / words(), at % words());
    }
  }

 private:
  // Word `word` of panel `panel`.
  DOGSTAR_HD void Join(const JoinPiece& from, uint32_t panel, uint32_t word) const {
    constexpr uint32_t kWords = kVectorBytes / 4;
    const auto all = static_cast<uint32_t>(cut.vectors), low_bits = static_cast<uint32_t>(cut.low_bits);
    const std::byte* high = from.high + high_offset + panel * high_panel;
    auto* out = reinterpret_cast<uint32_t*>(from.out + out_offset + panel * out_panel) + word;
    if (word >= blocks * all * kWords) {  // scales, and what pads them
      *out = LoadAs<uint32_t>(high + 4 * (word - blocks * low_bits * kWords));
      return;
    }
    const uint32_t vector = word / kWords, block = vector / all, v = vector % all, lane_word = word % kWords;
    const std::byte* high_block = high + 4 * (block * (all - low_bits) * kWords + lane_word);
    const std::byte* low_block =
        from.low == nullptr ? nullptr
                            : from.low + low_offset + panel * low_panel + 4 * (block * low_bits * kWords + lane_word);
    *out = CodeWord(high_block, low_block, v);
  }

  // Four bytes of code vector v, as bit_planes.h cuts them.
  DOGSTAR_HD uint32_t CodeWord(const std::byte* high, const std::byte* low, uint32_t v) const {
    const auto of_high = [&](uint32_t i) { return LoadAs<uint32_t>(high + i * kVectorBytes); };
    const auto of_low = [&](uint32_t i) { return low == nullptr ? fill() : LoadAs<uint32_t>(low + i * kVectorBytes); };
    if (cut.vectors < 8 && v >= 4) return of_high(v - static_cast<uint32_t>(cut.low_bits));  // highest bits, whole
    if (cut.low_bits == 1) {
      constexpr uint32_t kLow = 0x11111111u;
      const uint32_t last = of_low(0) >> v & kLow;
      if (v < 3) return (of_high(v) & ~kLow) | last;
      return (of_high(0) & kLow) << 1 | (of_high(1) & kLow) << 2 | (of_high(2) & kLow) << 3 | last;
    }
    const uint32_t bits = static_cast<uint32_t>(cut.low_bits), mask = bits == 2 ? 0x33333333u : 0x0F0F0F0Fu;
    const uint32_t both = of_high(v / 2), lows = of_low(v / 2);
    return v % 2 == 0 ? (both & ~mask) | (lows & mask) : (both & mask) << bits | (lows >> bits & mask);
  }
  DOGSTAR_HD uint32_t fill() const { return cut.fill; }
};

}  // namespace dogstar::gpu
