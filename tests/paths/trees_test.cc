// Drafts that are trees, and drafts that are tried twice. That their texts are the dense ones: identity_test.cc.
#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::RunModel;
using testing_support::RunOutput;
using testing_support::TestFolder;

class TreesTest : public testing::Test {
 protected:
  TreesTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config_.corrector.mode = RunMode::kDense;
    config_.threads = 2;
  }
  static void Strict(Config* config, int32_t period) {
    config->corrector.mode = RunMode::kStrict;
    config->corrector.period = period;
    config->corrector.adaptive = false;
  }

  static constexpr char kPrompt[] = "A tiny model says nothing of sense.";
  TestFolder folder_;
  Config config_;
};

// A tree has the chain among its paths: in the same cycles it can only win more. A beam's paths reach as far.
TEST_F(TreesTest, TreesWinTokensThatAChainLoses) {
  Config config = config_;
  config.draft.density = 0.5;
  Strict(&config, 6);
  const auto tokens_of = [&](TreeShape shape, int32_t width) {
    config.draft.tree = shape, config.draft.width = width;
    return RunModel(config, kPrompt, 121).value().result;
  };
  const GenerationResult chain = tokens_of(TreeShape::kChain, 1);
  const GenerationResult best = tokens_of(TreeShape::kBest, 4), beam = tokens_of(TreeShape::kBeam, 4);
  EXPECT_EQ(best.tokens, chain.tokens);
  EXPECT_EQ(beam.tokens, chain.tokens);
  EXPECT_GT(best.accepted_mean(), chain.accepted_mean());
  EXPECT_GT(best.drafts_verified, best.draft_steps);
  EXPECT_LE(best.cycle_tokens.size(), 7U);  // no path is longer than the period
  EXPECT_GT(beam.accepted_mean(), 1);
}

// Drafts behind a replaced one need no pass of their own.
TEST_F(TreesTest, RepairsAreVerifiedWithoutADraftStep) {
  Config config = config_;
  config.draft.density = 0.5;
  Strict(&config, 8);
  const GenerationResult plain = RunModel(config, kPrompt, 121).value().result;
  config.corrector.repair = true;
  const GenerationResult repaired = RunModel(config, kPrompt, 121).value().result;
  EXPECT_EQ(repaired.tokens, plain.tokens);
  EXPECT_LT(static_cast<double>(repaired.draft_steps) / static_cast<double>(repaired.full_passes),
            static_cast<double>(plain.draft_steps) / static_cast<double>(plain.full_passes));
}

// The published rule on a tree: all drafts stand at threshold 0, none above 1.
TEST_F(TreesTest, ThresholdsOfTreesAtTheirEnds) {
  const RunOutput dense = RunModel(config_, kPrompt, 25).value();
  Config config = config_;
  config.corrector.mode = RunMode::kSirius;
  config.corrector.period = 6;
  config.draft.density = 0.4;
  config.draft.tree = TreeShape::kBeam;
  config.corrector.threshold = 0;
  EXPECT_EQ(RunModel(config, kPrompt, 25).value().result.accepted_mean(), 6);
  config.corrector.threshold = 1.5;
  EXPECT_EQ(RunModel(config, kPrompt, 25).value().result.tokens, dense.result.tokens);
}

}  // namespace
}  // namespace dogstar
