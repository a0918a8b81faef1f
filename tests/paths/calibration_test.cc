// Calibration of a small model: what it counts, that stops and threads change nothing, and runs by its statistics.
#include "runtime/calibration.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/draft_choices.h"
#include "tests/support/child.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::HasSubstr;

std::string BytesOf(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class CalibrationTest : public testing::Test {
 protected:
  CalibrationTest() : model_(testing_support::WriteTinyModel(folder_, QuantType::kQ4_1, true)) {}

  CalibrationOptions Options(const std::string& output) const {
    CalibrationOptions options;
    options.output = folder_.Path(output);
    options.tokens = 2048;  // eight windows, one of them held out
    options.epochs = 2;
    options.threads = 2;
    return options;
  }
  // With all that can be asked for.
  CalibrationOptions WholeOptions(const std::string& output) const {
    CalibrationOptions options = Options(output);
    options.residuals = {{"gate-weighted", 0.4}, {"hot", 0.4}};
    options.attribution = 300;
    return options;
  }

  testing_support::TestFolder folder_;
  std::string model_;
};

TEST_F(CalibrationTest, CountsWhatItSays) {
  const auto statistics = Calibrate(model_, WholeOptions("a.stats"));
  ASSERT_TRUE(statistics.ok()) << statistics.status();
  const auto model = ModelFile::Open(model_);
  ASSERT_EQ(std::ssize(statistics->layers), (*model)->config().layer_count);
  for (const LayerStatistics& layer : statistics->layers) {
    const double rows = static_cast<double>(layer.frequency.size());
    const double mean = std::accumulate(layer.frequency.begin(), layer.frequency.end(), 0.0) / rows;
    EXPECT_NEAR(mean, 0.5, 1.0 / rows);  // every token has half of the rows
    for (size_t i = 1; i < kDensityGrid.size(); ++i) {
      EXPECT_LE(layer.losses[i], layer.losses[i - 1]);
      EXPECT_LE(layer.thresholds[i], layer.thresholds[i - 1]);
    }
    EXPECT_GT(layer.losses[0], 0);
    for (const float share : layer.persistence) EXPECT_TRUE(share >= 0 && share <= 1);
    EXPECT_GE(layer.recall.recall, 0.4);
    ASSERT_EQ(layer.explained.size(), 2U);
    // Sums of squares and of sizes belong together (Cauchy and Schwarz), unit by unit.
    for (const AttributionSums* sums : {&layer.ffn_sums, &layer.head_sums}) {
      ASSERT_GT(sums->units, 0);
      for (size_t unit = 0; unit < static_cast<size_t>(sums->units); ++unit) {
        const double snip = (*sums)[AttributionSum::kSnip][unit], fisher = (*sums)[AttributionSum::kFisher][unit];
        EXPECT_LE(std::fabs((*sums)[AttributionSum::kGxo][unit]), snip * 1.0001);
        EXPECT_LE(snip * snip, statistics->attributed * fisher * 1.001 + 1e-12);
      }
    }
  }
  EXPECT_EQ(statistics->attributed, 512) << "whole windows";
  const auto read = ReadStatistics(folder_.Path("a.stats"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->layers.back().map.output, statistics->layers.back().map.output);
  EXPECT_FALSE(std::filesystem::exists(UnfinishedPath(folder_.Path("a.stats"))));
}

TEST_F(CalibrationTest, StopsAndThreadsChangeNothing) {
  ASSERT_TRUE(Calibrate(model_, WholeOptions("whole.stats")).ok());
  CalibrationOptions options = WholeOptions("stopped.stats");
  options.threads = 3;
  options.on_layer = [](const Statistics&) { return false; };           // stops after every layer
  options.on_attributed = [](int32_t tokens) { return tokens > 256; };  // and once in attribution
  std::vector<std::string> notes;
  options.note = [&](std::string_view message) { notes.emplace_back(message); };
  int stops = 0;
  while (absl::IsCancelled(Calibrate(model_, options).status())) {
    ++stops;
    if (stops == (*ModelFile::Open(model_))->config().layer_count) options.on_layer = nullptr;
  }
  EXPECT_EQ(stops, (*ModelFile::Open(model_))->config().layer_count + 1);
  EXPECT_THAT(notes.front(), HasSubstr("goes on after layer 1"));
  EXPECT_EQ(BytesOf(folder_.Path("stopped.stats")), BytesOf(folder_.Path("whole.stats")));
}

TEST_F(CalibrationTest, WhatIsLeftOfOtherSettingsIsNotUsed) {
  CalibrationOptions options = Options("a.stats");
  options.on_layer = [](const Statistics&) { return false; };
  ASSERT_TRUE(absl::IsCancelled(Calibrate(model_, options).status()));
  options.seed = 2;
  std::string note;
  options.note = [&](std::string_view message) { note = message; };
  ASSERT_TRUE(absl::IsCancelled(Calibrate(model_, options).status()));
  EXPECT_THAT(note, HasSubstr("it begins anew"));
}

TEST_F(CalibrationTest, BadInputIsNamed) {
  CalibrationOptions options = Options("a.stats");
  options.texts = {"too short"};
  EXPECT_THAT(std::string(Calibrate(model_, options).status().message()), HasSubstr("at least 256"));
  options.texts.clear();
  options.rank = 33;
  EXPECT_THAT(std::string(Calibrate(model_, options).status().message()), HasSubstr("a multiple of 32"));
  options.rank = 32;
  options.ram = 1 << 20;
  const absl::Status small = Calibrate(model_, options).status();
  EXPECT_TRUE(absl::IsResourceExhausted(small));
  EXPECT_THAT(std::string(small.message()), HasSubstr("takes at least"));
  const std::string packed = testing_support::WriteTinyModel(folder_, QuantType::kQ4_1, false);
  options.ram.reset();
  EXPECT_THAT(std::string(Calibrate(packed, options).status().message()), HasSubstr("is packed"));
  options.residuals = {{"resident", 0.5}};
  EXPECT_THAT(std::string(Calibrate(model_, options).status().message()), HasSubstr("needs the packed file"));
  const testing_support::TestFolder other;
  options.packed = testing_support::WriteTinyModel(other, QuantType::kQ8_0, false);
  EXPECT_THAT(std::string(Calibrate(model_, options).status().message()), HasSubstr("is no packed form of"));
}

// Strict text by statistics is the dense text, and every row is the full model.
TEST_F(CalibrationTest, RunsByStatisticsAreExact) {
  ASSERT_TRUE(Calibrate(model_, WholeOptions("a.stats")).ok());
  Config config;
  config.model = model_;
  config.threads = 2;
  config.corrector.mode = RunMode::kDense;
  config.corrector.adaptive = false;
  config.draft.statistics = folder_.Path("a.stats");
  // Plain and packed files sum in another order: the dense text is the packed file's.
  Config strict = config;
  strict.corrector.mode = RunMode::kStrict;
  const ModelChoice choice = ChooseModel(strict, {}).value();
  config.model = strict.model = choice.path;
  const auto dense = testing_support::RunModel(config, "A tiny model", 33);
  ASSERT_TRUE(dense.ok()) << dense.status();
  strict.corrector.period = 8;
  for (const char* name : {"hot", "attribution", "threshold", "low-rank", "gate-weighted"}) {
    for (const bool calibrated : {false, true}) {
      strict.draft.predictor = name;
      strict.draft.density = 0.4;
      strict.draft.calibrated_layers = calibrated;
      const auto run = testing_support::RunModel(strict, "A tiny model", 33);
      ASSERT_TRUE(run.ok()) << name << ": " << run.status();
      EXPECT_EQ(run->result.tokens, dense->result.tokens) << name;
    }
    strict.draft.calibrated_layers = false;
    strict.draft.head_density = 0.5;
    const auto fewer_heads = testing_support::RunModel(strict, "A tiny model", 33);
    ASSERT_TRUE(fewer_heads.ok()) << fewer_heads.status();
    EXPECT_EQ(fewer_heads->result.tokens, dense->result.tokens) << name;
    strict.draft.head_density = 1;
    strict.draft.density = 1;
    const auto whole = testing_support::RunModel(strict, "A tiny model", 33);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_EQ(whole->result.accepted_mean(), 8) << name;
  }
}

// What is left out is guessed where the statistics have a map for the predictor at that density, and only there.
TEST_F(CalibrationTest, ResidualsAreUsedWhereTheyFit) {
  CalibrationOptions options = Options("a.stats");
  // A random model says nothing about held-out text unless that is the same again.
  std::string text;
  for (int i = 0; i < 400; ++i) text += "A tiny model says nothing of sense. ";
  options.texts = {text};
  Config config;
  config.corrector.mode = RunMode::kSparse;
  config.model = model_;
  config.model = ChooseModel(config, {}).value().path;
  options.packed = config.model;
  options.residuals = {{"hot", 0.4}, {"resident", 0.5}};
  const auto statistics = Calibrate(model_, options);
  ASSERT_TRUE(statistics.ok()) << statistics.status();
  for (const LayerStatistics& layer : statistics->layers) EXPECT_GT(layer.explained[1], 0.1);
  config.draft.statistics = folder_.Path("a.stats");
  const auto model = ModelFile::Open(config.model).value();
  const auto density_of = [&](const char* predictor, double density) {
    config.draft.predictor = predictor;
    const DraftChoices choices = MakeDraftChoices(config, *model).value();
    const Residual* found = FindResidual(choices, density);
    return found == nullptr ? -1.0 : found->density;
  };
  EXPECT_EQ(density_of("hot", 0.4), 0.4);
  EXPECT_EQ(density_of("hot", 0.44), 0.4);
  EXPECT_EQ(density_of("hot", 0.5), -1);
  EXPECT_EQ(density_of("gate", 0.4), -1);
  EXPECT_EQ(density_of("resident", 0.5), 0.5);
  config.draft.predictor = "resident";
  config.draft.density = 0.5;
  const auto with = testing_support::RunModel(config, "A tiny model", 24);
  config.draft.residual = false;
  const auto without = testing_support::RunModel(config, "A tiny model", 24);
  ASSERT_TRUE(with.ok() && without.ok()) << with.status() << without.status();
  EXPECT_NE(with->result.tokens, without->result.tokens);
}

// pack --statistics puts the rows first that calibration found important most often, run by run.
TEST_F(CalibrationTest, PackFollowsTheStatistics) {
  const auto statistics = Calibrate(model_, Options("a.stats")).value();
  const std::string packed = folder_.Path("ordered.dog.gguf");
  const testing_support::ChildOutput output = testing_support::RunChild(
      DOGSTAR_PROGRAM, {"pack", model_, "-o", packed, "--statistics", folder_.Path("a.stats")});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const auto model = ModelFile::Open(packed).value();
  for (size_t i = 0; i < statistics.layers.size(); ++i) {
    const std::vector<NeuronIndex>& order = model->packed()->layers()[i].row_order;
    const auto mean = [&](size_t first) {
      double sum = 0;
      for (size_t row = first; row < first + order.size() / 4; ++row) {
        sum += double{statistics.layers[i].frequency[static_cast<size_t>(ToInt(order[row]))]};
      }
      return sum;
    };
    EXPECT_GT(mean(0), mean(order.size() / 4) + 1);
    EXPECT_GT(mean(order.size() / 2), mean(order.size() * 3 / 4) + 1);
  }
  const testing_support::TestFolder other;
  const testing_support::ChildOutput refused = testing_support::RunChild(
      DOGSTAR_PROGRAM, {"pack", testing_support::WriteTinyModel(other, QuantType::kQ8_0, true), "-o", packed,
                        "--statistics", folder_.Path("a.stats")});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("belongs to another model"));
}

TEST_F(CalibrationTest, AnotherModelsStatisticsAreRefused) {
  ASSERT_TRUE(Calibrate(model_, Options("a.stats")).ok());
  const testing_support::TestFolder other;
  Config config;
  config.model = testing_support::WriteTinyModel(other, QuantType::kQ8_0, false);
  config.corrector.mode = RunMode::kStrict;
  config.draft.statistics = folder_.Path("a.stats");
  config.draft.predictor = "hot";
  const auto run = testing_support::RunModel(config, "A tiny model", 4);
  ASSERT_FALSE(run.ok());
  EXPECT_THAT(std::string(run.status().message()), HasSubstr("belongs to another model"));
}

}  // namespace
}  // namespace dogstar
