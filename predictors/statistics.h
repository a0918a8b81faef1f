// Statistics: what `dogstar calibrate` has learned of a model, in a file (docs/calibration.md has the format).
//
// Neurons are in the order of the source model, so that the file serves every packed form of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "predictors/attribution_sums.h"
#include "predictors/low_rank.h"

namespace dogstar {

// Densities for which thresholds and losses are kept, ascending.
inline constexpr std::array<double, 9> kDensityGrid = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

// A row matters to a token by its contribution |z_j| |d_j|; it is important when it is among the
// CalibrationSettings::density * rows that matter most.
struct LayerStatistics {
  std::vector<float> frequency;     // [rows] share of tokens to which row j is important
  std::vector<float> persistence;   // [rows] of these, the share whose next token finds it important too
  std::vector<float> contribution;  // [rows] mean of |z_j| |d_j|
  std::vector<float> z_rms;         // [rows]
  std::vector<float> up_rms;        // [rows] of up x
  std::vector<float> thresholds;    // [grid] |activation(gate)| that this share of all rows and tokens reaches
  // [grid] What the layer's output loses when each token has only the rows that matter most: mean over tokens of
  // |y - y'|^2 / |x|^2, x: the residual stream behind the layer.
  std::vector<float> losses;
  LowRankMap map;  // as stored: weights of eight bits
  RowRecall recall;
  // Of each of CalibrationSettings::residuals: the map (predictors/residual.h), and the share of what was left out that
  // it gives on held-out tokens.
  std::vector<LowRankMap> residuals;
  std::vector<float> explained;
  AttributionSums ffn_sums, head_sums;  // over Statistics::attributed tokens
};

// What the statistics belong to. Two files with equal values are the same model.
struct ModelIdentity {
  uint64_t header_hash = 0;  // of the source GGUF's metadata and tensor table
  int32_t layers = 0, rows = 0, dim = 0;
  bool operator==(const ModelIdentity&) const = default;
};

// What a residual is of: the rows that this predictor leaves out at this density.
struct ResidualKind {
  std::string predictor;
  double density = 0.5;
  uint64_t order_hash = 0;  // resident: of the packed file's order of rows (OrderHash)
  bool operator==(const ResidualKind&) const = default;
};

struct CalibrationSettings {
  uint64_t text_hash = 0;  // XXH3-64 of the token ids
  int32_t tokens = 0, held_out = 0;
  double density = 0.5;
  int32_t rank = 32, epochs = 12;
  uint64_t seed = 1;
  std::vector<ResidualKind> residuals;
  int32_t attribution = 0;  // tokens whose attribution is summed, at least, as far as the texts reach
  bool operator==(const CalibrationSettings&) const = default;
};

struct Statistics {
  ModelIdentity model;
  CalibrationSettings settings;
  std::vector<LayerStatistics> layers;  // fewer than model.layers: an unfinished calibration
  std::vector<float> stream;            // unfinished: the residual stream behind the last of them, [tokens, dim]
  int32_t attributed = 0;               // tokens in the layers' attribution sums
};

// The map with its weights rounded as the file keeps them.
void RoundLikeStored(LowRankMap* map);

// Replaces the file; what was there stays until all is written.
absl::Status WriteStatistics(const Statistics& statistics, const std::string& path);
// Every length is checked. InvalidArgument / DataLoss name the field or tensor and what is wrong.
absl::StatusOr<Statistics> ReadStatistics(const std::string& path);
absl::StatusOr<Statistics> ParseStatistics(std::span<const std::byte> file, const std::string& name);

// FailedPrecondition names both when the statistics are not of this model, or not finished.
absl::Status CheckStatistics(const Statistics& statistics, const ModelIdentity& model, const std::string& path);

// Bytes that a layer's map takes in memory (eight-bit panels and the biases).
uint64_t LowRankBytes(int32_t rank, int32_t dim, int32_t rows);

}  // namespace dogstar
