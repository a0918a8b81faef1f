#include "model/synth.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/quant_codes.h"
#include "base/thread_pool.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/gguf.h"
#include "model/model_config.h"
#include "model/packed_layer.h"
#include "model/packed_writer.h"
#include "model/row_order.h"
#include "model/synth_fields.h"
#include "model/synth_rows.h"

namespace dogstar {
namespace {

using ProgressFn = std::function<void(uint64_t, uint64_t)>;

struct NamedShape {
  const char* name;
  SynthShape shape;
};
constexpr std::array<NamedShape, 6> kShapes = {{{"tiny", {4, 256, 1024, 4, 2}},
                                                {"1b", {16, 2048, 8192, 32, 8}},
                                                {"3b", {28, 3072, 8192, 24, 8}},
                                                {"8b", {32, 4096, 14336, 32, 8}},
                                                {"13b", {40, 5120, 13824, 40, 40}},
                                                {"70b", {80, 8192, 28672, 64, 8}}}};
constexpr uint64_t kPieceBytes = 8 << 20;  // of a plain file's writes

enum class Part { kVector, kMatrix, kFfn };

struct SynthTensor {
  std::string name;
  Part part = Part::kMatrix;
  QuantType type = QuantType::kF32;
  int64_t cols = 0, rows = 1;
  uint64_t bytes() const { return RowBytes(type, cols) * static_cast<uint64_t>(rows); }
  std::vector<uint64_t> shape() const {
    if (part == Part::kVector) return {static_cast<uint64_t>(cols)};
    return {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)};
  }
};

absl::Status CheckOptions(const SynthOptions& options) {
  const SynthShape& shape = options.shape;
  if (std::min({shape.layers, shape.dim, shape.ffn_rows, shape.head_count, shape.kv_head_count}) <= 0) {
    return absl::InvalidArgumentError("every size of a synthetic model must be at least 1");
  }
  if (shape.dim % 32 != 0 || shape.ffn_rows % 32 != 0) {
    return absl::InvalidArgumentError(
        fmt::format("hidden size {} and FFN width {} must be multiples of 32", shape.dim, shape.ffn_rows));
  }
  if (shape.dim % (2 * shape.head_count) != 0 || shape.head_count % shape.kv_head_count != 0) {
    return absl::InvalidArgumentError(
        fmt::format("{} heads and {} KV heads do not divide hidden size {} and each other", shape.head_count,
                    shape.kv_head_count, shape.dim));
  }
  return absl::OkStatus();
}

std::vector<SynthTensor> LayerTensors(const SynthOptions& options, int32_t layer) {
  const SynthShape& shape = options.shape;
  const QuantType type = options.type;
  const int64_t dim = shape.dim, ffn = shape.ffn_rows;
  const int64_t kv_dim = dim / shape.head_count * shape.kv_head_count;
  const auto name = [&](const char* part) { return LayerTensorName(layer, part); };
  return {{name("attn_norm"), Part::kVector, QuantType::kF32, dim},
          {name("attn_q"), Part::kMatrix, type, dim, dim},
          {name("attn_k"), Part::kMatrix, type, dim, kv_dim},
          {name("attn_v"), Part::kMatrix, type, dim, kv_dim},
          {name("attn_output"), Part::kMatrix, type, dim, dim},
          {name("ffn_norm"), Part::kVector, QuantType::kF32, dim},
          {name("ffn_gate"), Part::kFfn, type, dim, ffn},
          {name("ffn_up"), Part::kFfn, type, dim, ffn},
          {name("ffn_down"), Part::kFfn, options.down_type.value_or(type), ffn, dim}};
}

std::vector<SynthTensor> AllTensors(const SynthOptions& options, uint64_t vocab_size) {
  const int64_t dim = options.shape.dim;
  const auto vocab = static_cast<int64_t>(vocab_size);
  std::vector<SynthTensor> tensors = {{kEmbeddingTensor, Part::kMatrix, options.type, dim, vocab}};
  for (int32_t layer = 0; layer < options.shape.layers; ++layer) {
    for (SynthTensor& tensor : LayerTensors(options, layer)) tensors.push_back(std::move(tensor));
  }
  tensors.push_back({kOutputNormTensor, Part::kVector, QuantType::kF32, dim});
  tensors.push_back({kHeadTensor, Part::kMatrix, options.type, dim, vocab});
  return tensors;
}

// Makes the bytes of one tensor, front to back.
class TensorGenerator {
 public:
  TensorGenerator(const SynthTensor& tensor, uint64_t seed, ThreadPool* pool)
      : tensor_(tensor), rows_(tensor.type, tensor.cols, seed, tensor.name), pool_(pool) {}

