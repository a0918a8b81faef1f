#include "predictors/calibrated.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::HasSubstr;

constexpr int32_t kLayers = 2, kRows = 4, kDim = 32, kRank = 32;

Statistics MakeStatistics() {
  Statistics statistics;
  statistics.model = {0x1234, kLayers, kRows, kDim};
  statistics.settings = {.text_hash = 5, .tokens = 3, .held_out = 1, .rank = kRank};
  for (int32_t i = 0; i < kLayers; ++i) {
    LayerStatistics layer;
    layer.frequency = {0.1F, 0.9F, 0.5F, 0.4F};
    layer.persistence = layer.contribution = layer.z_rms = {1, 2, 3, 4};
    layer.up_rms = {4, 3, 2, 1};
    for (const double density : kDensityGrid) {
      layer.thresholds.push_back(static_cast<float>(1 - density));
      layer.losses.push_back(static_cast<float>((1 - density) * (i + 1)));
    }
    layer.map = {kRank,       kDim, kRows, std::vector<float>(kRank * kDim, 0.5F), std::vector<float>(kRows * kRank),
                 {0, 1, 2, 3}};
    for (size_t j = 0; j < layer.map.output.size(); ++j) layer.map.output[j] = static_cast<float>(j / kRank);
    RoundLikeStored(&layer.map);
    layer.recall = {0.5, 0.25, 0.75, 0.125};
    statistics.layers.push_back(std::move(layer));
  }
  return statistics;
}

