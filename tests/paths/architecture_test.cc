// Tiny random models of every architecture against float32 values of transformers (tests/golden/make_tiny_models.py),
// and strict runs of their packed files against dense ones.
#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "runtime/importance.h"
#include "tests/support/model_run.h"
#include "tests/support/tiny_model.h"

namespace dogstar {
namespace {

using testing_support::OpenedModel;
using testing_support::OpenModel;
using testing_support::TestFolder;

constexpr float kBound = 1e-3f;
constexpr int32_t kContext = 64;
constexpr int32_t kPeriod = 4;

const nlohmann::json& TinyModels() {
  static const nlohmann::json* const models = new nlohmann::json(testing_support::ReadTinyModels());
  return *models;
}

std::vector<TokenId> Ids(const nlohmann::json& ids) {
  std::vector<TokenId> tokens;
  for (int32_t id : ids) tokens.push_back(TokenId{id});
  return tokens;
}

Config DenseConfig(const std::string& path, bool precise) {
  Config config;
  config.model = path;
  config.precise = precise;
  config.threads = 2;
  config.corrector.mode = RunMode::kDense;
  return config;
}

OpenedModel Open(const Config& config) {
  absl::StatusOr<OpenedModel> opened = OpenModel(config, kContext, kPeriod);
  CHECK(opened.ok());
  return *std::move(opened);
}

// Of logits after the first position + 1 tokens.
float LargestError(Generator* generator, const nlohmann::json& entry, const std::string& position) {
  const std::vector<TokenId> tokens = Ids(entry["tokens"]);
  const std::vector<float> expected = entry["logits"][position];
  const std::vector<float> logits = generator->LogitsAfter(std::span(tokens).first(std::stoul(position) + 1)).value();
  CHECK(logits.size() == expected.size());
  float largest = 0;
  for (size_t i = 0; i < logits.size(); ++i) largest = std::max(largest, std::abs(logits[i] - expected[i]));
  return largest;
}

float LargestError(const OpenedModel& opened, const nlohmann::json& entry) {
  Generator generator(opened.engine.get());
  float largest = 0;
  for (const auto& [position, logits] : entry["logits"].items()) {
    largest = std::max(largest, LargestError(&generator, entry, position));
  }
  return largest;
}

GenerationResult Generate(const OpenedModel& opened, const nlohmann::json& entry) {
  GenerationOptions options;
  options.max_tokens = static_cast<int32_t>(entry["greedy"].size());
  options.ignore_end = true;
  GenerationResult result;
  CHECK(Generator(opened.engine.get()).Generate(Ids(entry["tokens"]), options, &result).ok());
  return result;
}

class ArchitectureTest : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    entry_ = TinyModels()[GetParam()];
    plain_ = folder_.Path("tiny.gguf");
    testing_support::WriteTinyGguf(entry_, plain_);
  }

  // Pages of 32 rows, in the order that the importance pass gives.
  std::string Pack() {
    const std::string packed = folder_.Path("tiny.dog.gguf");
    PackOptions options;
    options.page_rows = 32;
    options.importance = NewImportancePass(plain_, 2).value();
    const absl::Status status = PackModel(plain_, packed, options);
    EXPECT_TRUE(status.ok()) << status;
    return packed;
  }

  TestFolder folder_;
  nlohmann::json entry_;
  std::string plain_;
};

TEST_P(ArchitectureTest, PlainFileGivesTheReferencesLogitsAndText) {
  const OpenedModel opened = Open(DenseConfig(plain_, true));
  const float error = LargestError(opened, entry_);
  std::printf("%s: largest error of a logit %.6f\n", std::string(entry_["name"]).c_str(), error);
  EXPECT_LT(error, kBound);
  EXPECT_EQ(Generate(opened, entry_).tokens, Ids(entry_["greedy"]));
}

TEST_P(ArchitectureTest, PackedFileGivesTheReferencesLogitsAndText) {
  const OpenedModel opened = Open(DenseConfig(Pack(), true));
  EXPECT_LT(LargestError(opened, entry_), kBound);
  EXPECT_EQ(Generate(opened, entry_).tokens, Ids(entry_["greedy"]));
}

TEST_P(ArchitectureTest, StrictTextIsTheDenseText) {
  const std::string packed = Pack();
  for (const bool precise : {true, false}) {
    for (const double temperature : {0.0, 0.9}) {
      Config config = DenseConfig(packed, precise);
      config.sampling.temperature = temperature;
      const GenerationResult dense = Generate(Open(config), entry_);
      config.corrector.mode = RunMode::kStrict;
      config.corrector.period = kPeriod;
      config.corrector.adaptive = false;
      config.draft.density = 0.5;
      const GenerationResult strict = Generate(Open(config), entry_);
      EXPECT_EQ(strict.tokens, dense.tokens) << "precise " << precise << ", temperature " << temperature;
      EXPECT_GT(strict.drafts_judged, 0);
      EXPECT_LT(strict.draft_density, 0.8);
    }
  }
}

// What is left out would show: no part of a layer is too small to be seen in the logits.
TEST_P(ArchitectureTest, EveryPartOfTheDescriptionIsSeenInTheLogits) {
  for (const char* key : {"attention.sliding_window", "rope.scaling.type", "rope.freq_base"}) {
    const std::string name = std::string(entry_["architecture"]) + "." + key;
    nlohmann::json changed = entry_;
    if (changed["fields"].erase(name) == 0 || entry_["fields"][name] == 10000.0) continue;
    testing_support::WriteTinyGguf(changed, plain_);
    EXPECT_GT(LargestError(Open(DenseConfig(plain_, true)), entry_), 5 * kBound) << key;
  }
  if (!entry_.contains("rope_factors")) return;
  nlohmann::json changed = entry_;
  changed.erase("rope_factors");
  testing_support::WriteTinyGguf(changed, plain_);
  EXPECT_GT(LargestError(Open(DenseConfig(plain_, true)), entry_), 5 * kBound);
}

INSTANTIATE_TEST_SUITE_P(Models, ArchitectureTest, testing::Range<size_t>(0, TinyModels().size()),
                         [](const auto& test) {
                           std::string name = TinyModels()[test.param]["name"];
                           std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
                           return name;
                         });

}  // namespace
}  // namespace dogstar