  // out: whole rows.
  void Next(std::span<std::byte> out) {
    const auto count = static_cast<int64_t>(out.size() / rows_.row_bytes());
    if (tensor_.part == Part::kVector) {
      FillOnes(out);
    } else {
      pool_->Run([&](int thread) {
        const Range part = PartOf(count, 1, thread, pool_->size());
        for (int64_t i = part.begin; i < part.end; ++i) {
          rows_.FillRow(next_row_ + i, out.data() + static_cast<uint64_t>(i) * rows_.row_bytes());
        }
      });
    }
    next_row_ += count;
  }
  uint64_t row_bytes() const { return rows_.row_bytes(); }

 private:
  static void FillOnes(std::span<std::byte> out) {
    const float one = 1;
    for (size_t i = 0; i < out.size(); i += sizeof(one)) std::memcpy(out.data() + i, &one, sizeof(one));
  }

  const SynthTensor& tensor_;
  const SynthRows rows_;
  ThreadPool* const pool_;
  int64_t next_row_ = 0;
};

absl::Status WritePlainTensor(const SynthTensor& tensor, uint64_t seed, ThreadPool* pool,
                              const std::function<absl::Status(std::span<const std::byte>)>& write) {
  TensorGenerator generator(tensor, seed, pool);
  const uint64_t piece_bytes = std::max<uint64_t>(kPieceBytes / generator.row_bytes(), 1) * generator.row_bytes();
  std::vector<std::byte> piece(std::min(piece_bytes, tensor.bytes()));
  for (uint64_t left = tensor.bytes(); left > 0; left -= piece.size()) {
    piece.resize(std::min<uint64_t>(piece.size(), left));
    generator.Next(piece);
    RETURN_IF_ERROR(write(piece));
  }
  return absl::OkStatus();
}

absl::Status WritePlainModel(const SynthOptions& options, const std::vector<SynthTensor>& tensors,
                             std::vector<GgufField> fields, const std::string& path, ThreadPool* pool,
                             const ProgressFn& progress) {
  constexpr uint64_t kAlignment = 32;
  ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(path, kAlignment));
  for (GgufField& field : fields) writer.AddField(std::move(field));
  for (const SynthTensor& tensor : tensors) {
    RETURN_IF_ERROR(writer.AddTensor(tensor.name, static_cast<uint32_t>(tensor.type), tensor.shape()));
  }
  RETURN_IF_ERROR(writer.BeginData());
  const uint64_t total = writer.TotalBytes();
  uint64_t done = 0;
  for (const SynthTensor& tensor : tensors) {
    RETURN_IF_ERROR(WritePlainTensor(tensor, options.seed, pool, [&](std::span<const std::byte> piece) {
      done += piece.size();
      if (progress) progress(done, total);
      return writer.WriteData(piece);
    }));
    RETURN_IF_ERROR(writer.EndTensor());
  }
  RETURN_IF_ERROR(writer.Finish());
  if (progress) progress(total, total);
  return absl::OkStatus();
}

absl::StatusOr<PackedPlan> PlanPacked(const SynthOptions& options, const std::vector<SynthTensor>& tensors,
                                      std::vector<GgufField> fields) {
  PackedPlan plan;
  plan.planes = options.planes;
  plan.fields = std::move(fields);
  for (const SynthTensor& tensor : tensors) {
    if (tensor.part == Part::kFfn) continue;
    plan.plain.push_back(
        {.name = tensor.name, .gguf_type = static_cast<uint32_t>(tensor.type), .shape = tensor.shape()});
  }
  const SynthShape& shape = options.shape;
  const QuantType type = options.type, down_type = options.down_type.value_or(options.type);
  int32_t page_rows = options.page_rows;
  if (page_rows == 0) {
    ASSIGN_OR_RETURN(page_rows, ChoosePageRows(type, type, down_type, shape.dim, shape.ffn_rows, options.run_rows));
  }
  ASSIGN_OR_RETURN(const FfnPageLayout layout,
                   FfnPageLayout::Make(type, type, down_type, shape.dim, shape.ffn_rows, page_rows, options.run_rows));
  plan.layers.assign(static_cast<size_t>(shape.layers), layout);
  return plan;
}

