// Overlay: single FFN rows in tier 0 for drafts only, copied out of pages as a full pass streams them by (no read is
// made for them). Its places are the slots of a PageCache with a partition a layer; which row goes is the policy's
// choice.
//
// A prompt fills it by scores alone: a row comes in while there is room, or when it beats the worst one held (Offer).
// BeginText tells the policy what is held, best rows last. From then on the text's tokens are the requests, and a row
// that was missed may come in when its page streams by (Admit), if its score beats that of the row the policy would let
// go by the margin of the hysteresis. Held rows of a layer lie in places 0 .. count-1.
//
// Capacity: `layer` gives each layer the places it was planned. `global` divides the same bytes anew at every Clear, by
// how often each layer's rows were missed since the last one; a layer's memory is one piece with fixed strides
// (FfnOverlayRef), so places move between layers while nothing is held.
//
// Threads: one. Memory: allocated once; with global capacity Clear makes the cache's tables anew.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/row_set.h"
#include "base/status.h"
#include "device/backend.h"
#include "memory/page_cache.h"
#include "memory/planner.h"
#include "model/model_file.h"

namespace dogstar {

enum class CacheCapacity { kLayer, kGlobal };

class Overlay {
 public:
  struct Options {
    std::vector<int32_t> layer_rows;   // places of each layer, multiples of kPanelRows; 0 for none
    std::vector<int32_t> prefix_rows;  // rows [0, n) of each layer are resident anyway
    EvictionOptions eviction;
    CacheCapacity capacity = CacheCapacity::kLayer;
    double hysteresis = 0;  // a newcomer's score is more than (1 + this) times the other's
  };
  static absl::StatusOr<std::unique_ptr<Overlay>> Create(const PackedFile& packed, const Options& options,
                                                         Backend* backend);
  // Bytes beside the rows themselves, at most.
  static uint64_t TableBytes(const EvictionOptions& eviction, std::span<const int32_t> layer_rows);
  ~Overlay();

  // Forgets all rows (a new prompt).
  void Clear();
  // Offers the rows of one page that is in memory: scores[i] for row i of the page. Before BeginText only.
  void Offer(LayerIndex layer, const FfnPageRef& page, std::span<const float> scores);
  // The prompt is over: the policy learns of what the layer holds. scores: uses so far, [row] of the layer.
  // Gives the rows in the order in which it learnt of them, the worst first; valid until the next call.
  std::span<const int32_t> BeginText(LayerIndex layer, std::span<const float> scores);

  // A token wanted the row; it counts so much. True: it is held. REQUIRES: BeginText.
  bool Request(LayerIndex layer, RowIndex row, float uses);
  void EndToken() { cache_->EndToken(); }
  void EndPass() { cache_->EndPass(); }
  // Row `row_in_page` of a page in memory asks for a place. scores: [row] of the layer. REQUIRES: BeginText.
  bool Admit(LayerIndex layer, const FfnPageRef& page, int32_t row_in_page, std::span<const float> scores);

  // The rows held, for a draft; pointers stay until Clear, row_count is 0 when there are none.
  FfnOverlayRef Ref(LayerIndex layer) const;
  // Adds the rows held to `rows`.
  void AddTo(LayerIndex layer, RowSet* rows) const;
  // Whether a layer's rows changed since this was last asked.
  bool TakeChanged(LayerIndex layer) { return std::exchange(LayerOf(layer).changed, false); }
  int32_t places(LayerIndex layer) const { return LayerOf(layer).capacity; }
  const PageCache& cache() const { return *cache_; }
  // Since the start, over all texts.
  PageCache::Stats stats() const;

 private:
  struct Layer {
    FfnPageLayout layout;
    int32_t capacity = 0;
    int32_t most_rows = 0;  // capacity may grow to
    bool changed = false;
    int64_t misses = 0;  // since Clear
    std::byte *gate = nullptr, *up = nullptr, *down = nullptr;
    std::vector<float> scores;       // [held], while a prompt fills it
    std::vector<uint16_t> groups;    // [held]
    std::vector<int32_t> row_index;  // [held]
    int32_t worst = -1;              // place of the lowest score, when full
  };

  explicit Overlay(Backend* backend) : backend_(backend) {}
  Layer& LayerOf(LayerIndex layer) { return layers_[static_cast<size_t>(ToInt(layer))]; }
  const Layer& LayerOf(LayerIndex layer) const { return layers_[static_cast<size_t>(ToInt(layer))]; }
  void Divide();
  void Carve();
  // The place for a row of that score, or -1.
  int32_t PlaceFor(Layer* layer, float score) const;
  void Copy(Layer* layer, const FfnPageRef& page, int32_t row_in_page, int32_t place);

  Backend* backend_;
  EvictionOptions eviction_;
  CacheCapacity capacity_ = CacheCapacity::kLayer;
  float margin_ = 1;
  std::byte* memory_ = nullptr;
  uint64_t memory_bytes_ = 0;
  std::vector<Layer> layers_;
  std::vector<int32_t> order_;  // places of a layer by score, then their rows
  std::unique_ptr<PageCache> cache_;
  PageCache::Stats stats_before_;  // of caches that Carve replaced
};

}  // namespace dogstar
