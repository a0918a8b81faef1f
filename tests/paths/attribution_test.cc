// Attribution on whole models: finite differences through a changed forward pass on tiny models of every architecture,
// and PyTorch's autograd on the demo model (tests/golden/smollm2_attribution.json).
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <numeric>

#include "gtest/gtest.h"
#include "predictors/attribution_scores.h"
#include "runtime/attribution.h"
#include "runtime/integrated_gradients.h"
#include "tests/support/model_run.h"
#include "tests/support/tiny_model.h"

namespace dogstar {
namespace {

using testing_support::TestFolder;
using Labels = std::vector<std::optional<TokenId>>;

constexpr double kBound = 1e-3;  // relative error of a score
constexpr double kFloor = 0.1;   // smaller scores: relative to this share of the norm of their layer's
constexpr int32_t kTakes = 128;  // rows that integrated gradients may need

std::vector<TokenId> Ids(const nlohmann::json& ids) {
  std::vector<TokenId> tokens;
  for (int32_t id : ids) tokens.push_back(TokenId{id});
  return tokens;
}

// One layer's units and gradients, kept.
struct KeptLayer {
  int32_t rows = 0;
  std::vector<float> ffn, ffn_gradient, head, head_gradient;

  const std::vector<float>& units(UnitKind kind) const { return kind == UnitKind::kFfn ? ffn : head; }
  const std::vector<float>& gradients(UnitKind kind) const {
    return kind == UnitKind::kFfn ? ffn_gradient : head_gradient;
  }
  // g x of a row's units; of heads the sum over their dimensions.
  std::vector<double> Gxo(UnitKind kind, int32_t row, int32_t unit_width) const {
    const size_t cols = units(kind).size() / static_cast<size_t>(rows), begin = static_cast<size_t>(row) * cols;
    std::vector<double> scores(cols / static_cast<size_t>(unit_width));
    for (size_t i = 0; i < cols; ++i) {
      scores[i / static_cast<size_t>(unit_width)] += double{units(kind)[begin + i]} * gradients(kind)[begin + i];
    }
    return scores;
  }
};

struct Kept {
  std::vector<RowLoss> losses;
  std::map<int32_t, KeptLayer> layers;
};

Kept Collect(AttributionPass* pass, const Labels& labels) {
  Kept kept;
  const auto visit = [&](const LayerAttribution& at) {
    const auto copy = [](std::span<const float> values) { return std::vector<float>(values.begin(), values.end()); };
    kept.layers[ToInt(at.layer)] = {at.rows, copy(at.ffn), copy(at.ffn_gradient), copy(at.head),
                                    copy(at.head_gradient)};
  };
  kept.losses = pass->Backward(labels, LayerIndex{0}, visit).value();
  return kept;
}

std::unique_ptr<AttributionPass> NewPass(const ModelFile& model, GradientScope scope, int threads = 2) {
  return AttributionPass::Create(&model, {.threads = threads, .rows = kTakes, .scope = scope}).value();
}

double Sum(const std::vector<RowLoss>& losses) {
  double sum = 0;
  for (const RowLoss& row : losses) sum += row.loss;
  return sum;
}

// d loss / d factor at 1, of one unit's (or all units') output at one row: central differences of fourth order, whose
// steps are long enough for what f32 logits can tell apart.
double Difference(AttributionPass* pass, const std::vector<TokenId>& tokens, const Labels& labels, UnitChange change) {
  constexpr double kStep = 0.0625;
  const auto loss = [&](double factor) {
    change.factors = {static_cast<float>(factor)};
    CHECK(pass->Forward(AttributionBatch::Text(tokens), &change).ok());
    return Sum(pass->Losses(labels).value());
  };
  const double near = loss(1 + kStep) - loss(1 - kStep), far = loss(1 + 2 * kStep) - loss(1 - 2 * kStep);
  return (8 * near - far) / (12 * kStep);
}

// The units with the largest scores, and a few of the others.
std::vector<int32_t> SomeUnits(const std::vector<double>& scores) {
  const std::vector<float> values(scores.begin(), scores.end());
  std::vector<int32_t> units = TopUnits(values, 4, true);
  for (int32_t unit = 1; unit < static_cast<int32_t>(scores.size()); unit += 37) units.push_back(unit);
  return units;
}

class AttributionTest : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    entry_ = testing_support::ReadTinyModels()[GetParam()];
    testing_support::WriteTinyGguf(entry_, folder_.Path("tiny.gguf"));
    model_ = ModelFile::Open(folder_.Path("tiny.gguf")).value();
    tokens_ = Ids(entry_["tokens"]);
    for (size_t i = 1; i < tokens_.size(); ++i) next_.push_back(tokens_[i]);
    next_.push_back(std::nullopt);
  }

