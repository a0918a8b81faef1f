#include "model/model_file.h"

#include "base/bit_planes.h"
#include "fmt/format.h"
#include "model/packed_format.h"
#include "model/packed_input.h"

namespace dogstar {
namespace {

// Norms, biases: F32 in practice, any runnable type by the format.
absl::StatusOr<std::vector<float>> ReadVector(const InputFile& file, const GgufHeader& header,
                                              const std::string& name) {
  const GgufTensor* tensor = header.FindTensor(name);
  if (tensor == nullptr) return absl::NotFoundError(fmt::format("{}: tensor {} is missing", file.path(), name));
  std::vector<std::byte> raw(tensor->bytes);
  RETURN_IF_ERROR(file.ReadAt(tensor->offset, raw));
  std::vector<float> values(tensor->cols());
  DequantizeRow(static_cast<QuantType>(tensor->gguf_type), raw.data(), static_cast<int64_t>(values.size()),
                values.data());
  return values;
}

}  // namespace

absl::Status ReadBytes(const std::string& path, uint64_t offset, std::span<std::byte> bytes) {
  ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  return file.ReadAt(offset, bytes);
}

ModelFile::ModelFile() = default;
ModelFile::~ModelFile() = default;

absl::Status ModelFile::ReadBytes(uint64_t offset, std::span<std::byte> bytes) const {
  return file_->ReadAt(offset, bytes);
}

absl::Status ModelFile::CheckUnchanged() const { return file_->CheckUnchanged(); }

absl::StatusOr<MatrixSource> ModelFile::FindMatrix(const GgufHeader& header, const std::string& name) const {
  const GgufTensor* tensor = header.FindTensor(name);
  if (tensor == nullptr) return absl::NotFoundError(fmt::format("{}: tensor {} is missing", path_, name));
  MatrixSource matrix;
  matrix.tensor = name;
  matrix.type = static_cast<QuantType>(tensor->gguf_type);
  matrix.rows = static_cast<int32_t>(tensor->rows());
  matrix.cols = static_cast<int32_t>(tensor->cols());
  matrix.offset = tensor->offset;
  matrix.checksums = packed_ ? packed_->FindChecksums(name) : nullptr;
  return matrix;
}

absl::Status ModelFile::FindAttentionLow(const GgufHeader& header, int32_t index, LayerSource* layer) const {
  const std::string name = packed::LayerTensor(static_cast<size_t>(index), packed::kAttentionLowPart);
  const GgufTensor* tensor = header.FindTensor(name);
  if (tensor == nullptr) return absl::OkStatus();
  uint64_t bytes = 0;
  for (const MatrixSource* matrix : {&layer->query, &layer->key, &layer->value, &layer->output}) {
    bytes += LowPlanesBytes(matrix->type, matrix->rows, matrix->cols);
  }
  if (tensor->gguf_type != packed::kGgufI8 || tensor->shape != std::vector<uint64_t>{bytes} ||
      tensor->offset % packed::kFileAlignment != 0) {
    return absl::DataLossError(fmt::format("{}: tensor {} at {} has type {} and {} bytes; expected {} bytes of type {}",
                                           path_, name, tensor->offset, tensor->gguf_type, tensor->bytes, bytes,
                                           packed::kGgufI8));
  }
  layer->attention_low = BytesSource{tensor->offset, bytes, packed_->FindChecksums(name)};
  return absl::OkStatus();
}

absl::StatusOr<LayerSource> ModelFile::FindLayer(const GgufHeader& header, int32_t index) const {
  LayerSource layer;
  ASSIGN_OR_RETURN(layer.query, FindMatrix(header, LayerTensorName(index, "attn_q")));
  ASSIGN_OR_RETURN(layer.key, FindMatrix(header, LayerTensorName(index, "attn_k")));
  ASSIGN_OR_RETURN(layer.value, FindMatrix(header, LayerTensorName(index, "attn_v")));
  ASSIGN_OR_RETURN(layer.output, FindMatrix(header, LayerTensorName(index, "attn_output")));
  for (int i = 0; i < kLayerVectors; ++i) {
    const auto vector = static_cast<LayerVector>(i);
    if (config_.VectorSize(vector) == 0) continue;
    ASSIGN_OR_RETURN(layer.vectors[static_cast<size_t>(i)], ReadVector(*file_, header, LayerVectorName(index, vector)));
  }
  if (packed_) {
    RETURN_IF_ERROR(FindAttentionLow(header, index, &layer));
    return layer;
  }
  ASSIGN_OR_RETURN(layer.gate, FindMatrix(header, LayerTensorName(index, "ffn_gate")));
  ASSIGN_OR_RETURN(layer.up, FindMatrix(header, LayerTensorName(index, "ffn_up")));
  ASSIGN_OR_RETURN(layer.down, FindMatrix(header, LayerTensorName(index, "ffn_down")));
  return layer;
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path) {
  return Load(path, Contents::kAll);
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::OpenWeights(const std::string& path) {
  return Load(path, Contents::kWeights);
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Load(const std::string& path, Contents contents) {
  auto file = std::unique_ptr<ModelFile>(new ModelFile);
  file->path_ = path;
  ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(path));  // first: it says best what is no model
  ASSIGN_OR_RETURN(InputFile input, InputFile::Open(path));
  file->file_ = std::make_unique<InputFile>(std::move(input));
  file->file_bytes_ = header.file_bytes();
  ASSIGN_OR_RETURN(file->config_, ModelConfig::FromGguf(header));
  if (contents == Contents::kAll) {
    ASSIGN_OR_RETURN(file->tokenizer_, Tokenizer::FromGguf(header));
  }
  if (PackedFile::IsPacked(header)) {
    ASSIGN_OR_RETURN(PackedFile packed, PackedFile::Open(path, header));
    file->packed_.emplace(std::move(packed));
  }
  header.TakeFields();  // the strings of a vocabulary take megabytes; the tokenizer has its own compact form

  ASSIGN_OR_RETURN(file->embedding_, file->FindMatrix(header, kEmbeddingTensor));
  ASSIGN_OR_RETURN(file->head_, file->FindMatrix(header, file->config_.tied_head ? kEmbeddingTensor : kHeadTensor));
  ASSIGN_OR_RETURN(file->output_norm_, ReadVector(*file->file_, header, kOutputNormTensor));
  if (header.FindTensor(kRopeFactorsTensor) != nullptr) {
    ASSIGN_OR_RETURN(const std::vector<float> factors, ReadVector(*file->file_, header, kRopeFactorsTensor));
    RETURN_IF_ERROR(file->config_.DivideRopeFrequencies(factors));
  }
  for (int32_t i = 0; i < file->config_.layer_count; ++i) {
    ASSIGN_OR_RETURN(LayerSource layer, file->FindLayer(header, i));
    file->layers_.push_back(std::move(layer));
  }
  return file;
}

ModelFile::ParameterCounts ModelFile::CountParameters() const {
  ParameterCounts counts;
  const auto size = [](const MatrixSource& m) { return static_cast<double>(m.rows) * m.cols; };
  for (const LayerSource& layer : layers_) {
    counts.attention += size(layer.query) + size(layer.key) + size(layer.value) + size(layer.output);
  }
  counts.ffn = 3.0 * config_.layer_count * config_.dim * config_.ffn_rows;
  counts.embedding = size(embedding_);
  // As in the paper: a tied head is counted as a matrix of its own, because each token reads it.
  counts.head = size(head_);
  return counts;
}

}  // namespace dogstar
