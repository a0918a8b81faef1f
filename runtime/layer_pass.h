// LayerPass: what one layer does to a batch of rows, step by step as the model's description says. The forward pass
// and the packer's importance pass share it; where a layer's matrices come from is their own affair.
//
// Threads: one. Memory: tensors are allocated in Create.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"
#include "memory/weights.h"
#include "model/model_config.h"
#include "runtime/batch.h"

namespace dogstar {

class LayerPass {
 public:
  // out = x W^T for a matrix W of the layer.
  using ProductFn = absl::FunctionRef<absl::Status(MatrixRole role, const Activations& x, Tensor* out)>;

  struct Limits {
    int32_t rows = 0;
    bool plain_ffn = false;  // PlainFfn will be called
  };
  // One layer of the model.
  struct Layer {
    LayerIndex index;
    LayerIndex kv_layer;  // where the KV store keeps it
    const LayerVectors& vectors;
    // Query heads to compute, as AttentionParams::head_mask; null: all. `product` may leave out queries of the others.
    const uint64_t* heads = nullptr;
  };

  // Bytes that Create takes.
  static uint64_t Bytes(const ModelConfig& config, const Backend& backend, const Limits& limits);
  // `config` and `backend` outlive the object.
  static absl::StatusOr<std::unique_ptr<LayerPass>> Create(const ModelConfig* config, Backend* backend,
                                                           const Limits& limits);

  // The rows of the calls that follow; the batch stays until they are done.
  void Begin(const Batch* batch);

  // x += post(Wo attention(norm(x))); post is a norm where the model has one.
  absl::Status Attention(const Layer& layer, ProductFn product, KvStore* kv, Tensor* x);

  // Of the last Attention: [rows, head_count * head_dim].
  const Tensor& context() const { return *context_; }

  // n = norm(x), what the FFN sees. Valid until the next call.
  const Activations& FfnInput(const Layer& layer, const Tensor& x);
  // x += post(down (activation(gate n) * (up n))), n = norm(x).
  absl::Status PlainFfn(const Layer& layer, ProductFn product, Tensor* x);
  // Of the last PlainFfn: n, [rows, dim]; gate n, activation(gate n) * (up n), up n, [rows, ffn_rows].
  const Tensor& ffn_input() const { return *norm_; }
  const Tensor& ffn_gate() const { return *gate_; }
  const Tensor& ffn_values() const { return *z_; }
  const Tensor& ffn_up() const { return *up_; }
  // x += post(what the job has summed + residual); residual may be null.
  void EndFfn(const Layer& layer, FfnJob* job, const Tensor* residual, Tensor* x);

 private:
  LayerPass(const ModelConfig* config, Backend* backend) : config_(*config), backend_(backend) {}
  absl::Status Allocate(const Limits& limits);
  // Queries, keys and values of the batch, ready for attention.
  absl::Status Project(const Layer& layer, ProductFn product);
  // x += post(output_)
  void AddOutput(DeviceAddress post_norm, Tensor* x);

  const ModelConfig& config_;
  Backend* backend_;
  const Batch* batch_ = nullptr;
  std::vector<AttentionMask> window_masks_;  // by kind of attention; empty for kinds without a window

  std::unique_ptr<Tensor> norm_;                 // [rows, dim]
  std::unique_ptr<Tensor> query_, key_, value_;  // [rows, heads * head_dim]
  std::unique_ptr<Tensor> context_;              // [rows, heads * head_dim]
  std::unique_ptr<Tensor> output_;               // [rows, dim]
  std::unique_ptr<Tensor> gate_, up_, z_;        // [rows, ffn_rows], plain_ffn only
  std::unique_ptr<Activations> norm_act_, context_act_, z_act_;
};

}  // namespace dogstar
