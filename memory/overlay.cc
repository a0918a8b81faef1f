#include "memory/overlay.h"

#include <algorithm>
#include <numeric>

#include "base/panel.h"
#include "model/overlay_rows.h"

namespace dogstar {
namespace {

PageCache::Options CacheOptions(const EvictionOptions& eviction, std::span<const int32_t> layer_rows) {
  PageCache::Options options;
  options.eviction = eviction;
  options.slots.assign(layer_rows.begin(), layer_rows.end());
  return options;
}

}  // namespace

uint64_t Overlay::TableBytes(const EvictionOptions& eviction, std::span<const int32_t> layer_rows) {
  const int32_t rows = std::accumulate(layer_rows.begin(), layer_rows.end(), 0);
  constexpr uint64_t kPerRow = sizeof(float) + sizeof(uint16_t) + 2 * sizeof(int32_t);
  // Global capacity may move places; the tables' sizes are powers of two at most twice the need.
  return PageCache::Bytes(CacheOptions(eviction, layer_rows)) + kPerRow * static_cast<uint64_t>(rows) +
         layer_rows.size() * sizeof(Layer);
}

absl::StatusOr<std::unique_ptr<Overlay>> Overlay::Create(const PackedFile& packed, const Options& options,
                                                         Backend* backend) {
  auto overlay = std::unique_ptr<Overlay>(new Overlay(backend));
  overlay->eviction_ = options.eviction;
  overlay->capacity_ = options.capacity;
  overlay->margin_ = static_cast<float>(1 + options.hysteresis);
  for (size_t i = 0; i < options.layer_rows.size(); ++i) {
    Layer layer;
    layer.layout = packed.layers()[i].layout;
    layer.capacity = options.layer_rows[i];
    layer.most_rows = (layer.layout.ffn_rows - options.prefix_rows[i]) / kPanelRows * kPanelRows;
    if (layer.capacity > 0) overlay->memory_bytes_ += OverlaySizesOf(layer.layout, layer.capacity).total();
    const size_t reserved =
        static_cast<size_t>(options.capacity == CacheCapacity::kGlobal ? layer.most_rows : layer.capacity);
    layer.scores.reserve(reserved);
    layer.groups.reserve(reserved);
    layer.row_index.reserve(reserved);
    overlay->layers_.push_back(std::move(layer));
  }
  if (overlay->memory_bytes_ > 0) {
    ASSIGN_OR_RETURN(overlay->memory_, backend->AllocateMemory(overlay->memory_bytes_));
  }
  overlay->Carve();
  return overlay;
}

Overlay::~Overlay() {
  if (memory_ != nullptr) backend_->FreeMemory(memory_);
}

// Gives each layer its part of the memory, and the cache its partitions.
void Overlay::Carve() {
  std::byte* next = memory_;
  std::vector<int32_t> rows;
  for (Layer& layer : layers_) {
    rows.push_back(layer.capacity);
    if (layer.capacity == 0) continue;
    const OverlaySizes sizes = OverlaySizesOf(layer.layout, layer.capacity);
    layer.gate = next;
    layer.up = layer.gate + sizes.gate;
    layer.down = layer.up + sizes.up;
    next += sizes.total();
  }
  order_.reserve(static_cast<size_t>(*std::max_element(rows.begin(), rows.end())));
  if (cache_ != nullptr) stats_before_ += cache_->stats();
  cache_ = std::make_unique<PageCache>(CacheOptions(eviction_, rows));
}

// Highest averages (d'Hondt): the next panel of places goes to the layer with the most misses a place.
void Overlay::Divide() {
  if (std::all_of(layers_.begin(), layers_.end(), [](const Layer& layer) { return layer.misses == 0; })) return;
  uint64_t used = 0;
  std::vector<bool> open(layers_.size(), true);
  for (size_t i = 0; i < layers_.size(); ++i) {
    open[i] = layers_[i].capacity > 0;
    layers_[i].capacity = open[i] ? kPanelRows : 0;
    used += open[i] ? OverlaySizesOf(layers_[i].layout, kPanelRows).total() : 0;
  }
  for (;;) {
    size_t best = layers_.size();
    double most = -1;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const double misses_a_place = static_cast<double>(layers_[i].misses) / layers_[i].capacity;
      if (open[i] && misses_a_place > most) most = misses_a_place, best = i;
    }
    if (best == layers_.size()) return;
    Layer& layer = layers_[best];
    const uint64_t more = OverlaySizesOf(layer.layout, layer.capacity + kPanelRows).total() -
                          OverlaySizesOf(layer.layout, layer.capacity).total();
    open[best] = used + more <= memory_bytes_ && layer.capacity + kPanelRows <= layer.most_rows;
    if (!open[best]) continue;
    used += more;
    layer.capacity += kPanelRows;
  }
}

