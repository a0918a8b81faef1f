// Strict mode gives the bytes of the dense run, whatever the budget, period, predictor, threads and temperature.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <ostream>
#include <utility>

#include "fmt/format.h"
#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::BudgetForFfn;
using testing_support::RunModel;
using testing_support::RunOutput;
using testing_support::TestFolder;

constexpr uint64_t kMiB = 1 << 20;
constexpr TokenId kTinyModelEnd{0};

struct Variant {
  std::string name;
  std::function<void(Config*)> change;
};

void Strict(Config* config, int32_t period, bool adaptive) {
  config->corrector.mode = RunMode::kStrict;
  config->corrector.period = period;
  config->corrector.adaptive = adaptive;
}

// Strict with an overlay that follows the text.
Variant Harvesting(const std::string& name, EvictionKind kind, uint64_t budget,
                   const std::function<void(Config*)>& more) {
  return {name, [=](Config* c) {
            c->budget.ram = budget;
            c->draft.overlay = 0.3;
            c->cache.harvest = HarvestMode::kText;
            c->cache.eviction.kind = kind;
            Strict(c, 8, false);
            more(c);
          }};
}

// Drafts by every predictor that chooses rows, all resident or by what the budget holds.
void AddPredictors(uint64_t budget, std::vector<Variant>* variants) {
  for (const char* name :
       {"gate", "gate-weighted", "two-stage", "magnitude", "contribution", "random", "weight-norm", "lag"}) {
    const bool streams = variants->size() % 2 == 0;
    variants->push_back({fmt::format("strict, {} at 0.4{}", name, streams ? ", budget" : ""), [=](Config* c) {
                           if (streams) c->budget.ram = budget;
                           c->draft.predictor = name;
                           c->draft.density = 0.4;
                           Strict(c, 6, false);
                         }});
  }
}

// Ways of choosing that are settings of other predictors.
std::vector<Variant> Choices(uint64_t budget) {
  std::vector<Variant> variants;
  for (const char* selection : {"topk_sample", "sample", "random", "magnitude"}) {
    variants.push_back({fmt::format("strict, griffin at 0.4 by {}", selection), [=](Config* c) {
                          c->draft.predictor = "griffin", c->draft.density = 0.4, c->draft.selection = selection;
                          Strict(c, 6, false);
                        }});
  }
  variants.push_back({"strict, griffin with a prior, budget", [=](Config* c) {
                        c->budget.ram = budget;
                        c->draft.predictor = "griffin", c->draft.density = 0.3, c->draft.prior = 16;
                        Strict(c, 6, false);
                      }});
  for (const bool gather : {false, true}) {
    variants.push_back(
        {fmt::format("strict, griffin at 0.4{}, half of the heads", gather ? ", gathered" : ""), [=](Config* c) {
           c->draft.predictor = "griffin", c->draft.density = 0.4, c->draft.gather = gather;
           c->draft.head_density = 0.5;
           Strict(c, 6, false);
         }});
  }
  variants.push_back({"strict, gate-weighted by layer", [=](Config* c) {
                        c->draft.predictor = "gate-weighted", c->draft.layer_densities = {0.9, 0.2, 0.5, 0};
                        Strict(c, 6, false);
                      }});
  variants.push_back({"strict, two-stage, shared", [=](Config* c) {
                        c->draft.predictor = "two-stage", c->draft.density = 0.5, c->draft.shared = true;
                        Strict(c, 6, false);
                      }});
  for (const bool adaptive : {false, true}) {
    variants.push_back({fmt::format("strict, prompt lookup{}", adaptive ? ", adaptive, budget" : ""), [=](Config* c) {
                          if (adaptive) c->budget.ram = budget;
                          c->draft.lookup = 1;
                          Strict(c, 6, adaptive);
                        }});
  }
  variants.push_back({"strict, lag taken anew every third token", [=](Config* c) {
                        c->draft.predictor = "lag", c->draft.density = 0.5, c->draft.refresh = 3;
                        Strict(c, 6, false);
                      }});
  return variants;
}

