#include "base/panel.h"

#include <algorithm>
#include <bit>
#include <span>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

std::vector<std::byte> RandomBytes(uint64_t seed, uint64_t count) {
  SplitMix64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Next());
  return bytes;
}

class PanelTest : public ::testing::TestWithParam<QuantType> {
 protected:
  const int64_t kCols = TraitsOf(GetParam()).block_weights == 256 ? 512 : 160;

  // Rows of random bits: not only those that a quantizer would write.
  void MakeRows(int count) {
    for (int i = 0; i < kPanelRows; ++i) {
      source_.push_back(RandomBytes(100 + i, RowBytes(GetParam(), kCols)));
      rows_[i] = i < count ? source_.back().data() : nullptr;
    }
    panel_.assign(PanelBytes(GetParam(), kCols), std::byte{0xab});
    PackPanel(GetParam(), rows_, kCols, panel_.data());
  }
  std::vector<std::byte> Unpacked(int lane) const {
    std::vector<std::byte> row(RowBytes(GetParam(), kCols), std::byte{0xcd});
    UnpackPanelRow(GetParam(), panel_.data(), lane, kCols, row.data());
    return row;
  }

  std::vector<std::vector<std::byte>> source_;
  std::array<const std::byte*, kPanelRows> rows_ = {};
  std::vector<std::byte> panel_;
};

TEST_P(PanelTest, UnpackReturnsTheSourceBitsExactly) {
  MakeRows(kPanelRows);
  for (int lane = 0; lane < kPanelRows; ++lane) EXPECT_EQ(Unpacked(lane), source_[lane]) << lane;
}

TEST_P(PanelTest, PackingIsAPermutationOfBits) {
  if (!IsFloatType(GetParam()) && ShapeOf(GetParam()).has_super_blocks()) return;  // group scales become bytes
  MakeRows(kPanelRows);
  uint64_t source_bits = 0, panel_bits = 0;
  for (const auto& row : source_) {
    for (const std::byte byte : row) source_bits += std::popcount(std::to_integer<uint8_t>(byte));
  }
  for (const std::byte byte : panel_) panel_bits += std::popcount(std::to_integer<uint8_t>(byte));
  EXPECT_EQ(panel_bits, source_bits);
}

TEST_P(PanelTest, RowsThatDoNotExistAreZero) {
  MakeRows(5);
  const std::vector<float> zeros(static_cast<size_t>(kCols));
  std::vector<float> weights(static_cast<size_t>(kCols));
  for (int lane = 0; lane < kPanelRows; ++lane) {
    if (lane < 5) {
      EXPECT_EQ(Unpacked(lane), source_[lane]) << lane;
      continue;
    }
    DequantizeRow(GetParam(), Unpacked(lane).data(), kCols, weights.data());
    EXPECT_EQ(weights, zeros) << lane;
  }
}

