#include "predictors/selection.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace dogstar {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"topk", "topk_sample", "sample", "random", "magnitude"};

// Drawing without replacement by weight is taking the k largest of log(u) / weight, u uniform in (0, 1)
// (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
void DrawKeys(std::span<const float> weights, const SelectionKey& key, std::vector<float>* keys) {
  keys->resize(weights.size());
  for (size_t row = 0; row < weights.size(); ++row) {
    const double u = 1 - KeyedUniform(key.seed, key.stream, row);  // (0, 1]
    (*keys)[row] =
        weights[row] > 0 ? static_cast<float>(std::log(u) / weights[row]) : -std::numeric_limits<float>::infinity();
  }
}

void Draw(std::span<const float> weights, const RowSet& available, int32_t k, const SelectionKey& key,
          SelectionScratch* scratch, RowSet* chosen) {
  DrawKeys(weights, key, &scratch->keys);
  TopRows(scratch->keys, available, k, &scratch->order, chosen);
}

void TopAndDraw(std::span<const float> scores, const RowSet& available, int32_t k, const SelectionKey& key,
                SelectionScratch* scratch, RowSet* chosen) {
  RowSet top;
  TopRows(scores, available, k / 2, &scratch->order, &top);
  scratch->rest.Reset(available.rows());
  for (int32_t row = 0; row < available.rows(); ++row) {
    if (available.Contains(RowIndex{row}) && !top.Contains(RowIndex{row})) scratch->rest.Insert(RowIndex{row});
  }
  Draw(scores, scratch->rest, k - k / 2, key, scratch, chosen);
  for (int32_t row = 0; row < available.rows(); ++row) {
    if (top.Contains(RowIndex{row})) chosen->Insert(RowIndex{row});
  }
}

}  // namespace

std::span<const std::string_view> SelectionNames() { return kNames; }

absl::StatusOr<Selection> ParseSelection(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Selection>(i);
  }
  return absl::InvalidArgumentError(
      fmt::format("draft.selection \"{}\" is not known; allowed are {}", name, fmt::join(kNames, ", ")));
}

void SelectRows(Selection selection, std::span<const float> scores, const RowSet& available, int32_t k,
                const SelectionKey& key, SelectionScratch* scratch, RowSet* chosen) {
  switch (selection) {
    case Selection::kTopK:
    case Selection::kMagnitude:
      return TopRows(scores, available, k, &scratch->order, chosen);
    case Selection::kTopKSample:
      return TopAndDraw(scores, available, k, key, scratch, chosen);
    case Selection::kSample:
      return Draw(scores, available, k, key, scratch, chosen);
    case Selection::kRandom:
      return Draw(std::vector<float>(scores.size(), 1.0F), available, k, key, scratch, chosen);
  }
}

void MoveTopRowsFirst(std::span<const float> scores, size_t k, std::span<int32_t> order) {
  const auto better = [&](int32_t a, int32_t b) {
    const float sa = scores[static_cast<size_t>(a)], sb = scores[static_cast<size_t>(b)];
    return sa != sb ? sa > sb : a < b;
  };
  std::nth_element(order.begin(), order.begin() + static_cast<ptrdiff_t>(k), order.end(), better);
}

void FindTopRows(std::span<const float> scores, size_t k, std::vector<int32_t>* order) {
  order->resize(scores.size());
  std::iota(order->begin(), order->end(), 0);
  MoveTopRowsFirst(scores, k, *order);
}

void TopRows(std::span<const float> scores, const RowSet& available, int32_t k, std::vector<int32_t>* scratch,
             RowSet* chosen) {
  std::vector<int32_t>& order = *scratch;
  order.clear();
  for (int32_t row = 0; row < available.rows(); ++row) {
    if (available.Contains(RowIndex{row})) order.push_back(row);
  }
  k = std::clamp(k, 0, static_cast<int32_t>(order.size()));
  MoveTopRowsFirst(scores, static_cast<size_t>(k), order);
  chosen->Reset(available.rows());
  for (int32_t i = 0; i < k; ++i) chosen->Insert(RowIndex{order[static_cast<size_t>(i)]});
}

}  // namespace dogstar
