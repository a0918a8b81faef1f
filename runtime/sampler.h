// Sampler: logits -> token, as a function of the options, the sequence and the position only. The same position gets
// the same random number in every mode, which is what keeps sampled text identical however it was drafted.
//
//   temperature 0: the largest logit (ties: the lowest token id).
//   else: probabilities softmax(logits / temperature) over the top_k likeliest tokens (0: all), then over the
//   smallest set of likeliest tokens whose sum reaches top_p; the token at which the running sum, likeliest first
//   (ties: lowest id), passes u = KeyedUniform(seed, sequence, position).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace dogstar {

struct SamplingOptions {
  double temperature = 0;
  int32_t top_k = 0;
  double top_p = 1;
  uint64_t seed = 1;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) {}

  const SamplingOptions& options() const { return options_; }
  TokenId Choose(std::span<const float> logits, SequenceId sequence, TokenPos position) const;

 private:
  SamplingOptions options_;
};

TokenId ArgMax(std::span<const float> logits);
// softmax(logits / temperature)[token], in f32 on raw logits. temperature > 0.
float Probability(std::span<const float> logits, TokenId token, float temperature);

struct TokenLogprob {
  TokenId token{};
  float logprob = 0;
};
// The k likeliest tokens with log-softmax values, likeliest first (ties: lowest id).
std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, int32_t k);
// -log softmax(logits)[token]
double NegativeLogLikelihood(std::span<const float> logits, TokenId token);

}  // namespace dogstar
