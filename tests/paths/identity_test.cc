// Strict mode gives the bytes of the dense run, whatever the budget, period, predictor, threads and temperature.
#include <algorithm>
#include <cstdlib>
#include <ostream>

#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::RunModel;
using testing_support::RunOutput;
using testing_support::TestFolder;

constexpr uint64_t kMiB = 1 << 20;

struct Variant {
  std::string name;
  std::function<void(Config*)> change;
};

void Strict(Config* config, int32_t period, bool adaptive) {
  config->corrector.mode = RunMode::kStrict;
  config->corrector.period = period;
  config->corrector.adaptive = adaptive;
}

std::vector<Variant> Variants(uint64_t budget) {
  return {
      {"dense, budget", [=](Config* c) { c->budget.ram = budget; }},
      {"dense, budget, pread, one thread",
       [=](Config* c) { c->budget.ram = budget, c->io.engine = IoEngine::kPread, c->threads = 1; }},
      {"strict, period 4", [=](Config* c) { c->budget.ram = budget, Strict(c, 4, false); }},
      {"strict, period 8, one thread", [=](Config* c) { c->budget.ram = budget, c->threads = 1, Strict(c, 8, false); }},
      {"strict, period 16, griffin at half",
       [=](Config* c) {
         c->budget.ram = budget, c->draft.predictor = "griffin", c->draft.density = 0.5;
         Strict(c, 16, false);
       }},
      {"strict, adaptive", [=](Config* c) { c->budget.ram = budget, Strict(c, 16, true); }},
      {"strict, everything resident, density 0.3",
       [=](Config* c) {
         c->draft.density = 0.3;
         Strict(c, 8, false);
       }},
  };
}

void ExpectAllEqual(const Config& base, const std::string& prompt, int32_t tokens, uint64_t budget) {
  const absl::StatusOr<RunOutput> dense = RunModel(base, prompt, tokens);
  ASSERT_TRUE(dense.ok()) << dense.status();
  EXPECT_EQ(dense->complement_bytes, 0U);
  for (const Variant& variant : Variants(budget)) {
    Config config = base;
    variant.change(&config);
    const absl::StatusOr<RunOutput> output = RunModel(config, prompt, tokens);
    ASSERT_TRUE(output.ok()) << variant.name << ": " << output.status();
    EXPECT_EQ(output->result.tokens, dense->result.tokens) << variant.name << ", prompt: " << prompt;
    if (config.budget.ram) {
      EXPECT_GT(output->complement_bytes, 0U) << variant.name;
    }
  }
}

// A budget that holds attention, head and half of the FFN, from the planner's own figures.
uint64_t BudgetForHalfTheFfn(const Config& base) {
  const auto opened = testing_support::OpenModel(base, 64, 16);
  CHECK(opened.ok());
  uint64_t weights = 0;
  for (const PlanLine& line : opened->engine->placement().lines) {
    if (line.what.starts_with("FFN")) weights += line.total_bytes / 2;
    if (line.what.starts_with("attention") || line.what.starts_with("head")) weights += line.total_bytes;
  }
  Config config = base;
  config.budget.ram = 64 * 1024;
  const absl::Status refused = testing_support::OpenModel(config, 64, 16).status();
  CHECK(refused.code() == absl::StatusCode::kResourceExhausted);
  const std::string message(refused.message());
  const double smallest_mib = std::strtod(message.c_str() + message.find("works is ") + 9, nullptr);
  return static_cast<uint64_t>(smallest_mib * kMiB) + weights;
}

class TinyIdentityTest : public testing::TestWithParam<QuantType> {};

TEST_P(TinyIdentityTest, EveryVariantGivesTheDenseTokens) {
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, GetParam(), false);
  config.corrector.mode = RunMode::kDense;
  config.threads = 2;
  const uint64_t budget = BudgetForHalfTheFfn(config);
  for (double temperature : {0.0, 0.8}) {
    config.sampling.temperature = temperature;
    ExpectAllEqual(config, "A tiny model says nothing of sense.", 24, budget);
  }
}

