// ModelFile: an opened model, plain GGUF or packed: its description, and where each of its parts lies in the file.
//
// The file stays open: one that loses its name while a model runs is read on.
//
// Threads: const after Open.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "model/gguf.h"
#include "model/model_config.h"
#include "model/packed_file.h"
#include "model/tokenizer.h"

namespace dogstar {

class InputFile;

// A weight matrix as it lies in the file: plain rows, back to back.
struct MatrixSource {
  std::string tensor;
  QuantType type = QuantType::kF32;
  int32_t rows = 0;
  int32_t cols = 0;
  uint64_t offset = 0;                         // of row 0 in the file
  const TensorChecksums* checksums = nullptr;  // packed files only
  uint64_t row_bytes() const { return RowBytes(type, cols); }
  uint64_t bytes() const { return row_bytes() * static_cast<uint64_t>(rows); }
};

// Bytes that are read and checked as a whole.
struct BytesSource {
  uint64_t offset = 0, bytes = 0;
  const TensorChecksums* checksums = nullptr;
};

struct LayerSource {
  MatrixSource query, key, value, output;
  // Plain files: the FFN as matrices. Packed files: empty, see ModelFile::packed().
  std::optional<MatrixSource> gate, up, down;
  // Packed files: low planes of query, key, value and output (base/bit_planes.h), one after the other; none: it has
  // none.
  std::optional<BytesSource> attention_low;
  std::array<std::vector<float>, kLayerVectors> vectors;  // [ModelConfig::VectorSize], by LayerVector
};

class ModelFile {
 public:
  // Reads the header, checks every part and loads norms and biases. The tokenizer is made from the same header and the
  // vocabulary's strings are dropped.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path);
  // The same without a tokenizer, whose vocabulary takes megabytes: tokenizer() must not be called.
  static absl::StatusOr<std::unique_ptr<ModelFile>> OpenWeights(const std::string& path);
  ~ModelFile();

  const std::string& path() const { return path_; }
  uint64_t file_bytes() const { return file_bytes_; }
  const ModelConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const PackedFile* packed() const { return packed_ ? &*packed_ : nullptr; }
  const std::vector<LayerSource>& layers() const { return layers_; }
  const MatrixSource& embedding() const { return embedding_; }
  const MatrixSource& head() const { return head_; }  // equals embedding() when the head is tied
  const std::vector<float>& output_norm() const { return output_norm_; }

  // Plain reads (no O_DIRECT) for small parts, and embedding rows.
  absl::Status ReadBytes(uint64_t offset, std::span<std::byte> bytes) const;
  // Aborted when the path no longer holds the file that was opened, as it was.
  absl::Status CheckUnchanged() const;

  // Weights in all (a parameter count by part), for densities of the whole model.
  struct ParameterCounts {
    double ffn = 0, attention = 0, embedding = 0, head = 0;
    double total() const { return ffn + attention + embedding + head; }
  };
  ParameterCounts CountParameters() const;

 private:
  enum class Contents { kAll, kWeights };
  ModelFile();
  static absl::StatusOr<std::unique_ptr<ModelFile>> Load(const std::string& path, Contents contents);
  absl::StatusOr<MatrixSource> FindMatrix(const GgufHeader& header, const std::string& tensor) const;
  absl::Status FindAttentionLow(const GgufHeader& header, int32_t index, LayerSource* layer) const;
  absl::StatusOr<LayerSource> FindLayer(const GgufHeader& header, int32_t index) const;

  std::string path_;
  std::unique_ptr<InputFile> file_;
  uint64_t file_bytes_ = 0;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<PackedFile> packed_;
  std::vector<LayerSource> layers_;
  MatrixSource embedding_, head_;
  std::vector<float> output_norm_;
};

// The same on whatever file has the name now: ModelFile::ReadBytes is what a running model wants.
absl::Status ReadBytes(const std::string& path, uint64_t offset, std::span<std::byte> bytes);

}  // namespace dogstar
