#include "base/bit_planes.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/panel.h"
#include "base/quant_codes.h"
#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

constexpr QuantType kCutTypes[] = {QuantType::kQ4_0,   QuantType::kQ4_1, QuantType::kQ4_K,
                                   QuantType::kIQ4_NL, QuantType::kQ5_0, QuantType::kQ5_1,
                                   QuantType::kQ5_K,   QuantType::kQ6_K, QuantType::kQ8_0};

struct Planes {
  std::vector<std::byte> high, low;
  bool operator==(const Planes&) const = default;
};

// Planes of one block whose codes are the same but for that of one row and column.
Planes PlanesWith(QuantType type, int code, int lane, int column, int other_code) {
  const int bits = ShapeOf(type).bits();
  std::vector<std::byte> block(static_cast<size_t>(bits) * 64);
  for (int row = 0; row < kPanelRows; ++row) {
    Codes codes;
    codes.fill(static_cast<uint8_t>(code));
    if (row == lane) codes[static_cast<size_t>(column)] = static_cast<uint8_t>(other_code);
    AddPanelCodes(type, codes, 0, row, block.data());
  }
  const size_t low_bytes = static_cast<size_t>(LowPlaneBits(type)) * 64;
  Planes planes{std::vector<std::byte>(block.size() - low_bytes), std::vector<std::byte>(low_bytes)};
  SplitCodes(type, block.data(), 1, planes.high.data(), planes.low.data());
  return planes;
}

int Differences(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  int bits = 0;
  for (size_t at = 0; at < a.size(); at += 64) {  // most pieces are equal: one call for each, for sanitizers' sake
    const size_t count = std::min<size_t>(64, a.size() - at);
    if (std::memcmp(a.data() + at, b.data() + at, count) == 0) continue;
    for (size_t i = at; i < at + count; ++i) bits += std::popcount(std::to_integer<uint8_t>(a[i] ^ b[i]));
  }
  return bits;
}

// Every bit of every code is in one place of one plane: changing it changes one bit there, and low ones only the low
// plane.
TEST(BitPlanesTest, EveryBitOfACodeIsInOnePlace) {
  for (const QuantType type : kCutTypes) {
    const int bits = ShapeOf(type).bits(), low_bits = LowPlaneBits(type);
    const int code = 0b10101101 & ((1 << bits) - 1);
    const Planes before = PlanesWith(type, code, 0, 0, code);
    for (const int lane : {0, 7, 15}) {
      for (int column = 0; column < kQuantBlock; ++column) {
        for (int bit = 0; bit < bits; ++bit) {
          const Planes after = PlanesWith(type, code, lane, column, code ^ 1 << bit);
          EXPECT_EQ(Differences(before.low, after.low), bit < low_bits ? 1 : 0) << TraitsOf(type).name << bit;
          EXPECT_EQ(Differences(before.high, after.high), bit < low_bits ? 0 : 1) << TraitsOf(type).name << bit;
        }
      }
    }
  }
}

TEST(BitPlanesTest, TypesOfFewBitsAndFloatsAreNotCut) {
  for (const QuantType type :
       {QuantType::kQ2_K, QuantType::kQ3_K, QuantType::kF16, QuantType::kBF16, QuantType::kF32}) {
    EXPECT_EQ(LowPlaneBits(type), 0) << TraitsOf(type).name;
    const FfnPageLayout layout = FfnPageLayout::Make(type, type, type, 256, 256, 64, 8).value();
    EXPECT_EQ(layout.low.bytes, 0U);
    EXPECT_LE(layout.high.bytes, layout.page_bytes);
  }
}

// The planes of a page take what the page takes, and each byte of it decides something in one of them.
TEST(BitPlanesTest, APagesPlanesAreThePage) {
  const FfnPageLayout layout =
      FfnPageLayout::Make(QuantType::kQ4_K, QuantType::kF16, QuantType::kQ6_K, 256, 256, 64, 8).value();
  EXPECT_EQ(layout.low.gate_panel, uint64_t{256 * 16 / 8});
  EXPECT_EQ(layout.low.up_panel, 0U);
  EXPECT_EQ(layout.low.down_panel, uint64_t{64 * 16 * 2 / 8});
  EXPECT_EQ(layout.low.bytes % 64, 0U);
  const uint64_t low_used = 4 * layout.low.gate_panel + 16 * layout.low.down_panel;
  const uint64_t used = layout.down_offset + 16 * layout.down_panel_bytes;
  EXPECT_EQ(layout.high.down_offset + 16 * layout.high.down_panel + low_used, used);

  std::vector<std::byte> page(layout.page_bytes);
  SplitMix64 random(3);
  for (size_t i = 0; i < used; ++i) page[i] = static_cast<std::byte>(random.Next());
  const auto split = [&] {
    Planes planes{std::vector<std::byte>(layout.high.bytes), std::vector<std::byte>(layout.low.bytes)};
    SplitPage(layout, page.data(), planes.high.data(), planes.low.data());
    return planes;
  };
  const Planes before = split();
  for (size_t at = 0; at < used; at += 61) {
    for (int bit = 0; bit < 8; ++bit) {
      page[at] ^= static_cast<std::byte>(1 << bit);
      const Planes after = split();
      EXPECT_EQ(Differences(before.high, after.high) + Differences(before.low, after.low), 1) << at;
      page[at] ^= static_cast<std::byte>(1 << bit);
    }
  }
  // Either plane alone is the same.
  std::vector<std::byte> alone(layout.high.bytes, std::byte{7});
  SplitPage(layout, page.data(), alone.data(), nullptr);
  EXPECT_EQ(alone, before.high);
  alone.assign(layout.low.bytes, std::byte{7});
  SplitPage(layout, page.data(), nullptr, alone.data());
  EXPECT_EQ(alone, before.low);
}

}  // namespace
}  // namespace dogstar
