#include "runtime/backward_stages.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "device/functions.h"
#include "device/reference.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using Values = std::vector<double>;
using StageFn = std::function<Values(const Values&)>;

constexpr double kStep = 1e-5;
constexpr double kBound = 2e-5;  // of the largest derivative: f32 results against f64 differences

Values Random(size_t size, uint64_t seed, double scale = 1) {
  SplitMix64 random(seed);
  Values values(size);
  for (double& value : values) value = static_cast<float>(scale * (2 * random.Uniform() - 1));  // exact in both types
  return values;
}

std::vector<float> Floats(const Values& values) { return {values.begin(), values.end()}; }

double Dot(const Values& a, const Values& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

// d (stage(x) . dout) / dx by central differences.
Values Differences(const StageFn& stage, const Values& x, const Values& dout) {
  Values result(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    Values above = x, below = x;
    above[i] += kStep;
    below[i] -= kStep;
    result[i] = (Dot(stage(above), dout) - Dot(stage(below), dout)) / (2 * kStep);
  }
  return result;
}

void ExpectNear(std::span<const float> ours, const Values& expected) {
  ASSERT_EQ(ours.size(), expected.size());
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], expected[i], kBound * largest) << i;
}

Values NormForward(const Values& x, const Values& weight, double epsilon) {
  const double r = 1 / std::sqrt(Dot(x, x) / static_cast<double>(x.size()) + epsilon);
  Values out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] * r * weight[i];
  return out;
}

double ActivationOf(FfnActivation activation, double g) {
  if (activation == FfnActivation::kSilu) return g / (1 + std::exp(-g));
  return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
}

TEST(BackwardStagesTest, RmsNormIsTheDifferences) {
  for (const double scale : {0.01, 1.0, 100.0}) {
    const Values x = Random(48, 1, scale), weight = Random(48, 2), dout = Random(48, 3);
    std::vector<float> dx(48);
    RmsNormBackward(Floats(x), Floats(weight), 1e-5F, Floats(dout), dx);
    const double step_scale = scale;  // differences in units of x
    const auto stage = [&](const Values& unit) {
      Values at = unit;
      for (double& value : at) value *= step_scale;
      return NormForward(at, weight, 1e-5F);
    };
    Values unit = x;
    for (double& value : unit) value /= step_scale;
    Values expected = Differences(stage, unit, dout);
    for (double& value : expected) value /= step_scale;
    ExpectNear(dx, expected);
  }
}

TEST(BackwardStagesTest, RmsNormMayOverwriteItsGradient) {
  const std::vector<float> x = Floats(Random(32, 1)), weight = Floats(Random(32, 2));
  std::vector<float> dx = Floats(Random(32, 3)), apart(32);
  RmsNormBackward(x, weight, 1e-5F, dx, apart);
  RmsNormBackward(x, weight, 1e-5F, dx, dx);
  EXPECT_EQ(dx, apart);
}

TEST(BackwardStagesTest, HeadRmsNormIsTheDifferencesOfEachHead) {
  const Values x = Random(32, 4), weight = Random(16, 5), dout = Random(32, 6);
  std::vector<float> dx(32);
  HeadRmsNormBackward(Floats(x), Floats(weight), 1e-6F, Floats(dout), dx);
  const auto stage = [&](const Values& at) {
    Values out = NormForward({at.begin(), at.begin() + 16}, weight, 1e-6F);
    const Values second = NormForward({at.begin() + 16, at.end()}, weight, 1e-6F);
    out.insert(out.end(), second.begin(), second.end());
    return out;
  };
  ExpectNear(dx, Differences(stage, x, dout));
}

TEST(BackwardStagesTest, RopeTurnsBack) {
  const std::vector<float> frequencies = {1.0F, 0.3F, 0.01F};
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    const RopeParams params{pairing, 8, 6, frequencies};
    const Values x = Random(16, 7), dout = Random(16, 8);
    std::vector<float> dx = Floats(dout);
    RopeBackward(params, TokenPos{37}, dx);
    // Linear: differences of any step are exact, so the forward pass in f32 will do.
    for (size_t i = 0; i < x.size(); ++i) {
      std::vector<float> basis(16, 0.0F);
      basis[i] = 1;
      reference::Rope(params, TokenPos{37}, basis);
      EXPECT_NEAR(dx[i], Dot({basis.begin(), basis.end()}, dout), 1e-6);
    }
  }
}

TEST(BackwardStagesTest, GatedActivationsAreTheDifferences) {
  for (const FfnActivation activation : {FfnActivation::kSilu, FfnActivation::kGeluTanh}) {
    const Values gate = Random(64, 9, 6), up = Random(64, 10), dz = Random(64, 11);
    std::vector<float> dgate(64), dup(64);
    GatedActivationBackward(activation, Floats(gate), Floats(up), Floats(dz), dgate, dup);
    const auto of_gate = [&](const Values& at) {
      Values z(64);
      for (size_t i = 0; i < z.size(); ++i) z[i] = ActivationOf(activation, at[i]) * up[i];
      return z;
    };
    const auto of_up = [&](const Values& at) {
      Values z(64);
      for (size_t i = 0; i < z.size(); ++i) z[i] = ActivationOf(activation, gate[i]) * at[i];
      return z;
    };
    ExpectNear(dgate, Differences(of_gate, gate, dz));
    ExpectNear(dup, Differences(of_up, up, dz));
  }
}

