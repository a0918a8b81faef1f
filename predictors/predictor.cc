#include "predictors/predictor.h"

#include <array>
#include <cmath>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "predictors/griffin.h"
#include "predictors/static_choice.h"
#include "predictors/token_choice.h"

namespace dogstar {
namespace {

constexpr std::array<std::string_view, 10> kNames = {"resident",      "griffin",    "dense",     "gate",
                                                     "gate-weighted", "two-stage",  "magnitude", "contribution",
                                                     "random",        "weight-norm"};

using Kind = TokenChoicePredictor::Kind;
constexpr std::array<std::pair<std::string_view, Kind>, 5> kTokenKinds = {{{"gate", Kind::kGate},
                                                                           {"gate-weighted", Kind::kGateWeighted},
                                                                           {"two-stage", Kind::kTwoStage},
                                                                           {"magnitude", Kind::kMagnitude},
                                                                           {"contribution", Kind::kContribution}}};

// The file's order is one of importance: the first rows that are available, up to the density.
class ResidentPredictor : public Predictor {
 public:
  ResidentPredictor(double density, int32_t ffn_rows) : density_(density), ffn_rows_(ffn_rows) {}

  std::string_view name() const override { return "resident"; }
  const RowSet* Choose(LayerIndex, const RowSet& available) override {
    if (density_ < 0) return nullptr;
    int32_t left = static_cast<int32_t>(std::floor(density_ * ffn_rows_));
    chosen_.Reset(available.rows());
    for (int32_t row = 0; row < available.rows() && left > 0; ++row) {
      if (!available.Contains(RowIndex{row})) continue;
      chosen_.Insert(RowIndex{row});
      --left;
    }
    return &chosen_;
  }

 private:
  double density_;
  int32_t ffn_rows_;
  RowSet chosen_;
};

class DensePredictor : public Predictor {
 public:
  std::string_view name() const override { return "dense"; }
};

}  // namespace

std::span<const std::string_view> PredictorNames() { return kNames; }

absl::StatusOr<std::unique_ptr<Predictor>> NewPredictor(const PredictorOptions& options, int32_t layers,
                                                        int32_t ffn_rows) {
  if (options.density > 1) {
    return absl::InvalidArgumentError(fmt::format("draft.density {} is not between 0 and 1", options.density));
  }
  if (options.name == "resident") return std::make_unique<ResidentPredictor>(options.density, ffn_rows);
  if (options.name == "griffin") return std::make_unique<GriffinPredictor>(options.density, layers, ffn_rows);
  if (options.name == "random") return std::make_unique<RandomPredictor>(options.density, ffn_rows, options.seed);
  if (options.name == "weight-norm") return std::make_unique<WeightNormPredictor>(options.density, layers, ffn_rows);
  for (const auto& [name, kind] : kTokenKinds) {
    if (options.name != name) continue;
    return std::make_unique<TokenChoicePredictor>(kind, name, options.density, options.value_density, layers, ffn_rows);
  }
  if (options.name == "dense") return std::make_unique<DensePredictor>();
  return absl::InvalidArgumentError(
      fmt::format("draft.predictor \"{}\" is not known; allowed are {}", options.name, fmt::join(kNames, ", ")));
}

}  // namespace dogstar
