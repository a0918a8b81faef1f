#include "runtime/forward.h"

#include <algorithm>
#include <cmath>

namespace dogstar {
namespace {

int32_t PackedCols(const ModelFile& model) {
  int32_t cols = 0;
  for (const PackedLayer& layer : model.packed()->layers()) {
    cols = std::max(cols, layer.layout.page_count() * layer.layout.page_rows);
  }
  return cols;
}

}  // namespace

Forward::Forward(const ModelFile* model, const Weights* weights, Backend* backend, Pager* pager, KvStore* kv,
                 const Limits& limits)
    : model_(model),
      config_(model->config()),
      weights_(weights),
      backend_(backend),
      pager_(pager),
      kv_(kv),
      limits_(limits) {
  rope_.pairing = config_.rope_halves ? RopePairing::kHalves : RopePairing::kAdjacent;
  rope_.head_dim = config_.head_dim;
  rope_.rotary_dims = config_.rotary_dims;
  rope_.frequencies = config_.rope_frequencies;
  attention_.head_count = config_.head_count;
  attention_.kv_head_count = config_.kv_head_count;
  attention_.head_dim = config_.head_dim;
  attention_.score_scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
}

uint64_t Forward::Bytes(const ModelFile& model, const Backend& backend, const Limits& limits) {
  const ModelConfig& c = model.config();
  const int32_t rows = limits.batch_rows;
  const int32_t heads = c.head_count * c.head_dim, kv_heads = c.kv_head_count * c.head_dim;
  uint64_t bytes = 3 * backend.TensorBytes(rows, c.dim) + 2 * backend.TensorBytes(rows, heads) +
                   2 * backend.TensorBytes(rows, kv_heads) + backend.ActivationsBytes(rows, c.dim) +
                   backend.ActivationsBytes(rows, heads);
  bytes += backend.TensorBytes(limits.logit_rows, c.dim) + backend.ActivationsBytes(limits.logit_rows, c.dim) +
           backend.TensorBytes(limits.logit_rows, c.vocab_size);
  if (model.packed() == nullptr) {
    bytes += 3 * backend.TensorBytes(rows, c.ffn_rows) + backend.ActivationsBytes(rows, c.ffn_rows);
  } else {
    bytes += backend.FfnJobBytes(rows, c.dim, PackedCols(model));
    if (limits.capture) bytes += 2 * backend.TensorBytes(rows, PackedCols(model));
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Create(const ModelFile* model, const Weights* weights,
                                                         Backend* backend, Pager* pager, KvStore* kv,
                                                         const Limits& limits) {
  auto forward = std::unique_ptr<Forward>(new Forward(model, weights, backend, pager, kv, limits));
  RETURN_IF_ERROR(forward->Allocate());
  return forward;
}

absl::Status Forward::Allocate() {
  const int32_t rows = limits_.batch_rows;
  const int32_t heads = config_.head_count * config_.head_dim, kv_heads = config_.kv_head_count * config_.head_dim;
  ASSIGN_OR_RETURN(x_, backend_->NewTensor(rows, config_.dim));
  ASSIGN_OR_RETURN(norm_, backend_->NewTensor(rows, config_.dim));
  ASSIGN_OR_RETURN(output_, backend_->NewTensor(rows, config_.dim));
  ASSIGN_OR_RETURN(query_, backend_->NewTensor(rows, heads));
  ASSIGN_OR_RETURN(context_, backend_->NewTensor(rows, heads));
  ASSIGN_OR_RETURN(key_, backend_->NewTensor(rows, kv_heads));
  ASSIGN_OR_RETURN(value_, backend_->NewTensor(rows, kv_heads));
  ASSIGN_OR_RETURN(norm_act_, backend_->NewActivations(rows, config_.dim));
  ASSIGN_OR_RETURN(context_act_, backend_->NewActivations(rows, heads));
  ASSIGN_OR_RETURN(head_in_, backend_->NewTensor(limits_.logit_rows, config_.dim));
  ASSIGN_OR_RETURN(head_act_, backend_->NewActivations(limits_.logit_rows, config_.dim));
  ASSIGN_OR_RETURN(logits_, backend_->NewTensor(limits_.logit_rows, config_.vocab_size));
  if (!weights_->packed()) {
    ASSIGN_OR_RETURN(gate_, backend_->NewTensor(rows, config_.ffn_rows));
    ASSIGN_OR_RETURN(up_, backend_->NewTensor(rows, config_.ffn_rows));
    ASSIGN_OR_RETURN(z_, backend_->NewTensor(rows, config_.ffn_rows));
    ASSIGN_OR_RETURN(z_act_, backend_->NewActivations(rows, config_.ffn_rows));
    return absl::OkStatus();
  }
  capture_cols_ = PackedCols(*model_);
  ASSIGN_OR_RETURN(ffn_job_, backend_->NewFfnJob(rows, config_.dim, capture_cols_));
  if (limits_.capture) {
    ASSIGN_OR_RETURN(capture_, backend_->NewTensor(rows, capture_cols_));
    captured_.resize(static_cast<size_t>(rows) * static_cast<size_t>(capture_cols_));
  }
  return absl::OkStatus();
}

absl::Status Forward::Full(const Batch& batch, PassObserver* observer) {
  CHECK(batch.rows() <= limits_.batch_rows && batch.logit_rows <= limits_.logit_rows);
  if (!pass_begun_) RETURN_IF_ERROR(pager_->Begin(weights_->schedule()));
  pass_begun_ = false;
  RETURN_IF_ERROR(Embed(batch));
  for (int32_t i = 0; i < config_.layer_count; ++i) {
    const LayerIndex layer{i};
    RETURN_IF_ERROR(Attention(layer, batch));
    RETURN_IF_ERROR(Ffn(layer, batch, observer));
  }
  RETURN_IF_ERROR(Head(batch));
  // The next full pass streams the same ranges: its first reads run while tokens are chosen and drafts are made.
  RETURN_IF_ERROR(pager_->Begin(weights_->schedule()));
  pass_begun_ = true;
  return absl::OkStatus();
}

absl::Status Forward::Draft(const Batch& batch, const DraftRows& rows) {
  RETURN_IF_ERROR(Embed(batch));
  for (int32_t i = 0; i < config_.layer_count; ++i) {
    const LayerIndex layer{i};
    RETURN_IF_ERROR(Attention(layer, batch));
    DraftFfn(layer, batch, rows.layer(layer));
  }
  return Head(batch);
}

absl::Status Forward::Embed(const Batch& batch) {
  std::vector<int32_t> ids;
  for (TokenId token : batch.tokens) ids.push_back(ToInt(token));
  if (weights_->embedding().rows > 0) {
    backend_->GatherRows(weights_->embedding(), ids, x_.get());
    return absl::OkStatus();
  }
  // A table that is not resident is read a row at a time.
  const MatrixSource& table = model_->embedding();
  embedding_rows_.resize(ids.size() * table.row_bytes());
  for (size_t i = 0; i < ids.size(); ++i) {
    RETURN_IF_ERROR(ReadBytes(model_->path(), table.offset + static_cast<uint64_t>(ids[i]) * table.row_bytes(),
                              std::span(embedding_rows_).subspan(i * table.row_bytes(), table.row_bytes())));
    ids[i] = static_cast<int32_t>(i);
  }
  backend_->GatherRows(
      {table.type, MatrixLayout::kPlain, static_cast<int32_t>(ids.size()), table.cols, embedding_rows_.data()}, ids,
      x_.get());
  return absl::OkStatus();
}

// x += Wo attention(norm(x))
absl::Status Forward::Attention(LayerIndex layer, const Batch& batch) {
  const int32_t rows = batch.rows();
  backend_->RmsNorm(*x_, rows, weights_->attention_norm(layer), config_.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, rows, norm_act_.get());
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kQuery), *norm_act_, rows, query_.get()));
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kKey), *norm_act_, rows, key_.get()));
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kValue), *norm_act_, rows, value_.get()));
  backend_->Rope(rope_, batch.positions, query_.get());
  backend_->Rope(rope_, batch.positions, key_.get());
  backend_->WriteKv(layer, batch.slots, *key_, *value_, kv_);
  backend_->Attention(attention_, layer, batch.mask, *kv_, *query_, context_.get());
  backend_->Prepare(*context_, rows, context_act_.get());
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kOutput), *context_act_, rows, output_.get()));
  backend_->Add(*output_, rows, x_.get());
  return absl::OkStatus();
}

