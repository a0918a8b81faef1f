#include "base/panel.h"

#include <algorithm>
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
  static constexpr int64_t kCols = 160;

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
  const std::vector<std::byte> zeros(RowBytes(GetParam(), kCols));
  for (int lane = 0; lane < kPanelRows; ++lane) EXPECT_EQ(Unpacked(lane), lane < 5 ? source_[lane] : zeros) << lane;
}

TEST_P(PanelTest, BytesAreWholeCacheLines) {
  for (const int64_t cols : {32, 64, 96, 2048}) EXPECT_EQ(PanelBytes(GetParam(), cols) % 64, 0u) << cols;
  EXPECT_EQ(PanelMatrixBytes(GetParam(), 17, 32), 2 * PanelBytes(GetParam(), 32));
  EXPECT_EQ(PanelMatrixBytes(GetParam(), 0, 32), 0u);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, PanelTest,
                         ::testing::Values(QuantType::kF32, QuantType::kF16, QuantType::kBF16, QuantType::kQ8_0,
                                           QuantType::kQ4_0, QuantType::kQ4_1),
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

TEST(PanelLayoutTest, FloatPanelsHaveNoScales) {
  EXPECT_EQ(PanelScalesOffset(QuantType::kF16, 64), 0u);
  EXPECT_EQ(PanelBytes(QuantType::kF16, 3), 96u);
  EXPECT_EQ(PanelBytes(QuantType::kF32, 3), 192u);
}

}  // namespace
}  // namespace dogstar
