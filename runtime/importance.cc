#include "runtime/importance.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "device/backend.h"
#include "memory/kv_cache.h"
#include "model/model_file.h"
#include "runtime/calibration_text.h"

namespace dogstar {
namespace {

// A forward pass that holds one layer at a time, in step with the packer.
class ImportancePass {
 public:
  static absl::StatusOr<std::shared_ptr<ImportancePass>> Create(const std::string& source, int threads);

  absl::StatusOr<std::vector<float>> Layer(LayerIndex layer, const LayerMatrices& matrices);

 private:
  absl::Status Allocate(int threads);
  absl::Status Embed();
  absl::Status Attention(const LayerSource& layer);
  absl::Status Product(const MatrixSource& matrix, const Activations& x, Tensor* out);
  absl::StatusOr<std::vector<float>> Ffn(const LayerSource& layer, const LayerMatrices& matrices);

  std::unique_ptr<ModelFile> model_;
  std::vector<TokenId> tokens_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tensor> x_, norm_, query_, key_, value_, context_, output_, gate_, up_, z_;
  std::unique_ptr<Activations> norm_act_, context_act_, z_act_;
  std::unique_ptr<KvStore> kv_;
  std::vector<KvSlot> slots_;
  std::vector<TokenPos> positions_;
  AttentionMask mask_;
  std::byte* norm_weight_ = nullptr;
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
  pass->tokens_ = pass->model_->tokenizer().Encode(kCalibrationText, {});
  RETURN_IF_ERROR(pass->Allocate(threads));
  RETURN_IF_ERROR(pass->Embed());
  return pass;
}

absl::Status ImportancePass::Allocate(int threads) {
  const ModelConfig& c = model_->config();
  const int32_t rows = static_cast<int32_t>(tokens_.size());
  const int32_t heads = c.head_count * c.head_dim, kv_heads = c.kv_head_count * c.head_dim;
  ASSIGN_OR_RETURN(backend_, NewCpuBackend({threads, false, CpuIsa::kAuto}));
  ASSIGN_OR_RETURN(x_, backend_->NewTensor(rows, c.dim));
  ASSIGN_OR_RETURN(norm_, backend_->NewTensor(rows, c.dim));
  ASSIGN_OR_RETURN(output_, backend_->NewTensor(rows, c.dim));
  ASSIGN_OR_RETURN(query_, backend_->NewTensor(rows, heads));
  ASSIGN_OR_RETURN(context_, backend_->NewTensor(rows, heads));
  ASSIGN_OR_RETURN(key_, backend_->NewTensor(rows, kv_heads));
  ASSIGN_OR_RETURN(value_, backend_->NewTensor(rows, kv_heads));
  ASSIGN_OR_RETURN(gate_, backend_->NewTensor(rows, c.ffn_rows));
  ASSIGN_OR_RETURN(up_, backend_->NewTensor(rows, c.ffn_rows));
  ASSIGN_OR_RETURN(z_, backend_->NewTensor(rows, c.ffn_rows));
  ASSIGN_OR_RETURN(norm_act_, backend_->NewActivations(rows, c.dim));
  ASSIGN_OR_RETURN(context_act_, backend_->NewActivations(rows, heads));
  ASSIGN_OR_RETURN(z_act_, backend_->NewActivations(rows, c.ffn_rows));
  // One layer at a time: the store has a single one.
  ASSIGN_OR_RETURN(kv_, backend_->NewKvStore({1, c.kv_head_count, c.head_dim, rows, KvType::kF16}));
  ASSIGN_OR_RETURN(norm_weight_, backend_->AllocateMemory(static_cast<uint64_t>(c.dim) * sizeof(float)));
  KvCache cache(rows);
  ASSIGN_OR_RETURN(slots_, cache.Append(SequenceId{0}, rows));
  mask_ = cache.CausalMask(SequenceId{0}, TokenPos{0}, rows);
  for (int32_t i = 0; i < rows; ++i) positions_.push_back(TokenPos{i});
  return absl::OkStatus();
}

absl::Status ImportancePass::Embed() {
  const MatrixSource& table = model_->embedding();
  std::vector<std::byte> rows(tokens_.size() * table.row_bytes());
  std::vector<int32_t> index;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const uint64_t offset = table.offset + static_cast<uint64_t>(ToInt(tokens_[i])) * table.row_bytes();
    RETURN_IF_ERROR(
        ReadBytes(model_->path(), offset, std::span(rows).subspan(i * table.row_bytes(), table.row_bytes())));
    index.push_back(static_cast<int32_t>(i));
  }
  backend_->GatherRows(
      {table.type, MatrixLayout::kPlain, static_cast<int32_t>(tokens_.size()), table.cols, rows.data()}, index,
      x_.get());
  backend_->Wait(backend_->Now());
  return absl::OkStatus();
}

absl::Status ImportancePass::Product(const MatrixSource& matrix, const Activations& x, Tensor* out) {
  matrix_bytes_.resize(matrix.bytes());
  RETURN_IF_ERROR(ReadBytes(model_->path(), matrix.offset, matrix_bytes_));
  backend_->MatMul({matrix.type, MatrixLayout::kPlain, matrix.rows, matrix.cols, matrix_bytes_.data()}, x,
                   static_cast<int32_t>(tokens_.size()), 0, out);
  backend_->Wait(backend_->Now());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ImportancePass::Layer(LayerIndex index, const LayerMatrices& matrices) {
  const LayerSource& layer = model_->layers()[static_cast<size_t>(ToInt(index))];
  RETURN_IF_ERROR(Attention(layer));
  return Ffn(layer, matrices);
}

absl::Status ImportancePass::Attention(const LayerSource& layer) {
  const ModelConfig& c = model_->config();
  const int32_t rows = static_cast<int32_t>(tokens_.size());
  std::memcpy(norm_weight_, layer.attention_norm.data(), layer.attention_norm.size() * sizeof(float));
  backend_->RmsNorm(*x_, rows, norm_weight_, c.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, rows, norm_act_.get());
  RETURN_IF_ERROR(Product(layer.query, *norm_act_, query_.get()));
  RETURN_IF_ERROR(Product(layer.key, *norm_act_, key_.get()));
  RETURN_IF_ERROR(Product(layer.value, *norm_act_, value_.get()));
  const RopeParams rope{c.rope_halves ? RopePairing::kHalves : RopePairing::kAdjacent, c.head_dim, c.rotary_dims,
                        c.rope_frequencies};
  backend_->Rope(rope, positions_, query_.get());
  backend_->Rope(rope, positions_, key_.get());
  backend_->WriteKv(LayerIndex{0}, slots_, *key_, *value_, kv_.get());
  backend_->Attention({c.head_count, c.kv_head_count, c.head_dim, 1.0F / std::sqrt(static_cast<float>(c.head_dim))},
                      LayerIndex{0}, mask_, *kv_, *query_, context_.get());
  backend_->Prepare(*context_, rows, context_act_.get());
  RETURN_IF_ERROR(Product(layer.output, *context_act_, output_.get()));
  backend_->Add(*output_, rows, x_.get());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ImportancePass::Ffn(const LayerSource& layer, const LayerMatrices& matrices) {
  const ModelConfig& c = model_->config();
  const int32_t rows = static_cast<int32_t>(tokens_.size());
  const auto view = [](const MatrixSource& m, std::span<const std::byte> bytes) {
    return MatrixView{m.type, MatrixLayout::kPlain, m.rows, m.cols, bytes.data()};
  };
  std::memcpy(norm_weight_, layer.ffn_norm.data(), layer.ffn_norm.size() * sizeof(float));
  backend_->RmsNorm(*x_, rows, norm_weight_, c.rms_epsilon, norm_.get());
  backend_->Prepare(*norm_, rows, norm_act_.get());
  backend_->MatMul(view(*layer.gate, matrices.gate), *norm_act_, rows, 0, gate_.get());
  backend_->MatMul(view(*layer.up, matrices.up), *norm_act_, rows, 0, up_.get());
  backend_->GatedActivation(c.activation, *gate_, *up_, rows, z_.get());
  backend_->Prepare(*z_, rows, z_act_.get());
  backend_->MatMul(view(*layer.down, matrices.down), *z_act_, rows, 0, output_.get());
  backend_->Add(*output_, rows, x_.get());

  std::vector<float> z(static_cast<size_t>(rows) * static_cast<size_t>(c.ffn_rows));
  RETURN_IF_ERROR(backend_->Download(*z_, 0, rows, z));
  return TokenShares(z, DownNormsSquared(*layer.down, matrices.down));
}

}  // namespace

absl::StatusOr<ImportanceFn> NewImportancePass(const std::string& source, int threads) {
  ASSIGN_OR_RETURN(std::shared_ptr<ImportancePass> pass, ImportancePass::Create(source, threads));
  return ImportanceFn([pass](LayerIndex layer, const LayerMatrices& matrices) { return pass->Layer(layer, matrices); });
}

}  // namespace dogstar
