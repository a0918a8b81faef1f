// SmolLM2-135M-Instruct against float32 reference values (transformers on the dequantized GGUF), tests/golden.
#include <cmath>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::DemoModelPath;
using testing_support::OpenedModel;
using testing_support::OpenModel;

constexpr int32_t kContext = 256;

class GoldenTest : public testing::Test {
 protected:
  void SetUp() override {
    if (DemoModelPath().empty()) GTEST_SKIP() << testing_support::kNoDemoModel;
    std::ifstream file(DOGSTAR_SOURCE_DIR "/tests/golden/smollm2.json");
    golden_ = nlohmann::json::parse(file);
  }

  OpenedModel Open(bool precise) {
    Config config;
    config.model = DemoModelPath();
    config.precise = precise;
    auto opened = OpenModel(config, kContext, 16);
    CHECK(opened.ok());
    return std::move(*opened);
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

TEST_F(GoldenTest, TokenIdsAreEqual) {
  const auto model = ModelFile::Open(DemoModelPath()).value();
  for (const nlohmann::json& prompt : golden_["prompts"]) {
    const std::string text = prompt["text"];
    EXPECT_EQ(model->tokenizer().Encode(text, {}), Ids(prompt["tokens"])) << text;
    EXPECT_EQ(model->tokenizer().Decode(Ids(prompt["tokens"])), text);
  }
  EXPECT_EQ(model->tokenizer().Encode(golden_["perplexity"]["text"].get<std::string>(), {}),
            Ids(golden_["perplexity"]["tokens"]));
}

TEST_F(GoldenTest, PreciseLogprobsAndPerplexityMatchTheReference) {
  const OpenedModel opened = Open(true);
  const double error = MeanLogprobError(opened), ratio = PerplexityRatio(opened);
  RecordProperty("mean_logprob_error", std::to_string(error));
  RecordProperty("perplexity_ratio", std::to_string(ratio));
  std::printf("precise: mean log-probability error %.6f, perplexity ratio %.6f\n", error, ratio);
  EXPECT_LT(error, 0.005);
  EXPECT_NEAR(ratio, 1, 0.001);
}

TEST_F(GoldenTest, FastLogprobsAndPerplexityAreAsCloseAsInt8ActivationsAllow) {
  const OpenedModel opened = Open(false);
  const double error = MeanLogprobError(opened), ratio = PerplexityRatio(opened);
  std::printf("int8 activations: mean log-probability error %.6f, perplexity ratio %.6f\n", error, ratio);
  EXPECT_LT(error, 0.09);
  EXPECT_NEAR(ratio, 1, 0.015);
}

TEST_F(GoldenTest, PreciseGreedyContinuationsAreTheReferences) {
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

}  // namespace
}  // namespace dogstar
