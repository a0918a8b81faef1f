#include "memory/gathered_rows.h"

#include <algorithm>
#include <cstring>

#include "model/overlay_rows.h"

namespace dogstar {
namespace {

constexpr int32_t kGatheredRun = 4;
constexpr int32_t kPageRows = 256;
constexpr int32_t kMaskWords = kPageRows / 64;

FfnPageLayout LayoutOf(const FfnPageLayout& source) {
  return *FfnPageLayout::Make(source.gate_type, source.up_type, source.down_type, source.dim, source.ffn_rows,
                              kPageRows, kGatheredRun);
}

// Every group that has a row may leave its last run with one.
int32_t PagesFor(const FfnPageLayout& source, int32_t rows) {
  const int32_t groups = source.has_down_table() ? std::min(source.group_count(), rows) : 1;
  const int32_t runs = (rows + (kGatheredRun - 1) * groups) / kGatheredRun;
  return (runs * kGatheredRun + kPageRows - 1) / kPageRows;
}

constexpr uint64_t kTableBytes = kPageRows / kGatheredRun * sizeof(uint16_t) + kPageRows * sizeof(int32_t) +
                                 kMaskWords * sizeof(uint64_t) + sizeof(FfnPageRef);

}  // namespace

uint64_t GatheredRows::Bytes(std::span<const FfnPageLayout> layouts, std::span<const int32_t> layer_rows) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < layer_rows.size(); ++i) {
    const FfnPageLayout& source = layouts[i];
    bytes += static_cast<uint64_t>(PagesFor(source, layer_rows[i])) * (LayoutOf(source).page_bytes + kTableBytes);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<GatheredRows>> GatheredRows::Create(std::span<const FfnPageLayout> layouts,
                                                                   std::span<const int32_t> layer_rows,
                                                                   Backend* backend) {
  auto rows = std::unique_ptr<GatheredRows>(new GatheredRows(backend));
  uint64_t bytes = 0;
  for (size_t i = 0; i < layer_rows.size(); ++i) {
    Layer& layer = rows->layers_.emplace_back();
    layer.source = layouts[i];
    layer.layout = LayoutOf(layer.source);
    layer.most_rows = layer_rows[i];
    layer.most_pages = PagesFor(layer.source, layer_rows[i]);
    const auto pages = static_cast<size_t>(layer.most_pages);
    layer.pages.reserve(pages);
    layer.run_groups.resize(pages * (kPageRows / kGatheredRun));
    layer.row_index.resize(pages * kPageRows);
    layer.masks.resize(pages * kMaskWords);
    bytes += pages * layer.layout.page_bytes;
  }
  ASSIGN_OR_RETURN(rows->memory_, backend->AllocateMemory(bytes));
  std::byte* next = rows->memory_;
  for (Layer& layer : rows->layers_) {
    layer.data = next;
    next += static_cast<uint64_t>(layer.most_pages) * layer.layout.page_bytes;
  }
  return rows;
}

GatheredRows::~GatheredRows() {
  if (memory_ != nullptr) backend_->FreeMemory(memory_);
}

void GatheredRows::Gather(LayerIndex layer_index, std::span<const uint16_t> run_groups,
                          std::span<const FfnPageRef> pages, const RowSet& list) {
  Layer& layer = LayerOf(layer_index);
  const FfnPageLayout& source = layer.source;
  CHECK(list.count() <= layer.most_rows);
  list_.clear();
  for (int32_t row = 0; row < source.ffn_rows; ++row) {
    if (!list.Contains(RowIndex{row})) continue;
    const bool grouped = source.has_down_table();
    list_.push_back({grouped ? run_groups[static_cast<size_t>(row / source.run_rows)] : uint16_t{0}, row});
  }
  std::stable_sort(list_.begin(), list_.end(), [](const Place& a, const Place& b) { return a.group < b.group; });
  std::fill(layer.masks.begin(), layer.masks.end(), 0);
  std::memset(layer.data, 0, static_cast<uint64_t>(layer.most_pages) * layer.layout.page_bytes);

  int32_t place = 0;
  for (size_t i = 0; i < list_.size(); ++i) {
    const auto [group, row] = list_[i];
    if (i > 0 && group != list_[i - 1].group) place = (place + kGatheredRun - 1) / kGatheredRun * kGatheredRun;
    CHECK(place < layer.most_pages * kPageRows);
    layer.run_groups[static_cast<size_t>(place / kGatheredRun)] = group;
    layer.row_index[static_cast<size_t>(place)] = row;
    layer.masks[static_cast<size_t>(place / 64)] |= uint64_t{1} << (place % 64);
    const FfnPageRef& page = pages[static_cast<size_t>(row / source.page_rows)];
    std::byte* const to = layer.data + static_cast<uint64_t>(place / kPageRows) * layer.layout.page_bytes;
    CopyPageRow(source, page.data, row % source.page_rows, layer.layout, to, place % kPageRows);
    ++place;
  }
  layer.pages.clear();
  for (int32_t first = 0; first < place; first += kPageRows) {
    const auto number = static_cast<size_t>(first / kPageRows);
    FfnPageRef& page = layer.pages.emplace_back();
    page.data = layer.data + number * layer.layout.page_bytes;
    page.row_count = std::min(kPageRows, (place - first + kGatheredRun - 1) / kGatheredRun * kGatheredRun);
    page.run_groups = layer.run_groups.data() + first / kGatheredRun;
    page.row_index = layer.row_index.data() + first;
    page.row_mask = layer.masks.data() + number * kMaskWords;
  }
}

}  // namespace dogstar
