#include "model/packed_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <functional>
#include <set>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/packed_format.h"
#include "model/packed_input.h"
#include "model/row_order.h"
#include "xxhash.h"

namespace dogstar {
namespace {

constexpr uint64_t kChunkTargetBytes = 1 << 20;
constexpr uint64_t kChunkRowsUnit = 16;  // rows of a panel

// The parts of the header that every layer needs.
struct FileParameters {
  uint64_t layer_count = 0;
  int64_t dim = 0, ffn_rows = 0, page_rows = 0, run_rows = 0;
  std::vector<packed::RowLayout> row_layouts;
  std::vector<uint32_t> gate_types, up_types, down_types;
};

absl::StatusOr<int64_t> GetSize(const GgufHeader& header, const std::string& key) {
  ASSIGN_OR_RETURN(const uint64_t value, header.GetUint(key));
  if (value == 0 || value > INT32_MAX) {
    return absl::InvalidArgumentError(fmt::format("{} is {}; expected 1 to {}", key, value, INT32_MAX));
  }
  return static_cast<int64_t>(value);
}

absl::StatusOr<std::vector<uint32_t>> GetUint32Array(const GgufHeader& header, const char* key, uint64_t count) {
  ASSIGN_OR_RETURN(const GgufArray* array, header.GetArray(key, GgufValueType::kUint32));
  if (array->count != count || array->fixed.size() != count * sizeof(uint32_t)) {
    return absl::InvalidArgumentError(fmt::format("{} has {} values; expected {}", key, array->count, count));
  }
  std::vector<uint32_t> values(count);
  std::copy(array->fixed.begin(), array->fixed.end(), std::as_writable_bytes(std::span(values)).begin());
  return values;
}

absl::Status CheckVersion(const GgufHeader& header) {
  ASSIGN_OR_RETURN(const uint64_t version, header.GetUint(packed::kVersionKey));
  if (version == kPackedVersion) return absl::OkStatus();
  return absl::UnimplementedError(fmt::format(
      "the packed file has version {}; this program reads version {}. Pack the model again", version, kPackedVersion));
}

absl::StatusOr<std::vector<packed::RowLayout>> ReadRowLayouts(const GgufHeader& header, uint64_t layer_count) {
  ASSIGN_OR_RETURN(const auto numbers, GetUint32Array(header, packed::kRowLayoutKey, layer_count));
  std::vector<packed::RowLayout> layouts;
  for (const uint32_t number : numbers) {
    layouts.push_back(packed::RowLayout{number});
    if (layouts.back() == packed::RowLayout::kWholeRows) continue;
    if (layouts.back() == packed::RowLayout::kWholeRowsAndLowPlanes) continue;
    return absl::UnimplementedError(
        fmt::format("layer {} has row layout {}; this program reads layouts 1 (whole rows) and 2 (and low planes)",
                    layouts.size() - 1, number));
  }
  return layouts;
}

absl::StatusOr<FileParameters> ReadParameters(const GgufHeader& header) {
  FileParameters parameters;
  ASSIGN_OR_RETURN(const std::string_view architecture, header.GetString("general.architecture"));
  const std::string prefix(architecture);
  ASSIGN_OR_RETURN(const int64_t layers, GetSize(header, prefix + ".block_count"));
  parameters.layer_count = static_cast<uint64_t>(layers);
  ASSIGN_OR_RETURN(parameters.dim, GetSize(header, prefix + ".embedding_length"));
  ASSIGN_OR_RETURN(parameters.ffn_rows, GetSize(header, prefix + ".feed_forward_length"));
  ASSIGN_OR_RETURN(parameters.page_rows, GetSize(header, packed::kPageRowsKey));
  ASSIGN_OR_RETURN(parameters.run_rows, GetSize(header, packed::kRunRowsKey));
  // The arrays come with the file, so their length bounds layer_count before anything is sized by it.
  ASSIGN_OR_RETURN(parameters.row_layouts, ReadRowLayouts(header, parameters.layer_count));
  ASSIGN_OR_RETURN(parameters.gate_types, GetUint32Array(header, packed::kGateTypeKey, parameters.layer_count));
  ASSIGN_OR_RETURN(parameters.up_types, GetUint32Array(header, packed::kUpTypeKey, parameters.layer_count));
  ASSIGN_OR_RETURN(parameters.down_types, GetUint32Array(header, packed::kDownTypeKey, parameters.layer_count));
  return parameters;
}

absl::StatusOr<const GgufTensor*> FindShaped(const GgufHeader& header, const std::string& name, uint32_t gguf_type,
                                             const std::vector<uint64_t>& shape) {
  const GgufTensor* const tensor = header.FindTensor(name);
  if (tensor == nullptr) return absl::DataLossError(fmt::format("tensor {} is missing", name));
  if (tensor->gguf_type != gguf_type || tensor->shape != shape) {
    return absl::DataLossError(fmt::format("tensor {} has type {} and shape [{}]; expected type {} and shape [{}]",
                                           name, tensor->gguf_type, fmt::join(tensor->shape, ", "), gguf_type,
                                           fmt::join(shape, ", ")));
  }
  if (tensor->offset % packed::kFileAlignment != 0) {
    return absl::DataLossError(fmt::format("tensor {} lies at offset {}, which is no multiple of {}", name,
                                           tensor->offset, packed::kFileAlignment));
  }
  return tensor;
}

// Values of a tensor of 4- or 8-byte integers. The parser has checked that it lies in the file.
template <typename Value>
absl::StatusOr<std::vector<Value>> ReadValues(const InputFile& file, const GgufTensor& tensor) {
  static_assert(std::endian::native == std::endian::little);
  std::vector<Value> values(tensor.bytes / sizeof(Value));
  RETURN_IF_ERROR(file.ReadAt(tensor.offset, std::as_writable_bytes(std::span(values))));
  return values;
}

// Reads a packed file's parts; one object a file.
class Opener {
 public:
  Opener(const InputFile& file, const GgufHeader& header) : file_(file), header_(header) {}

