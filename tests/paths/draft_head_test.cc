// Heads of frequent tokens: drafts' logits are the model's for the tokens that are held, and strict text stays dense.
#include "runtime/draft_head.h"

#include <cmath>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

class DraftHeadTest : public testing::Test {
 protected:
  DraftHeadTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config_.corrector.mode = RunMode::kStrict;
    config_.corrector.adaptive = false;
    config_.corrector.period = 4;
    config_.threads = 2;
  }

  // Logits of one draft step after a prompt.
  std::vector<float> DraftLogits(const Config& config) const {
    auto opened = testing_support::OpenModel(config, 64, 4).value();
    std::vector<float> last;
    Generator generator(opened.engine.get());
    const std::vector<TokenId> tokens = opened.model->tokenizer().Encode("A tiny model of the dog star", {});
    CHECK(generator
              .CompareDrafts(tokens, static_cast<int32_t>(tokens.size()) - 2,
                             [&](TokenId, std::span<const float>, std::span<const float> draft) {
                               last.assign(draft.begin(), draft.end());
                             },
                             {})
              .ok());
    return last;
  }

  testing_support::TestFolder folder_;
  Config config_;
};

TEST_F(DraftHeadTest, FrequentTokensAreDistinctAndEndTokensAreAmongThem) {
  const auto model = ModelFile::Open(config_.model).value();
  const int32_t vocabulary = model->config().vocab_size;
  const int32_t first = vocabulary / 2;
  const std::vector<TokenId> tokens = FrequentTokens(model->tokenizer(), vocabulary, first, 1000);
  std::set<int32_t> distinct;
  for (const TokenId token : tokens) {
    EXPECT_GE(ToInt(token), first);
    distinct.insert(ToInt(token));
  }
  EXPECT_EQ(distinct.size(), tokens.size());
  EXPECT_FALSE(tokens.empty());
  for (const TokenId token : model->tokenizer().end_tokens()) {
    EXPECT_TRUE(ToInt(token) < first || distinct.contains(ToInt(token)));
  }
  EXPECT_LE(FrequentTokens(model->tokenizer(), vocabulary, 0, 7).size(), 7U);
}

TEST_F(DraftHeadTest, LogitsAreTheModelsForTheTokensThatAreHeld) {
  const std::vector<float> whole = DraftLogits(config_);
  config_.draft.vocabulary = 64;
  const std::vector<float> part = DraftLogits(config_);
  ASSERT_EQ(part.size(), whole.size());
  size_t held = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    if (std::isinf(part[i])) continue;
    ++held;
    EXPECT_EQ(part[i], whole[i]) << "token " << i;
  }
  EXPECT_GE(held, 64U);
  EXPECT_LT(held, whole.size());
}

TEST_F(DraftHeadTest, StrictTextIsTheDenseTextUnderAnyBudget) {
  Config dense = config_;
  dense.corrector.mode = RunMode::kDense;
  const auto expected = testing_support::RunModel(dense, "A tiny model", 40).value();
  const uint64_t whole = testing_support::OpenModel(config_, 64, 4).value().engine->placement().planned_bytes;
  int drafting = 0;
  for (const double temperature : {0.0, 0.9}) {
    dense.sampling.temperature = config_.sampling.temperature = temperature;
    const auto text = testing_support::RunModel(dense, "A tiny model", 40).value();
    for (const uint64_t less : {uint64_t{0}, uint64_t{512} << 10, uint64_t{1} << 20, uint64_t{2} << 20}) {
      config_.budget.ram = whole + (uint64_t{1} << 20) - less;
      config_.draft.vocabulary = 96;
      const auto run = testing_support::RunModel(config_, "A tiny model", 40);
      if (absl::IsResourceExhausted(run.status())) continue;
      ASSERT_TRUE(run.ok()) << run.status();
      EXPECT_EQ(run->result.tokens, text.result.tokens);
      drafting += run->result.draft_steps > 0;
    }
  }
  EXPECT_GE(drafting, 2);
}

}  // namespace
}  // namespace dogstar
