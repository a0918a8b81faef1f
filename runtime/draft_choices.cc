#include "runtime/draft_choices.h"

#include <cmath>
#include <utility>

#include "fmt/format.h"
#include "predictors/calibrated.h"
#include "runtime/calibration.h"
#include "runtime/prompt_attribution.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

// Null where drafts compute all heads.
absl::StatusOr<std::unique_ptr<HeadChoice>> MakeHeadChoice(const Config& config, const ModelConfig& model,
                                                           const Statistics* statistics) {
  if (config.draft.head_density >= 1) return std::unique_ptr<HeadChoice>();
  auto heads =
      std::make_unique<HeadChoice>(model.layer_count, model.head_count, model.head_dim, config.draft.head_density);
  if (statistics == nullptr || statistics->attributed == 0) return heads;
  if (const int32_t units = statistics->layers.front().head_sums.units; units != model.head_count) {
    return absl::InvalidArgumentError(fmt::format("{} has attribution of {} heads, the model has {}: calibrate again",
                                                  config.draft.statistics, units, model.head_count));
  }
  heads->SetScores(CorrectedSums(*statistics, &LayerStatistics::head_sums));
  return heads;
}

void TakeResiduals(const Config& config, const PackedFile& packed, Statistics* statistics, DraftChoices* choices) {
  // Maps are learned for the same density in every layer.
  if (!config.draft.residual || !config.draft.layer_densities.empty() || config.draft.calibrated_layers) return;
  for (size_t i = 0; i < statistics->settings.residuals.size(); ++i) {
    const ResidualKind& kind = statistics->settings.residuals[i];
    if (kind.predictor != config.draft.predictor) continue;
    if (kind.order_hash != 0 && kind.order_hash != OrderHash(packed)) continue;
    Residual& residual = choices->residuals.emplace_back();
    residual.density = kind.density;
    for (LayerStatistics& layer : statistics->layers) residual.maps.push_back(std::move(layer.residuals[i]));
  }
}

absl::Status OpenSource(const Config& config, const ModelFile& model, DraftChoices* choices) {
  if (model.packed() == nullptr || !choices->predictor->needs_prompt_attribution()) return absl::OkStatus();
  ASSIGN_OR_RETURN(choices->source, OpenSourceOf(model, config.draft.source, config.model));
  return absl::OkStatus();
}

}  // namespace

const Residual* FindResidual(const DraftChoices& choices, double density) {
  const Residual* best = nullptr;
  double distance = kResidualReach;
  for (const Residual& residual : choices.residuals) {
    if (std::fabs(residual.density - density) > distance) continue;
    distance = std::fabs(residual.density - density);
    best = &residual;
  }
  return best;
}

absl::StatusOr<DraftChoices> MakeDraftChoices(const Config& config, const ModelFile& model) {
  PredictorOptions options = PredictorOptionsOf(config);
  const ModelConfig& c = model.config();
  DraftChoices choices;
  if (config.draft.statistics.empty() && config.draft.calibrated_layers) {
    return absl::FailedPreconditionError(
        "draft.per_layer calibrated needs draft.statistics: a file that dogstar calibrate has written for this model");
  }
  // Plain files make no drafts.
  if (config.draft.statistics.empty() || model.packed() == nullptr) {
    ASSIGN_OR_RETURN(choices.heads, MakeHeadChoice(config, c, nullptr));
    ASSIGN_OR_RETURN(choices.predictor, NewPredictor(options, c.layer_count, c.ffn_rows));
    RETURN_IF_ERROR(OpenSource(config, model, &choices));
    return choices;
  }
  ASSIGN_OR_RETURN(Statistics statistics, ReadStatistics(config.draft.statistics));
  ASSIGN_OR_RETURN(const ModelIdentity identity, IdentityOf(model));
  RETURN_IF_ERROR(CheckStatistics(statistics, identity, config.draft.statistics));
  std::vector<std::vector<NeuronIndex>> orders;
  for (const PackedLayer& layer : model.packed()->layers()) orders.push_back(layer.row_order);
  statistics = InRowOrder(std::move(statistics), orders);
  options.statistics = &statistics;
  const bool one_density = options.density >= 0 && options.layer_densities.empty();
  if (config.draft.calibrated_layers && one_density) {
    options.layer_densities = CalibratedDensities(statistics, options.density);
  }
  ASSIGN_OR_RETURN(choices.heads, MakeHeadChoice(config, c, &statistics));
  ASSIGN_OR_RETURN(choices.predictor, NewPredictor(options, c.layer_count, c.ffn_rows));
  TakeResiduals(config, *model.packed(), &statistics, &choices);
  RETURN_IF_ERROR(OpenSource(config, model, &choices));
  return choices;
}

}  // namespace dogstar
