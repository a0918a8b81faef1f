// Statistics of one layer from what its FFN did along texts. The definitions are in predictors/statistics.h.
//
// Threads: the caller's pool.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/activation.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "model/model_file.h"
#include "predictors/statistics.h"
#include "runtime/layer_runner.h"

namespace dogstar {

// What a layer did, in host memory; the buffers serve one layer after the other.
class LayerValues {
 public:
  static uint64_t Bytes(const ModelConfig& config, int32_t tokens);
  explicit LayerValues(const ModelConfig& config, int32_t tokens);

  // Of the last layer that ran.
  absl::Status Fetch(LayerRunner* runner);
  // Replaces z by how much rows matter, |z_j| |d_j|. d: norms of the down matrix's columns.
  void Weigh(std::span<const float> down_norms, ThreadPool* pool);

  // Tokens [first, first + count) with their scores, after Weigh.
  RankedTokens Ranked(int32_t first, int32_t count) const;
  std::span<const float> inputs() const { return inputs_; }  // [tokens, dim]
  std::span<const float> z() const { return z_; }            // [tokens, rows] until Weigh

 private:
  int32_t tokens_, dim_, rows_;
  std::vector<float> inputs_, z_;
};

// Norm of each column of a down matrix, [rows of the FFN]; and its square.
std::vector<float> DownNormsSquared(const MatrixSource& down, std::span<const std::byte> bytes);
std::vector<float> DownNorms(const MatrixSource& down, std::span<const std::byte> bytes);

// Lengths of the texts that the tokens are cut into, in order; all tokens are covered.
using TextLengths = std::vector<int32_t>;

// frequency, persistence, contribution: of weighed values, tokens [0, tokens).
void CountImportant(const RankedTokens& tokens, const TextLengths& lengths, double density, LayerStatistics* layer);
// z_rms, up_rms: of columns of [tokens, rows].
std::vector<float> ColumnRms(std::span<const float> values, int32_t tokens, int32_t rows);
// thresholds: of [tokens, rows] values of gate x.
std::vector<float> GateThresholds(std::span<const float> gates, FfnActivation activation);
// losses: of a sample of tokens spread evenly over all.
absl::StatusOr<std::vector<float>> LossesOfLayer(LayerRunner* runner, std::span<const float> z,
                                                 std::span<const float> down_norms, int32_t rows, int32_t dim);

}  // namespace dogstar