  absl::StatusOr<std::vector<PackedLayer>> ReadLayers() {
    ASSIGN_OR_RETURN(parameters_, ReadParameters(header_));
    std::vector<PackedLayer> layers;
    for (uint64_t i = 0; i < parameters_.layer_count; ++i) {
      auto layer = ReadLayer(i);
      if (!layer.ok()) return Annotate(layer.status(), fmt::format("layer {}", i));
      layers.push_back(*std::move(layer));
    }
    RETURN_IF_ERROR(ReadPageChecksums(
        packed::kPageChecksumsTensor, &PackedLayer::page_checksums, [](const PackedLayer&) { return true; }, &layers));
    RETURN_IF_ERROR(ReadPageChecksums(
        packed::kLowChecksumsTensor, &PackedLayer::low_checksums,
        [](const PackedLayer& layer) { return layer.low_offset > 0; }, &layers));
    return layers;
  }

  absl::StatusOr<std::vector<TensorChecksums>> ReadTensorChecksums();
  absl::Status CheckRowOrders(std::span<const PackedLayer> layers, const PackedFile& packed) const;
  absl::Status CheckHeader() const;

 private:
  absl::StatusOr<PackedLayer> ReadLayer(uint64_t index) const;
  absl::StatusOr<FfnPageLayout> LayoutOf(uint64_t index) const;
  using HasChecksumsFn = std::function<bool(const PackedLayer& layer)>;
  absl::Status ReadPageChecksums(const char* name, std::vector<uint64_t> PackedLayer::*checksums,
                                 const HasChecksumsFn& has, std::vector<PackedLayer>* layers) const;
  absl::StatusOr<TensorChecksums> DescribeChecksums(const std::string& name, uint32_t chunk_rows, uint32_t count) const;
  absl::Status CheckAllListed(const std::set<std::string_view>& listed) const;

