#include "predictors/predictor.h"

#include <array>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "predictors/calibrated.h"
#include "predictors/density.h"
#include "predictors/griffin.h"
#include "predictors/ranked.h"
#include "predictors/selection.h"
#include "predictors/static_choice.h"
#include "predictors/text_rows.h"
#include "predictors/token_choice.h"

namespace dogstar {
namespace {

constexpr std::array<std::string_view, 17> kNames = {"resident",
                                                     "griffin",
                                                     "dense",
                                                     "gate",
                                                     "gate-weighted",
                                                     "two-stage",
                                                     "magnitude",
                                                     "contribution",
                                                     "random",
                                                     "weight-norm",
                                                     "lag",
                                                     "oracle",
                                                     "hot",
                                                     "attribution",
                                                     "threshold",
                                                     "low-rank",
                                                     "prompt-attribution"};

using Kind = TokenChoicePredictor::Kind;
constexpr std::array<std::pair<std::string_view, Kind>, 5> kTokenKinds = {{{"gate", Kind::kGate},
                                                                           {"gate-weighted", Kind::kGateWeighted},
                                                                           {"two-stage", Kind::kTwoStage},
                                                                           {"magnitude", Kind::kMagnitude},
                                                                           {"contribution", Kind::kContribution}}};

// The file's order is one of importance: the first rows that are available, up to the density.
class ResidentPredictor : public Predictor {
 public:
  // rows: [layers]; < 0: all.
  explicit ResidentPredictor(std::vector<int32_t> rows) : rows_(std::move(rows)) {}

  std::string_view name() const override { return "resident"; }
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override {
    int32_t left = rows_[static_cast<size_t>(ToInt(layer))];
    if (left < 0) return nullptr;
    chosen_.Reset(available.rows());
    for (int32_t row = 0; row < available.rows() && left > 0; ++row) {
      if (!available.Contains(RowIndex{row})) continue;
      chosen_.Insert(RowIndex{row});
      --left;
    }
    return &chosen_;
  }

 private:
  std::vector<int32_t> rows_;
  RowSet chosen_;
};

class DensePredictor : public Predictor {
 public:
  std::string_view name() const override { return "dense"; }
};

absl::Status CheckDensities(const PredictorOptions& options, int32_t layers) {
  if (options.density > 1) {
    return absl::InvalidArgumentError(fmt::format("draft.density {} is not between 0 and 1", options.density));
  }
  const size_t given = options.layer_densities.size();
  if (given != 0 && given != static_cast<size_t>(layers)) {
    return absl::InvalidArgumentError(
        fmt::format("draft.layer_densities has {} numbers; the model has {} layers", given, layers));
  }
  for (const double density : options.layer_densities) {
    if (density >= 0 && density <= 1) continue;
    return absl::InvalidArgumentError(fmt::format("draft.layer_densities: {} is not between 0 and 1", density));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const std::string_view> PredictorNames() { return kNames; }

absl::StatusOr<std::unique_ptr<Predictor>> NewPredictor(const PredictorOptions& options, int32_t layers,
                                                        int32_t ffn_rows) {
  RETURN_IF_ERROR(CheckDensities(options, layers));
  ASSIGN_OR_RETURN(const Selection selection, ParseSelection(options.selection));
  const std::vector<int32_t> rows = RowsByLayer(options.density, options.layer_densities, layers, ffn_rows);
  if (options.name == "resident") return std::make_unique<ResidentPredictor>(rows);
  if (options.name == "griffin") {
    if (selection == Selection::kMagnitude) return std::make_unique<WeightNormPredictor>(rows);
    return std::make_unique<GriffinPredictor>(
        GriffinPredictor::Options{rows, ffn_rows, selection, options.seed, options.prior});
  }
  if (options.name == "lag") return std::make_unique<LagPredictor>(rows, ffn_rows, options.refresh);
  if (options.name == "oracle") return std::make_unique<OraclePredictor>(rows, ffn_rows);
  if (options.name == "random") return std::make_unique<RandomPredictor>(rows, options.seed);
  if (options.name == "weight-norm") return std::make_unique<WeightNormPredictor>(rows);
  if (options.name == "prompt-attribution") {
    // Until a prompt was scored all rows are alike: the file's order.
    const std::vector<float> alike(static_cast<size_t>(ffn_rows));
    return std::make_unique<PromptRankedPredictor>("prompt-attribution", rows,
                                                   std::vector(static_cast<size_t>(layers), alike));
  }
  if (NeedsStatistics(options.name)) return NewCalibratedPredictor(options, layers, ffn_rows);
  for (const auto& [name, kind] : kTokenKinds) {
    if (options.name != name) continue;
    const TokenChoicePredictor::Options choice{
        options.density, options.layer_densities, options.value_density, options.shared, layers,
        ffn_rows,        options.statistics};
    return std::make_unique<TokenChoicePredictor>(kind, name, choice);
  }
  if (options.name == "dense") return std::make_unique<DensePredictor>();
  return absl::InvalidArgumentError(
      fmt::format("draft.predictor \"{}\" is not known; allowed are {}", options.name, fmt::join(kNames, ", ")));
}

}  // namespace dogstar
