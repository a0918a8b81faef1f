// LowRankMap: scores of a layer's FFN rows from the FFN's input, before any weight of the layer's FFN is read.
//
//   score_j = b_j + sum_k B_jk (A n)_k,   n: the FFN's input after its norm
//
// trained so that sigmoid(score_j) tells whether row j is among a token's most important ones (Deja Vu, Liu et al.
// 2023, has a predictor of this shape). Training: binary cross-entropy, each row weighed by how far it is from the
// border between important and not, mini-batch Adam (Kingma and Ba 2015).
//
// Threads: the caller's pool; results do not depend on how many.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace dogstar {

struct LowRankMap {
  int32_t rank = 0, dim = 0, rows = 0;
  std::vector<float> hidden;  // A, [rank, dim]
  std::vector<float> output;  // B, [rows, rank]
  std::vector<float> bias;    // b, [rows]
};

// Tokens of a text: what a layer's FFN saw, and which rows mattered most to each.
struct RankedTokens {
  int32_t tokens = 0, dim = 0, rows = 0;
  std::span<const float> inputs;  // [tokens, dim]
  std::span<const float> scores;  // [tokens, rows], >= 0: how much each row mattered
  std::span<const float> Input(int32_t token) const {
    return inputs.subspan(static_cast<size_t>(token) * static_cast<size_t>(dim), static_cast<size_t>(dim));
  }
  std::span<const float> Scores(int32_t token) const {
    return scores.subspan(static_cast<size_t>(token) * static_cast<size_t>(rows), static_cast<size_t>(rows));
  }
};

struct LowRankTraining {
  int32_t rank = 32;
  double density = 0.5;  // share of rows that count as a token's important ones
  int32_t epochs = 12;
  int32_t batch = 64;  // tokens
  float rate = 4e-3F;  // of the first step; falls to a tenth, geometrically
  uint64_t seed = 1;
};

// REQUIRES: train.tokens > 0, training.rank > 0.
LowRankMap TrainLowRank(const RankedTokens& train, const LowRankTraining& training, ThreadPool* pool);

// [rows], of one token.
void ScoreRows(const LowRankMap& map, std::span<const float> input, std::span<float> scores);

// How well rows are found, over tokens that were not trained on.
struct RowRecall {
  double recall = 0;            // of the important rows, as many chosen by score: also the precision
  double likely_recall = 0;     // rows whose probability is above one half: share of the important ones among them,
  double likely_precision = 0;  // and the other way round
  double static_recall = 0;     // as many rows, the same for every token: those most often important in training
};
// bias of `map` must be of training (its order is that of frequencies).
RowRecall MeasureRecall(const LowRankMap& map, std::span<const float> frequency, const RankedTokens& held_out,
                        double density);

// frequency[j]: share of tokens whose `density` * rows most important rows have row j.
std::vector<float> TopFrequencies(const RankedTokens& tokens, double density);

}  // namespace dogstar
