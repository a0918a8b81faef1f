// The registers that tiles are made of, against what PTX says of them, and tiles on the host against plain sums.
#include "gpu/tiles.h"

#include <array>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar::gpu {
namespace {

using Codes = std::array<std::array<int8_t, kBlockColumns>, 16>;  // [row][column]

Codes RandomCodes(uint64_t seed) {
  SplitMix64 random(seed);
  Codes codes;
  for (auto& row : codes) {
    for (int8_t& code : row) code = static_cast<int8_t>(random.Next());
  }
  return codes;
}

// Element (row, column) that element i of a thread's fragment is, as "Matrix Fragments for mma.m16n8k32" (and k16) of
// the PTX ISA have it for 8-bit integers.
struct Element {
  int row, column;
};
Element ElementOfA(int thread, int i) {
  const int group = thread >> 2, in_group = thread % 4;
  const bool first_rows = i < 4 || (i >= 8 && i < 12);
  return {first_rows ? group : group + 8, in_group * 4 + (i & 3) + (i < 8 ? 0 : 16)};
}
Element ElementOfB(int thread, int i) { return {(thread % 4) * 4 + (i & 3) + (i < 4 ? 0 : 16), thread >> 2}; }
Element ElementOfD(int thread, int i) { return {i < 2 ? thread >> 2 : (thread >> 2) + 8, (thread % 4) * 2 + (i & 1)}; }

TEST(TilesTest, RegistersHoldWhatMmaExpects) {
  for (int thread = 0; thread < kWarpThreads; ++thread) {
    const WarpPlace at = WarpPlace::Of(thread + 3 * kWarpThreads);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(at.LaneOfA(i / 4), ElementOfA(thread, i).row);
      EXPECT_EQ(4 * at.QuadOfA(i / 4) + i % 4, ElementOfA(thread, i).column);
    }
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(4 * at.QuadOfB(i / 4) + i % 4, ElementOfB(thread, i).row);
      EXPECT_EQ(at.g, ElementOfB(thread, i).column);
    }
    for (int i = 0; i < kOutputs; ++i) {
      EXPECT_EQ(at.Lane(i), ElementOfD(thread, i).row);
      EXPECT_EQ(at.Row(i), ElementOfD(thread, i).column);
    }
    // Of k16, which has half of them: registers 2 h and 2 h + 1 of A and h of B, columns counted from the half on.
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 8; ++i) {
        EXPECT_EQ(at.LaneOfA(2 * half + i / 4), ElementOfA(thread, i).row);
        EXPECT_EQ(4 * at.QuadOfA(2 * half + i / 4) + i % 4, 16 * half + ElementOfA(thread, i).column);
      }
      for (int i = 0; i < 4; ++i) EXPECT_EQ(4 * at.QuadOfB(half) + i, 16 * half + ElementOfB(thread, i).row);
    }
  }
}

// A panel block of Q8_0, whose codes are the weights, and activation rows of the same width.
TEST(TilesTest, TilesAreTheSumsOfTheirColumns) {
  const Codes weights = RandomCodes(1), codes = RandomCodes(2);
  using Format = FormatOf<QuantType::kQ8_0>;
  std::vector<std::byte> block(Format::kBlockBytes);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int k = 0; k < kBlockColumns; ++k) {
      block[static_cast<size_t>(k / 4 * kVectorBytes + lane * 4 + k % 4)] =
          static_cast<std::byte>(weights[static_cast<size_t>(lane)][static_cast<size_t>(k)]);
    }
  }
  ActivationView x;
  std::vector<int8_t> rows;
  for (int row = 0; row < kMmaRows; ++row) {
    rows.insert(rows.end(), codes[static_cast<size_t>(row)].begin(), codes[static_cast<size_t>(row)].end());
  }
  x.codes = rows.data();
  x.cols = kBlockColumns;
  constexpr int32_t kExisting = 7;  // the last row does not exist
  for (const QuadRange& range : {QuadRange{}, QuadRange{0, 4}, QuadRange{4, 4}, QuadRange{2, 2}, QuadRange{5, 1}}) {
    for (int thread = 0; thread < kWarpThreads; ++thread) {
      const WarpPlace at = WarpPlace::Of(thread);
      int32_t products[kOutputs], sums[kOutputs];
      const CodeTile tile = CodeTile::Load(x, 0, 0, kExisting, at);
      Multiply(WeightTile::Load<Format>(block.data(), at), tile, range, at, products);
      Multiply(WeightTile::Ones(), tile, range, at, sums);
      for (int i = 0; i < kOutputs; ++i) {
        int32_t expected = 0, expected_sum = 0;
        for (int k = 4 * range.first; k < 4 * (range.first + range.count) && at.Row(i) < kExisting; ++k) {
          const int32_t code = codes[static_cast<size_t>(at.Row(i))][static_cast<size_t>(k)];
          expected += code * weights[static_cast<size_t>(at.Lane(i))][static_cast<size_t>(k)];
          expected_sum += code;
        }
        EXPECT_EQ(products[i], expected);
        EXPECT_EQ(sums[i], expected_sum);
      }
    }
  }
}

}  // namespace
}  // namespace dogstar::gpu
