// How good a model, or its sparse draft, predicts a given text.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "base/types.h"
#include "runtime/engine.h"
#include "runtime/generator.h"

namespace dogstar {

// Mean and spread of -log p over the tokens scored.
struct NllStats {
  int64_t count = 0;
  double sum = 0, sum_of_squares = 0;

  void Add(double nll);
  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
  double perplexity() const;
  // Standard error of the perplexity; 0 with fewer than two tokens.
  double perplexity_error() const;
};

// Perplexity as llama.cpp's program measures it, so that figures compare: the text is cut into chunks of `window`
// tokens (a rest is left out), the first token of each is replaced by BOS where the vocabulary wants one, and the
// tokens of the second half are scored, each with what stands before it in its chunk.
struct PerplexityOptions {
  int32_t window = 512;
  int32_t chunks = -1;  // at most; -1: all
};
// InvalidArgument when the text is shorter than two windows (llama.cpp asks for as much), or has fewer than one chunk.
// on_chunk: chunks done and in all, and the figures so far; false stops early.
using ChunkFn = std::function<bool(int32_t done, int32_t total, const NllStats& stats)>;
absl::StatusOr<NllStats> MeasurePerplexity(Engine* engine, std::span<const TokenId> tokens,
                                           const PerplexityOptions& options, const ChunkFn& on_chunk);

// Sparse model against the full one along a text (Generator::CompareDrafts).
struct Agreement {
  NllStats full, draft;        // of the text's own tokens
  int64_t same_choice = 0;     // positions where both put the same token first
  double divergence = 0;       // sum of KL(full || draft), nats
  int64_t shared_top_ten = 0;  // of 10 * positions

  int64_t positions() const { return full.count; }
  double agreement() const {
    return positions() > 0 ? static_cast<double>(same_choice) / static_cast<double>(positions()) : 0;
  }
  double mean_divergence() const { return positions() > 0 ? divergence / static_cast<double>(positions()) : 0; }
  double top_ten_overlap() const {
    return positions() > 0 ? static_cast<double>(shared_top_ten) / (10.0 * static_cast<double>(positions())) : 0;
  }
};
// REQUIRES: engine->can_draft(), 0 < prompt_tokens < tokens.size().
absl::StatusOr<Agreement> MeasureAgreement(Engine* engine, std::span<const TokenId> tokens, int32_t prompt_tokens,
                                           const CompareHooks& hooks = {});

// sum p log(p / q) of softmaxes, nats.
double KlDivergence(std::span<const float> p_logits, std::span<const float> q_logits);

}  // namespace dogstar
