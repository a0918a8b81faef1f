// Real models against float32 reference values (transformers on the dequantized GGUF), tests/golden.
#include <cmath>
#include <fstream>
#include <ostream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::OpenedModel;
using testing_support::OpenModel;

constexpr int32_t kContext = 256;

struct GoldenModel {
  const char* name;  // of tests/golden's file
  std::string path;
  const char* skip_reason;
  // Bounds of the mean log-probability error and of the perplexity's ratio to the reference's.
  double precise_error, precise_ratio;
  double fast_error, fast_ratio;
};

void PrintTo(const GoldenModel& model, std::ostream* out) { *out << model.name; }

class GoldenTest : public testing::TestWithParam<GoldenModel> {
 protected:
  void SetUp() override {
    if (GetParam().path.empty()) GTEST_SKIP() << GetParam().skip_reason;
    std::ifstream file(std::string(DOGSTAR_SOURCE_DIR "/tests/golden/") + GetParam().name + ".json");
    golden_ = nlohmann::json::parse(file);
  }

  OpenedModel Open(bool precise) {
    Config config;
    config.model = GetParam().path;
    config.precise = precise;
    absl::StatusOr<OpenedModel> opened = OpenModel(config, kContext, 16);
    CHECK(opened.ok());
    return *std::move(opened);
  }

  static std::vector<TokenId> Ids(const nlohmann::json& ids) {
    std::vector<TokenId> tokens;
    for (int32_t id : ids) tokens.push_back(TokenId{id});
    return tokens;
  }

  // Mean |difference| of the reference's ten likeliest log-probabilities, over all prompts.
  double MeanLogprobError(const OpenedModel& opened) {
    Generator generator(opened.engine.get());
    double sum = 0;
    int count = 0;
    for (const nlohmann::json& prompt : golden_["prompts"]) {
      const std::vector<float> logits = generator.LogitsAfter(Ids(prompt["tokens"])).value();
      for (size_t i = 0; i < prompt["top_tokens"].size(); ++i) {
        const double ours = -NegativeLogLikelihood(logits, TokenId{prompt["top_tokens"][i].get<int32_t>()});
        sum += std::abs(ours - prompt["top_logprobs"][i].get<double>());
        ++count;
      }
    }
    return sum / count;
  }

  double PerplexityRatio(const OpenedModel& opened) {
    const std::vector<double> nll = Generator(opened.engine.get()).Score(Ids(golden_["perplexity"]["tokens"])).value();
    double sum = 0;
    for (double value : nll) sum += value;
    return std::exp(sum / static_cast<double>(nll.size())) / golden_["perplexity"]["ppl"].get<double>();
  }

  nlohmann::json golden_;
};

TEST_P(GoldenTest, TokenIdsAreEqual) {
  const auto model = ModelFile::Open(GetParam().path).value();
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    const std::string text = prompt["text"];
    EXPECT_EQ(model->tokenizer().Encode(text, {}), Ids(prompt["tokens"])) << text;
    EXPECT_EQ(model->tokenizer().Decode(Ids(prompt["tokens"])), text);
  }
  EXPECT_EQ(model->tokenizer().Encode(golden_["perplexity"]["text"].get<std::string>(), {}),
            Ids(golden_["perplexity"]["tokens"]));
}

TEST_P(GoldenTest, PreciseLogprobsAndPerplexityMatchTheReference) {
  const OpenedModel opened = Open(true);
  const double error = MeanLogprobError(opened), ratio = PerplexityRatio(opened);
  RecordProperty("mean_logprob_error", std::to_string(error));
  RecordProperty("perplexity_ratio", std::to_string(ratio));
  std::printf("precise: mean log-probability error %.6f, perplexity ratio %.6f\n", error, ratio);
  EXPECT_LT(error, GetParam().precise_error);
  EXPECT_NEAR(ratio, 1, GetParam().precise_ratio);
}

TEST_P(GoldenTest, FastLogprobsAndPerplexityAreAsCloseAsInt8ActivationsAllow) {
  const OpenedModel opened = Open(false);
  const double error = MeanLogprobError(opened), ratio = PerplexityRatio(opened);
  std::printf("int8 activations: mean log-probability error %.6f, perplexity ratio %.6f\n", error, ratio);
  EXPECT_LT(error, GetParam().fast_error);
  EXPECT_NEAR(ratio, 1, GetParam().fast_ratio);
}

TEST_P(GoldenTest, PreciseGreedyContinuationsAreTheReferences) {
  const OpenedModel opened = Open(true);
  Generator generator(opened.engine.get());
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    const std::vector<TokenId> reference = Ids(prompt["greedy"]);
    GenerationOptions options;
    options.max_tokens = static_cast<int32_t>(reference.size());
    options.logprobs = 2;
    GenerationResult result;
    ASSERT_TRUE(generator.Generate(Ids(prompt["tokens"]), options, &result).ok());
    for (size_t i = 0; i < reference.size(); ++i) {
      ASSERT_LT(i, result.tokens.size()) << prompt["text"];
      if (result.tokens[i] == reference[i]) continue;
      // A tie: the two likeliest tokens are equal to within what float32 sums decide.
      EXPECT_LT(result.logprobs[i][0].logprob - result.logprobs[i][1].logprob, 1e-3)
          << prompt["text"] << ": token " << i << " differs";
      break;
    }
  }
}

std::vector<GoldenModel> GoldenModels() {
  // Gemma's error with int8 activations may be llama.cpp's.
  return {{"smollm2", testing_support::DemoModelPath(), testing_support::kNoDemoModel, 0.001, 0.001, 0.09, 0.015},
          {"gemma3", testing_support::GemmaModelPath(), testing_support::kNoGemmaModel, 0.001, 0.001, 0.092, 0.005}};
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, testing::ValuesIn(GoldenModels()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace dogstar
