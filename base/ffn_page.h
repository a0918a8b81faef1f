// The inside of a page of FFN rows: shared by the writer of packed files and the kernels that read pages.
// docs/packed_format.md has the whole file with a worked example.
//
// A page holds `page_rows` packed rows (neurons) of one layer:
//   gate    page_rows/16 panels of 16 neurons over `dim` columns, exactly the source's codes and scales
//   up      the same
//   down    ceil(dim/16) panels of 16 outputs over `page_rows` columns (column = packed row of the page):
//           codes only. Quantized types: code vectors as in base/panel.h; the scales are NOT here but in the
//           layer's down-scale table, because rows that share a scale in the source are spread over pages
//           ("sorted-exact"). Float types: panel as in base/panel.h, no table.
// Each part starts at a multiple of 64 bytes; the page is padded with zeros to a multiple of 4096.
//
// Rows are ordered in runs: `run_rows` neighbouring packed rows come from one scale group (16 or 32 neighbouring
// neurons of the source), so they share their scales: a kernel sums codes over the run as integers, then scales once.
// Down-scale table of a layer: a scale table (base/quant_codes.h) with a lane for each of `dim` outputs.
// group of run r = run_groups[r], r = RowIndex / run_rows, with the value neuron / group_rows().
// Rows past the layer's FFN width (in the last page only) have zero codes and scales and belong to group 0.
#pragma once

#include <cstdint>

#include "base/quant.h"

namespace dogstar {

inline constexpr int64_t kPageAlignment = 4096;
// Sums over a layer's pages are formed in groups of about so many rows, then added up group after group
// (device/backend.h): what another processor computes crosses over as one sum a group.
inline constexpr int32_t kSumRows = 512;

// One of the two planes of a page whose codes are cut (base/bit_planes.h): gate, up and down one after the other, all
// panels of a part neighbours.
struct FfnPlane {
  uint64_t gate_panel = 0, up_panel = 0, down_panel = 0;     // bytes of a panel
  uint64_t gate_offset = 0, up_offset = 0, down_offset = 0;  // multiples of 64
  uint64_t bytes = 0;                                        // of a page
};

struct FfnPageLayout {
  QuantType gate_type = QuantType::kF32;
  QuantType up_type = QuantType::kF32;
  QuantType down_type = QuantType::kF32;
  int32_t dim = 0;        // hidden size
  int32_t ffn_rows = 0;   // the layer's FFN width
  int32_t page_rows = 0;  // multiple of kQuantBlock
  int32_t run_rows = 0;   // 4, 8, 16 or 32, at most group_rows()

  // Derived by Make.
  uint64_t gate_offset = 0;
  uint64_t up_offset = 0;
  uint64_t down_offset = 0;
  uint64_t down_panel_bytes = 0;  // one panel of 16 outputs
  uint64_t page_bytes = 0;        // multiple of kPageAlignment
  FfnPlane high, low;             // bytes: multiples of 64; low.bytes 0: no part is cut

  // InvalidArgument when the sizes do not fit the types (dim or ffn_rows no multiple of a block, overflow, ...).
  static absl::StatusOr<FfnPageLayout> Make(QuantType gate_type, QuantType up_type, QuantType down_type, int64_t dim,
                                            int64_t ffn_rows, int64_t page_rows, int64_t run_rows);

  int32_t page_count() const { return (ffn_rows + page_rows - 1) / page_rows; }
  // Neighbouring pages that are summed before their sum is added to the layer's.
  int32_t sum_pages() const { return page_rows >= kSumRows ? 1 : kSumRows / page_rows; }
  int32_t SumGroupOf(int32_t first_row) const { return first_row / (sum_pages() * page_rows); }
  bool has_down_table() const;        // quantized down
  bool has_down_minimum() const;      // with a minimum beside each scale
  int32_t group_rows() const;         // neurons that share a scale in the down matrix; 0 for float types
  int32_t group_count() const;        // 0 for float types
  uint64_t down_table_bytes() const;  // 0 for float types
};

// Bytes of `cols` codes of 16 outputs without scales (down part of a page).
uint64_t DownPanelBytes(QuantType type, int64_t cols);

}  // namespace dogstar