// x += down (activation(gate n) * (up n)), n = norm(x)
absl::Status Forward::Ffn(LayerIndex layer, const Batch& batch, PassObserver* observer) {
  backend_->RmsNorm(*x_, batch.rows(), weights_->ffn_norm(layer), config_.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, batch.rows(), norm_act_.get());
  return weights_->packed() ? PackedFfn(layer, batch, observer) : PlainFfn(layer, batch);
}

absl::Status Forward::PlainFfn(LayerIndex layer, const Batch& batch) {
  const int32_t rows = batch.rows();
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kGate), *norm_act_, rows, gate_.get()));
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kUp), *norm_act_, rows, up_.get()));
  backend_->GatedActivation(config_.activation, *gate_, *up_, rows, z_.get());
  backend_->Prepare(*z_, rows, z_act_.get());
  RETURN_IF_ERROR(Product(weights_->matrix(layer, MatrixRole::kDown), *z_act_, rows, output_.get()));
  backend_->Add(*output_, rows, x_.get());
  return absl::OkStatus();
}

FfnParams Forward::ParamsOf(const FfnPart& part, Tensor* capture) const {
  FfnParams params;
  params.layout = part.layer->layout;
  params.activation = config_.activation;
  params.down_scales = part.down_scales;
  params.capture = capture;
  return params;
}

