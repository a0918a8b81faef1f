// Overlay: single FFN rows in tier 0 for drafts only, gathered from pages as a full pass streams them by.
//
// Each layer has a fixed number of places. A row is taken in when its score beats the worst one held; scores are the
// caller's and may be revised until the pass ends.
// Threads: one. Memory: allocated once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/row_set.h"
#include "base/status.h"
#include "device/backend.h"
#include "memory/planner.h"
#include "model/model_file.h"

namespace dogstar {

class Overlay {
 public:
  // layer_rows: places of each layer, multiples of kPanelRows; 0 for none.
  static absl::StatusOr<std::unique_ptr<Overlay>> Create(const PackedFile& packed, std::span<const int32_t> layer_rows,
                                                         Backend* backend);
  ~Overlay();

  // Forgets all rows (a new prompt).
  void Clear();
  // Offers the rows of one page that is in memory: scores[i] for row i of the page.
  void Offer(LayerIndex layer, const FfnPageRef& page, std::span<const float> scores);
  // The rows held, for a draft. row_count is 0 when there are none.
  FfnOverlayRef Ref(LayerIndex layer) const;
  // Adds the rows held to `rows`.
  void AddTo(LayerIndex layer, RowSet* rows) const;

 private:
  struct Layer {
    FfnPageLayout layout;
    const PackedLayer* source = nullptr;
    int32_t capacity = 0;
    std::byte *gate = nullptr, *up = nullptr, *down = nullptr;
    std::vector<float> scores;       // [held]
    std::vector<uint16_t> groups;    // [held]
    std::vector<int32_t> row_index;  // [held]
    int32_t worst = -1;              // place of the lowest score, when full
  };

  explicit Overlay(Backend* backend) : backend_(backend) {}
  void Place(Layer* layer, const FfnPageRef& page, int32_t row_in_page, float score);

  Backend* backend_;
  std::byte* memory_ = nullptr;
  std::vector<Layer> layers_;
};

}  // namespace dogstar
