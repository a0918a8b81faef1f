#include "memory/overlay.h"

#include <algorithm>

#include "base/panel.h"
#include "model/overlay_rows.h"

namespace dogstar {
namespace {

constexpr uint64_t kCacheLine = 64;
uint64_t AlignLine(uint64_t value) { return (value + kCacheLine - 1) / kCacheLine * kCacheLine; }

struct Sizes {
  uint64_t gate = 0, up = 0, down = 0;
  uint64_t total() const { return gate + up + down; }
};

Sizes SizesOf(const FfnPageLayout& layout, int32_t rows) {
  const auto panels = [](int32_t n) { return static_cast<uint64_t>((n + kPanelRows - 1) / kPanelRows); };
  return {AlignLine(panels(rows) * PanelBytes(layout.gate_type, layout.dim)),
          AlignLine(panels(rows) * PanelBytes(layout.up_type, layout.dim)),
          AlignLine(panels(layout.dim) * OverlayDownPanelBytes(layout.down_type, rows))};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Overlay>> Overlay::Create(const PackedFile& packed, std::span<const int32_t> layer_rows,
                                                         Backend* backend) {
  auto overlay = std::unique_ptr<Overlay>(new Overlay(backend));
  uint64_t total = 0;
  for (size_t i = 0; i < layer_rows.size(); ++i) {
    total += layer_rows[i] > 0 ? SizesOf(packed.layers()[i].layout, layer_rows[i]).total() : 0;
  }
  if (total > 0) {
    ASSIGN_OR_RETURN(overlay->memory_, backend->AllocateMemory(total));
  }
  std::byte* next = overlay->memory_;
  for (size_t i = 0; i < layer_rows.size(); ++i) {
    Layer layer;
    layer.source = &packed.layers()[i];
    layer.layout = layer.source->layout;
    layer.capacity = layer_rows[i];
    if (layer.capacity > 0) {
      const Sizes sizes = SizesOf(layer.layout, layer.capacity);
      layer.gate = next;
      layer.up = layer.gate + sizes.gate;
      layer.down = layer.up + sizes.up;
      next += sizes.total();
    }
    overlay->layers_.push_back(std::move(layer));
  }
  return overlay;
}

Overlay::~Overlay() {
  if (memory_ != nullptr) backend_->FreeMemory(memory_);
}

void Overlay::Clear() {
  for (Layer& layer : layers_) {
    layer.scores.clear();
    layer.groups.clear();
    layer.row_index.clear();
    layer.worst = -1;
  }
}

void Overlay::Offer(LayerIndex layer_index, const FfnPageRef& page, std::span<const float> scores) {
  Layer& layer = layers_[static_cast<size_t>(ToInt(layer_index))];
  if (layer.capacity == 0) return;
  for (int32_t row = 0; row < page.row_count; ++row) Place(&layer, page, row, scores[static_cast<size_t>(row)]);
}

void Overlay::Place(Layer* layer, const FfnPageRef& page, int32_t row_in_page, float score) {
  int32_t place = static_cast<int32_t>(layer->scores.size());
  if (place == layer->capacity) {
    if (layer->worst < 0) {
      layer->worst =
          static_cast<int32_t>(std::min_element(layer->scores.begin(), layer->scores.end()) - layer->scores.begin());
    }
    place = layer->worst;
    if (score <= layer->scores[static_cast<size_t>(place)]) return;
    layer->worst = -1;
  } else {
    layer->scores.push_back(0);
    layer->groups.push_back(0);
    layer->row_index.push_back(0);
  }
  const size_t at = static_cast<size_t>(place);
  layer->scores[at] = score;
  layer->groups[at] = page.run_groups[row_in_page / layer->layout.run_rows];
  layer->row_index[at] = page.first_row + row_in_page;
  GatherOverlayRow(layer->layout, page.data, row_in_page, place,
                   {layer->gate, layer->up, layer->down, layer->capacity});
}

FfnOverlayRef Overlay::Ref(LayerIndex layer_index) const {
  const Layer& layer = layers_[static_cast<size_t>(ToInt(layer_index))];
  FfnOverlayRef ref;
  ref.gate = layer.gate;
  ref.up = layer.up;
  ref.down = layer.down;
  ref.row_capacity = layer.capacity;
  ref.row_count = static_cast<int32_t>(layer.scores.size());
  ref.groups = layer.groups.data();
  ref.row_index = layer.row_index.data();
  return ref;
}

void Overlay::AddTo(LayerIndex layer_index, RowSet* rows) const {
  for (int32_t row : layers_[static_cast<size_t>(ToInt(layer_index))].row_index) rows->Insert(RowIndex{row});
}

}  // namespace dogstar