// Drafts that are no chain, and what is tried a second time.
void AddTrees(uint64_t budget, std::vector<Variant>* variants) {
  const auto tree = [=](TreeShape shape, int32_t width, int32_t nodes, bool adaptive) {
    return [=](Config* c) {
      c->budget.ram = budget;
      c->draft.tree = shape, c->draft.width = width, c->draft.nodes = nodes;
      Strict(c, 6, adaptive);
    };
  };
  variants->push_back({"strict, best-first tree", tree(TreeShape::kBest, 4, 0, false)});
  variants->push_back({"strict, best-first tree a node at a time", tree(TreeShape::kBest, 1, 9, false)});
  variants->push_back({"strict, best-first tree, adaptive", tree(TreeShape::kBest, 3, 12, true)});
  variants->push_back({"strict, beam", tree(TreeShape::kBeam, 3, 0, false)});
  variants->push_back({"strict, beam cut to 7 nodes, by gates", [=](Config* c) {
                         tree(TreeShape::kBeam, 4, 7, false)(c);
                         c->draft.predictor = "gate-weighted", c->draft.density = 0.4;
                       }});
  variants->push_back({"strict, tree that follows the text, looks up", [=](Config* c) {
                         tree(TreeShape::kBest, 2, 10, false)(c);
                         c->draft.overlay = 0.3, c->cache.harvest = HarvestMode::kText, c->draft.lookup = 1;
                       }});
  variants->push_back({"strict, repair", [=](Config* c) {
                         c->budget.ram = budget, c->corrector.repair = true;
                         Strict(c, 8, false);
                       }});
}

std::vector<Variant> Variants(uint64_t budget) {
  std::vector<Variant> variants = {
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
      {"strict, whole rows alone",
       [=](Config* c) { c->budget.ram = budget, c->draft.planes = 0, Strict(c, 6, false); }},
      {"strict, attention in high planes",
       [=](Config* c) { c->budget.ram = budget, c->draft.attention_planes = 1, Strict(c, 6, false); }},
      {"strict, a third in high planes, lists of rows",
       [=](Config* c) {
         c->budget.ram = budget, c->draft.planes = 0.3, c->draft.predictor = "griffin", c->draft.density = 0.4;
         Strict(c, 6, false);
       }},
      {"strict, everything resident, density 0.3",
       [=](Config* c) {
         c->draft.density = 0.3;
         Strict(c, 8, false);
       }},
      Harvesting("strict, harvest, lfu-aged, global", EvictionKind::kLfuAged, budget,
                 [](Config* c) { c->cache.capacity = CacheCapacity::kGlobal; }),
      Harvesting("strict, harvest, lru without hysteresis", EvictionKind::kLru, budget,
                 [](Config* c) { c->cache.hysteresis = 0; }),
      Harvesting("strict, harvest, arc, griffin at 0.4", EvictionKind::kArc, budget,
                 [](Config* c) { c->draft.predictor = "griffin", c->draft.density = 0.4; }),
      {"strict, everything resident, harvest, griffin at 0.3",
       [=](Config* c) {
         c->draft.predictor = "griffin", c->draft.density = 0.3, c->cache.harvest = HarvestMode::kText;
         Strict(c, 8, false);
       }},
  };
  AddPredictors(budget, &variants);
  AddTrees(budget, &variants);
  return variants;
}

// Ids and probabilities, bit for bit.
std::vector<std::pair<TokenId, float>> FlatLogprobs(const GenerationResult& result) {
  std::vector<std::pair<TokenId, float>> flat;
  for (const std::vector<TokenLogprob>& row : result.logprobs) {
    for (const TokenLogprob& entry : row) flat.emplace_back(entry.token, entry.logprob);
  }
  return flat;
}

