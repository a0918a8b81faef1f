// Sampler: logits -> token, as a function of the options, the tokens before, the sequence and the position only. The
// same position gets the same random number in every mode, which is what keeps sampled text identical however it was
// drafted.
//
// The chain, in llama.cpp's order:
//   bias        logit += bias of its token
//   penalties   for tokens that stand c > 0 times among the last `penalty_window` tokens: logit / repeat where it is
//               positive, logit * repeat where it is not; then logit -= c * frequency + presence
//   top_k       the k likeliest tokens (0: all; ties: the lowest id)
//   top_p       the smallest set of likeliest tokens whose softmax over those left reaches p
//   min_p       tokens at least min_p times as likely as the likeliest
//   temperature the token at which the running sum of softmax(logits / temperature), likeliest first, passes
//               u = KeyedUniform(seed, sequence, position)
// Temperature 0: the largest logit after bias and penalties (ties: the lowest token id).
// Logits that are not numbers count as impossible.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace dogstar {

struct LogitBias {
  TokenId token{};
  float bias = 0;  // -infinity: never
};

struct SamplingOptions {
  double temperature = 0;
  int32_t top_k = 0;
  double top_p = 1;
  uint64_t seed = 1;
  double min_p = 0;
  int32_t penalty_window = 64;  // tokens, the prompt's included; -1: all
  double repeat_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<LogitBias> bias;

  // The token is the one of the largest logit.
  bool greedy() const { return temperature <= 0 && !changes_logits(); }
  // So many of the largest logits are all that a choice needs; 0: it needs all of them.
  int32_t few() const { return greedy() ? 1 : temperature > 0 && !changes_logits() ? top_k : 0; }
  bool changes_logits() const { return !bias.empty() || penalizes(); }
  bool penalizes() const {
    return penalty_window != 0 && (repeat_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0);
  }
};

// The tokens before the one to choose: those that stand, then those drafted after them.
struct TokenHistory {
  std::span<const TokenId> settled;
  std::span<const TokenId> drafted;
};

struct TokenLogit {
  TokenId token{};
  float logit = 0;
};

struct TokenProbability {
  TokenId token{};
  float probability = 0;
};

// Threads: one; its functions use scratch memory of its own.
class Sampler {
 public:
  explicit Sampler(SamplingOptions options) : options_(std::move(options)) {}

  const SamplingOptions& options() const { return options_; }
  TokenId Choose(std::span<const float> logits, const TokenHistory& history, SequenceId sequence, TokenPos position);
  // The same of options().few() logits, the largest first. REQUIRES: there are more tokens than these.
  TokenId ChooseAmong(std::span<const TokenLogit> largest, SequenceId sequence, TokenPos position) const;
  // What a draft may try: the token that Choose gives, then the count - 1 likeliest others after bias and penalties,
  // with softmax(logits / temperature) to three digits. Impossible tokens are left out. REQUIRES: count >= 1.
  std::vector<TokenProbability> Propose(std::span<const float> logits, const TokenHistory& history, SequenceId sequence,
                                        TokenPos position, int32_t count, float temperature);

 private:
  TokenId ChooseAdjusted(std::span<const float> logits, SequenceId sequence, TokenPos position);
  std::span<const float> Adjusted(std::span<const float> logits, const TokenHistory& history);
  void Penalize(const TokenHistory& history);

  SamplingOptions options_;
  std::vector<float> adjusted_;
  std::vector<TokenId> recent_;
  std::vector<int32_t> order_;
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
// log of the sum of exp(logit * scale)
double LogSumExp(std::span<const float> logits, double scale);

}  // namespace dogstar