  const InputFile& file_;
  const GgufHeader& header_;
  FileParameters parameters_;
};

absl::StatusOr<FfnPageLayout> Opener::LayoutOf(uint64_t index) const {
  return FfnPageLayout::Make(static_cast<QuantType>(parameters_.gate_types[index]),
                             static_cast<QuantType>(parameters_.up_types[index]),
                             static_cast<QuantType>(parameters_.down_types[index]), parameters_.dim,
                             parameters_.ffn_rows, parameters_.page_rows, parameters_.run_rows);
}

absl::StatusOr<PackedLayer> Opener::ReadLayer(uint64_t index) const {
  PackedLayer layer;
  ASSIGN_OR_RETURN(layer.layout, LayoutOf(index));
  const FfnPageLayout& layout = layer.layout;
  ASSIGN_OR_RETURN(const GgufTensor* pages,
                   FindShaped(header_, packed::LayerTensor(index, packed::kPagesPart), packed::kGgufI8,
                              {layout.page_bytes, static_cast<uint64_t>(layout.page_count())}));
  layer.pages_offset = pages->offset;
  if (parameters_.row_layouts[index] == packed::RowLayout::kWholeRowsAndLowPlanes) {
    if (layout.low.bytes == 0) return absl::DataLossError("low planes of types that are not cut");
    ASSIGN_OR_RETURN(const GgufTensor* low,
                     FindShaped(header_, packed::LayerTensor(index, packed::kLowPlanesPart), packed::kGgufI8,
                                {layout.low.bytes, static_cast<uint64_t>(layout.page_count())}));
    layer.low_offset = low->offset;
  }

  const std::string scales_name = packed::LayerTensor(index, packed::kDownScalesPart);
  if (layout.has_down_table()) {
    ASSIGN_OR_RETURN(const GgufTensor* scales,
                     FindShaped(header_, scales_name, packed::kGgufF16, packed::DownScalesShape(layout)));
    layer.down_scales_offset = scales->offset;
    layer.down_scales_bytes = scales->bytes;
  } else if (header_.FindTensor(scales_name) != nullptr) {
    return absl::DataLossError(fmt::format("tensor {} is there although down weights of type {} have no scales",
                                           scales_name, TraitsOf(layout.down_type).name));
  }

  ASSIGN_OR_RETURN(const GgufTensor* order, FindShaped(header_, packed::LayerTensor(index, packed::kRowOrderPart),
                                                       packed::kGgufI32, {static_cast<uint64_t>(layout.ffn_rows)}));
  ASSIGN_OR_RETURN(layer.row_order, ReadValues<NeuronIndex>(file_, *order));
  ASSIGN_OR_RETURN(layer.run_groups, RunGroupsOf(layer.row_order, layout.run_rows, layout.group_rows()));
  return layer;
}

absl::Status Opener::ReadPageChecksums(const char* name, std::vector<uint64_t> PackedLayer::*checksums,
                                       const HasChecksumsFn& has, std::vector<PackedLayer>* layers) const {
  uint64_t pages = 0;
  for (const PackedLayer& layer : *layers) {
    if (has(layer)) pages += static_cast<uint64_t>(layer.layout.page_count());
  }
  if (pages == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const GgufTensor* tensor, FindShaped(header_, name, packed::kGgufI64, {pages}));
  ASSIGN_OR_RETURN(const auto values, ReadValues<uint64_t>(file_, *tensor));
  auto next = values.begin();
  for (PackedLayer& layer : *layers) {
    if (!has(layer)) continue;
    (layer.*checksums).assign(next, next + layer.layout.page_count());
    next += layer.layout.page_count();
  }
  return absl::OkStatus();
}

// The checksums themselves are filled in by the caller.
absl::StatusOr<TensorChecksums> Opener::DescribeChecksums(const std::string& name, uint32_t chunk_rows,
                                                          uint32_t count) const {
  const GgufTensor* const tensor = header_.FindTensor(name);
  if (tensor == nullptr) return absl::DataLossError(fmt::format("checksums name tensor {}, which is not there", name));
  const uint64_t rows = tensor->rows();
  const uint64_t row_bytes = tensor->bytes / rows;
  const auto expected_rows = static_cast<uint32_t>(ChunkRows(row_bytes));
  const uint64_t expected_count = packed::ChunkCount(rows, row_bytes);
  if (chunk_rows != expected_rows || count != expected_count) {
    return absl::DataLossError(fmt::format("checksums of tensor {}: {} of {} rows each; expected {} of {} rows", name,
                                           count, chunk_rows, expected_count, expected_rows));
  }
  return TensorChecksums{.tensor = name, .chunk_rows = static_cast<int32_t>(chunk_rows)};
}

absl::StatusOr<std::vector<TensorChecksums>> Opener::ReadTensorChecksums() {
  ASSIGN_OR_RETURN(const GgufArray* names, header_.GetArray(packed::kChecksumTensorsKey, GgufValueType::kString));
  const uint64_t entries = names->strings.size();
  ASSIGN_OR_RETURN(const auto chunk_rows, GetUint32Array(header_, packed::kChecksumChunkRowsKey, entries));
  ASSIGN_OR_RETURN(const auto counts, GetUint32Array(header_, packed::kChecksumCountsKey, entries));
  uint64_t total = 0;
  for (uint32_t count : counts) total += count;
  ASSIGN_OR_RETURN(const GgufTensor* tensor,
                   FindShaped(header_, packed::kTensorChecksumsTensor, packed::kGgufI64, {total}));
  ASSIGN_OR_RETURN(const auto values, ReadValues<uint64_t>(file_, *tensor));

  std::vector<TensorChecksums> checksums;
  std::set<std::string_view> listed;
  auto next = values.begin();
  for (uint64_t i = 0; i < entries; ++i) {
    ASSIGN_OR_RETURN(TensorChecksums entry, DescribeChecksums(names->strings[i], chunk_rows[i], counts[i]));
    entry.checksums.assign(next, next + counts[i]);
    next += counts[i];
    if (!listed.insert(names->strings[i]).second) {
      return absl::DataLossError(fmt::format("checksums of tensor {} are there twice", entry.tensor));
    }
    checksums.push_back(std::move(entry));
  }
  RETURN_IF_ERROR(CheckAllListed(listed));
  return checksums;
}

// Every tensor is covered: by entries, by page checksums, or it holds checksums.
absl::Status Opener::CheckAllListed(const std::set<std::string_view>& listed) const {
  std::set<std::string> others = {packed::kPageChecksumsTensor, packed::kTensorChecksumsTensor,
                                  packed::kHeaderChecksumTensor};
  for (uint64_t i = 0; i < parameters_.layer_count; ++i) {
    others.insert(packed::LayerTensor(i, packed::kPagesPart));
    if (parameters_.row_layouts[i] == packed::RowLayout::kWholeRows) continue;
    others.insert(packed::LayerTensor(i, packed::kLowPlanesPart));
    others.insert(packed::kLowChecksumsTensor);
  }
  for (const GgufTensor& tensor : header_.tensors()) {
    if (listed.contains(tensor.name) == others.contains(tensor.name)) {
      return absl::DataLossError(fmt::format("tensor {} has no checksums of the kind it should have", tensor.name));
    }
  }
  return absl::OkStatus();
}

absl::Status Opener::CheckRowOrders(std::span<const PackedLayer> layers, const PackedFile& packed) const {
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string name = packed::LayerTensor(i, packed::kRowOrderPart);
    const TensorChecksums* const expected = packed.FindChecksums(name);
    CHECK(expected != nullptr);  // CheckAllListed
    if (ChecksumOf(std::as_bytes(std::span(layers[i].row_order))) != expected->checksums[0]) {
      return absl::DataLossError(fmt::format("layer {}: checksum of {} does not match: the file is damaged", i, name));
    }
  }
  return absl::OkStatus();
}

// Metadata and tensor table: a flipped bit in them could be a valid number, and a silent wrong answer.
absl::Status Opener::CheckHeader() const {
  ASSIGN_OR_RETURN(const GgufTensor* tensor, FindShaped(header_, packed::kHeaderChecksumTensor, packed::kGgufI64, {1}));
  ASSIGN_OR_RETURN(const auto expected, ReadValues<uint64_t>(file_, *tensor));
  std::vector<std::byte> bytes(header_.data_offset());
  RETURN_IF_ERROR(file_.ReadAt(0, bytes));
  if (ChecksumOf(bytes) == expected[0]) return absl::OkStatus();
  return absl::DataLossError(
      "checksum of metadata and tensor table does not match: the file is damaged, or was edited");
}

// A folder that files can be made in.
bool IsWritableFolder(const std::filesystem::path& folder) {
  std::error_code error;
  return std::filesystem::is_directory(folder, error) && access(folder.c_str(), W_OK | X_OK) == 0;
}

std::string PackedStem(const std::filesystem::path& source) {
  return source.extension() == ".gguf" ? source.stem().string() : source.filename().string();
}

}  // namespace

