// LayerRunner: texts go through a plain model one layer at a time, all their tokens together, so that every weight is
// read once and no more than one matrix is in memory. What looks at a model (order of importance, calibration) runs
// on it.
//
// Threads: one; kernels use the backend's.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"
#include "model/model_file.h"
#include "runtime/batch.h"
#include "runtime/layer_pass.h"

namespace dogstar {

class LayerRunner {
 public:
  // The bytes of a matrix, where the caller has them already; empty: they are read.
  using BytesFn = std::function<std::span<const std::byte>(MatrixRole role)>;

  // Bytes of tensors for so many tokens, and of the largest matrix.
  static uint64_t Bytes(const ModelFile& model, const Backend& backend, int32_t tokens);
  // Each text is a sequence of its own, from position 0 on. REQUIRES: a plain file; no text is empty. `model` outlives
  // the object.
  static absl::StatusOr<std::unique_ptr<LayerRunner>> Create(const ModelFile* model,
                                                             std::span<const std::vector<TokenId>> texts, int threads);

  // Runs the next layer: 0, 1, 2, ...
  absl::Status Run(LayerIndex layer, const BytesFn& bytes = nullptr);
  // y = down z of the last layer that ran, for rows of a caller's own. z: [rows, ffn_rows], y: [rows, dim], rows <=
  // kOwnRows. The weights are in memory from Run, unless they came from `bytes`.
  static constexpr int32_t kOwnRows = 64;
  absl::Status MultiplyDown(std::span<const float> z, int32_t rows, std::span<float> y);
  // The bytes of that layer's down matrix. The same holds.
  std::span<const std::byte> down_bytes() const { return matrix_bytes_; }

  int32_t tokens() const { return batch_.rows(); }
  Backend& backend() { return *backend_; }
  // Of the last layer, [tokens, ...]: the FFN's input after its norm, gate x, up x and z.
  const Tensor& ffn_input() const { return layer_pass_->ffn_input(); }
  const Tensor& ffn_gate() const { return layer_pass_->ffn_gate(); }
  const Tensor& ffn_values() const { return layer_pass_->ffn_values(); }
  const Tensor& ffn_up() const { return layer_pass_->ffn_up(); }
  // The residual stream behind the last layer, [tokens, dim]. Set it to go on where another run has stopped.
  const Tensor& stream() const { return *x_; }
  void SetStream(std::span<const float> values) { backend_->Upload(values, 0, x_.get()); }

 private:
  LayerRunner(const ModelFile* model) : model_(model) {}
  absl::Status Allocate(std::span<const std::vector<TokenId>> texts, int threads);
  absl::Status Embed();
  // The layer's norms and biases where the backend reads them.
  LayerVectors CopyVectors(const LayerSource& layer);
  absl::Status Product(const MatrixSource& matrix, std::span<const std::byte> bytes, const Activations& x, Tensor* out);

  const ModelFile* model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LayerPass> layer_pass_;
  std::unique_ptr<Tensor> x_;
  std::unique_ptr<KvStore> kv_;
  Batch batch_;
  const LayerSource* layer_ = nullptr;     // the last that ran
  std::unique_ptr<Tensor> own_z_, own_y_;  // of MultiplyDown
  std::unique_ptr<Activations> own_z_act_;
  std::array<std::byte*, kLayerVectors> vectors_ = {};
  std::vector<std::byte> matrix_bytes_;
};

}  // namespace dogstar
