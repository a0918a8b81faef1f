#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"

namespace dogstar {
namespace {

double LogSumExp(std::span<const float> logits, double scale) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp((logit - largest) * scale);
  return largest * scale + std::log(sum);
}

// Token ids by falling logit, as far as they are asked for: most draws end within the first few.
class LikeliestFirst {
 public:
  explicit LikeliestFirst(std::span<const float> logits) : logits_(logits), order_(logits.size()) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  int32_t operator[](size_t rank) {
    while (rank >= sorted_) Grow();
    return order_[rank];
  }

 private:
  void Grow() {
    const size_t end = std::min(order_.size(), sorted_ == 0 ? size_t{64} : sorted_ * 8);
    std::partial_sort(order_.begin() + static_cast<ptrdiff_t>(sorted_), order_.begin() + static_cast<ptrdiff_t>(end),
                      order_.end(), [&](int32_t a, int32_t b) {
                        const float la = logits_[static_cast<size_t>(a)], lb = logits_[static_cast<size_t>(b)];
                        return la != lb ? la > lb : a < b;
                      });
    sorted_ = end;
  }

  std::span<const float> logits_;
  std::vector<int32_t> order_;
  size_t sorted_ = 0;
};

}  // namespace

TokenId ArgMax(std::span<const float> logits) {
  return TokenId{static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
}

TokenId Sampler::Choose(std::span<const float> logits, SequenceId sequence, TokenPos position) const {
  if (options_.temperature <= 0) return ArgMax(logits);
  const double scale = 1.0 / options_.temperature;
  LikeliestFirst order(logits);
  const size_t candidates =
      options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), logits.size()) : logits.size();
  double log_total = LogSumExp(logits, scale);
  if (candidates < logits.size()) {
    std::vector<float> kept;
    for (size_t rank = 0; rank < candidates; ++rank) kept.push_back(logits[static_cast<size_t>(order[rank])]);
    log_total = LogSumExp(kept, scale);
  }
  const auto probability = [&](size_t rank) {
    return std::exp(logits[static_cast<size_t>(order[rank])] * scale - log_total);
  };
  double mass = 1;
  size_t nucleus = candidates;
  if (options_.top_p < 1) {
    mass = 0;
    for (nucleus = 0; nucleus < candidates && mass < options_.top_p; ++nucleus) mass += probability(nucleus);
    nucleus = std::max<size_t>(nucleus, 1);
    if (mass <= 0) mass = probability(0);
  }
  const double target = mass * KeyedUniform(options_.seed, static_cast<uint64_t>(ToInt(sequence)),
                                            static_cast<uint64_t>(ToInt(position)));
  double sum = 0;
  for (size_t rank = 0; rank < nucleus; ++rank) {
    sum += probability(rank);
    if (sum > target) return TokenId{order[rank]};
  }
  return TokenId{order[nucleus - 1]};  // rounding left the sum just below the target
}

float Probability(std::span<const float> logits, TokenId token, float temperature) {
  const double scale = 1.0 / temperature;
  return static_cast<float>(std::exp(logits[static_cast<size_t>(ToInt(token))] * scale - LogSumExp(logits, scale)));
}

std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, int32_t k) {
  const double log_total = LogSumExp(logits, 1);
  LikeliestFirst order(logits);
  std::vector<TokenLogprob> top;
  for (size_t rank = 0; rank < std::min(static_cast<size_t>(k), logits.size()); ++rank) {
    top.push_back({TokenId{order[rank]}, static_cast<float>(logits[static_cast<size_t>(order[rank])] - log_total)});
  }
  return top;
}

double NegativeLogLikelihood(std::span<const float> logits, TokenId token) {
  return LogSumExp(logits, 1) - logits[static_cast<size_t>(ToInt(token))];
}

}  // namespace dogstar
