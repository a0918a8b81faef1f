#include "model/packed_writer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/bit_planes.h"
#include "base/panel.h"
#include "fmt/format.h"
#include "model/model_config.h"
#include "model/packed_format.h"
#include "model/packed_layer.h"

namespace dogstar {
namespace {

uint64_t RowsOf(std::span<const uint64_t> shape) {
  uint64_t rows = 1;
  for (uint64_t size : shape.subspan(1)) rows *= size;
  return rows;
}

GgufField StringArrayField(const char* key, std::vector<std::string> values) {
  GgufField field{.key = key, .type = GgufValueType::kArray};
  GgufArray array{.element_type = GgufValueType::kString, .count = values.size()};
  array.strings = std::move(values);
  field.value = std::move(array);
  return field;
}

uint64_t PagesBytes(const FfnPageLayout& layout) {
  return layout.page_bytes * static_cast<uint64_t>(layout.page_count());
}

uint64_t LowPlanesBytes(const FfnPageLayout& layout) {
  return layout.low.bytes * static_cast<uint64_t>(layout.page_count());
}

std::vector<uint32_t> TypesOf(std::span<const FfnPageLayout> layers, QuantType FfnPageLayout::*type) {
  std::vector<uint32_t> types;
  for (const FfnPageLayout& layout : layers) types.push_back(static_cast<uint32_t>(layout.*type));
  return types;
}

// low: the low planes of the rows in panels.
void LowPlanesOfRows(QuantType type, int64_t cols, int64_t count, std::span<const std::byte> rows, ThreadPool* pool,
                     std::span<std::byte> low) {
  const uint64_t row_bytes = RowBytes(type, cols), low_bytes = PanelPlanes(type, cols).low;
  pool->Run([&](int thread) {
    std::vector<std::byte> panel(PanelBytes(type, cols));
    const Range part = PartOf((count + kPanelRows - 1) / kPanelRows, 1, thread, pool->size());
    for (int64_t p = part.begin; p < part.end; ++p) {
      PackPanels(type, std::min<int64_t>(kPanelRows, count - p * kPanelRows), cols,
                 rows.data() + static_cast<uint64_t>(p * kPanelRows) * row_bytes, panel.data());
      SplitPanels(type, cols, 1, panel.data(), nullptr, low.data() + static_cast<uint64_t>(p) * low_bytes);
    }
  });
}

bool IsOurs(const std::string& key) { return key == "general.alignment" || key.starts_with(packed::kKeyPrefix); }

}  // namespace

absl::StatusOr<PackedWriter> PackedWriter::Create(const std::string& path, PackedPlan plan, ThreadPool* pool,
                                                  std::function<void(uint64_t, uint64_t)> progress) {
  CHECK(!plan.layers.empty());
  ASSIGN_OR_RETURN(GgufWriter gguf, GgufWriter::Create(path, packed::kFileAlignment));
  PackedWriter writer(std::move(gguf));
  writer.plan_ = std::move(plan);
  writer.pool_ = pool;
  writer.progress_ = std::move(progress);
  RETURN_IF_ERROR(writer.Declare());
  RETURN_IF_ERROR(writer.AllocateLayerBuffers());
  writer.total_bytes_ = writer.writer_.TotalBytes();
  const std::string header = writer.writer_.HeaderBytes();
  writer.header_checksum_ = ChecksumOf(std::as_bytes(std::span(header)));
  RETURN_IF_ERROR(writer.writer_.BeginData());
  return writer;
}

absl::Status PackedWriter::Declare() {
  for (const GgufTensor& tensor : plan_.plain) {
    RETURN_IF_ERROR(writer_.AddTensor(tensor.name, tensor.gguf_type, tensor.shape));
    AddChecksumEntry(tensor.name, tensor.gguf_type, tensor.shape);
  }
  RETURN_IF_ERROR(DeclareLayers());
  uint64_t pages = 0, low_pages = 0, checksums = 0;
  for (const FfnPageLayout& layout : plan_.layers) {
    pages += static_cast<uint64_t>(layout.page_count());
    if (HasLowPlanes(layout)) low_pages += static_cast<uint64_t>(layout.page_count());
  }
  for (const ChecksumEntry& entry : entries_) checksums += packed::ChunkCount(entry.rows, entry.row_bytes);
  // Last, because they are known last.
  RETURN_IF_ERROR(writer_.AddTensor(packed::kPageChecksumsTensor, packed::kGgufI64, {pages}));
  if (low_pages > 0) {
    RETURN_IF_ERROR(writer_.AddTensor(packed::kLowChecksumsTensor, packed::kGgufI64, {low_pages}));
  }
  RETURN_IF_ERROR(writer_.AddTensor(packed::kTensorChecksumsTensor, packed::kGgufI64, {checksums}));
  RETURN_IF_ERROR(writer_.AddTensor(packed::kHeaderChecksumTensor, packed::kGgufI64, {1}));
  DeclareFields();
  DeclareChecksumFields();
  return absl::OkStatus();
}

absl::Status PackedWriter::DeclareLayers() {
  for (size_t i = 0; i < plan_.layers.size(); ++i) {
    RETURN_IF_ERROR(DeclareLayer(i));
  }
  return absl::OkStatus();
}

absl::Status PackedWriter::DeclareLayer(size_t i) {
  const FfnPageLayout& layout = plan_.layers[i];
  const std::string order = packed::LayerTensor(i, packed::kRowOrderPart);
  const std::vector<uint64_t> order_shape = {static_cast<uint64_t>(layout.ffn_rows)};
  RETURN_IF_ERROR(writer_.AddTensor(order, packed::kGgufI32, order_shape));
  AddChecksumEntry(order, packed::kGgufI32, order_shape);
  if (layout.has_down_table()) {
    const std::string scales = packed::LayerTensor(i, packed::kDownScalesPart);
    const std::vector<uint64_t> scales_shape = packed::DownScalesShape(layout);
    RETURN_IF_ERROR(writer_.AddTensor(scales, packed::kGgufF16, scales_shape));
    AddChecksumEntry(scales, packed::kGgufF16, scales_shape);
  }
  RETURN_IF_ERROR(writer_.AddTensor(packed::LayerTensor(i, packed::kPagesPart), packed::kGgufI8,
                                    {layout.page_bytes, static_cast<uint64_t>(layout.page_count())}));
  if (HasLowPlanes(layout)) {
    RETURN_IF_ERROR(writer_.AddTensor(packed::LayerTensor(i, packed::kLowPlanesPart), packed::kGgufI8,
                                      {layout.low.bytes, static_cast<uint64_t>(layout.page_count())}));
  }
  const std::vector<uint64_t> attention_shape = {AttentionLowBytes(i)};
  if (attention_shape[0] == 0) return absl::OkStatus();
  const std::string attention = packed::LayerTensor(i, packed::kAttentionLowPart);
  RETURN_IF_ERROR(writer_.AddTensor(attention, packed::kGgufI8, attention_shape));
  AddChecksumEntry(attention, packed::kGgufI8, attention_shape);
  return absl::OkStatus();
}

void PackedWriter::DeclareFields() {
  for (GgufField& field : plan_.fields) {
    if (!IsOurs(field.key)) writer_.AddField(std::move(field));
  }
  plan_.fields.clear();
  writer_.AddUint32(packed::kVersionKey, kPackedVersion);
  writer_.AddUint64(packed::kSourceBytesKey, plan_.source.bytes);
  writer_.AddUint64(packed::kSourceMtimeKey, plan_.source.mtime_ns);
  writer_.AddUint64(packed::kSourceHashKey, plan_.source.header_hash);
  writer_.AddUint32(packed::kPageRowsKey, static_cast<uint32_t>(plan_.layers[0].page_rows));
  writer_.AddUint32(packed::kRunRowsKey, static_cast<uint32_t>(plan_.layers[0].run_rows));
  writer_.AddString(packed::kOrderKey, plan_.hot_order ? packed::kOrderHot : packed::kOrderOriginal);
  std::vector<uint32_t> row_layouts;
  for (const FfnPageLayout& layout : plan_.layers) {
    using packed::RowLayout;
    const RowLayout rows = HasLowPlanes(layout) ? RowLayout::kWholeRowsAndLowPlanes : RowLayout::kWholeRows;
    row_layouts.push_back(static_cast<uint32_t>(rows));
  }
  writer_.AddUint32Array(packed::kRowLayoutKey, row_layouts);
  writer_.AddUint32Array(packed::kGateTypeKey, TypesOf(plan_.layers, &FfnPageLayout::gate_type));
  writer_.AddUint32Array(packed::kUpTypeKey, TypesOf(plan_.layers, &FfnPageLayout::up_type));
  writer_.AddUint32Array(packed::kDownTypeKey, TypesOf(plan_.layers, &FfnPageLayout::down_type));
}

void PackedWriter::DeclareChecksumFields() {
  std::vector<std::string> names;
  std::vector<uint32_t> chunk_rows, counts;
  for (const ChecksumEntry& entry : entries_) {
    names.push_back(entry.tensor);
    chunk_rows.push_back(static_cast<uint32_t>(ChunkRows(entry.row_bytes)));
    counts.push_back(static_cast<uint32_t>(packed::ChunkCount(entry.rows, entry.row_bytes)));
  }
  writer_.AddField(StringArrayField(packed::kChecksumTensorsKey, std::move(names)));
  writer_.AddUint32Array(packed::kChecksumChunkRowsKey, chunk_rows);
  writer_.AddUint32Array(packed::kChecksumCountsKey, counts);
}

absl::Status PackedWriter::AllocateLayerBuffers() {
  uint64_t pages = 0, low_planes = 0, scales = 0;
  for (const FfnPageLayout& layout : plan_.layers) {
    pages = std::max(pages, PagesBytes(layout));
    if (HasLowPlanes(layout)) low_planes = std::max(low_planes, LowPlanesBytes(layout));
    scales = std::max(scales, layout.down_table_bytes());
  }
  ASSIGN_OR_RETURN(pages_, AlignedBuffer::Create(pages));
  ASSIGN_OR_RETURN(low_planes_, AlignedBuffer::Create(low_planes));
  ASSIGN_OR_RETURN(down_scales_, AlignedBuffer::Create(scales));
  return absl::OkStatus();
}

void PackedWriter::AddChecksumEntry(std::string tensor, uint32_t gguf_type, std::span<const uint64_t> shape) {
  const QuantTraits* const traits = FindQuantTraits(gguf_type);
  CHECK(traits != nullptr);  // AddTensor has accepted it
  const uint64_t row_bytes =
      shape[0] / static_cast<uint64_t>(traits->block_weights) * static_cast<uint64_t>(traits->block_bytes);
  entries_.push_back({.tensor = std::move(tensor), .rows = RowsOf(shape), .row_bytes = row_bytes});
}

uint64_t PackedWriter::NextPlainBytes() const {
  if (plain_index_ == plan_.plain.size()) return 0;
  // Entry i is plain tensor i: they are declared first.
  const ChecksumEntry& entry = entries_[plain_index_];
  const uint64_t chunk_bytes = static_cast<uint64_t>(ChunkRows(entry.row_bytes)) * entry.row_bytes;
  return std::min(chunk_bytes, entry.rows * entry.row_bytes - plain_done_);
}

absl::Status PackedWriter::WritePlain(std::span<const std::byte> chunk) {
  CHECK(!chunk.empty() && chunk.size() == NextPlainBytes());
  RETURN_IF_ERROR(writer_.WriteData(chunk));
  tensor_checksums_.push_back(ChecksumOf(chunk));
  plain_done_ += chunk.size();
  Progress(chunk.size());
  const ChecksumEntry& entry = entries_[plain_index_];
  if (plain_done_ < entry.rows * entry.row_bytes) return absl::OkStatus();
  plain_done_ = 0;
  ++plain_index_;
  return writer_.EndTensor();
}

absl::Status PackedWriter::WriteLayer(const RowOrder& order, const LayerMatrices& matrices) {
  CHECK(plain_index_ == plan_.plain.size() && layer_ < plan_.layers.size());
  const size_t layer = layer_++;
  const FfnPageLayout& layout = plan_.layers[layer];
  CHECK(order.row_order.size() == static_cast<size_t>(layout.ffn_rows));
  const std::span<std::byte> pages = pages_.span().first(PagesBytes(layout));
  const std::span<std::byte> scales = down_scales_.span().first(layout.down_table_bytes());
  PackFfnLayer(layout, order.row_order, matrices, pool_, pages, scales);

  const auto order_bytes = std::as_bytes(std::span(order.row_order));
  RETURN_IF_ERROR(WriteChecked(order_bytes, order_bytes.size()));
  if (layout.has_down_table()) RETURN_IF_ERROR(WriteChecked(scales, static_cast<uint64_t>(layout.dim) * 2));
  for (uint64_t offset = 0; offset < pages.size(); offset += layout.page_bytes) {
    page_checksums_.push_back(ChecksumOf(pages.subspan(offset, layout.page_bytes)));
  }
  RETURN_IF_ERROR(WriteTensor(pages));
  if (HasLowPlanes(layout)) RETURN_IF_ERROR(WriteLowPlanes(layout, pages));
  return AttentionLowBytes(layer) > 0 ? WriteAttentionLow(layer) : absl::OkStatus();
}

// In the order in which a pass wants them.
std::vector<const GgufTensor*> PackedWriter::AttentionOf(size_t layer) const {
  std::vector<const GgufTensor*> matrices;
  for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    const auto found =
        std::ranges::find(plan_.plain, LayerTensorName(static_cast<int32_t>(layer), part), &GgufTensor::name);
    if (found != plan_.plain.end()) matrices.push_back(&*found);
  }
  return matrices;
}

