// Integrated gradients: the gradient of a unit averaged along the way from nothing to its output, for comparing with
// GxO.
//
//   IG_i = h_i * (1/n) sum_{k = 1..n} g_i at (k/n) h      (right Riemann sum, baseline 0; n = 1 is GxO)
//
// All units of one layer's FFN, or of its heads, are scaled together, everything else is dense, at the last position of
// a text. Source: the released code of "Achieving Sparse Activation in Small Language Models".
//
// Cost: the n takes of the last position share a batch, and the forward pass runs again from each layer on, for both
// kinds: about L (L + 1) passes of a layer, forwards and backwards. For offline validation.
#pragma once

#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/types.h"
#include "runtime/attribution.h"

namespace dogstar {

// units: outputs as they are; mean_gradient: along the way. Scores are UnitScores or HeadScores with
// AttributionMetric::kGxo of the two. [ffn_rows] or [head_count * head_dim]; valid during the call.
using IntegratedGradientFn = absl::FunctionRef<void(LayerIndex layer, UnitKind kind, std::span<const float> units,
                                                    std::span<const float> mean_gradient)>;

// Layers come from the last to the first, the FFN before the heads. REQUIRES: steps >= 1, tokens, room for
// tokens.size() - 1 + steps rows in `pass`, GradientScope::kOwn.
absl::Status IntegrateGradients(AttributionPass* pass, std::span<const TokenId> tokens, TokenId label, int32_t steps,
                                IntegratedGradientFn visit);

}  // namespace dogstar
