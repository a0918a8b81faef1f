#include "runtime/layer_runner.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/cpu_backend.h"
#include "memory/kv_cache.h"

namespace dogstar {
namespace {

const MatrixSource& SourceOf(const LayerSource& layer, MatrixRole role) {
  switch (role) {
    case MatrixRole::kQuery:
      return layer.query;
    case MatrixRole::kKey:
      return layer.key;
    case MatrixRole::kValue:
      return layer.value;
    case MatrixRole::kOutput:
      return layer.output;
    case MatrixRole::kGate:
      return *layer.gate;
    case MatrixRole::kUp:
      return *layer.up;
    case MatrixRole::kDown:
      break;
  }
  return *layer.down;
}

constexpr std::array kRoles = {MatrixRole::kQuery, MatrixRole::kKey, MatrixRole::kValue, MatrixRole::kOutput,
                               MatrixRole::kGate,  MatrixRole::kUp,  MatrixRole::kDown};

KvShape ShapeOfOneLayer(const ModelConfig& c, int32_t tokens) {
  return {1, c.kv_head_count, c.head_dim, tokens, KvType::kF16};
}

// Of MultiplyDown.
uint64_t OwnBytes(const ModelConfig& c, const Backend& backend) {
  constexpr int32_t kRows = LayerRunner::kOwnRows;
  return backend.TensorBytes(kRows, c.ffn_rows) + backend.TensorBytes(kRows, c.dim) +
         backend.ActivationsBytes(kRows, c.ffn_rows);
}

void AppendMask(const AttentionMask& more, AttentionMask* mask) {
  const auto first_run = static_cast<int32_t>(mask->runs.size());
  mask->runs.insert(mask->runs.end(), more.runs.begin(), more.runs.end());
  for (const AttentionMask::Row& row : more.rows) mask->rows.push_back({first_run + row.first_run, row.run_count});
}

}  // namespace

uint64_t LayerRunner::Bytes(const ModelFile& model, const Backend& backend, int32_t tokens) {
  const ModelConfig& c = model.config();
  uint64_t largest = 0;
  for (const LayerSource& layer : model.layers()) {
    for (const MatrixRole role : kRoles) largest = std::max(largest, SourceOf(layer, role).bytes());
  }
  return LayerPass::Bytes(c, backend, {.rows = tokens, .plain_ffn = true}) + backend.TensorBytes(tokens, c.dim) +
         backend.KvStoreBytes(ShapeOfOneLayer(c, tokens)) + largest + OwnBytes(c, backend) +
         static_cast<uint64_t>(tokens) * model.embedding().row_bytes();
}

absl::StatusOr<std::unique_ptr<LayerRunner>> LayerRunner::Create(const ModelFile* model,
                                                                 std::span<const std::vector<TokenId>> texts,
                                                                 int threads) {
  CHECK(model->packed() == nullptr);
  auto runner = std::unique_ptr<LayerRunner>(new LayerRunner(model));
  RETURN_IF_ERROR(runner->Allocate(texts, threads));
  RETURN_IF_ERROR(runner->Embed());
  return runner;
}

absl::Status LayerRunner::Allocate(std::span<const std::vector<TokenId>> texts, int threads) {
  const ModelConfig& c = model_->config();
  for (const std::vector<TokenId>& text : texts) {
    batch_.tokens.insert(batch_.tokens.end(), text.begin(), text.end());
    for (size_t i = 0; i < text.size(); ++i) batch_.positions.push_back(TokenPos{static_cast<int32_t>(i)});
  }
  const int32_t rows = batch_.rows();
  ASSIGN_OR_RETURN(backend_, NewCpuBackend({.threads = threads}));
  ASSIGN_OR_RETURN(layer_pass_, LayerPass::Create(&c, backend_.get(), {.rows = rows, .plain_ffn = true}));
  ASSIGN_OR_RETURN(x_, backend_->NewTensor(rows, c.dim));
  ASSIGN_OR_RETURN(kv_, backend_->NewKvStore(ShapeOfOneLayer(c, rows)));
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const int32_t size = c.VectorSize(static_cast<LayerVector>(i));
    if (size == 0) continue;
    ASSIGN_OR_RETURN(vectors_[i], backend_->AllocateMemory(static_cast<uint64_t>(size) * sizeof(float)));
  }
  KvCache cache(rows);
  for (size_t i = 0; i < texts.size(); ++i) {
    const SequenceId sequence{static_cast<int32_t>(i)};
    const auto length = static_cast<int32_t>(texts[i].size());
    ASSIGN_OR_RETURN(const std::vector<KvSlot> slots, cache.Append(sequence, length));
    batch_.slots.insert(batch_.slots.end(), slots.begin(), slots.end());
    AppendMask(cache.CausalMask(sequence, TokenPos{0}, length), &batch_.mask);
  }
  layer_pass_->Begin(&batch_);
  return absl::OkStatus();
}