TEST_P(PanelTest, BytesAreWholeCacheLines) {
  const int64_t block = std::max(32, TraitsOf(GetParam()).block_weights);
  for (const int64_t blocks : {1, 2, 3, 64}) EXPECT_EQ(PanelBytes(GetParam(), blocks * block) % 64, 0u) << blocks;
  EXPECT_EQ(PanelMatrixBytes(GetParam(), 17, block), 2 * PanelBytes(GetParam(), block));
  EXPECT_EQ(PanelMatrixBytes(GetParam(), 0, block), 0u);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, PanelTest,
                         ::testing::Values(QuantType::kF32, QuantType::kF16, QuantType::kBF16, QuantType::kQ8_0,
                                           QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ5_0, QuantType::kQ5_1,
                                           QuantType::kQ2_K, QuantType::kQ3_K, QuantType::kQ4_K, QuantType::kQ5_K,
                                           QuantType::kQ6_K, QuantType::kIQ4_NL),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

// The layouts below are read by kernels: each is written out once, from the words of panel.h.
int NibbleOfRow(const std::vector<std::byte>& row, int64_t weight, int block_bytes, int codes_at) {
  const std::byte pair = row[weight / 32 * block_bytes + codes_at + weight % 16];
  return std::to_integer<int>(weight % 32 < 16 ? pair & std::byte{15} : pair >> 4);
}

TEST(PanelLayoutTest, NibblesLieWhereTheHeaderSays) {
  constexpr int64_t kCols = 64;
  const std::vector<std::byte> row = RandomBytes(7, RowBytes(QuantType::kQ4_1, kCols));
  std::array<const std::byte*, kPanelRows> rows = {};
  constexpr int kLane = 9;
  rows[kLane] = row.data();
  std::vector<std::byte> panel(PanelBytes(QuantType::kQ4_1, kCols));
  PackPanel(QuantType::kQ4_1, rows, kCols, panel.data());
  for (int64_t v = 0; v < kCols / 8; ++v) {
    for (int i = 4 * kLane; i < 4 * kLane + 4; ++i) {
      const int byte = std::to_integer<int>(panel[v * 64 + i]);
      EXPECT_EQ(byte & 15, NibbleOfRow(row, 8 * v + i % 4, 20, 4));
      EXPECT_EQ(byte >> 4, NibbleOfRow(row, 8 * v + 4 + i % 4, 20, 4));
    }
  }
  const uint64_t scales = PanelScalesOffset(QuantType::kQ4_1, kCols);
  EXPECT_EQ(scales, 512u);
  for (int64_t block = 0; block < 2; ++block) {
    for (int which = 0; which < 2; ++which) {
      const uint64_t at = scales + ((block * 2 + which) * 16 + kLane) * 2;
      EXPECT_TRUE(std::equal(&panel[at], &panel[at] + 2, &row[block * 20 + which * 2]));
    }
  }
}

TEST(PanelLayoutTest, BytesLieWhereTheHeaderSays) {
  constexpr int64_t kCols = 64;
  const std::vector<std::byte> row = RandomBytes(8, RowBytes(QuantType::kQ8_0, kCols));
  std::array<const std::byte*, kPanelRows> rows = {};
  constexpr int kLane = 3;
  rows[kLane] = row.data();
  std::vector<std::byte> panel(PanelBytes(QuantType::kQ8_0, kCols));
  PackPanel(QuantType::kQ8_0, rows, kCols, panel.data());
  for (int64_t k = 0; k < kCols; ++k) {
    EXPECT_EQ(panel[k / 4 * 64 + kLane * 4 + k % 4], row[k / 32 * 34 + 2 + k % 32]) << k;
  }
  const uint64_t scales = PanelScalesOffset(QuantType::kQ8_0, kCols);
  EXPECT_EQ(scales, 1024u);
  EXPECT_EQ(panel[scales + 16 * 2 + kLane * 2], row[34]);
}

TEST(PanelLayoutTest, BitsOfWideAndNarrowCodesLieWhereTheHeaderSays) {
  constexpr int64_t kCols = 256;
  constexpr int kLane = 5;
  struct Case {
    QuantType type;
    int low_bits, high_bits;
  };
  for (const Case& c : {Case{QuantType::kQ6_K, 4, 2}, Case{QuantType::kQ3_K, 2, 1}, Case{QuantType::kQ5_K, 4, 1}}) {
    const std::vector<std::byte> row = RandomBytes(9, RowBytes(c.type, kCols));
    std::array<const std::byte*, kPanelRows> rows = {};
    rows[kLane] = row.data();
    std::vector<std::byte> panel(PanelBytes(c.type, kCols));
    PackPanel(c.type, rows, kCols, panel.data());
    for (int column = 0; column < kCols; ++column) {
      const int code = LoadCodes(c.type, row.data(), column / 32)[static_cast<size_t>(column % 32)];
      const int quad = column % 32 / 4;
      const std::byte* block = panel.data() + column / 32 * 64 * (c.low_bits + c.high_bits) + 4 * kLane + column % 4;
      const int low = std::to_integer<int>(block[64 * (quad * c.low_bits / 8)]) >> quad * c.low_bits % 8;
      const int high =
          std::to_integer<int>(block[64 * (c.low_bits + quad * c.high_bits / 8)]) >> quad * c.high_bits % 8;
      EXPECT_EQ(low & ((1 << c.low_bits) - 1), code & ((1 << c.low_bits) - 1)) << column;
      EXPECT_EQ(high & ((1 << c.high_bits) - 1), code >> c.low_bits) << column;
      EXPECT_EQ(PanelCode(c.type, panel.data(), kLane, column), code);
    }
    const std::byte* table = panel.data() + PanelScalesOffset(c.type, kCols);
    const StoredScales scales = LoadScales(c.type, row.data(), 3);
    EXPECT_TRUE(std::equal(table + 2 * kLane, table + 2 * kLane + 2, std::as_bytes(std::span(&scales.d, 1)).begin()));
    const int halves = c.type == QuantType::kQ5_K ? 64 : 32, group_bytes = c.type == QuantType::kQ5_K ? 32 : 16;
    EXPECT_EQ(table[halves + 3 * group_bytes + kLane], std::byte{scales.group_scale});
  }
}

TEST(PanelLayoutTest, FloatPanelsHaveNoScales) {
  EXPECT_EQ(PanelScalesOffset(QuantType::kF16, 64), 0u);
  EXPECT_EQ(PanelBytes(QuantType::kF16, 3), 96u);
  EXPECT_EQ(PanelBytes(QuantType::kF32, 3), 192u);
}

}  // namespace
}  // namespace dogstar