class StatisticsFileTest : public testing::Test {
 protected:
  StatisticsFileTest() { std::filesystem::create_directories(folder_); }
  ~StatisticsFileTest() override { std::filesystem::remove_all(folder_); }
  std::vector<std::byte> Bytes() const {
    std::ifstream in(path_, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
  }

  const std::string folder_ = testing::TempDir() + "/statistics_" +
                              std::to_string(testing::UnitTest::GetInstance()->random_seed()) + "_" +
                              testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string path_ = folder_ + "/model.stats";
};

TEST_F(StatisticsFileTest, ComesBackAsItWas) {
  Statistics written = MakeStatistics();
  written.stream.assign(3 * kDim, 2.5F);
  ASSERT_TRUE(WriteStatistics(written, path_).ok());
  const auto read = ReadStatistics(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->model, written.model);
  EXPECT_EQ(read->settings, written.settings);
  EXPECT_EQ(read->stream, written.stream);
  ASSERT_EQ(read->layers.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    const LayerStatistics &a = read->layers[i], &b = written.layers[i];
    EXPECT_EQ(a.frequency, b.frequency);
    EXPECT_EQ(a.up_rms, b.up_rms);
    EXPECT_EQ(a.thresholds, b.thresholds);
    EXPECT_EQ(a.losses, b.losses);
    EXPECT_EQ(a.map.hidden, b.map.hidden);
    EXPECT_EQ(a.map.output, b.map.output);
    EXPECT_EQ(a.map.bias, b.map.bias);
    EXPECT_EQ(a.recall.likely_precision, 0.75);
  }
}

// Residual maps, each of its kind, and attribution sums.
TEST_F(StatisticsFileTest, AdditionsComeBackAsTheyWere) {
  Statistics written = MakeStatistics();
  written.settings.residuals = {{"gate", 0.5, 0}, {"resident", 0.7, 99}};
  written.settings.attribution = 2;
  written.attributed = 3;
  for (LayerStatistics& layer : written.layers) {
    for (const float value : {0.5F, 2.0F}) {
      LowRankMap map{kRank,
                     kDim,
                     kDim,
                     std::vector<float>(kRank * kDim, value),
                     std::vector<float>(kRank * kDim, -value),
                     std::vector<float>(kDim, value)};
      RoundLikeStored(&map);
      layer.residuals.push_back(map);
      layer.explained.push_back(value / 4);
    }
    layer.ffn_sums = AttributionSums::Of(kRows);
    layer.head_sums = AttributionSums::Of(5);
    std::iota(layer.ffn_sums.values.begin(), layer.ffn_sums.values.end(), 1.0F);
    std::iota(layer.head_sums.values.begin(), layer.head_sums.values.end(), -7.0F);
  }
  ASSERT_TRUE(WriteStatistics(written, path_).ok());
  const auto read = ReadStatistics(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->settings, written.settings);
  EXPECT_EQ(read->attributed, 3);
  for (size_t i = 0; i < 2; ++i) {
    const LayerStatistics &a = read->layers[i], &b = written.layers[i];
    ASSERT_EQ(a.residuals.size(), 2U);
    for (size_t r = 0; r < 2; ++r) {
      EXPECT_EQ(a.residuals[r].rows, kDim);
      EXPECT_EQ(a.residuals[r].hidden, b.residuals[r].hidden);
      EXPECT_EQ(a.residuals[r].output, b.residuals[r].output);
      EXPECT_EQ(a.residuals[r].bias, b.residuals[r].bias);
    }
    EXPECT_EQ(a.explained, b.explained);
    EXPECT_EQ(a.ffn_sums.values, b.ffn_sums.values);
    EXPECT_EQ(a.head_sums.units, 5);
    EXPECT_EQ(a.head_sums.values, b.head_sums.values);
  }
}

// Sums that are said to be there and are not, or are of another number of heads, would be read past their end.
TEST_F(StatisticsFileTest, SumsAreThereForEveryLayer) {
  Statistics statistics = MakeStatistics();
  statistics.attributed = 5;
  for (LayerStatistics& layer : statistics.layers) {
    layer.ffn_sums = AttributionSums::Of(kRows);
    layer.head_sums = AttributionSums::Of(3);
  }
  statistics.layers[1].head_sums = AttributionSums::Of(4);
  ASSERT_TRUE(WriteStatistics(statistics, path_).ok());
  EXPECT_THAT(std::string(ReadStatistics(path_).status().message()), HasSubstr("of 4 heads"));
  statistics.layers[1].head_sums = {};
  ASSERT_TRUE(WriteStatistics(statistics, path_).ok());
  EXPECT_THAT(std::string(ReadStatistics(path_).status().message()), HasSubstr("blk.1.attribution.heads is missing"));
}

TEST_F(StatisticsFileTest, WhatIsCutOffOrWrongIsNamed) {
  ASSERT_TRUE(WriteStatistics(MakeStatistics(), path_).ok());
  const std::vector<std::byte> bytes = Bytes();
  for (const size_t length : {size_t{3}, bytes.size() / 4, bytes.size() / 2, bytes.size() - 70}) {
    const auto cut = ParseStatistics(std::span(bytes).first(length), "cut.stats");
    ASSERT_FALSE(cut.ok()) << length;
    EXPECT_THAT(std::string(cut.status().message()), HasSubstr("cut.stats"));
  }
  Statistics wrong = MakeStatistics();
  wrong.layers[1].up_rms.push_back(1);
  ASSERT_TRUE(WriteStatistics(wrong, path_).ok());
  EXPECT_THAT(std::string(ReadStatistics(path_).status().message()), HasSubstr("blk.1.up_rms is not F32 of 1 x 4"));
  wrong = MakeStatistics();
  wrong.layers[0].losses[3] = NAN;
  ASSERT_TRUE(WriteStatistics(wrong, path_).ok());
  EXPECT_THAT(std::string(ReadStatistics(path_).status().message()), HasSubstr("blk.0.losses has a value that is no"));
}

TEST_F(StatisticsFileTest, AnotherModelsOrUnfinishedOnesAreRefused) {
  Statistics statistics = MakeStatistics();
  EXPECT_TRUE(CheckStatistics(statistics, statistics.model, "a.stats").ok());
  ModelIdentity other = statistics.model;
  other.header_hash = 1;
  EXPECT_THAT(std::string(CheckStatistics(statistics, other, "a.stats").message()),
              HasSubstr("a.stats belongs to another model"));
  statistics.layers.pop_back();
  EXPECT_THAT(std::string(CheckStatistics(statistics, statistics.model, "a.stats").message()),
              HasSubstr("has 1 of 2 layers"));
}

TEST(CalibratedTest, RowsFollowThePackedOrder) {
  const std::vector<NeuronIndex> order = {NeuronIndex{3}, NeuronIndex{1}, NeuronIndex{0}, NeuronIndex{2}};
  const Statistics packed = InRowOrder(MakeStatistics(), {order, order});
  EXPECT_EQ(packed.layers[1].frequency, (std::vector<float>{0.4F, 0.9F, 0.1F, 0.5F}));
  EXPECT_EQ(packed.layers[1].map.bias, (std::vector<float>{3, 1, 0, 2}));
  EXPECT_NEAR(packed.layers[1].map.output[0], 3, 0.02);
  EXPECT_NEAR(packed.layers[1].map.output[2 * kRank], 0, 0.02);
}

TEST(CalibratedTest, AttributionTakesTheRowsOfTheLargestCorrectedSum) {
  Statistics statistics = MakeStatistics();
  PredictorOptions options{.name = "attribution", .density = 0.5, .statistics = &statistics};
  const absl::Status without = NewPredictor(options, kLayers, kRows).status();
  EXPECT_THAT(std::string(without.message()), HasSubstr("--attribution"));
  statistics.attributed = 1;
  for (LayerStatistics& layer : statistics.layers) {
    layer.ffn_sums = AttributionSums::Of(kRows);
    const std::vector<float> corrected = {-5, 1, 3, 2};
    std::copy(corrected.begin(), corrected.end(), layer.ffn_sums.values.end() - kRows);
  }
  statistics = InRowOrder(std::move(statistics), {{NeuronIndex{3}, NeuronIndex{2}, NeuronIndex{1}, NeuronIndex{0}},
                                                  {NeuronIndex{0}, NeuronIndex{1}, NeuronIndex{2}, NeuronIndex{3}}});
  const auto predictor = NewPredictor(options, kLayers, kRows).value();
  RowSet all;
  all.Reset(kRows);
  for (int32_t row = 0; row < kRows; ++row) all.Insert(RowIndex{row});
  EXPECT_EQ(predictor->ListedRows(LayerIndex{0}), 2);
  const RowSet* chosen = predictor->Choose(LayerIndex{0}, all);
  EXPECT_TRUE(chosen->Contains(RowIndex{0}) && chosen->Contains(RowIndex{1}));  // neurons 3 and 2
  chosen = predictor->Choose(LayerIndex{1}, all);
  EXPECT_TRUE(chosen->Contains(RowIndex{2}) && chosen->Contains(RowIndex{3}));
}

TEST(CalibratedTest, ThresholdsLieBetweenThoseOfTheGrid) {
  const std::vector<float> thresholds = MakeStatistics().layers[0].thresholds;
  EXPECT_NEAR(ThresholdOf(thresholds, 0.5), 0.5, 1e-6);
  EXPECT_NEAR(ThresholdOf(thresholds, 0.55), 0.45, 1e-6);
  EXPECT_EQ(ThresholdOf(thresholds, 1), 0);
  EXPECT_GT(ThresholdOf(thresholds, 0.05), ThresholdOf(thresholds, 0.1));
  EXPECT_LT(ThresholdOf(thresholds, 0.95), ThresholdOf(thresholds, 0.9));
}

TEST(CalibratedTest, LayersThatLoseMoreGetMore) {
  const std::vector<double> densities = CalibratedDensities(MakeStatistics(), 0.5);
  EXPECT_NEAR(densities[0] + densities[1], 1, 1e-9);
  EXPECT_GT(densities[1], densities[0]);
}

PredictorOptions Options(const char* name, const Statistics* statistics) {
  PredictorOptions options;
  options.name = name;
  options.density = 0.5;
  options.statistics = statistics;
  return options;
}

TEST(CalibratedTest, HotTakesTheMostFrequentRows) {
  const Statistics statistics = MakeStatistics();
  const auto predictor = NewPredictor(Options("hot", &statistics), kLayers, kRows).value();
  RowSet all;
  all.Reset(kRows);
  for (int32_t i = 0; i < kRows; ++i) all.Insert(RowIndex{i});
  const RowSet* chosen = predictor->Choose(LayerIndex{0}, all);
  EXPECT_EQ(chosen->count(), 2);
  EXPECT_TRUE(chosen->Contains(RowIndex{1}) && chosen->Contains(RowIndex{2}));
}

TEST(CalibratedTest, ChoicesByThresholdAndByMap) {
  const Statistics statistics = MakeStatistics();
  const auto threshold = NewPredictor(Options("threshold", &statistics), kLayers, kRows).value();
  EXPECT_LT(threshold->TokenChoice(LayerIndex{0})->count, 0);
  EXPECT_NEAR(threshold->TokenChoice(LayerIndex{0})->threshold, 0.5, 1e-6);
  EXPECT_EQ(threshold->ScoreMap(LayerIndex{0}), nullptr);
  const auto map = NewPredictor(Options("low-rank", &statistics), kLayers, kRows).value();
  EXPECT_EQ(map->TokenChoice(LayerIndex{1})->score, RowScore::kGiven);
  EXPECT_EQ(map->TokenChoice(LayerIndex{1})->count, 2);
  EXPECT_EQ(map->ScoreMap(LayerIndex{1})->bias, statistics.layers[1].map.bias);
}

TEST(CalibratedTest, WithoutStatisticsTheErrorSaysWhatToDo) {
  for (const char* name : {"hot", "threshold", "low-rank"}) {
    const auto predictor = NewPredictor(Options(name, nullptr), kLayers, kRows);
    ASSERT_FALSE(predictor.ok());
    EXPECT_THAT(std::string(predictor.status().message()), HasSubstr("dogstar calibrate"));
  }
}

}  // namespace
}  // namespace dogstar
