#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"

namespace dogstar {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// Token ids by falling logit, as far as they are asked for: most draws end within the first few.
class LikeliestFirst {
 public:
  LikeliestFirst(std::span<const float> logits, std::vector<int32_t>* order) : logits_(logits), order_(*order) {
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), 0);
  }
  int32_t operator[](size_t rank) {
    while (rank >= sorted_) Grow();
    return order_[rank];
  }
  double logit(size_t rank) {
    const float logit = logits_[static_cast<size_t>((*this)[rank])];
    return std::isnan(logit) ? kImpossible : logit;
  }

 private:
  void Grow() {
    const size_t end = std::min(order_.size(), sorted_ == 0 ? size_t{64} : sorted_ * 8);
    const auto before = [&](int32_t a, int32_t b) {
      const float la = Comparable(a), lb = Comparable(b);
      return la != lb ? la > lb : a < b;
    };
    const auto first = order_.begin() + static_cast<ptrdiff_t>(sorted_);
    const auto last = order_.begin() + static_cast<ptrdiff_t>(end);
    if (last != order_.end()) std::nth_element(first, last, order_.end(), before);
    std::sort(first, last, before);
    sorted_ = end;
  }
  float Comparable(int32_t token) const {
    const float logit = logits_[static_cast<size_t>(token)];
    return std::isnan(logit) ? kImpossible : logit;
  }

  std::span<const float> logits_;
  std::vector<int32_t>& order_;
  size_t sorted_ = 0;
};

// A few tokens, the likeliest first.
class FewTokens {
 public:
  explicit FewTokens(std::span<const TokenLogit> tokens) : tokens_(tokens) {}
  int32_t operator[](size_t rank) const { return ToInt(tokens_[rank].token); }
  double logit(size_t rank) const { return tokens_[rank].logit; }

 private:
  std::span<const TokenLogit> tokens_;
};

// Sum of the weights of all tokens over that of the likeliest, where the logits of all are known.
double WeightOfAll(std::span<const float> logits, double largest, double scale) {
  return std::exp(LogSumExp(logits, scale) - largest * scale);
}

// Ranks [0, count) that top_k, top_p and min_p leave; count: those that top_k leaves. all: every logit where it leaves
// all, else empty.
template <typename Order>
size_t CountCandidates(const SamplingOptions& options, size_t count, std::span<const float> all, Order* order) {
  const double largest = order->logit(0);
  if (options.top_p < 1) {
    double total = all.empty() ? 0 : WeightOfAll(all, largest, 1);
    if (all.empty()) {
      for (size_t rank = 0; rank < count; ++rank) total += std::exp(order->logit(rank) - largest);
    }
    double sum = 0;
    size_t nucleus = 0;
    while (nucleus < count && (nucleus == 0 || sum < options.top_p * total)) {
      sum += std::exp(order->logit(nucleus++) - largest);
    }
    count = nucleus;
  }
  if (options.min_p > 0) {
    const double least = largest + std::log(std::min(options.min_p, 1.0));
    size_t kept = 1;
    while (kept < count && order->logit(kept) >= least) ++kept;
    count = kept;
  }
  return count;
}

// The token that the position's number draws.
template <typename Order>
TokenId Draw(const SamplingOptions& options, size_t count, std::span<const float> all, Order* order,
             SequenceId sequence, TokenPos position) {
  const size_t candidates = CountCandidates(options, count, all, order);
  const double scale = 1.0 / options.temperature;
  const double largest = order->logit(0);
  if (!std::isfinite(largest)) return TokenId{(*order)[0]};  // nothing to weigh: all but one, or all, are impossible
  const auto weight = [&](size_t rank) { return std::exp((order->logit(rank) - largest) * scale); };
  double total = 0;
  if (candidates == all.size()) {
    total = WeightOfAll(all, largest, scale);
  } else {
    for (size_t rank = 0; rank < candidates; ++rank) total += weight(rank);
  }
  const double target = total * KeyedUniform(options.seed, static_cast<uint64_t>(ToInt(sequence)),
                                             static_cast<uint64_t>(ToInt(position)));
  double sum = 0;
  for (size_t rank = 0; rank < candidates; ++rank) {
    sum += weight(rank);
    if (sum > target) return TokenId{(*order)[rank]};
  }
  return TokenId{(*order)[candidates - 1]};  // rounding left the sum just below the target
}

// Sum of exp((logit - largest) * scale), without the terms that cannot change three digits: it is asked for every
// draft.
float SumOfWeights(std::span<const float> logits, float largest, float scale) {
  constexpr float kNegligible = 14;  // e^-14 * 49152 tokens = 4%, at the very most
  float sum = 0;
  for (float logit : logits) {
    const float distance = (largest - logit) * scale;
    if (distance < kNegligible) sum += std::exp(-distance);
  }
  return sum;
}

