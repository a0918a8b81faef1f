// ScoreMaps: the maps of a predictor that scores rows from the FFN's input (predictors/low_rank.h), as matrices that
// the backend multiplies with: eight bits a weight.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/backend.h"
#include "model/model_file.h"
#include "predictors/predictor.h"
#include "runtime/config.h"

namespace dogstar {

class ScoreMaps {
 public:
  // Bytes in memory of the predictor's maps, and of tensors for draft passes of so many rows; 0 without maps.
  static uint64_t Bytes(const Predictor& predictor, int32_t layers, const Backend& backend, int32_t rows);
  // Null when the predictor has no maps. `backend` outlives the object.
  static absl::StatusOr<std::unique_ptr<ScoreMaps>> Create(const Predictor& predictor, int32_t layers, Backend* backend,
                                                           int32_t rows);

  // Scores of the layer's rows for `rows` activation rows of the FFN's input, [rows][stride()], RowIndex order, not
  // negative, in the order of the map's. Valid until the next call.
  absl::StatusOr<std::span<const float>> Score(LayerIndex layer, const Activations& input, int32_t rows);
  int64_t stride() const { return stride_; }

 private:
  struct Map {
    MatrixView hidden, output;
    DeviceAddress bias = nullptr;
  };

  explicit ScoreMaps(Backend* backend) : backend_(backend) {}
  absl::Status Load(const LowRankMap& map, Map* to);
  absl::StatusOr<MatrixView> Matrix(std::span<const float> weights, int32_t rows, int32_t cols);

  Backend* backend_;
  int64_t stride_ = 0;
  std::vector<Map> maps_;  // [layer]
  std::unique_ptr<Tensor> hidden_, scores_;
  std::unique_ptr<Activations> hidden_act_;
  std::vector<float> host_;
};

// The predictor of a run, with the statistics that the configuration names. FailedPrecondition: statistics of another
// model.
absl::StatusOr<std::unique_ptr<Predictor>> MakePredictor(const Config& config, const ModelFile& model);

}  // namespace dogstar