uint64_t PackedWriter::AttentionLowBytes(size_t layer) const {
  uint64_t bytes = 0;
  if (!plan_.planes) return bytes;
  for (const GgufTensor* matrix : AttentionOf(layer)) {
    bytes += LowPlanesBytes(static_cast<QuantType>(matrix->gguf_type), static_cast<int64_t>(RowsOf(matrix->shape)),
                            static_cast<int64_t>(matrix->shape[0]));
  }
  return bytes;
}

absl::Status PackedWriter::WriteAttentionLow(size_t layer) {
  std::vector<std::byte> low(AttentionLowBytes(layer)), rows;
  std::span<std::byte> left = low;
  for (const GgufTensor* matrix : AttentionOf(layer)) {
    const auto type = static_cast<QuantType>(matrix->gguf_type);
    const auto cols = static_cast<int64_t>(matrix->shape[0]), count = static_cast<int64_t>(RowsOf(matrix->shape));
    const uint64_t bytes = LowPlanesBytes(type, count, cols);
    if (bytes == 0) continue;
    rows.resize(RowBytes(type, cols) * static_cast<uint64_t>(count));
    RETURN_IF_ERROR(writer_.ReadBack(matrix->name, 0, rows));
    LowPlanesOfRows(type, cols, count, rows, pool_, left.first(bytes));
    left = left.subspan(bytes);
  }
  return WriteChecked(low, low.size());
}