// Adds the `count` likeliest tokens (ties: the lowest id) but the one that is there already.
void AddLikeliest(std::span<const float> logits, int32_t count, std::vector<TokenProbability>* tokens) {
  const TokenId chosen = tokens->front().token;
  const auto logit_of = [&](const TokenProbability& entry) { return logits[static_cast<size_t>(ToInt(entry.token))]; };
  const size_t most = static_cast<size_t>(count) + 1;
  for (size_t i = 0; i < logits.size() && count > 0; ++i) {
    const TokenId token{static_cast<int32_t>(i)};
    const bool beaten = tokens->size() == most && !(logits[i] > logit_of(tokens->back()));
    if (beaten || token == chosen || !(logits[i] > kImpossible)) continue;
    if (tokens->size() == most) tokens->pop_back();
    const auto place = std::find_if(tokens->begin() + 1, tokens->end(),
                                    [&](const TokenProbability& entry) { return logits[i] > logit_of(entry); });
    tokens->insert(place, {token, 0});
  }
}

}  // namespace

// Terms below e^-40 of the largest cannot change a double's first fifteen digits, whatever the vocabulary.
double LogSumExp(std::span<const float> logits, double scale) {
  constexpr double kNegligible = 40;
  const double largest = logits[static_cast<size_t>(ToInt(ArgMax(logits)))];
  double sum = 0;
  for (float logit : logits) {
    const double distance = (logit - largest) * scale;
    if (distance > -kNegligible) sum += std::exp(distance);
  }
  return largest * scale + std::log(sum);
}

TokenId ArgMax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
  }
  return TokenId{static_cast<int32_t>(best)};
}

void Sampler::Penalize(const TokenHistory& history) {
  const size_t window =
      options_.penalty_window < 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(options_.penalty_window);
  const size_t drafted = std::min(window, history.drafted.size());
  const size_t settled = std::min(window - drafted, history.settled.size());
  recent_.assign(history.settled.end() - static_cast<ptrdiff_t>(settled), history.settled.end());
  recent_.insert(recent_.end(), history.drafted.end() - static_cast<ptrdiff_t>(drafted), history.drafted.end());
  std::sort(recent_.begin(), recent_.end());
  for (size_t first = 0; first < recent_.size();) {
    size_t end = first;
    while (end < recent_.size() && recent_[end] == recent_[first]) ++end;
    float& logit = adjusted_[static_cast<size_t>(ToInt(recent_[first]))];
    const auto repeat = static_cast<float>(options_.repeat_penalty);
    logit = logit > 0 ? logit / repeat : logit * repeat;
    logit -=
        static_cast<float>(static_cast<double>(end - first) * options_.frequency_penalty + options_.presence_penalty);
    first = end;
  }
}

std::span<const float> Sampler::Adjusted(std::span<const float> logits, const TokenHistory& history) {
  if (!options_.changes_logits()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const LogitBias& bias : options_.bias) {
    const auto token = static_cast<size_t>(ToInt(bias.token));
    if (token < adjusted_.size()) adjusted_[token] += bias.bias;
  }
  if (options_.penalizes()) Penalize(history);
  return adjusted_;
}

TokenId Sampler::Choose(std::span<const float> logits, const TokenHistory& history, SequenceId sequence,
                        TokenPos position) {
  return ChooseAdjusted(Adjusted(logits, history), sequence, position);
}

std::vector<TokenProbability> Sampler::Propose(std::span<const float> raw_logits, const TokenHistory& history,
                                               SequenceId sequence, TokenPos position, int32_t count,
                                               float temperature) {
  const std::span<const float> logits = Adjusted(raw_logits, history);
  std::vector<TokenProbability> proposed = {{ChooseAdjusted(logits, sequence, position), 0}};
  AddLikeliest(logits, count - 1, &proposed);
  const float largest = logits[static_cast<size_t>(ToInt(ArgMax(logits)))];
  const float total = SumOfWeights(logits, largest, 1 / temperature);
  for (TokenProbability& entry : proposed) {
    const float logit = logits[static_cast<size_t>(ToInt(entry.token))];
    entry.probability = std::exp((logit - largest) / temperature) / total;
  }
  return proposed;
}

TokenId Sampler::ChooseAdjusted(std::span<const float> logits, SequenceId sequence, TokenPos position) {
  if (options_.temperature <= 0) return ArgMax(logits);
  LikeliestFirst order(logits, &order_);
  const bool cuts = options_.top_k > 0 && static_cast<size_t>(options_.top_k) < logits.size();
  const size_t count = cuts ? static_cast<size_t>(options_.top_k) : logits.size();
  return Draw(options_, count, cuts ? std::span<const float>() : logits, &order, sequence, position);
}

TokenId Sampler::ChooseAmong(std::span<const TokenLogit> largest, SequenceId sequence, TokenPos position) const {
  if (options_.temperature <= 0) return largest[0].token;
  FewTokens order(largest);
  return Draw(options_, largest.size(), {}, &order, sequence, position);
}

float Probability(std::span<const float> logits, TokenId token, float temperature) {
  const double scale = 1.0 / temperature;
  return static_cast<float>(std::exp(logits[static_cast<size_t>(ToInt(token))] * scale - LogSumExp(logits, scale)));
}

std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, int32_t k) {
  const double log_total = LogSumExp(logits, 1);
  std::vector<int32_t> ids;
  LikeliestFirst order(logits, &ids);
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
