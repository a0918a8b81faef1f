#include "runtime/importance.h"

#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "device/backend.h"
#include "memory/kv_cache.h"
#include "model/model_file.h"
#include "runtime/calibration_text.h"
#include "runtime/layer_pass.h"

namespace dogstar {
namespace {

// A forward pass that holds one layer at a time, in step with the packer.
class ImportancePass {
 public:
  static absl::StatusOr<std::shared_ptr<ImportancePass>> Create(const std::string& source, int threads);

  absl::StatusOr<std::vector<float>> Layer(LayerIndex index, const LayerMatrices& matrices);

 private:
  absl::Status Allocate(int threads);
  absl::Status Embed();
  // The layer's norms and biases where the backend reads them.
  LayerVectors CopyVectors(const LayerSource& layer);
  absl::Status Product(const MatrixSource& matrix, std::span<const std::byte> bytes, const Activations& x, Tensor* out);
  absl::Status ReadAndMultiply(const MatrixSource& matrix, const Activations& x, Tensor* out);
  int32_t rows() const { return batch_.rows(); }

  std::unique_ptr<ModelFile> model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LayerPass> layer_pass_;
  std::unique_ptr<Tensor> x_;
  std::unique_ptr<KvStore> kv_;
  Batch batch_;
  std::array<std::byte*, kLayerVectors> vectors_ = {};
  std::vector<std::byte> matrix_bytes_;
};

// Squared norm of each column of the down matrix, [ffn_rows].
std::vector<float> DownNormsSquared(const MatrixSource& down, std::span<const std::byte> bytes) {
  std::vector<float> row(static_cast<size_t>(down.cols)), norms(static_cast<size_t>(down.cols));
  for (int32_t i = 0; i < down.rows; ++i) {
    DequantizeRow(down.type, bytes.data() + static_cast<uint64_t>(i) * down.row_bytes(), down.cols, row.data());
    for (size_t j = 0; j < row.size(); ++j) norms[j] += row[j] * row[j];
  }
  return norms;
}

// importance[j] = sum over tokens of j's share of the token's energy. z: [tokens, neurons].
std::vector<float> TokenShares(std::span<const float> z, const std::vector<float>& norms) {
  std::vector<float> importance(norms.size());
  std::vector<float> energy(norms.size());
  for (size_t at = 0; at < z.size(); at += norms.size()) {
    float total = 1e-30F;  // a token whose FFN is silent divides by nothing
    for (size_t j = 0; j < norms.size(); ++j) total += energy[j] = z[at + j] * z[at + j] * norms[j];
    for (size_t j = 0; j < norms.size(); ++j) importance[j] += energy[j] / total;
  }
  return importance;
}

absl::StatusOr<std::shared_ptr<ImportancePass>> ImportancePass::Create(const std::string& source, int threads) {
  auto pass = std::make_shared<ImportancePass>();
  ASSIGN_OR_RETURN(pass->model_, ModelFile::Open(source));
  pass->batch_.tokens = pass->model_->tokenizer().Encode(kCalibrationText, {});
  RETURN_IF_ERROR(pass->Allocate(threads));
  RETURN_IF_ERROR(pass->Embed());
  return pass;
}

absl::Status ImportancePass::Allocate(int threads) {
  const ModelConfig& c = model_->config();
  ASSIGN_OR_RETURN(backend_, NewCpuBackend({.threads = threads}));
  ASSIGN_OR_RETURN(layer_pass_, LayerPass::Create(&c, backend_.get(), {.rows = rows(), .plain_ffn = true}));
  ASSIGN_OR_RETURN(x_, backend_->NewTensor(rows(), c.dim));
  // One layer at a time: the store has a single one.
  ASSIGN_OR_RETURN(kv_, backend_->NewKvStore({1, c.kv_head_count, c.head_dim, rows(), KvType::kF16}));
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const int32_t size = c.VectorSize(static_cast<LayerVector>(i));
    if (size == 0) continue;
    ASSIGN_OR_RETURN(vectors_[i], backend_->AllocateMemory(static_cast<uint64_t>(size) * sizeof(float)));
  }
  KvCache cache(rows());
  ASSIGN_OR_RETURN(batch_.slots, cache.Append(SequenceId{0}, rows()));
  batch_.mask = cache.CausalMask(SequenceId{0}, TokenPos{0}, rows());
  for (int32_t i = 0; i < rows(); ++i) batch_.positions.push_back(TokenPos{i});
  layer_pass_->Begin(&batch_);
  return absl::OkStatus();
}

absl::Status ImportancePass::Embed() {
  const MatrixSource& table = model_->embedding();
  std::vector<std::byte> table_rows(batch_.tokens.size() * table.row_bytes());
  std::vector<int32_t> index;
  for (size_t i = 0; i < batch_.tokens.size(); ++i) {
    const uint64_t offset = table.offset + static_cast<uint64_t>(ToInt(batch_.tokens[i])) * table.row_bytes();
    RETURN_IF_ERROR(model_->ReadBytes(offset, std::span(table_rows).subspan(i * table.row_bytes(), table.row_bytes())));
    index.push_back(static_cast<int32_t>(i));
  }
  backend_->GatherRows({table.type, MatrixLayout::kPlain, rows(), table.cols, table_rows.data()}, index, x_.get());
  const float scale = model_->config().embedding_scale;
  if (scale != 1) backend_->Scale(scale, rows(), x_.get());
  backend_->Wait(backend_->Now());
  return absl::OkStatus();
}

LayerVectors ImportancePass::CopyVectors(const LayerSource& layer) {
  LayerVectors addresses = {};
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const std::vector<float>& values = layer.vectors[i];
    if (values.empty()) continue;
    std::memcpy(vectors_[i], values.data(), values.size() * sizeof(float));
    addresses[i] = vectors_[i];
  }
  return addresses;
}

