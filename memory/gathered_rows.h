// GatheredRows: rows of a draft's list, copied out of resident pages into pages of their own. A list that holds for a
// whole text then costs a draft little more than its own bytes, where the same rows as masks on pages cost nearly all
// panels (16 rows a panel are read when one of them is used). It is memory beside the resident weights.
//
// Rows of a scale group of the down matrix stand together, in runs of kGatheredRun: the last run of a group may hold
// fewer, and what it lacks are masked rows of zeros. Of 32 rows a group at half density that is a tenth more.
//
// Threads: one. Memory: allocated once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ffn_page.h"
#include "base/row_set.h"
#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"

namespace dogstar {

class GatheredRows {
 public:
  // layouts: of the layers' pages; layer_rows: most rows of each one's list.
  static uint64_t Bytes(std::span<const FfnPageLayout> layouts, std::span<const int32_t> layer_rows);
  static absl::StatusOr<std::unique_ptr<GatheredRows>> Create(std::span<const FfnPageLayout> layouts,
                                                              std::span<const int32_t> layer_rows, Backend* backend);
  ~GatheredRows();

  // The rows of `list` instead of those held. run_groups: scale group of each run of the source; pages: its first ones.
  // REQUIRES: the rows are in these pages, and at most as many as Create was told; no draft that uses the layer's rows
  // is running.
  void Gather(LayerIndex layer, std::span<const uint16_t> run_groups, std::span<const FfnPageRef> pages,
              const RowSet& list);
  // Pages in layout(); valid until the layer's next Gather.
  std::span<const FfnPageRef> Pages(LayerIndex layer) const { return LayerOf(layer).pages; }
  const FfnPageLayout& layout(LayerIndex layer) const { return LayerOf(layer).layout; }

 private:
  struct Layer {
    FfnPageLayout source, layout;
    int32_t most_rows = 0, most_pages = 0;
    std::byte* data = nullptr;
    std::vector<FfnPageRef> pages;
    std::vector<uint16_t> run_groups;  // [most_pages * runs of a page]
    std::vector<int32_t> row_index;    // [most_pages * page_rows]; 0 for masked rows
    std::vector<uint64_t> masks;       // [most_pages * page_rows / 64]
  };
  // A row of the list, to be sorted by group.
  struct Place {
    uint16_t group = 0;
    int32_t row = 0;
  };

  explicit GatheredRows(Backend* backend) : backend_(backend) {}
  Layer& LayerOf(LayerIndex layer) { return layers_[static_cast<size_t>(ToInt(layer))]; }
  const Layer& LayerOf(LayerIndex layer) const { return layers_[static_cast<size_t>(ToInt(layer))]; }

  Backend* backend_;
  std::byte* memory_ = nullptr;
  std::vector<Layer> layers_;
  std::vector<Place> list_;  // scratch
};

}  // namespace dogstar
