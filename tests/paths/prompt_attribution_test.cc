// Drafts by attribution along the prompt: the rows are those that a pass over the plain file finds, and strict text
// stays dense.
#include "runtime/prompt_attribution.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::HasSubstr;

constexpr char kPrompt[] = "A tiny model of the dog star says nothing of sense";

class PromptAttributionTest : public testing::Test {
 protected:
  PromptAttributionTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_1, true);
    source_ = config_.model;
    config_.threads = 2;
    config_.corrector.mode = RunMode::kStrict;
    config_.corrector.period = 4;
    config_.corrector.adaptive = false;
    config_.draft.predictor = "prompt-attribution";
    config_.draft.density = 0.25;
  }

  absl::Status Refusal(const Config& config) const { return testing_support::RunModel(config, kPrompt, 4).status(); }

  testing_support::TestFolder folder_;
  std::string source_;
  Config config_;
};

// Scores of a layer's neurons by gradients taken one token at a time.
std::vector<std::vector<double>> ScoresByToken(const ModelFile& source, std::span<const TokenId> tokens) {
  const ModelConfig& c = source.config();
  const AttributionPass::Options options{.precise = false, .rows = static_cast<int32_t>(tokens.size())};
  const auto pass = AttributionPass::Create(&source, options).value();
  std::vector<std::vector<double>> scores(static_cast<size_t>(c.layer_count),
                                          std::vector<double>(static_cast<size_t>(c.ffn_rows)));
  for (size_t t = 0; t < tokens.size(); ++t) {
    CHECK(pass->Forward(AttributionBatch::Text(tokens.first(t + 1)), nullptr).ok());
    const std::optional<TokenId> label =
        t + 1 < tokens.size() ? std::optional<TokenId>(tokens[t + 1]) : std::optional<TokenId>();
    const auto add = [&](const LayerAttribution& found) {
      double square = 0;
      for (const float g : found.ffn_gradient) square += double{g} * double{g};
      for (size_t i = 0; i < found.ffn.size(); ++i) {
        const double x = double{found.ffn[i]}, g = double{found.ffn_gradient[i]};
        scores[static_cast<size_t>(ToInt(found.layer))][i] += -g * x + std::abs(x) * std::sqrt(square) / 2;
      }
    };
    CHECK(pass->Backward({&label, 1}, LayerIndex{0}, add).ok());
  }
  return scores;
}

TEST_F(PromptAttributionTest, ChoosesTheRowsThatOnePassForEachTokenFinds) {
  config_.model = ChooseModel(config_, {}).value().path;
  config_.draft.attribution_tokens = 9;
  const auto opened = testing_support::OpenModel(config_, 64, 4).value();
  Generator generator(opened.engine.get());
  const std::vector<TokenId> prompt = opened.model->tokenizer().Encode(kPrompt, {});
  ASSERT_GT(prompt.size(), 9U);
  GenerationResult result;
  ASSERT_TRUE(generator.Generate(prompt, {.max_tokens = 6, .ignore_end = true}, &result).ok());

  const auto source = ModelFile::Open(source_).value();
  const auto scores = ScoresByToken(*source, std::span(prompt).last(9));
  for (size_t i = 0; i < scores.size(); ++i) {
    const std::vector<NeuronIndex>& order = opened.model->packed()->layers()[i].row_order;
    const auto rows = static_cast<int32_t>(order.size());
    RowSet all;
    all.Reset(rows);
    for (int32_t row = 0; row < rows; ++row) all.Insert(RowIndex{row});
    const RowSet* chosen = opened.engine->predictor().Choose(LayerIndex{static_cast<int32_t>(i)}, all);
    ASSERT_NE(chosen, nullptr);
    EXPECT_EQ(chosen->count(), rows / 4);
    double least = 1e30, most = -1e30;  // of those that are in, of those that are out
    for (int32_t row = 0; row < rows; ++row) {
      const double score = scores[i][static_cast<size_t>(ToInt(order[static_cast<size_t>(row)]))];
      if (chosen->Contains(RowIndex{row})) {
        least = std::min(least, score);
      } else {
        most = std::max(most, score);
      }
    }
    // int8 activations round by the rows of a pass: scores at the border may be nearer than that.
    EXPECT_GE(least, most - 1e-3 * std::abs(most)) << "layer " << i;
  }
}

TEST_F(PromptAttributionTest, StrictTextIsDenseAndTheChoiceIsThePrompts) {
  Config strict = config_;
  strict.model = ChooseModel(config_, {}).value().path;
  Config dense = strict;
  dense.corrector.mode = RunMode::kDense;
  const auto expected = testing_support::RunModel(dense, kPrompt, 24);
  const auto found = testing_support::RunModel(strict, kPrompt, 24);
  ASSERT_TRUE(expected.ok() && found.ok()) << expected.status() << found.status();
  EXPECT_EQ(found->result.tokens, expected->result.tokens);
  EXPECT_GT(found->result.draft_steps, 0);
  // The sparse model alone says something else with these rows than with the file's first ones.
  strict.corrector.mode = RunMode::kSparse;
  const auto sparse = testing_support::RunModel(strict, kPrompt, 24);
  strict.draft.predictor = "resident";
  const auto resident = testing_support::RunModel(strict, kPrompt, 24);
  ASSERT_TRUE(sparse.ok() && resident.ok()) << sparse.status() << resident.status();
  EXPECT_NE(sparse->result.tokens, resident->result.tokens);
}

TEST_F(PromptAttributionTest, SaysWhichFileItNeeds) {
  Config config = config_;
  config.model = ChooseModel(config_, {}).value().path;
  const std::string moved = folder_.Path("elsewhere.gguf");
  std::filesystem::rename(source_, moved);
  const absl::Status missing = Refusal(config);
  EXPECT_TRUE(absl::IsFailedPrecondition(missing)) << missing;
  EXPECT_THAT(missing.message(), HasSubstr("draft.source"));
  config.draft.source = moved;
  EXPECT_TRUE(Refusal(config).ok()) << Refusal(config);
  config.draft.source = config.model;
  EXPECT_THAT(Refusal(config).message(), HasSubstr("has no FFN matrices"));
  testing_support::TestFolder other;
  config.draft.source = testing_support::WriteTinyModel(other, QuantType::kQ8_0, true);
  EXPECT_THAT(Refusal(config).message(), HasSubstr("another file"));
  config.draft.density = -1;  // every resident row: no scores are needed, nor the file
  EXPECT_TRUE(Refusal(config).ok());
}

TEST_F(PromptAttributionTest, ItsMemoryIsInTheBudget) {
  Config config = config_;
  config.model = ChooseModel(config_, {}).value().path;
  config.budget.ram = uint64_t{64} << 20;
  const auto opened = testing_support::OpenModel(config, 64, 4);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto& lines = opened->engine->placement().lines;
  const auto line = std::ranges::find(lines, "attribution of prompts", &PlanLine::what);
  ASSERT_NE(line, lines.end());
  EXPECT_GT(line->resident_bytes, 100'000U);
}

}  // namespace
}  // namespace dogstar