// dense_run: what all of them gave; may be null.
void ExpectEqual(const std::vector<Variant>& variants, const Config& base, const std::string& prompt,
                 const GenerationOptions& options, GenerationResult* dense_run) {
  const absl::StatusOr<RunOutput> dense = RunModel(base, prompt, options);
  ASSERT_TRUE(dense.ok()) << dense.status();
  if (dense_run != nullptr) *dense_run = dense->result;
  EXPECT_EQ(dense->complement_bytes, 0U);
  for (const Variant& variant : variants) {
    Config config = base;
    variant.change(&config);
    const absl::StatusOr<RunOutput> output = RunModel(config, prompt, options);
    ASSERT_TRUE(output.ok()) << variant.name << ": " << output.status();
    EXPECT_EQ(output->result.tokens, dense->result.tokens) << variant.name << ", prompt: " << prompt;
    EXPECT_EQ(FlatLogprobs(output->result), FlatLogprobs(dense->result)) << variant.name;
    EXPECT_EQ(output->result.stop, dense->result.stop) << variant.name;
    EXPECT_EQ(output->result.context_slides, dense->result.context_slides) << variant.name;
    if (config.budget.ram) {
      EXPECT_GT(output->complement_bytes, 0U) << variant.name;
    }
  }
}

void ExpectAllEqual(const Config& base, const std::string& prompt, const GenerationOptions& options, uint64_t budget,
                    GenerationResult* dense_run = nullptr) {
  ExpectEqual(Variants(budget), base, prompt, options, dense_run);
}

// Some of the variants, for models that take their time: three calls with firsts 0 to 2 see all of them.
std::vector<Variant> EveryThird(std::vector<Variant> variants, size_t first) {
  std::vector<Variant> some;
  for (size_t i = first; i < variants.size(); i += 3) some.push_back(std::move(variants[i]));
  return some;
}

GenerationOptions PastTheEnd(int32_t tokens, int32_t logprobs = 0) {
  return {.max_tokens = tokens, .ignore_end = true, .logprobs = logprobs};
}

class TinyIdentityTest : public testing::TestWithParam<QuantType> {};

TEST_P(TinyIdentityTest, EveryVariantGivesTheDenseTokens) {
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, GetParam(), false);
  config.corrector.mode = RunMode::kDense;
  config.threads = 2;
  const uint64_t budget = BudgetForFfn(config, 0.5);
  for (double temperature : {0.0, 0.8}) {
    config.sampling.temperature = temperature;
    ExpectAllEqual(config, "A tiny model says nothing of sense.", PastTheEnd(24), budget);
  }
}

// A tiny packed model for runs whose text depends on much: what was drafted, what was dropped, where it ended.
class SamplingIdentityTest : public testing::Test {
 protected:
  SamplingIdentityTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config_.corrector.mode = RunMode::kDense;
    config_.threads = 2;
    budget_ = BudgetForFfn(config_, 0.5);
  }
  void Penalize(int32_t window) {
    config_.sampling.penalty_window = window;
    config_.sampling.repeat_penalty = 1.3;
    config_.sampling.presence_penalty = 0.1;
    config_.sampling.frequency_penalty = 0.2;
  }
  void SlideAt(int32_t context, int32_t keep) {
    config_.context = context;
    config_.context_overflow = ContextOverflow::kSlide;
    config_.context_keep = keep;
  }

  static constexpr char kPrompt[] = "A tiny model says nothing of sense.";
  TestFolder folder_;
  Config config_;
  uint64_t budget_ = 0;
};

