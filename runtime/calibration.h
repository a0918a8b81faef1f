// Calibration: what a model's FFN rows do along texts, for predictors and plans (`dogstar calibrate`).
//
// The texts' tokens go through the model a layer at a time (layer_runner.h): every weight is read once, and memory is
// that of one layer and the tokens. After each layer its statistics are complete and its low-rank map is trained; both
// go to a file beside the output with the residual stream, so that a stopped calibration goes on where it was.
// Attribution (runtime/attribution.h) comes after the layers, window by window, and is kept the same way. The
// result does not depend on stops, threads or budget (but for the number of tokens that a budget allows).
//
// Threads: one; kernels and training use `threads`.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/model_file.h"
#include "predictors/statistics.h"

namespace dogstar {

struct CalibrationOptions {
  std::string output;
  std::vector<std::string> texts;  // empty: those that come with the program
  int32_t tokens = 4096;           // at most
  double density = 0.5;
  int32_t rank = 32;
  int32_t epochs = 12;
  uint64_t seed = 1;
  int threads = 1;
  std::optional<uint64_t> ram;          // bytes, the program included; none: no limit
  bool fresh = false;                   // what an earlier calibration left is not used
  std::vector<ResidualKind> residuals;  // maps of what predictors leave out, of `rank`
  std::string packed;                   // whose order of rows residuals of "resident" follow; empty: none
  int32_t attribution = 0;              // tokens to attribute, at least, as far as the texts reach; 0: none
  std::function<void(std::string_view message)> note;
  // After each layer; false stops, and what is done is kept (Cancelled).
  std::function<bool(const Statistics& so_far)> on_layer;
  // After each window that was attributed, the same: tokens done.
  std::function<bool(int32_t tokens)> on_attributed;
};

// Identity of the model behind a plain or packed file, as statistics name it.
absl::StatusOr<ModelIdentity> IdentityOf(const ModelFile& model);

// Of the source neurons behind a packed file's rows, all layers.
uint64_t OrderHash(const PackedFile& packed);

// Where an unfinished calibration is kept.
std::string UnfinishedPath(const std::string& output);

// Writes the output and returns it. InvalidArgument: a packed model, texts too short, a rank that is no multiple of 32,
// a packed file of another model;
// ResourceExhausted names the smallest budget.
absl::StatusOr<Statistics> Calibrate(const std::string& model, const CalibrationOptions& options);

}  // namespace dogstar
