#include "base/quant.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr QuantType kRunnable[] = {QuantType::kF32,  QuantType::kF16,  QuantType::kBF16,
                                   QuantType::kQ8_0, QuantType::kQ4_0, QuantType::kQ4_1};

std::vector<float> RandomValues(uint64_t seed, int64_t count) {
  SplitMix64 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Uniform() * 2 - 1);
  return values;
}

std::vector<float> RoundTrip(QuantType type, const std::vector<float>& values) {
  const auto cols = static_cast<int64_t>(values.size());
  std::vector<std::byte> row(RowBytes(type, cols));
  QuantizeRow(type, values.data(), cols, row.data());
  std::vector<float> decoded(values.size());
  DequantizeRow(type, row.data(), cols, decoded.data());
  return decoded;
}

// The rounding error a type may have for weights in [-1, 1], by the width of its codes.
float LargestError(QuantType type) {
  switch (type) {
    case QuantType::kF32:
      return 0;
    case QuantType::kF16:
      return 0x1p-12f;
    case QuantType::kBF16:
      return 0x1p-9f;
    case QuantType::kQ8_0:
      return 0.5f / 127 + 0x1p-11f;
    case QuantType::kQ4_0:
      return 1.0f / 8 + 0x1p-10f;  // the code range has one step less on the side away from the largest weight
    case QuantType::kQ4_1:
      return 1.0f / 15 + 0x1p-10f;
  }
  return 0;
}

TEST(QuantTest, EveryTypeNumberOfGgufHasItsSize) {
  struct Case {
    uint32_t type;
    const char* name;
    int block_weights, block_bytes;
  };
  const Case cases[] = {{0, "F32", 1, 4},       {2, "Q4_0", 32, 18},    {8, "Q8_0", 32, 34},   {12, "Q4_K", 256, 144},
                        {14, "Q6_K", 256, 210}, {20, "IQ4_NL", 32, 18}, {28, "F64", 1, 8},     {30, "BF16", 1, 2},
                        {34, "TQ1_0", 256, 54}, {39, "MXFP4", 32, 17},  {29, "IQ1_M", 256, 56}};
  for (const Case& c : cases) {
    const QuantTraits* traits = FindQuantTraits(c.type);
    ASSERT_NE(traits, nullptr) << c.name;
    EXPECT_EQ(traits->name, c.name);
    EXPECT_EQ(traits->block_weights, c.block_weights) << c.name;
    EXPECT_EQ(traits->block_bytes, c.block_bytes) << c.name;
  }
}

TEST(QuantTest, UnknownTypeNumbersHaveNoTraits) {
  for (const uint32_t type : {4u, 5u, 31u, 32u, 33u, 36u, 38u, 1000u, 0xffffffffu}) {
    EXPECT_EQ(FindQuantTraits(type), nullptr) << type;
  }
}

TEST(QuantTest, OnlyTheEnumsTypesRun) {
  int runnable = 0;
  for (uint32_t type = 0; type < 64; ++type) {
    const QuantTraits* traits = FindQuantTraits(type);
    if (traits == nullptr) continue;
    EXPECT_EQ(traits->gguf_type, type);
    runnable += traits->runnable;
  }
  EXPECT_EQ(runnable, static_cast<int>(std::size(kRunnable)));
}

TEST(QuantTest, ParseGivesBackEveryName) {
  for (const QuantType type : kRunnable) {
    const absl::StatusOr<QuantType> parsed = ParseQuantType(TraitsOf(type).name);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, type);
  }
}

TEST(QuantTest, ParseNamesTheTypesThatRun) {
  const absl::StatusOr<QuantType> parsed = ParseQuantType("Q4_K");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), AllOf(HasSubstr("Q4_K"), HasSubstr("Q8_0"), HasSubstr("BF16")));
}

TEST(QuantTest, QuantizedWeightsAreNearTheirSource) {
  const std::vector<float> values = RandomValues(1, 4096);
  for (const QuantType type : kRunnable) {
    const std::vector<float> decoded = RoundTrip(type, values);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(decoded[i], values[i], LargestError(type)) << TraitsOf(type).name << " weight " << i;
    }
  }
}

TEST(QuantTest, ZerosStayZeros) {
  const std::vector<float> zeros(64, 0.0f);
  for (const QuantType type : kRunnable) EXPECT_EQ(RoundTrip(type, zeros), zeros) << TraitsOf(type).name;
}