  int32_t WidthOf(UnitKind kind) const { return kind == UnitKind::kFfn ? 1 : model_->config().head_dim; }

  // The scores of `row` in every layer against differences of the sum of the losses of `labels`.
  void ExpectDifferences(AttributionPass* pass, const Kept& kept, const Labels& labels, int32_t row, int32_t kept_row) {
    double largest = 0;
    for (const auto& [layer, at] : kept.layers) {
      for (const UnitKind kind : {UnitKind::kFfn, UnitKind::kHead}) {
        const std::vector<double> scores = at.Gxo(kind, kept_row, WidthOf(kind));
        double norm = 0;
        for (const double score : scores) norm += score * score;
        std::vector<int32_t> units = SomeUnits(scores);
        units.push_back(-1);
        for (const int32_t unit : units) {
          const double ours =
              unit < 0 ? std::accumulate(scores.begin(), scores.end(), 0.0) : scores[static_cast<size_t>(unit)];
          const double expected = Difference(pass, tokens_, labels, {LayerIndex{layer}, kind, unit, row, {}});
          const double error = std::fabs(ours - expected) / std::max(std::fabs(expected), kFloor * std::sqrt(norm));
          largest = std::max(largest, error);
          EXPECT_LT(error, kBound) << "layer " << layer << (kind == UnitKind::kFfn ? " neuron " : " head ") << unit
                                   << ": " << ours << ", by differences " << expected;
        }
      }
    }
    std::printf("%s: largest relative error %.2g\n", std::string(entry_["name"]).c_str(), largest);
  }

  TestFolder folder_;
  nlohmann::json entry_;
  std::unique_ptr<ModelFile> model_;
  std::vector<TokenId> tokens_;
  Labels next_;  // of each position; the last one's is its own choice
};

TEST_P(AttributionTest, ScoresOfTheLastPositionAreTheDifferences) {
  const auto pass = NewPass(*model_, GradientScope::kOwn);
  ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), nullptr).ok());
  const Labels label = {TokenId{42}};
  const Kept kept = Collect(pass.get(), label);
  ASSERT_EQ(kept.layers.size(), static_cast<size_t>(model_->config().layer_count));
  ExpectDifferences(pass.get(), kept, label, static_cast<int32_t>(tokens_.size()) - 1, 0);
}

TEST_P(AttributionTest, CausalScoresAreTheDifferencesOfTheSumOfLosses) {
  const auto pass = NewPass(*model_, GradientScope::kCausal);
  ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), nullptr).ok());
  Labels labels = next_;
  labels.back() = TokenId{7};
  const Kept kept = Collect(pass.get(), labels);
  ExpectDifferences(pass.get(), kept, labels, 5, 5);
}

TEST_P(AttributionTest, TheDiagonalBackwardIsTokenByToken) {
  const auto pass = NewPass(*model_, GradientScope::kOwn);
  ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), nullptr).ok());
  const Kept all = Collect(pass.get(), next_);
  for (const size_t row : {size_t{0}, size_t{9}, tokens_.size() - 1}) {
    const auto begin = std::span(tokens_).first(row + 1);
    ASSERT_TRUE(pass->Forward(AttributionBatch::Text(begin), nullptr).ok());
    const Kept one = Collect(pass.get(), {next_[row]});
    EXPECT_NEAR(one.losses[0].loss, all.losses[row].loss, 1e-6);
    for (const auto& [layer, at] : one.layers) {
      for (const UnitKind kind : {UnitKind::kFfn, UnitKind::kHead}) {
        const std::vector<float>& ours = at.gradients(kind);
        const auto batched = std::span(all.layers.at(layer).gradients(kind)).subspan(row * ours.size(), ours.size());
        for (size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(batched[i], ours[i], 1e-5 * Norm2(ours)) << layer;
      }
    }
  }
}

