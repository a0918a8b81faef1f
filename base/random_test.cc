#include "base/random.h"

#include <set>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

double UniformOf(uint32_t word0, uint32_t word1) {
  return static_cast<double>((uint64_t{word1} << 32 | word0) >> 11) * 0x1p-53;
}

// The first two words of the known answers that the authors of Philox publish with their library.
TEST(KeyedUniformTest, AgreesWithThePublishedAnswersOfPhilox) {
  EXPECT_EQ(KeyedUniform(0, 0, 0), UniformOf(0x6627e8d5, 0xe169c58d));
  EXPECT_EQ(KeyedUniform(UINT64_MAX, UINT64_MAX, UINT64_MAX), UniformOf(0x408f276d, 0x41c83b0e));
  EXPECT_EQ(KeyedUniform(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            UniformOf(0xd16cfe09, 0x94fdcceb));
}

TEST(KeyedUniformTest, EveryPartOfTheKeyMatters) {
  std::set<double> values;
  for (uint64_t i = 0; i < 4; ++i) {
    for (uint64_t j = 0; j < 4; ++j) {
      for (uint64_t k = 0; k < 4; ++k) values.insert(KeyedUniform(i, j << 32, k));
    }
  }
  EXPECT_EQ(values.size(), 64u);
}

TEST(KeyedUniformTest, IsUniform) {
  constexpr int kDraws = 20000;
  double sum = 0;
  for (int position = 0; position < kDraws; ++position) {
    const double value = KeyedUniform(1, 2, position);
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.01);
}

TEST(SplitMix64Test, AgreesWithKnownNumbers) {
  SplitMix64 random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317u);
  EXPECT_EQ(random.Next(), 3203168211198807973u);
}

}  // namespace
}  // namespace dogstar