absl::Status WritePackedPlainTensors(const SynthOptions& options, const std::vector<SynthTensor>& tensors,
                                     ThreadPool* pool, PackedWriter* writer) {
  std::vector<std::byte> chunk;
  for (const SynthTensor& tensor : tensors) {
    if (tensor.part == Part::kFfn) continue;
    TensorGenerator generator(tensor, options.seed, pool);
    for (uint64_t left = tensor.bytes(); left > 0; left -= chunk.size()) {
      chunk.resize(writer->NextPlainBytes());
      generator.Next(chunk);
      RETURN_IF_ERROR(writer->WritePlain(chunk));
    }
  }
  return absl::OkStatus();
}

absl::Status WritePackedLayers(const SynthOptions& options, ThreadPool* pool, PackedWriter* writer) {
  const QuantType down_type = options.down_type.value_or(options.type);
  const int32_t group_rows = IsFloatType(down_type) ? 0 : ShapeOf(down_type).group_weights;
  const RowOrder order = MakeRowOrder({}, options.shape.ffn_rows, options.run_rows, group_rows);
  std::array<AlignedBuffer, 3> matrices;
  for (int32_t layer = 0; layer < options.shape.layers; ++layer) {
    auto buffer = matrices.begin();
    for (const SynthTensor& tensor : LayerTensors(options, layer)) {
      if (tensor.part != Part::kFfn) continue;
      if (buffer->size() == 0) {
        ASSIGN_OR_RETURN(*buffer, AlignedBuffer::Create(tensor.bytes()));
      }
      TensorGenerator(tensor, options.seed, pool).Next(buffer->span());
      ++buffer;
    }
    RETURN_IF_ERROR(
        writer->WriteLayer(order, {.gate = matrices[0].span(), .up = matrices[1].span(), .down = matrices[2].span()}));
  }
  return absl::OkStatus();
}

absl::Status WritePackedModel(const SynthOptions& options, const std::vector<SynthTensor>& tensors,
                              std::vector<GgufField> fields, const std::string& path, ThreadPool* pool,
                              const ProgressFn& progress) {
  ASSIGN_OR_RETURN(PackedPlan plan, PlanPacked(options, tensors, std::move(fields)));
  ASSIGN_OR_RETURN(PackedWriter writer, PackedWriter::Create(path, std::move(plan), pool, progress));
  RETURN_IF_ERROR(WritePackedPlainTensors(options, tensors, pool, &writer));
  RETURN_IF_ERROR(WritePackedLayers(options, pool, &writer));
  return writer.Finish();
}

}  // namespace

std::vector<std::string> SynthShapeNames() {
  std::vector<std::string> names;
  for (const NamedShape& shape : kShapes) names.push_back(shape.name);
  return names;
}

absl::StatusOr<SynthShape> FindSynthShape(std::string_view name) {
  for (const NamedShape& shape : kShapes) {
    if (shape.name == name) return shape.shape;
  }
  return absl::InvalidArgumentError(
      fmt::format("unknown shape {}; there are {}", name, fmt::join(SynthShapeNames(), ", ")));
}

absl::Status WriteSyntheticModel(const SynthOptions& options, const std::string& path, const ProgressFn& progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(std::vector<GgufField> tokenizer, SynthTokenizerFields(options));
  const uint64_t vocab_size = SynthVocabSize(tokenizer);
  std::vector<GgufField> fields = SynthModelFields(options, vocab_size);
  for (GgufField& field : tokenizer) fields.push_back(std::move(field));
  const std::vector<SynthTensor> tensors = AllTensors(options, vocab_size);
  ThreadPool pool(std::max(options.threads, 1));
  const auto write = options.packed ? WritePackedModel : WritePlainModel;
  return write(options, tensors, std::move(fields), path, &pool, progress);
}

}  // namespace dogstar