// Penalties look at drafted tokens too, and a sliding context slides at the same token however it was reached.
TEST_F(SamplingIdentityTest, PenaltiesBiasAndASlidingContext) {
  struct Case {
    double temperature;
    int32_t context;
    int32_t penalty_window;  // below the period, beyond the context, all
  };
  config_.sampling.min_p = 0.02;
  config_.sampling.bias = {{TokenId{7}, 2.5F}, {TokenId{9}, -std::numeric_limits<float>::infinity()}};
  for (const Case& test : {Case{0, 0, 4}, {0.8, 0, -1}, {0, 48, 64}, {0.8, 48, 16}}) {
    config_.sampling.temperature = test.temperature;
    Penalize(test.penalty_window);
    SlideAt(test.context, 3);
    GenerationResult dense;
    ExpectAllEqual(config_, kPrompt, PastTheEnd(60, 2), budget_, &dense);
    EXPECT_EQ(std::count(dense.tokens.begin(), dense.tokens.end(), TokenId{9}), 0);
    EXPECT_EQ(dense.context_slides > 0, test.context > 0);
  }
}

// A prompt that says its end before has drafts that cost nothing; where no draft can be made they are the only ones.
TEST_F(SamplingIdentityTest, LookupsStandWhereTheTextRepeatsItself) {
  config_.sampling.repeat_penalty = 1;
  const RunOutput dense = RunModel(config_, kPrompt, 65).value();
  Config config = config_;
  config.draft.predictor = "random";  // drafts that do not stand
  config.draft.density = 0.05;
  config.draft.lookup = 2;
  Strict(&config, 8, false);
  std::string prompt = kPrompt;
  prompt += dense.text;  // what the model would say, twice over
  prompt += kPrompt;
  config_.corrector.mode = RunMode::kDense;
  const RunOutput expected = RunModel(config_, prompt, 33).value();
  const RunOutput looked = RunModel(config, prompt, 33).value();
  EXPECT_EQ(looked.result.tokens, expected.result.tokens);
  EXPECT_GT(looked.result.looked_up, 0);
  EXPECT_LE(looked.result.lookups_accepted, looked.result.looked_up);
  EXPECT_LE(looked.result.lookups_accepted, looked.result.drafts_accepted);
}

// What must hold of Sirius: with every row the draft is the full model; above a threshold of 1 no draft stands;
// at 0 every one does.
TEST_F(SamplingIdentityTest, DensityAndThresholdAtTheirEnds) {
  const RunOutput dense = RunModel(config_, kPrompt, 33).value();
  for (const char* name : {"resident", "griffin", "gate", "gate-weighted", "two-stage", "contribution", "random"}) {
    Config config = config_;
    config.draft.predictor = name;
    config.draft.density = config.draft.value_density = 1;
    Strict(&config, 8, false);
    const RunOutput whole = RunModel(config, kPrompt, 33).value();
    EXPECT_EQ(whole.result.tokens, dense.result.tokens) << name;
    EXPECT_EQ(whole.result.accepted_mean(), 8) << name;  // 32 tokens after the first: 4 cycles of 8
    config.draft.density = config.draft.value_density = 0.2;
    config.corrector.mode = RunMode::kSirius;
    config.corrector.threshold = 1.5;
    const RunOutput none = RunModel(config, kPrompt, 33).value();
    EXPECT_EQ(none.result.tokens, dense.result.tokens) << name;
    EXPECT_EQ(none.result.accepted_mean(), 1) << name;
    config.corrector.threshold = 0;
    EXPECT_EQ(RunModel(config, kPrompt, 33).value().result.accepted_mean(), 8) << name;
  }
}

TEST_F(SamplingIdentityTest, EveryWayOfChoosing) {
  config_.sampling.temperature = 0.8;
  ExpectEqual(Choices(budget_), config_, kPrompt, PastTheEnd(24), nullptr);
}

TEST_F(SamplingIdentityTest, WhatOnlyAnEvaluationKnowsIsRefused) {
  config_.draft.predictor = "oracle";
  config_.draft.density = 0.5;
  Strict(&config_, 8, false);
  const absl::Status refused = RunModel(config_, kPrompt, 4).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("eval --task sparsity"), std::string::npos) << refused;
}

