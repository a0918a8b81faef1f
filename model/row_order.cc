#include "model/row_order.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/panel.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

struct Run {
  double importance = 0;
  size_t first = 0;  // in the list of neurons sorted inside their groups
};

std::vector<NeuronIndex> SourceOrder(int32_t ffn_rows) {
  std::vector<NeuronIndex> order;
  order.reserve(static_cast<size_t>(ffn_rows));
  for (int32_t neuron = 0; neuron < ffn_rows; ++neuron) order.push_back(NeuronIndex{neuron});
  return order;
}

void SortByImportance(std::span<const float> importance, std::span<NeuronIndex> neurons) {
  std::stable_sort(neurons.begin(), neurons.end(), [&](NeuronIndex a, NeuronIndex b) {
    return importance[static_cast<size_t>(a)] > importance[static_cast<size_t>(b)];
  });
}

// neurons: sorted inside each group. Runs in order of their mean importance.
std::vector<Run> SortedRuns(std::span<const float> importance, std::span<const NeuronIndex> neurons, size_t run_rows) {
  std::vector<Run> runs;
  for (size_t first = 0; first < neurons.size(); first += run_rows) {
    Run run{.first = first};
    for (NeuronIndex neuron : neurons.subspan(first, run_rows))
      run.importance += importance[static_cast<size_t>(neuron)];
    runs.push_back(run);
  }
  // All runs have one length, so sums order them as means do. Stable: ties stay by group, then by rank in the group.
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.importance > b.importance; });
  return runs;
}

std::vector<NeuronIndex> HotOrder(std::span<const float> importance, int32_t ffn_rows, size_t run_rows,
                                  size_t group_rows) {
  std::vector<NeuronIndex> neurons = SourceOrder(ffn_rows);
  for (size_t group = 0; group < neurons.size(); group += group_rows) {
    SortByImportance(importance, std::span(neurons).subspan(group, group_rows));
  }
  std::vector<NeuronIndex> order;
  order.reserve(neurons.size());
  for (const Run& run : SortedRuns(importance, neurons, run_rows)) {
    order.insert(order.end(), neurons.begin() + run.first, neurons.begin() + run.first + run_rows);
  }
  return order;
}

absl::Status CheckPermutation(std::span<const NeuronIndex> row_order) {
  std::vector<bool> seen(row_order.size());
  for (size_t row = 0; row < row_order.size(); ++row) {
    const int32_t neuron = ToInt(row_order[row]);
    if (neuron < 0 || static_cast<size_t>(neuron) >= row_order.size()) {
      return absl::DataLossError(fmt::format("row order: row {} names neuron {} of {}", row, neuron, row_order.size()));
    }
    if (seen[static_cast<size_t>(neuron)]) {
      return absl::DataLossError(fmt::format("row order: neuron {} appears twice (row {})", neuron, row));
    }
    seen[static_cast<size_t>(neuron)] = true;
  }
  return absl::OkStatus();
}

}  // namespace

RowOrder MakeRowOrder(std::span<const float> importance, int32_t ffn_rows, int32_t run_rows, int32_t group_rows) {
  CHECK(importance.empty() || importance.size() == static_cast<size_t>(ffn_rows));
  CHECK(run_rows > 0);
  CHECK(group_rows == 0 || (group_rows % run_rows == 0 && ffn_rows % group_rows == 0));
  RowOrder order;
  if (importance.empty()) {
    order.row_order = SourceOrder(ffn_rows);
  } else if (group_rows > 0) {
    order.row_order = HotOrder(importance, ffn_rows, static_cast<size_t>(run_rows), static_cast<size_t>(group_rows));
  } else {
    order.row_order = SourceOrder(ffn_rows);
    SortByImportance(importance, order.row_order);
  }
  auto groups = RunGroupsOf(order.row_order, run_rows, group_rows);
  CHECK(groups.ok());
  order.run_groups = *std::move(groups);
  return order;
}

absl::StatusOr<std::vector<uint16_t>> RunGroupsOf(std::span<const NeuronIndex> row_order, int32_t run_rows,
                                                  int32_t group_rows) {
  RETURN_IF_ERROR(CheckPermutation(row_order));
  const auto run = static_cast<size_t>(run_rows);
  std::vector<uint16_t> groups((row_order.size() + run - 1) / run);
  if (group_rows == 0) return groups;
  for (size_t row = 0; row < row_order.size(); ++row) {
    const int32_t group = ToInt(row_order[row]) / group_rows;
    if (group > UINT16_MAX) {
      return absl::InvalidArgumentError(fmt::format("row order: group {} of row {} is above 65535", group, row));
    }
    if (row % run == 0) groups[row / run] = static_cast<uint16_t>(group);
    if (groups[row / run] != group) {
      return absl::DataLossError(fmt::format("row order: run {} mixes scale groups {} and {} (row {})", row / run,
                                             groups[row / run], group, row));
    }
  }
  return groups;
}

}  // namespace dogstar
