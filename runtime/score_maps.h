// ScoreMaps: scores of rows from the FFN's input, by the maps of a predictor that has them.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/backend.h"
#include "predictors/predictor.h"
#include "runtime/low_rank_products.h"

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
  ScoreMaps() = default;

  Backend* backend_ = nullptr;
  int64_t stride_ = 0;
  std::unique_ptr<LowRankProducts> products_;
  std::vector<float> host_;
};

}  // namespace dogstar