int32_t ChunkRows(uint64_t row_bytes) {
  const uint64_t rows = kChunkTargetBytes / std::max<uint64_t>(row_bytes, 1) / kChunkRowsUnit * kChunkRowsUnit;
  return static_cast<int32_t>(std::max(rows, kChunkRowsUnit));
}

uint64_t ChecksumOf(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

bool PackedFile::IsPacked(const GgufHeader& header) { return header.FindField(packed::kVersionKey) != nullptr; }

absl::StatusOr<PackedFile> PackedFile::Open(const std::string& path, const GgufHeader& header) {
  auto packed = [&]() -> absl::StatusOr<PackedFile> {
    RETURN_IF_ERROR(CheckVersion(header));
    ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
    PackedFile result;
    ASSIGN_OR_RETURN(result.source_.bytes, header.GetUint(packed::kSourceBytesKey));
    ASSIGN_OR_RETURN(result.source_.mtime_ns, header.GetUint(packed::kSourceMtimeKey));
    ASSIGN_OR_RETURN(result.source_.header_hash, header.GetUint(packed::kSourceHashKey));
    Opener opener(file, header);
    ASSIGN_OR_RETURN(result.layers_, opener.ReadLayers());
    ASSIGN_OR_RETURN(result.tensor_checksums_, opener.ReadTensorChecksums());
    RETURN_IF_ERROR(opener.CheckRowOrders(result.layers_, result));
    RETURN_IF_ERROR(opener.CheckHeader());  // last: what the checks above find has a clearer message
    return result;
  }();
  if (!packed.ok()) return Annotate(packed.status(), path);
  return packed;
}

std::vector<FfnPageLayout> PackedFile::layouts() const {
  std::vector<FfnPageLayout> layouts;
  for (const PackedLayer& layer : layers_) layouts.push_back(layer.layout);
  return layouts;
}

const TensorChecksums* PackedFile::FindChecksums(std::string_view tensor) const {
  const auto found = std::find_if(tensor_checksums_.begin(), tensor_checksums_.end(),
                                  [&](const TensorChecksums& checksums) { return checksums.tensor == tensor; });
  return found == tensor_checksums_.end() ? nullptr : &*found;
}

std::string PackedPathBeside(const std::string& source) {
  const std::filesystem::path path(source);
  return (path.parent_path() / (PackedStem(path) + ".dog.gguf")).string();
}

std::string DefaultPackedPath(const std::string& source, const std::string& cache_dir) {
  const std::filesystem::path path(source);
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (IsWritableFolder(folder)) return PackedPathBeside(source);
  // Models of one name from different folders share the cache.
  std::error_code error;
  const std::string whole = std::filesystem::absolute(path, error).lexically_normal().string();
  const uint64_t hash = ChecksumOf(std::as_bytes(std::span(whole)));
  return (std::filesystem::path(cache_dir) / fmt::format("{}-{:016x}.dog.gguf", PackedStem(path), hash)).string();
}

}  // namespace dogstar
