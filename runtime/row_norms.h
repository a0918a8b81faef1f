// Norms of the resident FFN rows of a packed model, for predictors that weigh a row's gate by what the row may come to
// (predictors/token_choice.h).
//
//   gate, up   |row w|_2, the products with the weights w of the FFN's input norm
//   down       |d_j|_2, the row's part of the down matrix
//
// Of weights in a device's memory, pages are copied to the host, some at a time.
//
// Threads: those of `pool`. Costs one decoding of every resident row: a second for 100 million weights on two cores.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "memory/weights.h"
#include "predictors/predictor.h"

namespace dogstar {

struct RowNorms {
  std::vector<float> gate, up, down;  // [ffn_rows], RowIndex order; 0: not resident
};
// input_norm: [dim]; backend: whose memory the part is in.
absl::StatusOr<RowNorms> NormsOf(const FfnPart& part, std::span<const float> input_norm, Backend* backend,
                                 ThreadPool* pool);
absl::StatusOr<RowNorms> NormsOfLayer(const Weights& weights, LayerIndex layer, Backend* backend, ThreadPool* pool);

// Gives a predictor that needs them the norms of every layer.
absl::Status GiveRowNorms(const Weights& weights, int threads, Backend* backend, Predictor* predictor);
// Bytes that predictors keep of them.
uint64_t RowNormBytes(int32_t layers, int32_t ffn_rows);

}  // namespace dogstar
