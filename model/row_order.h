// The order of a layer's rows in the packed file.
//
// Where the down matrix is quantized along the neurons, 16 or 32 neighbouring neurons share a scale per output. The
// order is therefore made of runs: `run_rows` rows from one such group, so that a kernel applies a scale once per run.
// Sorting runs instead of rows keeps nearly all of the order's value: inside a group the important neurons come
// together first.
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
// first. group_rows: neurons that share a scale (run_rows divides it, it divides ffn_rows); 0: the down matrix is not
// quantized, rows are sorted one by one.
RowOrder MakeRowOrder(std::span<const float> importance, int32_t ffn_rows, int32_t run_rows, int32_t group_rows);

// Group of each run. DataLoss when row_order is no permutation, or a run spans groups of group_rows > 0.
absl::StatusOr<std::vector<uint16_t>> RunGroupsOf(std::span<const NeuronIndex> row_order, int32_t run_rows,
                                                  int32_t group_rows);

}  // namespace dogstar