TEST_F(SamplingIdentityTest, AFullContextStopsAtTheSameToken) {
  config_.context = 48;  // no multiple of a cycle: the last one is cut short
  GenerationResult dense;
  ExpectAllEqual(config_, kPrompt, PastTheEnd(100), budget_, &dense);
  EXPECT_EQ(dense.stop, StopReason::kContextFull);
}

TEST_F(SamplingIdentityTest, AnEndTokenStopsAtTheSameToken) {
  config_.sampling.temperature = 0.8;
  config_.sampling.bias = {{kTinyModelEnd, 3.0F}};
  const GenerationOptions options = {.max_tokens = 200};
  GenerationResult dense;
  ExpectAllEqual(config_, kPrompt, options, budget_, &dense);
  EXPECT_EQ(dense.stop, StopReason::kEndToken);
  ASSERT_GT(dense.tokens.size(), 2U);
  // As a draft that stands, with room for more after it.
  config_.draft.predictor = "dense";
  Strict(&config_, 2 * static_cast<int32_t>(dense.tokens.size()), false);
  const RunOutput drafted = RunModel(config_, kPrompt, options).value();
  EXPECT_EQ(drafted.result.tokens, dense.tokens);
  EXPECT_EQ(drafted.result.full_passes, 1);
}

TEST_F(SamplingIdentityTest, EveryKindOfKeysAndValues) {
  for (KvPrecision type : {KvPrecision::kF32, KvPrecision::kQ8_0}) {
    config_.kv_type = type;
    SlideAt(48, 0);
    ExpectAllEqual(config_, kPrompt, PastTheEnd(40, 2), budget_);
  }
}

// Drafts sample with the penalties that the full model is held to: else good drafts would be thrown away.
TEST_F(SamplingIdentityTest, DraftsOfTheWholeModelStandUnderPenalties) {
  Penalize(16);
  config_.sampling.temperature = 0.8;
  config_.sampling.min_p = 0.02;
  config_.draft.predictor = "dense";
  Strict(&config_, 8, false);
  const RunOutput output = RunModel(config_, kPrompt, 33).value();
  EXPECT_EQ(output.result.accepted_mean(), 8);  // 32 tokens after the first: 4 cycles of 8
}

// The second turn of a conversation, with what the KV cache holds of the first and without.
TEST_F(SamplingIdentityTest, ATurnThatReusesTheCacheIsTheTurnFromScratch) {
  Penalize(64);
  config_.sampling.temperature = 0.8;
  for (int32_t context : {160, 64}) {
    SlideAt(context, 5);
    std::vector<TokenId> expected;
    const auto second_turn = [&](const Config& config, bool reuse) {
      const auto opened = testing_support::OpenModel(config, context, config.corrector.period).value();
      Generator generator(opened.engine.get());
      std::vector<TokenId> text = opened.model->tokenizer().Encode("Say something.", {});
      GenerationResult first, second;
      CHECK(generator.Generate(text, PastTheEnd(context == 64 ? 60 : 30), &first).ok());
      EXPECT_EQ(first.context_slides > 0, context == 64);
      if (context != 64) text.insert(text.end(), first.tokens.begin(), first.tokens.end());
      for (TokenId token : opened.model->tokenizer().Encode(" And then?", {})) text.push_back(token);
      GenerationOptions options = PastTheEnd(30);
      options.reuse_prefix = reuse;
      if (reuse) {
        CHECK(generator.Generate(text, options, &second).ok());
        EXPECT_GE(second.reused_tokens, context == 64 ? 5 : 40);
      } else {
        const auto fresh = testing_support::OpenModel(config, context, config.corrector.period).value();
        CHECK(Generator(fresh.engine.get()).Generate(text, options, &second).ok());
        EXPECT_EQ(second.reused_tokens, 0);
      }
      return second.tokens;
    };
    expected = second_turn(config_, false);
    EXPECT_EQ(second_turn(config_, true), expected) << "dense, context " << context;
    for (const Variant& variant : Variants(budget_)) {
      Config config = config_;
      variant.change(&config);
      EXPECT_EQ(second_turn(config, true), expected) << variant.name << ", context " << context;
    }
  }
}