TEST(BackwardStagesTest, FarGatesHaveFiniteDerivatives) {
  for (const FfnActivation activation : {FfnActivation::kSilu, FfnActivation::kGeluTanh}) {
    EXPECT_NEAR(ActivationDerivative(activation, 1000), 1, 1e-6);
    EXPECT_NEAR(ActivationDerivative(activation, -1000), 0, 1e-6);
  }
}

TEST(BackwardStagesTest, SoftCapIsTheDifferences) {
  for (const float x : {-120.0F, -3.0F, 0.0F, 20.0F, 80.0F}) {
    const double cap = 30, expected = 1 - std::pow(std::tanh(x / cap), 2);
    EXPECT_NEAR(SoftCapBackward(30, SoftCap(30, x), 2), 2 * expected, 1e-5);
    const double difference = (cap * std::tanh((x + kStep) / cap) - cap * std::tanh((x - kStep) / cap)) / (2 * kStep);
    EXPECT_NEAR(expected, difference, 1e-7);
  }
}

TEST(BackwardStagesTest, CrossEntropyIsTheDifferences) {
  const Values logits = Random(40, 12, 5);
  std::vector<float> dlogits(40);
  const double loss = CrossEntropyBackward(Floats(logits), TokenId{7}, dlogits);
  const auto stage = [](const Values& at) {
    double total = 0;
    for (const double value : at) total += std::exp(value);
    return Values{std::log(total) - at[7]};
  };
  EXPECT_NEAR(loss, stage(logits)[0], 1e-6);
  ExpectNear(dlogits, Differences(stage, logits, {1}));
}

TEST(BackwardStagesTest, ASureLabelKeepsTheDigitsOfItsGradient) {
  const std::vector<float> logits = {40, 0, 1};
  std::vector<float> dlogits(3);
  CrossEntropyBackward(logits, TokenId{0}, dlogits);
  EXPECT_NEAR(dlogits[0] / -(std::exp(-40.0) + std::exp(-39.0)), 1, 1e-6);
}

// One head of 8 dimensions over 5 keys, of which the query sees 1, 2 and its own, 4.
class AttentionStageTest : public testing::Test {
 protected:
  static constexpr size_t kDim = 8;
  static constexpr double kScale = 0.35;
  Values q_ = Random(kDim, 13, 3), keys_ = Random(5 * kDim, 14), values_ = Random(5 * kDim, 15),
         dout_ = Random(kDim, 16);

  static Values Attend(const Values& q, const Values& keys, const Values& values) {
    Values weights;
    double total = 0;
    for (const size_t j : {1, 2, 4}) {
      double score = 0;
      for (size_t i = 0; i < kDim; ++i) score += q[i] * keys[j * kDim + i];
      weights.push_back(std::exp(kScale * score));
      total += weights.back();
    }
    Values out(kDim);
    size_t at = 0;
    for (const size_t j : {1, 2, 4}) {
      for (size_t i = 0; i < kDim; ++i) out[i] += weights[at] / total * values[j * kDim + i];
      ++at;
    }
    return out;
  }

  struct Gradients {
    std::vector<float> dq = std::vector<float>(kDim), dkeys = std::vector<float>(5 * kDim),
                       dvalues = std::vector<float>(5 * kDim), p = std::vector<float>(3),
                       out = std::vector<float>(kDim);
    float c = 0;
  };
  Gradients Ours(GradientScope scope) const {
    Gradients g;
    const std::vector<float> keys = Floats(keys_), values = Floats(values_);
    const SeenKeys seen{keys.data(), values.data(), kDim, 1, 3, 4};
    AttendHead(Floats(q_), seen, kScale, g.p, g.out);
    g.c = AttendHeadBackward(Floats(q_), seen, kScale, g.p, g.out, Floats(dout_), scope, g.dq, g.dkeys.data(),
                             g.dvalues.data());
    return g;
  }
};

TEST_F(AttentionStageTest, CausalGradientsAreTheDifferences) {
  const Gradients ours = Ours(GradientScope::kCausal);
  ExpectNear(ours.out, Attend(q_, keys_, values_));
  ExpectNear(ours.dq, Differences([&](const Values& q) { return Attend(q, keys_, values_); }, q_, dout_));
  ExpectNear(ours.dkeys, Differences([&](const Values& keys) { return Attend(q_, keys, values_); }, keys_, dout_));
  ExpectNear(ours.dvalues,
             Differences([&](const Values& values) { return Attend(q_, keys_, values); }, values_, dout_));
}

TEST_F(AttentionStageTest, OwnGradientsAreThoseOfTheOwnKeyAndValue) {
  Gradients own = Ours(GradientScope::kOwn), causal = Ours(GradientScope::kCausal);
  EXPECT_EQ(own.dq, causal.dq);
  std::fill(causal.dkeys.begin(), causal.dkeys.begin() + 4 * kDim, 0.0F);
  std::fill(causal.dvalues.begin(), causal.dvalues.begin() + 4 * kDim, 0.0F);
  EXPECT_EQ(own.dkeys, causal.dkeys);
  EXPECT_EQ(own.dvalues, causal.dvalues);
}

// c_h = do_h . o_h = sum of p_j dp_j
TEST_F(AttentionStageTest, TheHeadsOwnScoreIsTheSumOfItsProbabilities) {
  const Gradients ours = Ours(GradientScope::kOwn);
  double expected = 0;
  size_t at = 0;
  for (const size_t j : {1, 2, 4}) {
    double dp = 0;
    for (size_t i = 0; i < kDim; ++i) dp += dout_[i] * values_[j * kDim + i];
    expected += ours.p[at++] * dp;
  }
  EXPECT_NEAR(ours.c, expected, 1e-6);
}

}  // namespace
}  // namespace dogstar
