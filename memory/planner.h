// Planner: which parts of a model stay in the fast tier, and which stream. A pure function of sizes: it opens
// nothing and allocates nothing.
//
// The order of value (design: a full pass waits for the bytes that are missing, and reads every byte once):
//   1. what every pass needs at once: program, KV cache, activations, norms, down-scale tables, the ring
//   2. attention matrices and the head: drafts read them too, so a byte of them saves I/O in every step
//   3. FFN rows, the same share of every layer, the most important pages first; a part of them as single rows
//      chosen by the prompt (the overlay) when the predictor wants it
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "memory/accountant.h"
#include "model/model_file.h"

namespace dogstar {

// Sizes that do not depend on the placement, by name ("KV cache", ...).
struct FixedCost {
  std::string what;
  uint64_t bytes = 0;
};

struct PlanRequest {
  uint64_t budget_bytes = kNoLimit;
  std::vector<FixedCost> fixed;
  // Share of the bytes for FFN rows that goes to the overlay instead of the prefix, 0..0.5. Packed files only.
  double overlay_share = 0;
};

// Rows of a matrix that are resident; the rest streams in chunks of chunk_rows.
struct MatrixPlacement {
  int32_t resident_rows = 0;
  int32_t chunk_rows = 0;
};

struct LayerPlacement {
  MatrixPlacement query, key, value, output;
  MatrixPlacement gate, up, down;  // plain files
  int32_t resident_pages = 0;      // packed files: the prefix
  int32_t overlay_rows = 0;        // multiple of kPanelRows
};

struct PlanLine {
  std::string what;
  uint64_t resident_bytes = 0;
  uint64_t total_bytes = 0;
  std::string reason;
};

struct Placement {
  std::vector<LayerPlacement> layers;
  MatrixPlacement head;
  uint64_t ring_bytes = 0;        // 0 when nothing streams
  uint64_t range_bytes = 0;       // longest range of the schedule
  uint64_t complement_bytes = 0;  // read by each full pass
  uint64_t planned_bytes = 0;     // all of it, fixed costs included
  uint64_t smallest_budget_bytes = 0;
  std::vector<PlanLine> lines;

  bool everything_resident() const { return complement_bytes == 0; }
  // Share of FFN rows in tier 0, prefix and overlay, over all layers.
  double resident_density = 1;
};

// ResourceExhausted names the smallest budget that works.
absl::StatusOr<Placement> PlanPlacement(const ModelFile& model, const PlanRequest& request);

// A layer's down-scale table as a matrix, [planes * groups, dim] half, with its checksums.
MatrixSource DownScaleTable(const PackedFile& packed, int32_t layer);
// Bytes of a matrix's first `rows` rows in panels.
uint64_t ResidentMatrixBytes(const MatrixSource& matrix, int32_t rows);
// Bytes of the overlay of one layer.
uint64_t OverlayBytes(const FfnPageLayout& layout, int32_t rows);

}  // namespace dogstar
