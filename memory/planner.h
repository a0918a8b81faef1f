// Planner: which parts of a model stay in the fast tier, and which stream. A pure function of sizes: it opens
// nothing and allocates nothing.
//
// The order of value (a full pass waits for the bytes that are missing, and reads every byte once):
//   1. what every pass needs at once: program, KV cache, activations, norms, down-scale tables, the ring
//   2. attention matrices and the head: drafts read them too, so a byte of them saves I/O in every step (where drafts
//      have a head of their own, the model's is worth what a page is, and comes last). Where the FFN's rows do not all
//      fit, layers from the last on keep their attention's high planes alone: a draft loses less by the missing bits
//      than it wins by the rows that take their place
//   3. FFN rows, the same share of every layer, the most important pages first; a part of them as single rows
//      chosen by the text (the overlay) when the predictor wants it. Where the file has low planes (base/bit_planes.h),
//      pages behind the whole ones keep their high planes: drafts use them, full passes read their low planes alone
// Where a matrix does not fit whole its first rows stay; no byte of the budget lies idle.
//
// Where a device computes, tier 0 is its memory (PlanRequest::device_bytes) and the budget is the host's: what is left
// of it holds what the device lacks, so that passes take it over the link instead of from the disk: rows of attention
// and head, which drafts need too, then low planes of what the device has in part, then FFN pages behind its own.
//
// The ring holds what the disk reads while nothing is released, so that it never stops:
//   reads in flight + disk bandwidth * (bytes of the longest stretch of resident weights / (memory bandwidth / 3))
// More than that is worth as much as resident weights in a full pass and nothing in a draft.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "memory/accountant.h"
#include "memory/model_shape.h"

namespace dogstar {

// Sizes that do not depend on the placement, by name ("KV cache", ...).
struct FixedCost {
  std::string what;
  uint64_t bytes = 0;
  bool on_device = false;  // in its memory, where a device computes
};

// What a machine gives, as far as the size of the ring is concerned; 0: not known, a common machine is assumed.
struct StreamRates {
  double disk_bytes_per_second = 0;
  double memory_bytes_per_second = 0;
  uint64_t in_flight_bytes = 0;  // that keep the disk at its bandwidth
};

struct PlanRequest {
  uint64_t budget_bytes = kNoLimit;
  std::optional<uint64_t> device_bytes;  // of a device that computes; none: the host does
  uint64_t pinned_bytes = kNoLimit;      // page-locked host memory: the ring, and pages that the device does not hold
  bool host_tables = false;              // the processor computes some of these: `fixed` has what it needs
  std::vector<FixedCost> fixed;
  // Share of the bytes for FFN rows that goes to the overlay instead of the prefix, 0..0.5. Packed files only.
  double overlay_share = 0;
  // Share of the FFN's pages that may be resident in part, by their high planes; where that leaves memory, pages are
  // whole instead. Files without low planes: nothing.
  double planes = 0;
  // The same of attention matrices: share of the layers that may have them by their high planes. none: no more layers
  // than it takes for all of the FFN's rows to be there.
  std::optional<double> attention_planes = 0;
  uint64_t ring_bytes = 0;  // 0: chosen; raised to the smallest that works
  // > 0: drafts use so many of the head's first rows; the others come last, behind the FFN's rows.
  int32_t draft_head_rows = 0;
  StreamRates rates;
};

// Rows of a matrix that are resident; the next may be in host memory, where a device computes. These cross the link,
// and the rest streams, in chunks of chunk_rows.
struct MatrixPlacement {
  int32_t resident_rows = 0;
  int32_t host_rows = 0;
  int32_t chunk_rows = 0;
  int32_t held_rows() const { return resident_rows + host_rows; }
};

struct LayerPlacement {
  MatrixPlacement query, key, value, output;
  MatrixPlacement gate, up, down;   // plain files
  bool attention_planes = false;    // packed files: of query to output, which are whole, only high planes are resident
  bool host_attention_low = false;  // their low planes are in host memory, where a device computes
  int32_t resident_pages = 0;       // packed files: the prefix
  int32_t plane_pages = 0;          // behind it: pages whose high planes are resident
  int32_t host_low_pages = 0;       // of these, the first: their low planes are in host memory, where a device computes
  int32_t host_pages = 0;           // behind both: pages in host memory, where a device computes
  int32_t overlay_rows = 0;         // multiple of kPanelRows
};

struct PlanLine {
  std::string what;
  uint64_t resident_bytes = 0;
  uint64_t total_bytes = 0;
  std::string reason;
  bool on_device = false;
};

struct Placement {
  std::vector<LayerPlacement> layers;
  MatrixPlacement head;
  uint64_t ring_bytes = 0;         // > 0: loading goes through it too
  uint64_t range_bytes = 0;        // longest run of pages or rows that is one read
  uint64_t complement_bytes = 0;   // read by each full pass
  uint64_t host_bytes = 0;         // weights in host memory, which a full pass takes over the link
  uint64_t host_page_bytes = 0;    // of these, whole pages, which the processor may compute where they are
  uint64_t host_matrix_bytes = 0;  // of these, rows of matrices, which drafts take over the link too
  bool host_tables = false;        // tables for the processor's part of them are in host memory
  uint64_t staging_bytes = 0;      // of a device, for what comes over the link
  uint64_t resident_bytes = 0;     // weights in tier 0 that a full pass uses (all but the overlay)
  uint64_t draft_bytes = 0;        // weights in tier 0 that a draft with every resident row uses
  uint64_t planned_bytes = 0;      // all of it, fixed costs included; where a device computes: of the host
  uint64_t device_planned_bytes = 0;
  bool drafts_need_no_disk = false;  // packed, with attention in memory, and the head or one for drafts
  double resident_density = 1;       // share of FFN rows in tier 0: prefix, high planes and overlay, over all layers
  double plane_density = 0;          // high planes alone
  std::vector<PlanLine> lines;       // who gets how much, fixed costs first, and why

  bool everything_resident() const { return complement_bytes == 0 && host_bytes == 0; }
};

// ResourceExhausted names the smallest budget that works.
absl::StatusOr<Placement> PlanPlacement(const ModelShape& model, const PlanRequest& request);

// Budgets that mean something for a model and the request's fixed costs; the request's budget does not matter.
struct BudgetMarks {
  uint64_t smallest = 0;    // everything streams
  uint64_t drafts = 0;      // attention and head resident: below it there are no drafts
  uint64_t sensible = 0;    // and kSensibleDensity of the FFN's rows
  uint64_t everything = 0;  // nothing streams
};
// Corrected runs pay from about here on (docs/benchmarks.md, acceptance by density).
inline constexpr double kSensibleDensity = 0.7;
BudgetMarks MarkBudgets(const ModelShape& model, const PlanRequest& request);

// Bytes of the overlay of one layer: gate panels, up panels, down codes, each a whole number of cache lines.
struct OverlaySizes {
  uint64_t gate = 0, up = 0, down = 0;
  uint64_t total() const { return gate + up + down; }
};
OverlaySizes OverlaySizesOf(const FfnPageLayout& layout, int32_t rows);

}  // namespace dogstar
