#include "runtime/corrector.h"

namespace dogstar {

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
    const bool stands = options.rule == AcceptRule::kStrict
                            ? draft == verdict.next
                            : Probability(scratch, draft, options.temperature) >= options.threshold;
    if (!stands) return verdict;
    ++verdict.accepted;
  }
}

}  // namespace dogstar
