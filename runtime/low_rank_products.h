// LowRankProducts: maps of low rank (predictors/low_rank.h), one a layer, as matrices that the backend multiplies with:
// eight bits a weight.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/backend.h"
#include "predictors/low_rank.h"

namespace dogstar {

class LowRankProducts {
 public:
  // Bytes in memory of a layer's map, and of tensors for passes of so many rows.
  static uint64_t MapBytes(const LowRankMap& map);
  static uint64_t TensorBytes(const LowRankMap& map, const Backend& backend, int32_t rows);
  // Maps of one shape. `shift` is added to every output. `backend` outlives the object.
  static absl::StatusOr<std::unique_ptr<LowRankProducts>> Create(std::span<const LowRankMap* const> maps, float shift,
                                                                 Backend* backend, int32_t rows);

  // b + B (A x) for each of `rows` activation rows, [rows, map rows]. Valid until the next call.
  const Tensor& Multiply(LayerIndex layer, const Activations& x, int32_t rows);

 private:
  struct Map {
    MatrixView hidden, output;
    DeviceAddress bias = nullptr;
  };

  explicit LowRankProducts(Backend* backend) : backend_(backend) {}
  absl::Status Load(const LowRankMap& map, float shift, Map* to);
  absl::StatusOr<MatrixView> Matrix(std::span<const float> weights, int32_t rows, int32_t cols);

  Backend* backend_;
  std::vector<Map> maps_;  // [layer]
  std::unique_ptr<Tensor> hidden_, output_;
  std::unique_ptr<Activations> hidden_act_;
};

}  // namespace dogstar
