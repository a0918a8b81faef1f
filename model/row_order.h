// The order of a layer's rows in the packed file.
//
// Where the down matrix is quantized along the neurons, 32 neighbouring neurons share a scale per output. The order is
// therefore made of runs: `run_rows` rows from one such group, so that a kernel applies a scale once per run. Sorting
// runs instead of rows keeps nearly all of the order's value: inside a group the important neurons come together
// first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace dogstar {

struct RowOrder {
  std::vector<NeuronIndex> row_order;  // [ffn_rows] neuron of each packed row
  std::vector<uint16_t> run_groups;    // [ffn_rows / run_rows rounded up]; all 0 when rows have no scale groups
};

// importance: [ffn_rows], finite, larger = earlier; empty: the source's order. Equal importance: the lower neuron
// first. scale_groups: the down matrix is quantized (then ffn_rows is a multiple of 32); otherwise rows are sorted one
// by one. REQUIRES: run_rows divides 32.
RowOrder MakeRowOrder(std::span<const float> importance, int32_t ffn_rows, int32_t run_rows, bool scale_groups);

// Group of each run. DataLoss when row_order is no permutation, or a run spans groups although scale_groups.
absl::StatusOr<std::vector<uint16_t>> RunGroupsOf(std::span<const NeuronIndex> row_order, int32_t run_rows,
                                                  bool scale_groups);

}  // namespace dogstar
