// What a layer's FFN would have added by the rows that a predictor leaves out: the targets of residual maps
// (predictors/residual.h).
//
// Threads: the caller's pool.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/activation.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "predictors/statistics.h"
#include "runtime/layer_runner.h"

namespace dogstar {

// Predictors whose residuals can be learned: those whose choice follows from what calibration sees.
std::span<const std::string_view> ResidualPredictors();
// "gate-weighted:0.5". InvalidArgument says what is wrong.
absl::StatusOr<ResidualKind> ParseResidualKind(std::string_view text);

// The last layer that ran, in the order of source neurons.
struct LayerChoices {
  FfnActivation activation = FfnActivation::kSilu;
  std::span<const float> z, gates;                       // [tokens, rows]; gates: gate x
  std::span<const float> up_rms, down_norms, frequency;  // [rows]
  std::span<const NeuronIndex> order;                    // of the packed file; empty: not known
};

// Sum over the rows left out, for every token: [tokens, dim].
absl::StatusOr<std::vector<float>> LeftOutOutputs(LayerRunner* runner, const LayerChoices& layer,
                                                  const ResidualKind& kind, int32_t dim, ThreadPool* pool);

}  // namespace dogstar