TEST_P(AttributionTest, ThreadsChangeNothing) {
  Kept kept[2];
  for (const int threads : {1, 2}) {
    const auto pass = NewPass(*model_, GradientScope::kOwn, threads);
    ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), nullptr).ok());
    kept[threads - 1] = Collect(pass.get(), next_);
  }
  for (const auto& [layer, at] : kept[0].layers) {
    EXPECT_EQ(at.ffn_gradient, kept[1].layers[layer].ffn_gradient);
    EXPECT_EQ(at.head_gradient, kept[1].layers[layer].head_gradient);
  }
}

// One step is GxO; many add up to what the loss loses on the way from nothing to all.
TEST_P(AttributionTest, IntegratedGradientsBeginAtGxoAndAreComplete) {
  const auto pass = NewPass(*model_, GradientScope::kOwn);
  ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), nullptr).ok());
  const TokenId label{42};
  const Kept kept = Collect(pass.get(), {label});
  const auto expect_gxo = [&](LayerIndex layer, UnitKind kind, std::span<const float> units,
                              std::span<const float> gradient) {
    const KeptLayer& at = kept.layers.at(ToInt(layer));
    for (size_t i = 0; i < units.size(); ++i) {
      EXPECT_NEAR(units[i], at.units(kind)[i], 1e-5 * Norm2(at.units(kind)));
      EXPECT_NEAR(gradient[i], at.gradients(kind)[i], 1e-5 * Norm2(at.gradients(kind)));
    }
  };
  ASSERT_TRUE(IntegrateGradients(pass.get(), tokens_, label, 1, expect_gxo).ok());
  // A norm after the module undoes a common factor: all of the way is next to zero, where no step of the sum is.
  if (model_->config().post_norms) return;

  std::map<std::pair<int32_t, UnitKind>, double> sums;
  const auto add = [&](LayerIndex layer, UnitKind kind, std::span<const float> units, std::span<const float> gradient) {
    sums[{ToInt(layer), kind}] = std::inner_product(units.begin(), units.end(), gradient.begin(), 0.0);
  };
  ASSERT_TRUE(IntegrateGradients(pass.get(), tokens_, label, 100, add).ok());
  for (const auto& [where, sum] : sums) {
    UnitChange change{LayerIndex{where.first}, where.second, -1, static_cast<int32_t>(tokens_.size()) - 1, {1.0F}};
    ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), &change).ok());
    const double whole = Sum(pass->Losses(Labels{label}).value());
    change.factors = {0.0F};
    ASSERT_TRUE(pass->Forward(AttributionBatch::Text(tokens_), &change).ok());
    const double none = Sum(pass->Losses(Labels{label}).value());
    EXPECT_NEAR(sum, whole - none, 0.03 + 0.03 * std::fabs(whole - none)) << "layer " << where.first;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AttributionTest, testing::Range<size_t>(0, testing_support::ReadTinyModels().size()),
                         [](const auto& test) {
                           std::string name = testing_support::ReadTinyModels()[test.param]["name"];
                           std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
                           return name;
                         });

TEST(AttributionRefusalTest, PackedFilesSmallBudgetsAndUnknownTokensAreRefused) {
  const TestFolder folder;
  const auto packed = ModelFile::Open(testing_support::WriteTinyModel(folder, QuantType::kQ4_0, false)).value();
  EXPECT_EQ(AttributionPass::Create(packed.get(), {.rows = 4}).status().code(), absl::StatusCode::kUnimplemented);
  const auto plain = ModelFile::Open(testing_support::WriteTinyModel(folder, QuantType::kQ4_0, true)).value();
  EXPECT_EQ(AttributionPass::Create(plain.get(), {.rows = 4, .memory_bytes = 1000}).status().code(),
            absl::StatusCode::kResourceExhausted);
  const auto pass = AttributionPass::Create(plain.get(), {.rows = 4}).value();
  const std::vector<TokenId> unknown = {TokenId{1 << 20}}, known = {TokenId{1}};
  EXPECT_EQ(pass->Forward(AttributionBatch::Text(unknown), nullptr).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(pass->Forward(AttributionBatch::Text(known), nullptr).ok());
  EXPECT_EQ(pass->Losses(Labels{TokenId{-1}}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace dogstar
