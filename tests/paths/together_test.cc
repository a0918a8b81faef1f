// Texts that share passes are the texts that each prompt gives alone.
#include <atomic>
#include <vector>

#include "fmt/format.h"
#include "gtest/gtest.h"
#include "runtime/run_plan.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::RunModel;
using testing_support::TestFolder;

const std::vector<std::string> kPrompts = {"A tiny model says nothing of sense.",
                                           "Another prompt, a longer one than that.", "Third."};

class TogetherTest : public testing::Test {
 protected:
  TogetherTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config_.threads = 2;
  }

  absl::StatusOr<std::vector<GenerationResult>> Together(const Config& config, int32_t context, int32_t tokens) {
    const int32_t texts = static_cast<int32_t>(kPrompts.size());
    const int32_t rows = JudgesDrafts(config.corrector.mode) ? DraftsOfCycle(config) + 1 : 1;
    ASSIGN_OR_RETURN(const auto opened, testing_support::OpenModel(config, context, rows * texts, texts));
    std::vector<std::vector<TokenId>> prompts;
    for (const std::string& prompt : kPrompts) prompts.push_back(opened.model->tokenizer().Encode(prompt, {}));
    std::vector<GenerationResult> results(prompts.size());
    std::vector<TextRequest> requests;
    for (size_t i = 0; i < prompts.size(); ++i) {
      // Of different lengths: texts end one after the other.
      const int32_t most = tokens + static_cast<int32_t>(i);
      requests.push_back({prompts[i], {.max_tokens = most, .ignore_end = true, .logprobs = 2}, &results[i]});
    }
    RETURN_IF_ERROR(Generator(opened.engine.get()).GenerateTogether(requests));
    return results;
  }

  // Returns how often contexts slid.
  int32_t ExpectAsAlone(const Config& config, int32_t context, const std::string& name) {
    int32_t slides = 0;
    constexpr int32_t kTokens = 24;
    const absl::StatusOr<std::vector<GenerationResult>> together = Together(config, context, kTokens);
    EXPECT_TRUE(together.ok()) << name << ": " << together.status();
    if (!together.ok()) return 0;
    Config alone = config;
    alone.context = context;
    alone.budget.ram.reset();
    if (JudgesDrafts(config.corrector.mode)) alone.corrector.mode = RunMode::kDense;
    for (size_t i = 0; i < kPrompts.size(); ++i) {
      const GenerationOptions options{
          .max_tokens = kTokens + static_cast<int32_t>(i), .ignore_end = true, .logprobs = 2};
      const GenerationResult expected = RunModel(alone, kPrompts[i], options).value().result;
      const GenerationResult& result = (*together)[i];
      EXPECT_EQ(result.tokens, expected.tokens) << name << ", prompt " << i;
      EXPECT_EQ(result.stop, expected.stop) << name;
      EXPECT_EQ(result.context_slides, expected.context_slides) << name;
      slides += result.context_slides;
      for (size_t t = 0; t < expected.logprobs.size(); ++t) {
        EXPECT_EQ(result.logprobs[t][0].logprob, expected.logprobs[t][0].logprob) << name << ", token " << t;
      }
    }
    return slides;
  }

  // Two texts by the first prompts, 20 tokens each; `first` and `second` say how they are stopped.
  std::vector<GenerationResult> TwoTexts(int32_t rows, GenerationOptions first, GenerationOptions second) {
    const auto opened = testing_support::OpenModel(config_, 80, rows, 2).value();
    std::vector<GenerationResult> results(2);
    std::vector<std::vector<TokenId>> prompts;
    std::vector<TextRequest> requests;
    for (size_t i = 0; i < 2; ++i) prompts.push_back(opened.model->tokenizer().Encode(kPrompts[i], {}));
    for (size_t i = 0; i < 2; ++i) {
      GenerationOptions& options = i == 0 ? first : second;
      options.max_tokens = 20;
      options.ignore_end = true;
      requests.push_back({prompts[i], options, &results[i]});
    }
    EXPECT_TRUE(Generator(opened.engine.get()).GenerateTogether(requests).ok());
    return results;
  }

  TestFolder folder_;
  Config config_;
};

