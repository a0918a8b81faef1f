#include "runtime/integrated_gradients.h"

#include <optional>
#include <utility>
#include <vector>

#include "runtime/backward_stages.h"

namespace dogstar {
namespace {

// The text, its last position as `takes` rows.
AttributionBatch TakesOfTheLast(std::span<const TokenId> tokens, int32_t takes) {
  AttributionBatch batch = AttributionBatch::Text(tokens.first(tokens.size() - 1));
  batch.tokens.insert(batch.tokens.end(), static_cast<size_t>(takes), tokens.back());
  return batch;
}

std::vector<float> MeanRow(std::span<const float> values, int32_t rows) {
  const size_t cols = values.size() / static_cast<size_t>(rows);
  std::vector<float> mean(cols);
  for (size_t at = 0; at < values.size(); at += cols) {
    AddScaled(1.0F / static_cast<float>(rows), values.subspan(at, cols), mean);
  }
  return mean;
}

}  // namespace

absl::Status IntegrateGradients(AttributionPass* pass, std::span<const TokenId> tokens, TokenId label, int32_t steps,
                                IntegratedGradientFn visit) {
  CHECK(steps >= 1 && !tokens.empty());
  const std::vector<std::optional<TokenId>> labels(static_cast<size_t>(steps), label);
  UnitChange change;
  change.first_row = static_cast<int32_t>(tokens.size()) - 1;
  for (int32_t k = 1; k <= steps; ++k) change.factors.push_back(static_cast<float>(k) / static_cast<float>(steps));
  RETURN_IF_ERROR(pass->Forward(TakesOfTheLast(tokens, steps), nullptr));
  // From the last layer down: the inputs of the layers below one that was changed are still those of the dense pass.
  for (int32_t i = pass->config().layer_count - 1; i >= 0; --i) {
    change.layer = LayerIndex{i};
    for (const UnitKind kind : {UnitKind::kFfn, UnitKind::kHead}) {
      change.kind = kind;
      RETURN_IF_ERROR(pass->ForwardFrom(change.layer, &change));
      const auto on_layer = [&](const LayerAttribution& at) {
        if (at.layer != change.layer) return;
        const bool ffn = kind == UnitKind::kFfn;
        const std::span<const float> units = ffn ? at.ffn : at.head;
        visit(at.layer, kind, units.first(units.size() / static_cast<size_t>(at.rows)),
              MeanRow(ffn ? at.ffn_gradient : at.head_gradient, at.rows));
      };
      RETURN_IF_ERROR(pass->Backward(labels, change.layer, on_layer).status());
    }
  }
  return absl::OkStatus();
}

}  // namespace dogstar
