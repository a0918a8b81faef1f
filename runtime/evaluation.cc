#include "runtime/evaluation.h"

#include <algorithm>
#include <cmath>

#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr int32_t kTop = 10;

int64_t SharedTop(std::span<const float> a, std::span<const float> b) {
  const std::vector<TokenLogprob> top_a = TopLogprobs(a, kTop), top_b = TopLogprobs(b, kTop);
  return std::count_if(top_a.begin(), top_a.end(), [&](const TokenLogprob& entry) {
    return std::any_of(top_b.begin(), top_b.end(),
                       [&](const TokenLogprob& other) { return other.token == entry.token; });
  });
}

}  // namespace

void NllStats::Add(double nll) {
  ++count;
  sum += nll;
  sum_of_squares += nll * nll;
}

double NllStats::perplexity() const { return std::exp(mean()); }

double NllStats::perplexity_error() const {
  if (count < 2) return 0;
  const double variance = sum_of_squares / static_cast<double>(count) - mean() * mean();
  return variance > 0 ? std::sqrt(variance / static_cast<double>(count - 1)) * perplexity() : 0;
}

absl::StatusOr<NllStats> MeasurePerplexity(Engine* engine, std::span<const TokenId> tokens,
                                           const PerplexityOptions& options, const ChunkFn& on_chunk) {
  const auto window = static_cast<size_t>(options.window);
  if (options.window < 4 || tokens.size() < 2 * window) {
    return absl::InvalidArgumentError(
        fmt::format("the text has {} tokens; windows of {} need at least {} (choose a smaller -c of at least 4)",
                    tokens.size(), options.window, 2 * std::max(options.window, 4)));
  }
  int32_t chunks = static_cast<int32_t>(tokens.size() / window);
  if (options.chunks >= 0) chunks = std::min(chunks, options.chunks);
  const Tokenizer& tokenizer = engine->model().tokenizer();
  Generator generator(engine);
  NllStats stats;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    const auto part = tokens.subspan(static_cast<size_t>(chunk) * window, window);
    std::vector<TokenId> text(part.begin(), part.end());
    if (tokenizer.adds_bos()) text.front() = *tokenizer.bos();
    ASSIGN_OR_RETURN(const std::vector<double> nll, generator.Score(text, options.window / 2));
    for (const double value : nll) stats.Add(value);
    if (on_chunk && !on_chunk(chunk + 1, chunks, stats)) break;
  }
  return stats;
}

double KlDivergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double p_total = LogSumExp(p_logits, 1), q_total = LogSumExp(q_logits, 1);
  double sum = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = p_logits[i] - p_total;
    if (log_p > -40) sum += std::exp(log_p) * (log_p - (q_logits[i] - q_total));
  }
  return std::max(sum, 0.0);
}

absl::StatusOr<Agreement> MeasureAgreement(Engine* engine, std::span<const TokenId> tokens, int32_t prompt_tokens,
                                           const CompareHooks& hooks) {
  Agreement result;
  const auto compare = [&](TokenId next, std::span<const float> full, std::span<const float> draft) {
    result.full.Add(NegativeLogLikelihood(full, next));
    result.draft.Add(NegativeLogLikelihood(draft, next));
    result.same_choice += ArgMax(full) == ArgMax(draft);
    result.divergence += KlDivergence(full, draft);
    result.shared_top_ten += SharedTop(full, draft);
  };
  RETURN_IF_ERROR(Generator(engine).CompareDrafts(tokens, prompt_tokens, compare, hooks));
  return result;
}

}  // namespace dogstar