absl::Status ImportancePass::Product(const MatrixSource& matrix, std::span<const std::byte> bytes, const Activations& x,
                                     Tensor* out) {
  backend_->MatMul({matrix.type, MatrixLayout::kPlain, matrix.rows, matrix.cols, bytes.data()}, x, rows(), 0, out);
  backend_->Wait(backend_->Now());
  return absl::OkStatus();
}

absl::Status ImportancePass::ReadAndMultiply(const MatrixSource& matrix, const Activations& x, Tensor* out) {
  matrix_bytes_.resize(matrix.bytes());
  RETURN_IF_ERROR(model_->ReadBytes(matrix.offset, matrix_bytes_));
  return Product(matrix, matrix_bytes_, x, out);
}

absl::StatusOr<std::vector<float>> ImportancePass::Layer(LayerIndex index, const LayerMatrices& matrices) {
  const LayerSource& source = model_->layers()[static_cast<size_t>(ToInt(index))];
  const LayerVectors vectors = CopyVectors(source);
  const LayerPass::Layer layer{index, LayerIndex{0}, vectors};
  const auto product = [&](MatrixRole role, const Activations& x, Tensor* out) -> absl::Status {
    switch (role) {
      case MatrixRole::kQuery:
        return ReadAndMultiply(source.query, x, out);
      case MatrixRole::kKey:
        return ReadAndMultiply(source.key, x, out);
      case MatrixRole::kValue:
        return ReadAndMultiply(source.value, x, out);
      case MatrixRole::kOutput:
        return ReadAndMultiply(source.output, x, out);
      case MatrixRole::kGate:  // the packer has read the FFN
        return Product(*source.gate, matrices.gate, x, out);
      case MatrixRole::kUp:
        return Product(*source.up, matrices.up, x, out);
      case MatrixRole::kDown:
        return Product(*source.down, matrices.down, x, out);
    }
    return absl::InternalError("no such matrix");
  };
  RETURN_IF_ERROR(layer_pass_->Attention(layer, product, kv_.get(), x_.get()));
  RETURN_IF_ERROR(layer_pass_->PlainFfn(layer, product, x_.get()));
  std::vector<float> z(static_cast<size_t>(rows()) * static_cast<size_t>(model_->config().ffn_rows));
  RETURN_IF_ERROR(backend_->Download(layer_pass_->ffn_values(), 0, rows(), z));
  return TokenShares(z, DownNormsSquared(*source.down, matrices.down));
}

}  // namespace

absl::StatusOr<ImportanceFn> NewImportancePass(const std::string& source, int threads) {
  ASSIGN_OR_RETURN(std::shared_ptr<ImportancePass> pass, ImportancePass::Create(source, threads));
  return ImportanceFn([pass](LayerIndex layer, const LayerMatrices& matrices) { return pass->Layer(layer, matrices); });
}

}  // namespace dogstar
