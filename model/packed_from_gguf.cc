// PackModel: the packed form of a plain GGUF.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/panel.h"
#include "base/thread_pool.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/model_config.h"
#include "model/packed_file.h"
#include "model/packed_format.h"
#include "model/packed_input.h"
#include "model/packed_layer.h"
#include "model/packed_writer.h"
#include "model/row_order.h"

namespace dogstar {
namespace {

constexpr int kThreadsMax = 4;                     // packing is then faster than any disk
constexpr uint64_t kChunkBytesMax = 256ull << 20;  // a plain tensor is copied in chunks of whole rows

struct FfnTensors {
  const GgufTensor* gate = nullptr;
  const GgufTensor* up = nullptr;
  const GgufTensor* down = nullptr;
};

struct SourceModel {
  ModelConfig config;
  std::vector<FfnTensors> layers;
  std::vector<const GgufTensor*> plain;  // in the order of the file's data
};

absl::StatusOr<const GgufTensor*> FindFfnTensor(const GgufHeader& header, int32_t layer, const char* part,
                                                uint64_t cols, uint64_t rows) {
  const std::string name = LayerTensorName(layer, part);
  const GgufTensor* const tensor = header.FindTensor(name);
  if (tensor == nullptr) return absl::NotFoundError(fmt::format("tensor {} is missing", name));
  const QuantTraits* const traits = FindQuantTraits(tensor->gguf_type);
  if (traits == nullptr || !traits->runnable) {
    return absl::UnimplementedError(
        fmt::format("tensor {} has type {}, which cannot be packed; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 can", name,
                    traits == nullptr ? fmt::format("{}", tensor->gguf_type) : std::string(traits->name)));
  }
  if (tensor->shape.size() != 2 || tensor->cols() != cols || tensor->rows() != rows) {
    return absl::InvalidArgumentError(
        fmt::format("tensor {} has shape [{}]; expected [{}, {}]", name, fmt::join(tensor->shape, ", "), cols, rows));
  }
  return tensor;
}

absl::StatusOr<FfnTensors> FindFfn(const GgufHeader& header, int32_t layer, uint64_t dim, uint64_t ffn_rows) {
  FfnTensors ffn;
  ASSIGN_OR_RETURN(ffn.gate, FindFfnTensor(header, layer, "ffn_gate", dim, ffn_rows));
  ASSIGN_OR_RETURN(ffn.up, FindFfnTensor(header, layer, "ffn_up", dim, ffn_rows));
  ASSIGN_OR_RETURN(ffn.down, FindFfnTensor(header, layer, "ffn_down", ffn_rows, dim));
  return ffn;
}

absl::StatusOr<std::vector<const GgufTensor*>> FindPlain(const GgufHeader& header, std::span<const FfnTensors> layers) {
  std::set<const GgufTensor*> ffn;
  for (const FfnTensors& layer : layers) ffn.insert({layer.gate, layer.up, layer.down});
  std::vector<const GgufTensor*> plain;
  for (const GgufTensor& tensor : header.tensors()) {
    if (ffn.contains(&tensor)) continue;
    const uint64_t row_bytes = tensor.bytes / tensor.rows();
    if (row_bytes > kChunkBytesMax / kPanelRows) {
      return absl::UnimplementedError(fmt::format("tensor {} has rows of {} bytes; at most {} can be packed",
                                                  tensor.name, row_bytes, kChunkBytesMax / kPanelRows));
    }
    plain.push_back(&tensor);
  }
  std::stable_sort(plain.begin(), plain.end(),
                   [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  return plain;
}

absl::StatusOr<SourceModel> DescribeSource(const GgufHeader& header) {
  if (PackedFile::IsPacked(header)) {
    return absl::InvalidArgumentError("it is a packed file already; pack the plain GGUF that it was made from");
  }
  SourceModel model;
  ASSIGN_OR_RETURN(model.config, ModelConfig::FromGguf(header));
  for (int32_t layer = 0; layer < model.config.layer_count; ++layer) {
    ASSIGN_OR_RETURN(const FfnTensors ffn, FindFfn(header, layer, static_cast<uint64_t>(model.config.dim),
                                                   static_cast<uint64_t>(model.config.ffn_rows)));
    model.layers.push_back(ffn);
  }
  if (model.layers.empty()) return absl::InvalidArgumentError("the model has no layers");
  ASSIGN_OR_RETURN(model.plain, FindPlain(header, model.layers));
  return model;
}

std::array<QuantType, 3> TypesOf(const FfnTensors& ffn) {
  return {static_cast<QuantType>(ffn.gate->gguf_type), static_cast<QuantType>(ffn.up->gguf_type),
          static_cast<QuantType>(ffn.down->gguf_type)};
}

uint64_t FfnBytes(const FfnTensors& ffn) { return ffn.gate->bytes + ffn.up->bytes + ffn.down->bytes; }

absl::StatusOr<std::vector<FfnPageLayout>> PlanLayers(const SourceModel& model, const PackOptions& options) {
  int32_t page_rows = options.page_rows;
  if (page_rows == 0) {
    // The layer with the smallest rows decides: its pages must be worth a read.
    const FfnTensors& smallest =
        *std::min_element(model.layers.begin(), model.layers.end(),
                          [](const auto& a, const auto& b) { return FfnBytes(a) < FfnBytes(b); });
    const auto [gate, up, down] = TypesOf(smallest);
    ASSIGN_OR_RETURN(page_rows,
                     ChoosePageRows(gate, up, down, model.config.dim, model.config.ffn_rows, options.run_rows));
  }
  std::vector<FfnPageLayout> layouts;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const auto [gate, up, down] = TypesOf(model.layers[i]);
    auto layout =
        FfnPageLayout::Make(gate, up, down, model.config.dim, model.config.ffn_rows, page_rows, options.run_rows);
    if (!layout.ok()) return Annotate(layout.status(), fmt::format("layer {}", i));
    layouts.push_back(*layout);
  }
  return layouts;
}

absl::StatusOr<PackedPlan> MakePlan(const InputFile& source, const GgufHeader& header, const SourceModel& model,
                                    const PackOptions& options) {
  PackedPlan plan;
  plan.fields = header.fields();
  for (const GgufTensor* tensor : model.plain) plan.plain.push_back(*tensor);
  ASSIGN_OR_RETURN(plan.layers, PlanLayers(model, options));
  ASSIGN_OR_RETURN(plan.source, source.Identify(header));
  plan.hot_order = options.importance != nullptr;
  plan.planes = options.planes;
  return plan;
}

absl::Status CopyPlain(const InputFile& source, const SourceModel& model, PackedWriter* writer) {
  std::vector<std::byte> chunk;
  for (const GgufTensor* tensor : model.plain) {
    for (uint64_t done = 0; done < tensor->bytes; done += chunk.size()) {
      chunk.resize(writer->NextPlainBytes());
      RETURN_IF_ERROR(source.ReadAt(tensor->offset + done, chunk));
      RETURN_IF_ERROR(writer->WritePlain(chunk));
    }
    source.Forget(tensor->offset, tensor->bytes);
  }
  return absl::OkStatus();
}

// The FFN of one layer at a time, read from the source.
class LayerReader {
 public:
  static absl::StatusOr<LayerReader> Create(const InputFile* source, const SourceModel* model) {
    LayerReader reader(source, model);
    uint64_t bytes = 0;
    for (const FfnTensors& ffn : model->layers) bytes = std::max(bytes, FfnBytes(ffn));
    ASSIGN_OR_RETURN(reader.buffer_, AlignedBuffer::Create(bytes));
    return reader;
  }

  // Valid until the next call. Asks the kernel for the layer after it, which then arrives while this one is packed.
  absl::StatusOr<LayerMatrices> Read(size_t layer) {
    LayerMatrices matrices;
    uint64_t used = 0;
    const FfnTensors& ffn = model_->layers[layer];
    for (auto [tensor, matrix] :
         {std::pair{ffn.gate, &matrices.gate}, std::pair{ffn.up, &matrices.up}, std::pair{ffn.down, &matrices.down}}) {
      const std::span<std::byte> bytes = buffer_.span().subspan(used, tensor->bytes);
      RETURN_IF_ERROR(source_->ReadAt(tensor->offset, bytes));
      source_->Forget(tensor->offset, tensor->bytes);
      *matrix = bytes;
      used += tensor->bytes;
    }
    if (layer + 1 < model_->layers.size()) WillNeed(model_->layers[layer + 1]);
    return matrices;
  }

 private:
  LayerReader(const InputFile* source, const SourceModel* model) : source_(source), model_(model) {}
  void WillNeed(const FfnTensors& ffn) const {
    for (const GgufTensor* tensor : {ffn.gate, ffn.up, ffn.down}) source_->WillNeed(tensor->offset, tensor->bytes);
  }

  const InputFile* source_;
  const SourceModel* model_;
  AlignedBuffer buffer_;
};

absl::StatusOr<std::vector<float>> ImportanceOf(const PackOptions& options, LayerIndex layer, int32_t ffn_rows,
                                                const LayerMatrices& matrices) {
  if (options.importance == nullptr) return std::vector<float>();
  ASSIGN_OR_RETURN(std::vector<float> importance, options.importance(layer, matrices));
  if (importance.size() != static_cast<size_t>(ffn_rows)) {
    return absl::InternalError(
        fmt::format("layer {}: {} importance values for {} neurons", ToInt(layer), importance.size(), ffn_rows));
  }
  // A model with broken weights gives NaN here. Such a neuron goes last; the order needs a number.
  for (float& value : importance) {
    if (!std::isfinite(value)) value = 0;
  }
  return importance;
}

absl::Status PackLayers(const InputFile& source, const SourceModel& model, std::span<const FfnPageLayout> layouts,
                        const PackOptions& options, PackedWriter* writer) {
  ASSIGN_OR_RETURN(LayerReader reader, LayerReader::Create(&source, &model));
  for (size_t i = 0; i < layouts.size(); ++i) {
    const FfnPageLayout& layout = layouts[i];
    ASSIGN_OR_RETURN(const LayerMatrices matrices, reader.Read(i));
    const auto layer = LayerIndex{static_cast<int32_t>(i)};
    ASSIGN_OR_RETURN(const std::vector<float> importance, ImportanceOf(options, layer, layout.ffn_rows, matrices));
    const RowOrder order = MakeRowOrder(importance, layout.ffn_rows, layout.run_rows, layout.group_rows());
    RETURN_IF_ERROR(writer->WriteLayer(order, matrices));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PackModel(const std::string& source_path, const std::string& output, const PackOptions& options) {
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(source_path));
  ASSIGN_OR_RETURN(const InputFile source, InputFile::Open(source_path));
  if (source.IsSameFile(output)) {
    return absl::InvalidArgumentError(
        fmt::format("{} is the source itself; the packed file needs another name", output));
  }
  const auto model = DescribeSource(header);
  if (!model.ok()) return Annotate(model.status(), fmt::format("pack {}", source_path));
  auto plan = MakePlan(source, header, *model, options);
  if (!plan.ok()) return Annotate(plan.status(), fmt::format("pack {}", source_path));
  const std::vector<FfnPageLayout> layouts = plan->layers;

  const int threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kThreadsMax);
  ThreadPool pool(threads);
  ASSIGN_OR_RETURN(PackedWriter writer, PackedWriter::Create(output, *std::move(plan), &pool, options.progress));
  RETURN_IF_ERROR(CopyPlain(source, *model, &writer));
  RETURN_IF_ERROR(PackLayers(source, *model, layouts, options, &writer));
  RETURN_IF_ERROR(source.CheckUnchanged());
  return writer.Finish();
}

}  // namespace dogstar
