// Selection: from scores of rows to a set of so many, the ways of the Sirius release (arXiv 2409.03856).
//
//   topk         the k largest
//   topk_sample  the floor(k / 2) largest, the others drawn from the rest
//   sample       k drawn without replacement, each next one with probability score / sum of the scores left
//   random       k drawn alike
//   magnitude    the k largest of |gate row| |up row|, whatever the prompt (the caller's scores are those)
//
// Draws are keyed by seed, stream and row (base/random.h): the same for the same key whatever was drawn before.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/row_set.h"
#include "base/status.h"

namespace dogstar {

enum class Selection { kTopK, kTopKSample, kSample, kRandom, kMagnitude };
std::span<const std::string_view> SelectionNames();
// InvalidArgument lists the names.
absl::StatusOr<Selection> ParseSelection(std::string_view name);

struct SelectionKey {
  uint64_t seed = 0;
  uint64_t stream = 0;  // what is drawn for: a layer
};

// Scratch of a selection, so that choosing again allocates nothing.
struct SelectionScratch {
  std::vector<int32_t> order;
  std::vector<float> keys;
  RowSet rest;
};

// k rows of `available`; all of it where k is larger. scores: [available.rows()], not negative; equal ones: the lower
// row.
void SelectRows(Selection selection, std::span<const float> scores, const RowSet& available, int32_t k,
                const SelectionKey& key, SelectionScratch* scratch, RowSet* chosen);

// Moves the k rows of `order` with the largest scores to its front, in any order; equal scores: the lower row. k <=
// order.size().
void MoveTopRowsFirst(std::span<const float> scores, size_t k, std::span<int32_t> order);
// The same of all rows: order becomes 0 .. scores.size() - 1, rearranged.
void FindTopRows(std::span<const float> scores, size_t k, std::vector<int32_t>* order);

// The k rows of `available` with the largest scores; equal scores: the lower row. k larger than the set: all of it.
void TopRows(std::span<const float> scores, const RowSet& available, int32_t k, std::vector<int32_t>* scratch,
             RowSet* chosen);

}  // namespace dogstar
