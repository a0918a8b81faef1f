#include "runtime/layer_pass.h"

#include "memory/kv_cache.h"

namespace dogstar {
namespace {

DeviceAddress Get(const LayerVectors& vectors, LayerVector vector) { return vectors[static_cast<size_t>(vector)]; }

}  // namespace

uint64_t LayerPass::Bytes(const ModelConfig& c, const Backend& backend, const Limits& limits) {
  const int32_t rows = limits.rows;
  const int32_t heads = c.head_count * c.head_dim, kv_heads = c.kv_head_count * c.head_dim;
  uint64_t bytes = 2 * backend.TensorBytes(rows, c.dim) + 2 * backend.TensorBytes(rows, heads) +
                   2 * backend.TensorBytes(rows, kv_heads) + backend.ActivationsBytes(rows, c.dim) +
                   backend.ActivationsBytes(rows, heads);
  if (limits.plain_ffn) bytes += 3 * backend.TensorBytes(rows, c.ffn_rows) + backend.ActivationsBytes(rows, c.ffn_rows);
  return bytes;
}

absl::StatusOr<std::unique_ptr<LayerPass>> LayerPass::Create(const ModelConfig* config, Backend* backend,
                                                             const Limits& limits) {
  auto pass = std::unique_ptr<LayerPass>(new LayerPass(config, backend));
  RETURN_IF_ERROR(pass->Allocate(limits));
  return pass;
}

absl::Status LayerPass::Allocate(const Limits& limits) {
  const int32_t rows = limits.rows;
  const int32_t heads = config_.head_count * config_.head_dim, kv_heads = config_.kv_head_count * config_.head_dim;
  ASSIGN_OR_RETURN(norm_, backend_->NewTensor(rows, config_.dim));
  ASSIGN_OR_RETURN(output_, backend_->NewTensor(rows, config_.dim));
  ASSIGN_OR_RETURN(query_, backend_->NewTensor(rows, heads));
  ASSIGN_OR_RETURN(context_, backend_->NewTensor(rows, heads));
  ASSIGN_OR_RETURN(key_, backend_->NewTensor(rows, kv_heads));
  ASSIGN_OR_RETURN(value_, backend_->NewTensor(rows, kv_heads));
  ASSIGN_OR_RETURN(norm_act_, backend_->NewActivations(rows, config_.dim));
  ASSIGN_OR_RETURN(context_act_, backend_->NewActivations(rows, heads));
  if (!limits.plain_ffn) return absl::OkStatus();
  ASSIGN_OR_RETURN(gate_, backend_->NewTensor(rows, config_.ffn_rows));
  ASSIGN_OR_RETURN(up_, backend_->NewTensor(rows, config_.ffn_rows));
  ASSIGN_OR_RETURN(z_, backend_->NewTensor(rows, config_.ffn_rows));
  ASSIGN_OR_RETURN(z_act_, backend_->NewActivations(rows, config_.ffn_rows));
  return absl::OkStatus();
}

void LayerPass::Begin(const Batch* batch) {
  batch_ = batch;
  window_masks_.clear();
  for (const AttentionKind& kind : config_.attention_kinds) {
    window_masks_.push_back(kind.window > 0 ? ClipToWindow(batch->mask, kind.window) : AttentionMask());
  }
}

absl::Status LayerPass::Project(const Layer& layer, ProductFn product) {
  const int32_t rows = batch_->rows();
  const RopeParams rope{config_.rope_halves ? RopePairing::kHalves : RopePairing::kAdjacent, config_.head_dim,
                        config_.rotary_dims, config_.attention(layer.index).rope_frequencies};
  RETURN_IF_ERROR(product(MatrixRole::kQuery, *norm_act_, query_.get()));
  RETURN_IF_ERROR(product(MatrixRole::kKey, *norm_act_, key_.get()));
  RETURN_IF_ERROR(product(MatrixRole::kValue, *norm_act_, value_.get()));
  if (config_.qkv_bias) {
    backend_->AddBias(Get(layer.vectors, LayerVector::kQueryBias), rows, query_.get());
    backend_->AddBias(Get(layer.vectors, LayerVector::kKeyBias), rows, key_.get());
    backend_->AddBias(Get(layer.vectors, LayerVector::kValueBias), rows, value_.get());
  }
  if (config_.qk_norm) {
    backend_->HeadRmsNorm(config_.head_dim, rows, Get(layer.vectors, LayerVector::kQueryNorm), config_.rms_epsilon,
                          query_.get());
    backend_->HeadRmsNorm(config_.head_dim, rows, Get(layer.vectors, LayerVector::kKeyNorm), config_.rms_epsilon,
                          key_.get());
  }
  backend_->Rope(rope, batch_->positions, query_.get());
  backend_->Rope(rope, batch_->positions, key_.get());
  return absl::OkStatus();
}

absl::Status LayerPass::Attention(const Layer& layer, ProductFn product, KvStore* kv, Tensor* x) {
  const int32_t rows = batch_->rows();
  const bool has_window = config_.attention(layer.index).window > 0;
  const AttentionMask& mask = has_window ? window_masks_[static_cast<size_t>(config_.kind(layer.index))] : batch_->mask;
  const AttentionParams params{config_.head_count, config_.kv_head_count, config_.head_dim, config_.score_scale,
                               layer.heads};
  backend_->RmsNorm(*x, rows, Get(layer.vectors, LayerVector::kAttentionNorm), config_.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, rows, norm_act_.get());
  RETURN_IF_ERROR(Project(layer, product));
  backend_->WriteKv(layer.kv_layer, batch_->slots, *key_, *value_, kv);
  backend_->Attention(params, layer.kv_layer, mask, *kv, *query_, context_.get());
  backend_->Prepare(*context_, rows, context_act_.get());
  RETURN_IF_ERROR(product(MatrixRole::kOutput, *context_act_, output_.get()));
  AddOutput(Get(layer.vectors, LayerVector::kPostAttentionNorm), x);
  return absl::OkStatus();
}

void LayerPass::AddOutput(DeviceAddress post_norm, Tensor* x) {
  const int32_t rows = batch_->rows();
  if (config_.post_norms) backend_->RmsNorm(*output_, rows, post_norm, config_.rms_epsilon, output_.get());
  backend_->Add(*output_, rows, x);
}

const Activations& LayerPass::FfnInput(const Layer& layer, const Tensor& x) {
  const int32_t rows = batch_->rows();
  backend_->RmsNorm(x, rows, Get(layer.vectors, LayerVector::kFfnNorm), config_.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, rows, norm_act_.get());
  return *norm_act_;
}

absl::Status LayerPass::PlainFfn(const Layer& layer, ProductFn product, Tensor* x) {
  const int32_t rows = batch_->rows();
  const Activations& in = FfnInput(layer, *x);
  RETURN_IF_ERROR(product(MatrixRole::kGate, in, gate_.get()));
  RETURN_IF_ERROR(product(MatrixRole::kUp, in, up_.get()));
  backend_->GatedActivation(config_.activation, *gate_, *up_, rows, z_.get());
  backend_->Prepare(*z_, rows, z_act_.get());
  RETURN_IF_ERROR(product(MatrixRole::kDown, *z_act_, output_.get()));
  AddOutput(Get(layer.vectors, LayerVector::kPostFfnNorm), x);
  return absl::OkStatus();
}

void LayerPass::EndFfn(const Layer& layer, FfnJob* job, const Tensor* residual, Tensor* x) {
  if (!config_.post_norms) {
    backend_->FfnEnd(job, x);
    if (residual != nullptr) backend_->Add(*residual, batch_->rows(), x);
    return;
  }
  backend_->Clear(batch_->rows(), output_.get());
  backend_->FfnEnd(job, output_.get());
  if (residual != nullptr) backend_->Add(*residual, batch_->rows(), output_.get());
  AddOutput(Get(layer.vectors, LayerVector::kPostFfnNorm), x);
}

}  // namespace dogstar
