// HeadChoice: which query heads a draft computes ("Achieving Sparse Activation in Small Language Models": a head that
// is left out adds nothing to the output projection; keys and values of every position are computed all the same,
// because later tokens read them).
//
// One set a layer for a whole text: the heads with the largest sum of |o_h| over the prompt's tokens (o_h: the head's
// context, "magnitude"), or the largest of scores given once (calibrated attribution). Equal scores: the lower head.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace dogstar {

class HeadChoice {
 public:
  // density: share of heads to keep; at least one is kept.
  HeadChoice(int32_t layers, int32_t heads, int32_t head_dim, double density);

  // Scores of every layer's heads, [layers][heads], instead of the prompts' own.
  void SetScores(std::vector<std::vector<float>> scores);
  bool observes_prompt() const { return !given_; }

  void BeginPrompt();
  // Contexts of prompt tokens: [rows, stride], head after head.
  void Observe(LayerIndex layer, std::span<const float> context, int32_t rows, int32_t stride);
  // Bit h of word h / 64: head h is computed.
  std::vector<uint64_t> Choose(LayerIndex layer) const;

  int32_t kept() const { return kept_; }

 private:
  int32_t heads_, head_dim_, kept_;
  bool given_ = false;
  std::vector<std::vector<float>> scores_;
};

}  // namespace dogstar
