// Where drafts cannot pay, strict mode is dense mode: the memory that drafts would need holds weights.
#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

constexpr int32_t kContext = 64, kRows = 64;  // logits of so many rows are what drafts need

class FallbackTest : public testing::Test {
 protected:
  FallbackTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config_.corrector.period = kRows;
  }
  bool Fits(RunMode mode, uint64_t budget, int32_t rows) {
    config_.corrector.mode = mode;
    config_.budget.ram = budget;
    const auto opened = testing_support::OpenModel(config_, kContext, rows);
    return opened.ok() && opened->engine->placement().everything_resident();
  }
  // The smallest budget, by steps, that holds the whole model.
  uint64_t Smallest(RunMode mode, int32_t rows) {
    constexpr uint64_t kStep = 32 << 10;
    uint64_t budget = testing_support::kProgramBytes;
    while (!Fits(mode, budget, rows)) budget += kStep;
    return budget;
  }

  testing_support::TestFolder folder_;
  Config config_;
};

TEST_F(FallbackTest, AModelThatFitsWithoutDraftsIsNotStreamedForThem) {
  const uint64_t whole = Smallest(RunMode::kDense, 1);
  config_.corrector.mode = RunMode::kStrict;
  config_.budget.ram = whole + (64 << 10);  // strict mode has tables of its own
  config_.corrector.adaptive = false;
  EXPECT_FALSE(testing_support::OpenModel(config_, kContext, kRows)->engine->placement().everything_resident());
  config_.corrector.adaptive = true;
  const auto opened = testing_support::OpenModel(config_, kContext, kRows);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->engine->placement().everything_resident());
  EXPECT_EQ(opened->engine->forward().limits().logit_rows, 1);
  const auto run = testing_support::RunModel(config_, "A tiny model", 20);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->result.draft_steps, 0);
  EXPECT_EQ(run->complement_bytes, 0U);
  config_.corrector.mode = RunMode::kDense;
  EXPECT_EQ(run->result.tokens, testing_support::RunModel(config_, "A tiny model", 20)->result.tokens);
}

}  // namespace
}  // namespace dogstar
