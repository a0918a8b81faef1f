#include "runtime/overlay_replay.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>

#include "base/row_set.h"
#include "fmt/format.h"
#include "runtime/row_scores.h"
#include "runtime/top_rows.h"

namespace dogstar {
namespace {

class Replay final : public AccessVisitor {
 public:
  Replay(const AccessHeader& header, const ReplayOptions& options)
      : header_(header),
        options_(options),
        margin_(static_cast<float>(1 + options.hysteresis)),
        scores_(static_cast<int32_t>(header.layers.size()), header.rows, {options.eviction.lfu_half_life, 0}),
        layers_(header.layers.size()) {
    for (Layer& layer : layers_) layer.wanted = RowSet(header.rows);
    for (const AccessLayer& layer : header.layers) recorded_slots_ += layer.slots;
  }

  // A prompt's layers come one after the other; the cache is made anew when the first request follows.
  void OnText(const AccessText& text) override {
    Layer& layer = layers_[static_cast<size_t>(ToInt(text.layer))];
    layer.slots = SlotsOf(text);
    layer.top_rows = text.top_rows;
    layer.held.assign(text.held.begin(), text.held.end());
    layer.wanted.Clear();
    scores_.Restore(text.layer, RowIndex{PrefixRows(text.layer)}, text.scores);
    FitHeld(text, &layer);
    text_begins_ = true;
  }

  void OnPass(AccessPhase phase, int32_t, double) override {
    Settle();
    if (phase != AccessPhase::kVerify) return;
    for (size_t i = 0; i < layers_.size(); ++i) {
      for (int32_t first = 0; first < header_.rows; first += 64) {
        for (uint64_t bits = layers_[i].wanted.Bits(first); bits != 0; bits &= bits - 1) {
          Admit(LayerIndex{static_cast<int32_t>(i)}, RowIndex{first + std::countr_zero(bits)});
        }
      }
      layers_[i].wanted.Clear();
    }
  }

  void OnRequests(LayerIndex index, std::span<const AccessRequest> requests) override {
    Settle();
    Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
    scores_.Decay(index);
    for (const AccessRequest& request : requests) {
      const float uses = DecodeShare(request.share) * static_cast<float>(layer.top_rows);
      scores_.Add(index, request.row, uses);
      if (layer.slots == 0) continue;
      if (cache_->Request(KeyOf(index, request.row), uses) == kNoCacheSlot) layer.wanted.Insert(request.row);
    }
  }
  void OnEndToken() override {
    if (cache_ != nullptr) cache_->EndToken();
  }
  void OnEndPass() override {
    if (cache_ != nullptr) cache_->EndPass();
  }

  ReplayResult Finish() {
    Settle();
    if (cache_ != nullptr) result_.stats += cache_->stats();
    result_.slots = cache_ != nullptr ? cache_->slots() : 0;
    return result_;
  }

 private:
  struct Layer {
    int32_t slots = 0, top_rows = 0;
    std::vector<int32_t> held;  // when the text begins, the worst first
    RowSet wanted;
  };

  int32_t PrefixRows(LayerIndex layer) const { return header_.layers[static_cast<size_t>(ToInt(layer))].prefix_rows; }

  int32_t SlotsOf(const AccessText& text) const {
    if (options_.slots == 0 || recorded_slots_ == 0 || text.slots == 0) return text.slots;
    const int64_t share = options_.slots * text.slots / recorded_slots_;
    return static_cast<int32_t>(std::clamp<int64_t>(share, 1, std::max(1, header_.rows - PrefixRows(text.layer))));
  }

  void FitHeld(const AccessText& text, Layer* layer) {
    const size_t slots = static_cast<size_t>(layer->slots);
    if (layer->held.size() > slots) {
      layer->held.erase(layer->held.begin(), layer->held.end() - static_cast<ptrdiff_t>(slots));
    }
    if (layer->slots <= text.slots) return;
    const std::span<const float> scores = scores_.Of(text.layer);
    RowSet held(header_.rows);
    for (int32_t row : layer->held) held.Insert(RowIndex{row});
    std::vector<int32_t> others;
    for (int32_t row = PrefixRows(text.layer); row < header_.rows; ++row) {
      if (!held.Contains(RowIndex{row})) others.push_back(row);
    }
    std::stable_sort(others.begin(), others.end(), [&](int32_t a, int32_t b) {
      return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
    });
    others.resize(std::min(others.size(), slots - layer->held.size()));
    std::reverse(others.begin(), others.end());
    layer->held.insert(layer->held.begin(), others.begin(), others.end());
  }

  void Settle() {
    if (!text_begins_) return;
    text_begins_ = false;
    if (cache_ != nullptr) result_.stats += cache_->stats();
    PageCache::Options options;
    options.eviction = options_.eviction;
    for (const Layer& layer : layers_) options.slots.push_back(layer.slots);
    cache_ = std::make_unique<PageCache>(options);
    for (size_t i = 0; i < layers_.size(); ++i) {
      const LayerIndex index{static_cast<int32_t>(i)};
      int32_t slot = ToInt(cache_->first_slot(ToInt(index)));
      for (int32_t row : layers_[i].held) {
        const float score = scores_.Of(index)[static_cast<size_t>(row)];
        cache_->Place(KeyOf(index, RowIndex{row}), CacheSlot{slot++}, score);
      }
    }
  }

  // As Overlay::Admit, without bytes.
  void Admit(LayerIndex index, RowIndex row) {
    const PageKey key = KeyOf(index, row);
    const CacheSlot slot = cache_->Propose(key);
    if (slot == kNoCacheSlot) return;
    const std::span<const float> scores = scores_.Of(index);
    const float score = scores[static_cast<size_t>(ToInt(row))];
    const std::optional<PageKey> leaves = cache_->KeyAt(slot);
    if (leaves && !(score > margin_ * scores[static_cast<size_t>(ToInt(RowOf(*leaves)))])) {
      cache_->Decline();
      return;
    }
    cache_->Place(key, slot, score);
  }

  const AccessHeader& header_;
  const ReplayOptions& options_;
  float margin_;
  int64_t recorded_slots_ = 0;
  RowScores scores_;
  std::vector<Layer> layers_;
  std::unique_ptr<PageCache> cache_;  // null before the first text
  bool text_begins_ = false;
  ReplayResult result_;
};

}  // namespace

ReplayResult ReplayOverlay(const AccessTrace& trace, const ReplayOptions& options) {
  Replay replay(trace.header, options);
  VisitAccesses(trace, &replay);
  return replay.Finish();
}

absl::StatusOr<ReplayOptions> RecordedOptions(const AccessTrace& trace, const EvictionOptions& base) {
  ReplayOptions options;
  options.eviction = base;
  options.eviction.lfu_half_life = trace.header.half_life;
  options.hysteresis = trace.header.hysteresis;
  const auto names = EvictionNames();
  const auto name = std::find(names.begin(), names.end(), trace.header.policy);
  if (name == names.end()) {
    return absl::InvalidArgumentError(
        fmt::format("the trace was recorded with the policy \"{}\", which this program does not know; it has {}",
                    trace.header.policy, fmt::join(names, ", ")));
  }
  options.eviction.kind = static_cast<EvictionKind>(name - names.begin());
  return options;
}

}  // namespace dogstar
