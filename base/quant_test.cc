#include "base/quant.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr QuantType kRunnable[] = {QuantType::kF32,  QuantType::kF16,   QuantType::kBF16, QuantType::kQ8_0,
                                   QuantType::kQ4_0, QuantType::kQ4_1,  QuantType::kQ5_0, QuantType::kQ5_1,
                                   QuantType::kQ2_K, QuantType::kQ3_K,  QuantType::kQ4_K, QuantType::kQ5_K,
                                   QuantType::kQ6_K, QuantType::kIQ4_NL};

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
    case QuantType::kQ5_0:
      return 1.0f / 16 + 0x1p-10f;
    case QuantType::kQ5_1:
      return 1.0f / 31 + 0x1p-10f;
    case QuantType::kIQ4_NL:
      return 0.5f * 31 / 127 + 0.1f;  // the widest step, and 14 of 127 that one side lacks
    case QuantType::kQ2_K:
      return 1.0f / 3 + 0.16f;  // with scales and minimums of four bits
    case QuantType::kQ3_K:
      return 1.0f / 4 + 0.08f;
    case QuantType::kQ4_K:
      return 1.0f / 15 + 0.035f;
    case QuantType::kQ5_K:
      return 1.0f / 31 + 0.035f;
    case QuantType::kQ6_K:
      return 1.0f / 32 + 0.01f;
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
  const absl::StatusOr<QuantType> parsed = ParseQuantType("IQ2_S");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), AllOf(HasSubstr("IQ2_S"), HasSubstr("Q4_K"), HasSubstr("BF16")));
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
  const std::vector<float> zeros(512, 0.0f);
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
  std::vector<float> values(256, std::numeric_limits<float>::quiet_NaN());
  values[3] = std::numeric_limits<float>::infinity();
  for (const QuantType type : kRunnable) RoundTrip(type, values);
}

TEST(QuantTest, RowBytesCountsBlocks) {
  EXPECT_EQ(RowBytes(QuantType::kQ4_0, 2048), 2048u / 32 * 18);
  EXPECT_EQ(RowBytes(QuantType::kBF16, 7), 14u);
  EXPECT_EQ(RowBytes(QuantType::kF32, 0), 0u);
}

TEST(QuantDeathTest, ARowOfPartsOfBlocksIsOurMistake) { EXPECT_DEATH(RowBytes(QuantType::kQ4_0, 33), "CHECK"); }

// The formats with 256 weights a block, decoded step by step as their publication walks through the bytes; the product
// finds each weight on its own (PlaceOf).
class SuperBlock {
 public:
  explicit SuperBlock(QuantType type) : bytes_(TraitsOf(type).block_bytes) {
    SplitMix64 random(static_cast<uint64_t>(type));
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(random.Next());
  }
  int at(int i) const { return bytes_[static_cast<size_t>(i)]; }
  float half(int i) const { return HalfToFloat(static_cast<uint16_t>(at(i) | at(i + 1) << 8)); }
  void SetHalf(int i, float value) {
    const uint16_t half = FloatToHalf(value);
    std::memcpy(bytes_.data() + i, &half, 2);
  }
  std::vector<float> Decoded(QuantType type) const {
    std::vector<float> out(256);
    DequantizeRow(type, reinterpret_cast<const std::byte*>(bytes_.data()), 256, out.data());
    return out;
  }

 private:
  std::vector<uint8_t> bytes_;
};

void ExpectSame(const std::vector<float>& decoded, const std::vector<float>& expected) {
  ASSERT_EQ(expected.size(), 256u);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(decoded[i], expected[i]) << i;
}

TEST(SuperBlockTest, Q2_K) {
  SuperBlock block(QuantType::kQ2_K);
  block.SetHalf(80, 0.5f);
  block.SetHalf(82, 0.25f);
  std::vector<float> expected;
  for (int half = 0, scale = 0; half < 2; ++half) {
    for (int shift = 0; shift < 8; shift += 2) {
      for (int part = 0; part < 2; ++part, ++scale) {
        for (int i = 0; i < 16; ++i) {
          const int code = block.at(16 + 32 * half + 16 * part + i) >> shift & 3;
          expected.push_back(0.5f * static_cast<float>((block.at(scale) & 15) * code) -
                             0.25f * static_cast<float>(block.at(scale) >> 4));
        }
      }
    }
  }
  ExpectSame(block.Decoded(QuantType::kQ2_K), expected);
}