TEST_F(TogetherTest, EveryModeGivesTheTextsOfEachAlone) {
  for (double temperature : {0.0, 0.8}) {
    config_.sampling.temperature = temperature;
    for (const RunMode mode : {RunMode::kDense, RunMode::kSparse, RunMode::kStrict}) {
      Config config = config_;
      config.corrector.mode = mode;
      config.corrector.period = 6;
      config.draft.density = 0.5;
      for (const TreeShape shape : {TreeShape::kChain, TreeShape::kBest, TreeShape::kBeam}) {
        if (mode != RunMode::kStrict && shape != TreeShape::kChain) continue;
        config.draft.tree = shape;
        for (const bool adaptive : {false, true}) {
          config.corrector.adaptive = adaptive;
          ExpectAsAlone(config, 80,
                        fmt::format("{}, shape {}, adaptive {}, temperature {}", RunModeName(mode),
                                    static_cast<int>(shape), adaptive, temperature));
        }
      }
    }
  }
}

TEST_F(TogetherTest, ContextsSlideEachAtItsOwnTime) {
  config_.context_overflow = ContextOverflow::kSlide;
  config_.context_keep = 2;
  config_.corrector.mode = RunMode::kStrict;
  config_.corrector.period = 5;
  config_.corrector.adaptive = false;
  config_.draft.density = 0.5;
  for (const TreeShape shape : {TreeShape::kChain, TreeShape::kBest}) {
    config_.draft.tree = shape;
    EXPECT_GT(ExpectAsAlone(config_, 48, "sliding"), 0);
  }
}

// Harvested rows and looked-up drafts are shared or a text's own: neither changes a text.
TEST_F(TogetherTest, DraftsThatFollowTheTextsChangeNone) {
  config_.corrector.mode = RunMode::kStrict;
  config_.corrector.period = 6;
  config_.corrector.adaptive = false;
  config_.corrector.repair = true;
  config_.draft.predictor = "griffin";
  config_.draft.density = 0.4;
  config_.draft.lookup = 1;
  config_.cache.harvest = HarvestMode::kText;
  ExpectAsAlone(config_, 80, "griffin, repair, lookup");
}

// Stopped while the second prompt is read: the first text stands as far as it is, and nothing is drafted for it.
TEST_F(TogetherTest, AnInterruptWithinThePromptsLeavesWhatWasMade) {
  config_.corrector.mode = RunMode::kStrict;
  config_.budget.ram = testing_support::BudgetForFfn(config_, 0.5);  // passes of 16 rows: the prompts take several
  std::atomic<bool> interrupted = false;
  const auto stop = [&](TokenId) { return interrupted = true; };
  const auto results = TwoTexts(8, {.on_token = stop, .interrupted = &interrupted}, {.interrupted = &interrupted});
  EXPECT_EQ(results[0].tokens.size(), 1U);
  EXPECT_EQ(results[0].stop, StopReason::kInterrupted);
  EXPECT_TRUE(results[1].tokens.empty());
  EXPECT_EQ(results[1].stop, StopReason::kInterrupted);
}

// All prompts are over, in one pass, before the first token of any text.
TEST_F(TogetherTest, PromptsAreReadInTheSamePasses) {
  const auto opened = testing_support::OpenModel(config_, 80, 3, 3).value();
  std::vector<std::vector<TokenId>> prompts;
  for (const std::string& prompt : kPrompts) prompts.push_back(opened.model->tokenizer().Encode(prompt, {}));
  std::vector<GenerationResult> results(prompts.size());
  std::vector<TextRequest> requests;
  std::string events;
  for (size_t i = 0; i < prompts.size(); ++i) {
    GenerationOptions options{.max_tokens = 1};
    options.on_prompt = [&events](int32_t done, int32_t total) { events += done == total ? "p" : "?"; };
    options.on_token = [&events](TokenId) { return events += "t", true; };
    requests.push_back({prompts[i], options, &results[i]});
  }
  ASSERT_TRUE(Generator(opened.engine.get()).GenerateTogether(requests).ok());
  EXPECT_EQ(events, "pppttt");
}

// The second is stopped, the first is not: it goes on with drafts.
TEST_F(TogetherTest, ATextThatIsStoppedInItsPromptLeavesTheOthersTheirDrafts) {
  config_.corrector.mode = RunMode::kStrict;
  config_.corrector.adaptive = false;
  config_.corrector.period = 4;
  const std::atomic<bool> interrupted = true;
  const auto results = TwoTexts(8, {}, {.interrupted = &interrupted});
  EXPECT_EQ(results[0].tokens.size(), 20U);
  EXPECT_GT(results[0].draft_steps, 0);
  EXPECT_TRUE(results[1].tokens.empty());
}

}  // namespace
}  // namespace dogstar
