// DraftChoices: what the drafts of a run compute, as its configuration and statistics say: a predictor of rows, a map
// for what it leaves out, and the attention heads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/model_file.h"
#include "predictors/head_choice.h"
#include "predictors/low_rank.h"
#include "predictors/predictor.h"
#include "predictors/statistics.h"
#include "runtime/config.h"

namespace dogstar {

// Maps for what a predictor leaves out at a density.
struct Residual {
  double density = 0;
  std::vector<LowRankMap> maps;  // [layers]
};

struct DraftChoices {
  std::unique_ptr<Predictor> predictor;
  std::unique_ptr<HeadChoice> heads;  // null: all heads
  std::vector<Residual> residuals;    // learned for the predictor
  std::unique_ptr<ModelFile> source;  // the plain GGUF, where the predictor needs attribution of prompts
};

// FailedPrecondition: statistics of another model, or settings that need statistics, or the plain GGUF, and have none.
absl::StatusOr<DraftChoices> MakeDraftChoices(const Config& config, const ModelFile& model);

// The residual nearest to the density, no further than kResidualReach from it; null: none.
inline constexpr double kResidualReach = 0.051;
const Residual* FindResidual(const DraftChoices& choices, double density);

}  // namespace dogstar