// Logits of one text in between leave nothing behind that the next turn takes for its own.
TEST_F(SamplingIdentityTest, LogitsOfAnotherTextAreNoTurnOfTheConversation) {
  const auto opened = testing_support::OpenModel(config_, 64, 1).value();
  const Tokenizer& tokenizer = opened.model->tokenizer();
  const std::vector<TokenId> prompt = tokenizer.Encode(kPrompt, {});
  Generator generator(opened.engine.get());
  GenerationOptions options = PastTheEnd(8);
  GenerationResult first, again;
  ASSERT_TRUE(generator.Generate(prompt, options, &first).ok());
  ASSERT_TRUE(generator.LogitsAfter(tokenizer.Encode("something else, and longer than the prompt was", {})).ok());
  options.reuse_prefix = true;
  ASSERT_TRUE(generator.Generate(prompt, options, &again).ok());
  EXPECT_EQ(again.tokens, first.tokens);
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

TEST(SlidingContextTest, GoesOnAsAFreshRunOnTheTokensLeft) {
  constexpr int32_t kContext = 40, kKeep = 5;
  TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, QuantType::kQ4_0, true);
  config.corrector.mode = RunMode::kDense;
  config.context_overflow = ContextOverflow::kSlide;
  config.context_keep = kKeep;
  const auto generate = [&](const std::vector<TokenId>& prompt, int32_t tokens) {
    const auto opened = testing_support::OpenModel(config, kContext, 1).value();
    GenerationResult result;
    CHECK(Generator(opened.engine.get()).Generate(prompt, PastTheEnd(tokens), &result).ok());
    return result.tokens;
  };
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < 16; ++i) prompt.push_back(TokenId{100 + i});
  std::vector<TokenId> text = generate(prompt, 80);
  text.insert(text.begin(), prompt.begin(), prompt.end());

  // 40 tokens are held: 5 stay, 18 of the other 35 go, and the 41st is the one to go on with.
  std::vector<TokenId> left(text.begin(), text.begin() + kKeep);
  left.insert(left.end(), text.begin() + kKeep + 18, text.begin() + kContext + 1);
  const std::vector<TokenId> rest(text.begin() + kContext + 1, text.end());
  EXPECT_EQ(generate(left, static_cast<int32_t>(rest.size())), rest);
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
  constexpr char kPrompt[] = "The three largest rivers of Europe are";
  ExpectAllEqual(config, kPrompt, PastTheEnd(24), GetParam().budget);
  config.sampling.temperature = 0.8;
  ExpectEqual(EveryThird(Variants(GetParam().budget), 0), config, kPrompt, PastTheEnd(24), nullptr);
}

TEST_P(RealIdentityTest, StrictTextIsTheDenseTextUnderPenaltiesInASlidingContext) {
  if (GetParam().path.empty()) GTEST_SKIP() << GetParam().skip_reason;
  TestFolder folder;
  Config config;
  config.model = folder.Path("packed.dog.gguf");
  ASSERT_TRUE(PackModel(GetParam().path, config.model, {}).ok());
  config.corrector.mode = RunMode::kDense;
  config.threads = 2;
  config.context = 24;
  config.context_overflow = ContextOverflow::kSlide;
  config.context_keep = 1;
  config.sampling.min_p = 0.05;
  config.sampling.repeat_penalty = 1.15;
  config.sampling.presence_penalty = 0.3;
  config.sampling.bias = {{TokenId{198}, -2.0F}};
  for (const size_t first : {1, 2}) {
    config.sampling.temperature = first == 1 ? 0 : 0.8;
    GenerationResult dense;
    ExpectEqual(EveryThird(Variants(GetParam().budget), first), config, "The three largest rivers of Europe are",
                PastTheEnd(32, 2), &dense);
    EXPECT_GE(dense.context_slides, 1);
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
