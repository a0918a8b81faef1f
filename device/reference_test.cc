// The reference itself, against mathematics in double.
#include "device/reference.h"

#include <array>
#include <cmath>
#include <numeric>

#include "base/panel.h"
#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

std::vector<float> RandomFloats(uint64_t seed, int64_t count) {
  SplitMix64 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Uniform() * 4 - 2);
  return values;
}

TEST(ReferenceTest, ActivationsAreRoundedToNearestEven) {
  std::vector<float> x(64, 0.0f);
  x[0] = 127;
  x[1] = -126.5f;  // between two codes: the even one
  x[2] = 1.5f;
  x[3] = 0.49f;
  const reference::Int8Row row = reference::QuantizeActivations(x);
  EXPECT_EQ(row.scales, (std::vector<float>{1.0f, 0.0f}));
  EXPECT_EQ(row.codes[0], 127);
  EXPECT_EQ(row.codes[1], -126);
  EXPECT_EQ(row.codes[2], 2);
  EXPECT_EQ(row.codes[3], 0);
  EXPECT_EQ(row.codes[32], 0);
}

TEST(ReferenceTest, TinyActivationsHaveNoCodes) {
  const reference::Int8Row row = reference::QuantizeActivations(std::vector<float>(32, 1e-40f));
  EXPECT_EQ(row.codes, std::vector<int32_t>(32, 0));
}

// Blocks of one value m1, one -m2 and zeros.
TEST(ReferenceTest, ALargeActivationIsKeptApart) {
  struct Case {
    float m1, m2;
    int32_t code1, code2;
    float scale;
  };
  const Case cases[] = {
      {4, 2, 127, -64, 4 / 127.0f},                 // 63.5: even; not more than twice
      {-5, 2, -318, -127, 2 / 127.0f},              // 317.5: even
      {8000, 2, 508000, -127, 2 / 127.0f},          // the largest ratio
      {8002, 2, 127, 0, 8002 / 127.0f},             // beyond it
      {3, 3, 127, -127, 3 / 127.0f},                // equal
      {7, 0, 127, 0, 7 / 127.0f},                   // alone
      {9e-37f, 3e-37f, 127, -42, 9e-37f / 127.0f},  // 127 / m2 is not finite, 127 / m1 is
      {1e38f, 2e37f, 635, -127, 2e37f / 127.0f},    // twice and 4000 times m2 are beyond the floats
  };
  for (const Case& c : cases) {
    std::vector<float> x(32);
    x[9] = c.m1;
    x[20] = -c.m2;
    std::vector<int32_t> codes(32);
    codes[9] = c.code1;
    codes[20] = c.code2;
    const reference::Int8Row row = reference::QuantizeActivations(x);
    EXPECT_EQ(row.codes, codes) << c.m1 << " " << c.m2;
    EXPECT_EQ(row.scales[0], c.scale) << c.m1 << " " << c.m2;
  }
}

TEST(ReferenceTest, ExpIsTheExponential) {
  for (float x = -87.0f; x < 88.0f; x += 0.0137f) {
    EXPECT_NEAR(reference::Exp(x) / std::exp(static_cast<double>(x)), 1.0, 2e-7) << x;
  }
  EXPECT_EQ(reference::Exp(-INFINITY), 0.0f);
  EXPECT_EQ(reference::Exp(0), 1.0f);
  EXPECT_TRUE(std::isfinite(reference::Exp(1000)));
}

TEST(ReferenceTest, ActivationsAreSiluAndGelu) {
  for (double x = -20; x < 20; x += 0.037) {
    const float g = static_cast<float>(x);
    const double silu = g / (1 + std::exp(-double{g}));
    const double gelu = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * std::pow(double{g}, 3))));
    EXPECT_NEAR(reference::Activate(FfnActivation::kSilu, g), silu, 1e-6 * (1 + std::fabs(silu)));
    EXPECT_NEAR(reference::Activate(FfnActivation::kGeluTanh, g), gelu, 2e-6 * (1 + std::fabs(gelu)));
  }
}