TEST(QuantTest, Q4_0PutsLowNibblesFirst) {
  std::byte block[18] = {};
  const uint16_t half_of_one = FloatToHalf(1.0f);
  std::memcpy(block, &half_of_one, 2);
  for (int i = 0; i < 16; ++i) block[2 + i] = static_cast<std::byte>(i | (15 - i) << 4);
  float weights[32];
  DequantizeRow(QuantType::kQ4_0, block, 32, weights);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(weights[i], static_cast<float>(i - 8));
    EXPECT_EQ(weights[16 + i], static_cast<float>(7 - i));
  }
}

TEST(QuantTest, Q4_0KeepsTheLargestWeightOfEitherSign) {
  for (const float largest : {8.0f, -8.0f}) {
    std::vector<float> values(32, 1.0f);
    values[5] = largest;
    EXPECT_EQ(RoundTrip(QuantType::kQ4_0, values), values);
  }
}

TEST(QuantTest, Q4_1KeepsTheMinimumExactly) {
  std::vector<float> values(32);
  for (int i = 0; i < 32; ++i) values[i] = 3.0f + static_cast<float>(i % 16);
  EXPECT_EQ(RoundTrip(QuantType::kQ4_1, values), values);
}

TEST(QuantTest, Q8_0RoundsTiesAwayFromZero) {
  std::vector<float> values(32, 0.0f);
  values[0] = 127;
  values[1] = 2.5f;
  values[2] = -2.5f;
  const std::vector<float> decoded = RoundTrip(QuantType::kQ8_0, values);
  EXPECT_EQ(decoded[1], 3.0f);
  EXPECT_EQ(decoded[2], -3.0f);
}

TEST(QuantTest, WeightsThatAreNoNumbersAreStoredWithoutHarm) {
  std::vector<float> values(32, std::numeric_limits<float>::quiet_NaN());
  values[3] = std::numeric_limits<float>::infinity();
  for (const QuantType type : kRunnable) RoundTrip(type, values);
}

TEST(QuantTest, RowBytesCountsBlocks) {
  EXPECT_EQ(RowBytes(QuantType::kQ4_0, 2048), 2048u / 32 * 18);
  EXPECT_EQ(RowBytes(QuantType::kBF16, 7), 14u);
  EXPECT_EQ(RowBytes(QuantType::kF32, 0), 0u);
}

TEST(QuantDeathTest, ARowOfPartsOfBlocksIsOurMistake) { EXPECT_DEATH(RowBytes(QuantType::kQ4_0, 33), "CHECK"); }

TEST(HalfTest, EveryHalfSurvivesTheWayThroughFloat) {
  for (uint32_t half = 0; half <= 0xffff; ++half) {
    const float value = HalfToFloat(static_cast<uint16_t>(half));
    const uint16_t back = FloatToHalf(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(back))) << half;
    } else {
      ASSERT_EQ(back, half);
    }
  }
}

TEST(HalfTest, KnownValues) {
  EXPECT_EQ(HalfToFloat(0x3c00), 1.0f);
  EXPECT_EQ(HalfToFloat(0xc000), -2.0f);
  EXPECT_EQ(HalfToFloat(0x7bff), 65504.0f);
  EXPECT_EQ(HalfToFloat(0x0001), 0x1p-24f);
  EXPECT_EQ(HalfToFloat(0x03ff), 1023 * 0x1p-24f);
  EXPECT_EQ(HalfToFloat(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(HalfToFloat(0x8000)));
}

// Between two neighbouring halves lies one float that is as near to both: it must go to the even one, and its own
// neighbours to the half that is nearer.
TEST(HalfTest, RoundsToNearestEvenEverywhere) {
  for (uint16_t half = 0; half < 0x7bff; ++half) {
    const float low = HalfToFloat(half);
    const float high = HalfToFloat(static_cast<uint16_t>(half + 1));
    const float middle = (low + high) / 2;
    const uint16_t even = half % 2 == 0 ? half : static_cast<uint16_t>(half + 1);
    ASSERT_EQ(FloatToHalf(middle), even) << half;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), half) << half;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 1e6f)), half + 1) << half;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << half;
  }
}

TEST(HalfTest, LargeNumbersBecomeInfinity) {
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-3e38f), 0xfc00);
}

TEST(HalfTest, TinyNumbersBecomeZeroOfTheirSign) {
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);  // a tie with 2^-24: zero is even
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(FloatToHalf(-1e-40f), 0x8000);
}

TEST(Bfloat16Test, RoundsToNearestEven) {
  EXPECT_EQ(FloatToBfloat16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBfloat16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(FloatToBfloat16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(FloatToBfloat16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBfloat16(std::bit_cast<float>(0x7f7fffffu)), 0x7f80);  // the largest float rounds to infinity
}

TEST(Bfloat16Test, NanStaysNan) {
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace dogstar