absl::Status Forward::FetchCaptured(int32_t rows) {
  const size_t values = static_cast<size_t>(rows) * static_cast<size_t>(capture_cols_);
  return backend_->Download(*capture_, 0, rows, std::span(captured_).first(values));
}

// Resident pages first, then the complement as it arrives: the file's order, whatever was resident.
absl::Status Forward::PackedFfn(LayerIndex layer, const Batch& batch, PassObserver* observer) {
  const int32_t rows = batch.rows();
  const FfnPart& part = weights_->ffn(layer);
  backend_->FfnBegin(ParamsOf(part, observer != nullptr ? capture_.get() : nullptr), *norm_act_, rows, ffn_job_.get());
  if (!part.resident.empty()) backend_->FfnAccumulatePages(part.resident, ffn_job_.get());
  int32_t page = static_cast<int32_t>(part.resident.size());
  std::vector<FfnPageRef> pages;
  for (int32_t count : part.streamed_runs) {
    ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, pager_->Next());
    pages.clear();
    for (int32_t i = 0; i < count; ++i, ++page) {
      pages.push_back(
          PageRefOf(*part.layer, page, bytes.data() + static_cast<uint64_t>(i) * part.layer->layout.page_bytes));
    }
    const Ticket done = backend_->FfnAccumulatePages(pages, ffn_job_.get());
    if (observer != nullptr) {
      RETURN_IF_ERROR(FetchCaptured(rows));
      observer->OnStreamedPages(layer, pages, captured_, rows, capture_cols_);
    }
    backend_->Wait(done);  // a slot is refilled only when its kernel is done
    RETURN_IF_ERROR(pager_->Release());
  }
  backend_->FfnEnd(ffn_job_.get(), x_.get());
  if (observer != nullptr) {
    RETURN_IF_ERROR(FetchCaptured(rows));
    observer->OnLayer(layer, captured_, rows, capture_cols_);
  }
  return absl::OkStatus();
}

void Forward::DraftFfn(LayerIndex layer, const Batch& batch, const DraftLayer& rows) {
  const FfnPart& part = weights_->ffn(layer);
  backend_->RmsNorm(*x_, batch.rows(), weights_->ffn_norm(layer), config_.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, batch.rows(), norm_act_.get());
  backend_->FfnBegin(ParamsOf(part, nullptr), *norm_act_, batch.rows(), ffn_job_.get());
  if (!rows.pages.empty()) backend_->FfnAccumulatePages(rows.pages, ffn_job_.get());
  if (rows.overlay.row_count > 0) backend_->FfnAccumulateOverlay(rows.overlay, ffn_job_.get());
  backend_->FfnEnd(ffn_job_.get(), x_.get());
}

absl::Status Forward::Head(const Batch& batch) {
  const int32_t rows = batch.logit_rows;
  if (rows == 0) return absl::OkStatus();
  backend_->CopyRows(*x_, batch.rows() - rows, rows, 0, head_in_.get());
  backend_->RmsNorm(*head_in_, rows, weights_->output_norm(), config_.rms_epsilon, head_in_.get());
  backend_->Prepare(*head_in_, rows, head_act_.get());
  return Product(weights_->head(), *head_act_, rows, logits_.get());
}

// out = x W^T: the resident rows of W at once, the others as their chunks arrive.
absl::Status Forward::Product(const MatrixPart& matrix, const Activations& x, int32_t rows, Tensor* out) {
  int32_t first_row = matrix.resident.rows;
  if (first_row > 0) backend_->MatMul(matrix.resident, x, rows, 0, out);
  for (int32_t chunk_rows : matrix.chunk_rows) {
    ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, pager_->Next());
    backend_->MatMul({matrix.type, MatrixLayout::kPlain, chunk_rows, matrix.cols, bytes.data()}, x, rows, first_row,
                     out);
    backend_->Wait(backend_->Now());
    RETURN_IF_ERROR(pager_->Release());
    first_row += chunk_rows;
  }
  return absl::OkStatus();
}

absl::Status Forward::Logits(int32_t index, std::span<float> logits) {
  return backend_->Download(*logits_, index, 1, logits);
}

}  // namespace dogstar
