// Statistics: what `dogstar calibrate` learned about a model, and the file that keeps it.
//
// A GGUF file (docs/calibration.md has every tensor), by the model's own neuron order, so that it serves the source
// file and any packed form of it. Averages are over the tokens of the calibration texts. z = activation(gate) * up,
// |d_j| = the L2 norm of neuron j's column of the down matrix, contribution = |z_j| |d_j|.
//
// Threads: const after reading.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace dogstar {

// Densities at which thresholds and sensitivities are kept.
inline constexpr std::array<double, 8> kStatisticsDensities = {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

// A low-rank guess of scores: score = out (in x), x the FFN's input (after its norm). Trained on the masks of the
// neurons of largest contribution.
struct LowRankMap {
  int32_t rank = 0;
  std::vector<float> in;   // [rank, dim]
  std::vector<float> out;  // [rows, rank]: rows = ffn_rows for a predictor, dim for a residual
};

// Vectors are [ffn_rows], NeuronIndex order; one that was not gathered is empty.
struct LayerStatistics {
  std::vector<float> gate_rms;  // of activation(gate)
  std::vector<float> up_rms;
  std::vector<float> value_mean;      // of |z|
  std::vector<float> value_rms;       // of z
  std::vector<float> down_norm;       // |d_j|
  std::vector<float> energy_share;    // of z^2 |d|^2 / its sum over the layer (Griffin's statistic)
  std::vector<float> top_half_share;  // of tokens that have the neuron among the half of largest contribution
  std::vector<float> window_share;    // of windows of 16 tokens that have it among the top half of any of their tokens
  std::vector<float> gxo_size;        // of |g z|, g = d loss / d z of the token's own loss; empty without --attribution
  std::vector<float> corrected;       // of corrected GxO, lambda 0.5 (predictors/attribution_scores.h); the same
  // Score that the share kStatisticsDensities[i] of (token, neuron) pairs reaches; for |activation(gate)|, the same
  // times up_rms and down_norm, and contribution.
  std::array<float, kStatisticsDensities.size()> gate_threshold = {}, weighted_gate_threshold = {},
                                                 contribution_threshold = {};
  // KL(full || this layer alone at density i, the rest dense), nats a token; the weighted gate chooses by token, and
  // rows of largest energy_share chosen once and for all. Empty without --sensitivity.
  std::vector<float> token_sensitivity, static_sensitivity;  // [kStatisticsDensities.size()]
  std::optional<LowRankMap> predictor;
  std::optional<LowRankMap> residual;  // of what the weighted gate at half density leaves out; rows = dim
};

struct Statistics {
  uint64_t source_header_hash = 0;  // XXH3-64 as SourceIdentity's: which model these are of
  int64_t tokens = 0;
  int32_t dim = 0, ffn_rows = 0;
  std::vector<LayerStatistics> layers;
  std::vector<float> token_frequency;  // [vocab_size] of the texts and of the model's own continuations; may be empty
};

// Errors name file, tensor and what would be right.
absl::StatusOr<Statistics> ReadStatistics(const std::string& path);
// By a temporary name, synced, then renamed.
absl::Status WriteStatistics(const Statistics& statistics, const std::string& path);
// InvalidArgument when they are of another model (hash, sizes).
absl::Status CheckStatistics(const Statistics& statistics, uint64_t source_header_hash, int32_t layers, int32_t dim,
                             int32_t ffn_rows);

}  // namespace dogstar
