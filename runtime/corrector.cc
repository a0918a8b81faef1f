#include "runtime/corrector.h"

namespace dogstar {

namespace {

// Of the draft that row `row` judges, where the full model itself chooses `own`.
bool Stands(const CorrectorOptions& options, int32_t row, TokenId draft, TokenId own, std::span<const float> logits) {
  if (options.assumed_tokens > 0) return row + 1 < options.assumed_tokens;
  if (options.rule == AcceptRule::kStrict) return draft == own;
  return Probability(logits, draft, options.temperature) >= options.threshold;
}

}  // namespace

absl::StatusOr<Verdict> Judge(const CorrectorOptions& options, Sampler* sampler, std::span<const TokenId> settled,
                              SequenceId sequence, TokenPos root_position, std::span<const TokenId> chain,
                              const LogitsFn& logits, std::span<float> scratch) {
  Verdict verdict;
  for (size_t row = 0;; ++row) {
    RETURN_IF_ERROR(logits(static_cast<int32_t>(row), scratch));
    // The token after row `row` stands at the position that follows it.
    const TokenPos position{ToInt(root_position) + static_cast<int32_t>(row) + 1};
    verdict.next = sampler->Choose(scratch, {settled, chain.subspan(1, row)}, sequence, position);
    if (row + 1 == chain.size()) return verdict;
    const TokenId draft = chain[row + 1];
    if (!Stands(options, static_cast<int32_t>(row), draft, verdict.next, scratch)) return verdict;
    ++verdict.accepted;
  }
}

}  // namespace dogstar