void Overlay::Clear() {
  cache_->Clear();
  if (capacity_ == CacheCapacity::kGlobal) {
    Divide();
    Carve();
  }
  for (Layer& layer : layers_) {
    layer.scores.clear();
    layer.groups.clear();
    layer.row_index.clear();
    layer.worst = -1;
    layer.misses = 0;
    layer.changed = true;
  }
}

void Overlay::Offer(LayerIndex layer_index, const FfnPageRef& page, std::span<const float> scores) {
  Layer& layer = LayerOf(layer_index);
  if (layer.capacity == 0) return;
  for (int32_t row = 0; row < page.row_count; ++row) {
    const int32_t place = PlaceFor(&layer, scores[static_cast<size_t>(row)]);
    if (place < 0) continue;
    layer.scores[static_cast<size_t>(place)] = scores[static_cast<size_t>(row)];
    Copy(&layer, page, row, place);
  }
}

int32_t Overlay::PlaceFor(Layer* layer, float score) const {
  const int32_t held = static_cast<int32_t>(layer->row_index.size());
  if (held < layer->capacity) {
    layer->scores.push_back(0);
    layer->groups.push_back(0);
    layer->row_index.push_back(0);
    return held;
  }
  if (layer->worst < 0) {
    layer->worst =
        static_cast<int32_t>(std::min_element(layer->scores.begin(), layer->scores.end()) - layer->scores.begin());
  }
  if (score <= layer->scores[static_cast<size_t>(layer->worst)]) return -1;
  return std::exchange(layer->worst, -1);
}

void Overlay::Copy(Layer* layer, const FfnPageRef& page, int32_t row_in_page, int32_t place) {
  const size_t at = static_cast<size_t>(place);
  layer->groups[at] = page.run_groups[row_in_page / layer->layout.run_rows];
  layer->row_index[at] = page.first_row + row_in_page;
  layer->changed = true;
  GatherOverlayRow(layer->layout, page.data, row_in_page, place,
                   {layer->gate, layer->up, layer->down, layer->capacity});
}

std::span<const int32_t> Overlay::BeginText(LayerIndex layer_index, std::span<const float> scores) {
  Layer& layer = LayerOf(layer_index);
  const auto score_of = [&](int32_t place) {
    return scores[static_cast<size_t>(layer.row_index[static_cast<size_t>(place)])];
  };
  order_.resize(layer.row_index.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::sort(order_.begin(), order_.end(),
            [&](int32_t a, int32_t b) { return score_of(a) != score_of(b) ? score_of(a) < score_of(b) : a > b; });
  const int32_t first = ToInt(cache_->first_slot(ToInt(layer_index)));
  for (int32_t& place : order_) {
    const int32_t row = layer.row_index[static_cast<size_t>(place)];
    cache_->Place(KeyOf(layer_index, RowIndex{row}), CacheSlot{first + place}, score_of(place));
    place = row;
  }
  return order_;
}

bool Overlay::Request(LayerIndex layer, RowIndex row, float uses) {
  const bool hit = cache_->Request(KeyOf(layer, row), uses) != kNoCacheSlot;
  LayerOf(layer).misses += hit ? 0 : 1;
  return hit;
}

bool Overlay::Admit(LayerIndex layer_index, const FfnPageRef& page, int32_t row_in_page,
                    std::span<const float> scores) {
  Layer& layer = LayerOf(layer_index);
  const int32_t row = page.first_row + row_in_page;
  const PageKey key = KeyOf(layer_index, RowIndex{row});
  const CacheSlot slot = cache_->Propose(key);
  if (slot == kNoCacheSlot) return false;
  const float score = scores[static_cast<size_t>(row)];
  const std::optional<PageKey> leaves = cache_->KeyAt(slot);
  if (leaves && !(score > margin_ * scores[static_cast<size_t>(ToInt(RowOf(*leaves)))])) {
    cache_->Decline();
    return false;
  }
  const int32_t place = ToInt(slot) - ToInt(cache_->first_slot(ToInt(layer_index)));
  if (!leaves) {
    layer.scores.push_back(0);
    layer.groups.push_back(0);
    layer.row_index.push_back(0);
  }
  cache_->Place(key, slot, score);
  Copy(&layer, page, row_in_page, place);
  return true;
}

PageCache::Stats Overlay::stats() const {
  PageCache::Stats stats = stats_before_;
  stats += cache_->stats();
  return stats;
}

FfnOverlayRef Overlay::Ref(LayerIndex layer_index) const {
  const Layer& layer = LayerOf(layer_index);
  FfnOverlayRef ref;
  ref.gate = layer.gate;
  ref.up = layer.up;
  ref.down = layer.down;
  ref.row_capacity = layer.capacity;
  ref.row_count = static_cast<int32_t>(layer.row_index.size());
  ref.groups = layer.groups.data();
  ref.row_index = layer.row_index.data();
  return ref;
}

void Overlay::AddTo(LayerIndex layer_index, RowSet* rows) const {
  for (int32_t row : LayerOf(layer_index).row_index) rows->Insert(RowIndex{row});
}

}  // namespace dogstar
