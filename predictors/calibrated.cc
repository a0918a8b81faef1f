#include "predictors/calibrated.h"

#include <algorithm>
#include <array>
#include <utility>

#include "fmt/format.h"
#include "predictors/density.h"
#include "predictors/ranked.h"

namespace dogstar {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"hot", "attribution", "threshold", "low-rank"};

// Chooses by a RowChoice that the statistics settle.
class SettledPredictor : public Predictor {
 public:
  SettledPredictor(std::string_view name, std::vector<RowChoice> choices, std::vector<LowRankMap> maps)
      : name_(name), choices_(std::move(choices)), maps_(std::move(maps)) {}

  std::string_view name() const override { return name_; }
  bool chooses_by_token() const override { return !choices_.empty(); }
  const RowChoice* TokenChoice(LayerIndex layer) const override {
    return choices_.empty() ? nullptr : &choices_[static_cast<size_t>(ToInt(layer))];
  }
  const LowRankMap* ScoreMap(LayerIndex layer) const override {
    return maps_.empty() ? nullptr : &maps_[static_cast<size_t>(ToInt(layer))];
  }

 private:
  std::string_view name_;
  std::vector<RowChoice> choices_;  // [layer]; empty: every resident row
  std::vector<LowRankMap> maps_;    // [layer]; empty: none
};

std::vector<std::vector<float>> FrequenciesOf(const Statistics& statistics) {
  std::vector<std::vector<float>> scores;
  for (const LayerStatistics& layer : statistics.layers) scores.push_back(layer.frequency);
  return scores;
}

RowChoice ThresholdChoice(const LayerStatistics& layer, double density) {
  RowChoice choice;
  choice.score = RowScore::kGate;
  choice.count = -1;
  choice.threshold = ThresholdOf(layer.thresholds, density);
  return choice;
}

void Reorder(const std::vector<NeuronIndex>& order, size_t width, std::vector<float>* values) {
  const std::vector<float> source = *values;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto from = static_cast<size_t>(ToInt(order[i]));
    std::copy_n(source.begin() + static_cast<ptrdiff_t>(from * width), width,
                values->begin() + static_cast<ptrdiff_t>(i * width));
  }
}

void ReorderSums(const std::vector<NeuronIndex>& order, AttributionSums* sums) {
  const std::vector<float> source = sums->values;
  const auto units = static_cast<size_t>(sums->units);
  for (size_t at = 0; at < source.size(); ++at) {
    const size_t unit = at % units;
    sums->values[at] = source[at - unit + static_cast<size_t>(ToInt(order[unit]))];
  }
}

}  // namespace

bool NeedsStatistics(std::string_view predictor) {
  return std::find(kNames.begin(), kNames.end(), predictor) != kNames.end();
}

absl::StatusOr<std::unique_ptr<Predictor>> NewCalibratedPredictor(const PredictorOptions& options, int32_t layers,
                                                                  int32_t ffn_rows) {
  if (options.statistics == nullptr) {
    return absl::FailedPreconditionError(fmt::format(
        "draft.predictor {} needs draft.statistics: a file that dogstar calibrate has written for this model",
        options.name));
  }
  const Statistics& statistics = *options.statistics;
  CHECK(statistics.layers.size() == static_cast<size_t>(layers) && statistics.model.rows == ffn_rows);
  const std::vector<int32_t> rows = RowsByLayer(options.density, options.layer_densities, layers, ffn_rows);
  if (options.name == "hot") return std::make_unique<RankedPredictor>("hot", rows, FrequenciesOf(statistics));
  if (options.name == "attribution") {
    if (statistics.attributed == 0) {
      return absl::FailedPreconditionError(
          "draft.predictor attribution needs statistics with attribution: dogstar calibrate --attribution TOKENS");
    }
    return std::make_unique<RankedPredictor>("attribution", rows,
                                             CorrectedSums(statistics, &LayerStatistics::ffn_sums));
  }
  const bool by_map = options.name == "low-rank";
  const std::string_view name = by_map ? "low-rank" : "threshold";
  std::vector<RowChoice> choices;
  std::vector<LowRankMap> maps;
  if (options.density < 0 && options.layer_densities.empty()) {
    return std::make_unique<SettledPredictor>(name, std::move(choices), std::move(maps));
  }
  for (size_t i = 0; i < statistics.layers.size(); ++i) {
    const double density = options.layer_densities.empty() ? options.density : options.layer_densities[i];
    choices.push_back(by_map ? RowChoice{.score = RowScore::kGiven, .count = rows[i]}
                             : ThresholdChoice(statistics.layers[i], density));
    choices.back().shared = options.shared;
    if (by_map) maps.push_back(statistics.layers[i].map);
  }
  return std::make_unique<SettledPredictor>(name, std::move(choices), std::move(maps));
}

Statistics InRowOrder(Statistics statistics, const std::vector<std::vector<NeuronIndex>>& orders) {
  CHECK(orders.size() == statistics.layers.size());
  for (size_t i = 0; i < orders.size(); ++i) {
    LayerStatistics& layer = statistics.layers[i];
    for (std::vector<float>* values :
         {&layer.frequency, &layer.persistence, &layer.contribution, &layer.z_rms, &layer.up_rms, &layer.map.bias}) {
      Reorder(orders[i], 1, values);
    }
    Reorder(orders[i], static_cast<size_t>(layer.map.rank), &layer.map.output);
    if (layer.ffn_sums.units > 0) ReorderSums(orders[i], &layer.ffn_sums);
  }
  return statistics;
}

std::vector<std::vector<float>> CorrectedSums(const Statistics& statistics, AttributionSums LayerStatistics::*units) {
  std::vector<std::vector<float>> scores;
  for (const LayerStatistics& layer : statistics.layers) {
    const std::span<const float> corrected = (layer.*units)[AttributionSum::kCorrected];
    scores.emplace_back(corrected.begin(), corrected.end());
  }
  return scores;
}

float ThresholdOf(const std::vector<float>& thresholds, double density) {
  if (density >= 1) return 0;
  double before_density = 0, before = 2.0 * thresholds.front();  // nothing was measured below the first
  for (size_t i = 0; i < kDensityGrid.size(); ++i) {
    if (density <= kDensityGrid[i]) {
      const double part = (density - before_density) / (kDensityGrid[i] - before_density);
      return static_cast<float>(before + part * (thresholds[i] - before));
    }
    before_density = kDensityGrid[i];
    before = thresholds[i];
  }
  return static_cast<float>(before * (1 - density) / (1 - before_density));
}

std::vector<double> CalibratedDensities(const Statistics& statistics, double mean) {
  std::vector<std::vector<float>> losses;
  for (const LayerStatistics& layer : statistics.layers) losses.push_back(layer.losses);
  return AllocateDensities(losses, kDensityGrid, mean);
}

}  // namespace dogstar