// Penalties look at drafted tokens too, and a sliding context slides at the same token however it was reached.
TEST(SamplingIdentityTest, PenaltiesBiasAndASlidingContext) {
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, QuantType::kQ4_0, false);
  config.corrector.mode = RunMode::kDense;
  config.threads = 2;
  config.sampling.min_p = 0.02;
  config.sampling.penalty_window = 16;
  config.sampling.repeat_penalty = 1.3;
  config.sampling.frequency_penalty = 0.2;
  config.sampling.bias = {{TokenId{7}, 2.5F}, {TokenId{9}, -100}};
  config.context_keep = 3;
  const uint64_t budget = BudgetForHalfTheFfn(config);
  config.context_overflow = ContextOverflow::kSlide;
  for (double temperature : {0.0, 0.8}) {
    for (int32_t context : {0, 48}) {
      config.sampling.temperature = temperature;
      config.context = context;
      ExpectAllEqual(config, "A tiny model says nothing of sense.", 60, budget);
    }
  }
}

TEST(SlidingContextTest, GoesOnPastTheContextAndStopEndsThere) {
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, QuantType::kQ4_0, true);
  config.corrector.mode = RunMode::kDense;
  config.context = 40;
  const absl::StatusOr<RunOutput> stopped = RunModel(config, "Sixteen letters.", 100);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->result.stop, StopReason::kContextFull);
  EXPECT_EQ(stopped->result.prompt_tokens + static_cast<int32_t>(stopped->result.tokens.size()), 41);
  config.context_overflow = ContextOverflow::kSlide;
  config.context_keep = 4;
  const absl::StatusOr<RunOutput> slid = RunModel(config, "Sixteen letters.", 100);
  ASSERT_TRUE(slid.ok()) << slid.status();
  EXPECT_EQ(slid->result.tokens.size(), 100U);
  EXPECT_GE(slid->result.context_slides, 4);
  // Before the first slide nothing differs.
  EXPECT_TRUE(std::equal(stopped->result.tokens.begin(), stopped->result.tokens.end(), slid->result.tokens.begin()));
}

INSTANTIATE_TEST_SUITE_P(Types, TinyIdentityTest,
                         testing::Values(QuantType::kF16, QuantType::kQ8_0, QuantType::kQ4_0, QuantType::kQ4_1,
                                         QuantType::kQ5_0, QuantType::kQ4_K, QuantType::kQ6_K),
                         [](const auto& type) { return std::string(TraitsOf(type.param).name); });

struct RealModel {
  const char* name;
  std::string path;
  const char* skip_reason;
  uint64_t budget;  // holds attention, head and half of the FFN
};
void PrintTo(const RealModel& model, std::ostream* out) { *out << model.name; }

class RealIdentityTest : public testing::TestWithParam<RealModel> {};

TEST_P(RealIdentityTest, StrictTextIsTheDenseText) {
  if (GetParam().path.empty()) GTEST_SKIP() << GetParam().skip_reason;
  TestFolder folder;
  Config config;
  config.model = folder.Path("packed.dog.gguf");
  ASSERT_TRUE(PackModel(GetParam().path, config.model, {}).ok());
  config.corrector.mode = RunMode::kDense;
  config.threads = 2;
  for (double temperature : {0.0, 0.8}) {
    config.sampling.temperature = temperature;
    ExpectAllEqual(config, "The three largest rivers of Europe are", 24, GetParam().budget);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, RealIdentityTest,
    testing::Values(RealModel{"smollm2", testing_support::DemoModelPath(), testing_support::kNoDemoModel, 90 * kMiB},
                    RealModel{"gemma3", testing_support::GemmaModelPath(), testing_support::kNoGemmaModel, 240 * kMiB}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(CorrectorPathTest, DraftsOfTheWholeModelAreAllAccepted) {
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, QuantType::kQ4_0, false);
  Strict(&config, 8, false);
  config.draft.predictor = "dense";
  const RunOutput output = RunModel(config, "A tiny model", 33).value();
  EXPECT_EQ(output.result.accepted_mean(), 8);  // 32 tokens after the first: 4 cycles of 8
}

TEST(CorrectorPathTest, ThresholdZeroKeepsSparseDraftsAndAboveOneGivesTheDenseText) {
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, QuantType::kQ4_0, false);
  config.corrector.mode = RunMode::kDense;
  const RunOutput dense = RunModel(config, "A tiny model", 24).value();
  config.corrector.mode = RunMode::kSirius;
  config.corrector.period = 6;
  config.draft.density = 0.4;
  config.corrector.threshold = 0;
  EXPECT_EQ(RunModel(config, "A tiny model", 25).value().result.accepted_mean(), 6);
  config.corrector.threshold = 1.5;
  const RunOutput none = RunModel(config, "A tiny model", 24).value();
  EXPECT_EQ(none.result.tokens, dense.result.tokens);
  EXPECT_EQ(none.result.accepted_mean(), 1);
}

}  // namespace
}  // namespace dogstar