TEST(SuperBlockTest, Q3_K) {
  SuperBlock block(QuantType::kQ3_K);
  block.SetHalf(108, 0.5f);
  int scales[16];
  for (int i = 0; i < 4; ++i) {
    const int high = block.at(96 + 8 + i);
    scales[i] = (block.at(96 + i) & 15) | (high & 3) << 4;
    scales[4 + i] = (block.at(96 + 4 + i) & 15) | (high >> 2 & 3) << 4;
    scales[8 + i] = block.at(96 + i) >> 4 | (high >> 4 & 3) << 4;
    scales[12 + i] = block.at(96 + 4 + i) >> 4 | (high >> 6 & 3) << 4;
  }
  std::vector<float> expected;
  for (int half = 0, group = 0, bit = 0; half < 2; ++half) {
    for (int shift = 0; shift < 8; shift += 2, ++bit) {
      for (int part = 0; part < 2; ++part, ++group) {
        for (int i = 16 * part; i < 16 * part + 16; ++i) {
          const int code = (block.at(32 + 32 * half + i) >> shift & 3) - ((block.at(i) >> bit & 1) != 0 ? 0 : 4);
          expected.push_back(0.5f * static_cast<float>((scales[group] - 32) * code));
        }
      }
    }
  }
  ExpectSame(block.Decoded(QuantType::kQ3_K), expected);
}

// Scale and minimum of a group of Q4_K and Q5_K; the twelve bytes start at 4.
std::pair<int, int> PairOf(const SuperBlock& block, int group) {
  const auto at = [&](int i) { return block.at(4 + i); };
  if (group < 4) return {at(group) & 63, at(group + 4) & 63};
  return {(at(group + 4) & 15) | at(group - 4) >> 6 << 4, at(group + 4) >> 4 | at(group) >> 6 << 4};
}

void CheckPairs(QuantType type, int codes_at, bool fifth_bit) {
  SuperBlock block(type);
  block.SetHalf(0, 0.5f);
  block.SetHalf(2, 0.25f);
  std::vector<float> expected;
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = PairOf(block, group);
    for (int i = 0; i < 32; ++i) {
      const int byte = block.at(codes_at + group / 2 * 32 + i);
      int code = group % 2 == 0 ? byte & 15 : byte >> 4;
      if (fifth_bit) code += (block.at(16 + i) >> group & 1) * 16;
      expected.push_back(0.5f * static_cast<float>(scale * code) - 0.25f * static_cast<float>(minimum));
    }
  }
  ExpectSame(block.Decoded(type), expected);
}
TEST(SuperBlockTest, Q4_K) { CheckPairs(QuantType::kQ4_K, 16, false); }
TEST(SuperBlockTest, Q5_K) { CheckPairs(QuantType::kQ5_K, 48, true); }

TEST(SuperBlockTest, Q6_K) {
  SuperBlock block(QuantType::kQ6_K);
  block.SetHalf(208, 0.5f);
  std::vector<float> expected(256);
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 32; ++i) {
      const int high = block.at(128 + 32 * half + i);
      const int low0 = block.at(64 * half + i), low1 = block.at(64 * half + 32 + i);
      const int codes[4] = {(low0 & 15) | (high & 3) << 4, (low1 & 15) | (high >> 2 & 3) << 4,
                            low0 >> 4 | (high >> 4 & 3) << 4, low1 >> 4 | (high >> 6 & 3) << 4};
      for (int part = 0; part < 4; ++part) {
        const int weight = 128 * half + 32 * part + i;
        const auto scale = static_cast<int8_t>(block.at(192 + weight / 16));
        expected[static_cast<size_t>(weight)] = 0.5f * static_cast<float>(scale * (codes[part] - 32));
      }
    }
  }
  ExpectSame(block.Decoded(QuantType::kQ6_K), expected);
}

TEST(QuantTest, FifthBitsAreOneWord) {
  std::byte block[22] = {};
  const uint16_t one = FloatToHalf(1.0f);
  std::memcpy(block, &one, 2);
  const uint32_t bits = 0x80010003u;
  std::memcpy(block + 2, &bits, 4);
  float weights[32];
  DequantizeRow(QuantType::kQ5_0, block, 32, weights);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(weights[i], (bits >> i & 1) != 0 ? 0.0f : -16.0f) << i;
}

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