absl::Status PackedWriter::WriteLowPlanes(const FfnPageLayout& layout, std::span<const std::byte> pages) {
  const std::span<std::byte> planes = low_planes_.span().first(LowPlanesBytes(layout));
  pool_->Run([&](int thread) {
    const Range part = PartOf(layout.page_count(), 1, thread, pool_->size());
    for (auto page = static_cast<uint64_t>(part.begin); page < static_cast<uint64_t>(part.end); ++page) {
      SplitPage(layout, pages.data() + page * layout.page_bytes, nullptr, planes.data() + page * layout.low.bytes);
    }
  });
  for (uint64_t offset = 0; offset < planes.size(); offset += layout.low.bytes) {
    low_checksums_.push_back(ChecksumOf(planes.subspan(offset, layout.low.bytes)));
  }
  return WriteTensor(planes);
}

absl::Status PackedWriter::WriteChecked(std::span<const std::byte> bytes, uint64_t row_bytes) {
  const uint64_t chunk_bytes = static_cast<uint64_t>(ChunkRows(row_bytes)) * row_bytes;
  for (uint64_t offset = 0; offset < bytes.size(); offset += chunk_bytes) {
    const uint64_t count = std::min<uint64_t>(chunk_bytes, bytes.size() - offset);
    tensor_checksums_.push_back(ChecksumOf(bytes.subspan(offset, count)));
  }
  return WriteTensor(bytes);
}