TEST(ReferenceTest, LanesAreAddedEightApartFirst) {
  std::array<float, 16> lanes = {};
  lanes[0] = 1e8f;
  lanes[8] = -1e8f;  // cancels lane 0 before lane 1 could be lost in it
  lanes[1] = 1;
  EXPECT_EQ(reference::SumLanes(lanes), 1.0f);
}

TEST(ReferenceTest, DotIsCloseToTheDecodedProduct) {
  for (const QuantType type :
       {QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16, QuantType::kBF16, QuantType::kF32}) {
    constexpr int kCols = 256;
    const std::vector<float> x = RandomFloats(1, kCols);
    std::vector<std::byte> row(RowBytes(type, kCols));
    QuantizeRow(type, RandomFloats(2, kCols).data(), kCols, row.data());
    std::vector<float> weights(kCols);
    DequantizeRow(type, row.data(), kCols, weights.data());
    const double expected = std::inner_product(x.begin(), x.end(), weights.begin(), 0.0);
    EXPECT_NEAR(reference::Dot(type, row.data(), x, true), expected, 1e-4) << TraitsOf(type).name;
    EXPECT_NEAR(reference::Dot(type, row.data(), x, false), expected, 0.5) << TraitsOf(type).name;
  }
}

TEST(ReferenceTest, RmsNormHasUnitMeanSquare) {
  const std::vector<float> x = RandomFloats(3, 50), ones(50, 1.0f);
  std::vector<float> out(50);
  reference::RmsNorm(x, ones, 0, out);
  EXPECT_NEAR(std::inner_product(out.begin(), out.end(), out.begin(), 0.0) / 50, 1.0, 1e-6);
}

TEST(ReferenceTest, RopeKeepsLengthsAndRelativeAngles) {
  const std::vector<float> frequencies = {1.0f, 0.1f};
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    const RopeParams params{pairing, 6, 4, frequencies};
    const std::vector<float> q = RandomFloats(4, 6), k = RandomFloats(5, 6);
    const auto product = [&](int q_position, int k_position) {
      std::vector<float> a = q, b = k;
      reference::Rope(params, TokenPos{q_position}, a);
      reference::Rope(params, TokenPos{k_position}, b);
      EXPECT_EQ(a[4], q[4]);  // passes through
      return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    };
    EXPECT_NEAR(product(100, 93), product(7, 0), 1e-5);
    EXPECT_NE(product(100, 93), product(8, 0));
  }
}

TEST(ReferenceTest, AttentionIsSoftmaxOverValues) {
  constexpr int kDim = 20, kCount = 7;
  const std::vector<float> q = RandomFloats(6, kDim), keys = RandomFloats(7, kDim * kCount),
                           values = RandomFloats(8, kDim * kCount);
  std::vector<double> weights(kCount);
  for (int j = 0; j < kCount; ++j) {
    weights[j] = std::exp(0.2 * std::inner_product(q.begin(), q.end(), keys.begin() + j * kDim, 0.0));
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<float> out(kDim);
  reference::AttentionHead(q, keys, values, 0.2f, out);
  for (int i = 0; i < kDim; ++i) {
    double expected = 0;
    for (int j = 0; j < kCount; ++j) expected += weights[j] / sum * values[j * kDim + i];
    EXPECT_NEAR(out[i], expected, 1e-5);
  }
}

TEST(BackendSizesTest, KvAndOverlaySizes) {
  const KvShape shape{.layers = 2, .kv_head_count = 3, .head_dim = 40, .slots = 128, .type = KvType::kF16};
  EXPECT_EQ(KvHeadStride(KvType::kF16, 40), 48);
  EXPECT_EQ(KvHeadStride(KvType::kQ8_0, 40), 64);
  EXPECT_EQ(KvHeadBytes(KvType::kQ8_0, 40), 68);
  EXPECT_EQ(KvDataBytes(shape), uint64_t{2 * 2 * 3 * 128 * 48 * 2});
  EXPECT_EQ(OverlayDownPanelBytes(QuantType::kQ4_0, 32), 256u);
  EXPECT_EQ(OverlayDownPanelBytes(QuantType::kQ8_0, 32), 512u);
  EXPECT_EQ(OverlayDownPanelBytes(QuantType::kF16, 32), PanelBytes(QuantType::kF16, 32));
}

}  // namespace
}  // namespace dogstar
