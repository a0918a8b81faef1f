// dogstar eval --task attribution: what each FFN neuron and attention head did for a token's loss.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "predictors/attribution_scores.h"
#include "runtime/backward_stages.h"
#include "runtime/config.h"

namespace dogstar {

struct AttributionArguments {
  std::string text;
  int32_t label = -1;  // of the last position; < 0: the model's own choice
  bool every_position = false;
  ScoreOptions scores;
  GradientScope scope = GradientScope::kOwn;
  int32_t integrated_steps = 0;  // 0: none
  bool json = false;
};

absl::Status RunAttribution(const AttributionArguments& arguments, const Config& config);

}  // namespace dogstar