absl::Status PackedWriter::WriteTensor(std::span<const std::byte> bytes) {
  constexpr size_t kPiece = 4 << 20;  // so that progress moves
  for (size_t offset = 0; offset < bytes.size(); offset += kPiece) {
    const size_t count = std::min(kPiece, bytes.size() - offset);
    RETURN_IF_ERROR(writer_.WriteData(bytes.subspan(offset, count)));
    Progress(count);
  }
  return writer_.EndTensor();
}

absl::Status PackedWriter::Finish() {
  CHECK(plain_index_ == plan_.plain.size() && layer_ == plan_.layers.size());
  RETURN_IF_ERROR(WriteTensor(std::as_bytes(std::span(page_checksums_))));
  if (!low_checksums_.empty()) RETURN_IF_ERROR(WriteTensor(std::as_bytes(std::span(low_checksums_))));
  RETURN_IF_ERROR(WriteTensor(std::as_bytes(std::span(tensor_checksums_))));
  RETURN_IF_ERROR(WriteTensor(std::as_bytes(std::span(&header_checksum_, 1))));
  RETURN_IF_ERROR(writer_.Finish());
  if (progress_) progress_(total_bytes_, total_bytes_);
  return absl::OkStatus();
}

void PackedWriter::Progress(uint64_t bytes) {
  done_bytes_ += bytes;
  if (progress_) progress_(std::min(done_bytes_, total_bytes_), total_bytes_);
}

}  // namespace dogstar