absl::Status LayerRunner::Embed() {
  const MatrixSource& table = model_->embedding();
  std::vector<std::byte> table_rows(batch_.tokens.size() * table.row_bytes());
  std::vector<int32_t> index;
  for (size_t i = 0; i < batch_.tokens.size(); ++i) {
    const uint64_t offset = table.offset + static_cast<uint64_t>(ToInt(batch_.tokens[i])) * table.row_bytes();
    RETURN_IF_ERROR(model_->ReadBytes(offset, std::span(table_rows).subspan(i * table.row_bytes(), table.row_bytes())));
    index.push_back(static_cast<int32_t>(i));
  }
  backend_->GatherRows({table.type, MatrixLayout::kPlain, tokens(), table.cols, table_rows.data()}, index, x_.get());
  const float scale = model_->config().embedding_scale;
  if (scale != 1) backend_->Scale(scale, tokens(), x_.get());
  backend_->Wait(backend_->Now());
  return absl::OkStatus();
}

LayerVectors LayerRunner::CopyVectors(const LayerSource& layer) {
  LayerVectors addresses = {};
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const std::vector<float>& values = layer.vectors[i];
    if (values.empty()) continue;
    std::memcpy(vectors_[i], values.data(), values.size() * sizeof(float));
    addresses[i] = vectors_[i];
  }
  return addresses;
}

absl::Status LayerRunner::Product(const MatrixSource& matrix, std::span<const std::byte> bytes, const Activations& x,
                                  Tensor* out) {
  if (bytes.empty()) {
    matrix_bytes_.resize(matrix.bytes());
    RETURN_IF_ERROR(model_->ReadBytes(matrix.offset, matrix_bytes_));
    bytes = matrix_bytes_;
  }
  backend_->MatMul({matrix.type, MatrixLayout::kPlain, matrix.rows, matrix.cols, bytes.data()}, x, tokens(), 0, out);
  backend_->Wait(backend_->Now());
  return absl::OkStatus();
}

absl::Status LayerRunner::Run(LayerIndex index, const BytesFn& bytes) {
  const LayerSource& source = model_->layers()[static_cast<size_t>(ToInt(index))];
  layer_ = &source;
  const LayerVectors vectors = CopyVectors(source);
  const LayerPass::Layer layer{index, LayerIndex{0}, vectors};
  const auto product = [&](MatrixRole role, const Activations& x, Tensor* out) {
    return Product(SourceOf(source, role), bytes ? bytes(role) : std::span<const std::byte>(), x, out);
  };
  RETURN_IF_ERROR(layer_pass_->Attention(layer, product, kv_.get(), x_.get()));
  return layer_pass_->PlainFfn(layer, product, x_.get());
}

absl::Status LayerRunner::MultiplyDown(std::span<const float> z, int32_t rows, std::span<float> y) {
  const MatrixSource& down = *layer_->down;
  CHECK(rows <= kOwnRows && matrix_bytes_.size() == down.bytes());
  if (own_z_ == nullptr) {
    ASSIGN_OR_RETURN(own_z_, backend_->NewTensor(kOwnRows, down.cols));
    ASSIGN_OR_RETURN(own_z_act_, backend_->NewActivations(kOwnRows, down.cols));
    ASSIGN_OR_RETURN(own_y_, backend_->NewTensor(kOwnRows, down.rows));
  }
  backend_->Upload(z, 0, own_z_.get());
  backend_->Prepare(*own_z_, rows, own_z_act_.get());
  backend_->MatMul({down.type, MatrixLayout::kPlain, down.rows, down.cols, matrix_bytes_.data()}, *own_z_act_, rows, 0,
                   own_y_.get());
  return backend_->Download(*own_y_, 0, rows, y);
}

}  // namespace dogstar
