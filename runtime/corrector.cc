#include "runtime/corrector.h"

#include <algorithm>

namespace dogstar {
namespace {

// One cycle that is judged.
class Judgement {
 public:
  Judgement(const CorrectorOptions& options, Sampler* sampler, std::span<const TokenId> settled, SequenceId sequence,
            TokenPos root_position, const DraftTree& tree, const LogitsFn& logits, const OwnTokenFn& own,
            std::span<float> scratch)
      : options_(options),
        sampler_(sampler),
        settled_(settled),
        sequence_(sequence),
        root_position_(root_position),
        tree_(tree),
        logits_(logits),
        own_(own),
        scratch_(scratch) {}

  // From the root down, along the full model's own tokens; or along the likeliest drafts as far as was assumed.
  absl::StatusOr<Verdict> Follow() {
    int32_t at = 0;
    for (int32_t length = 1;; ++length) {
      ASSIGN_OR_RETURN(const TokenId own, ChooseAfter(at));
      const bool assumed = options_.assumed_tokens > 0;
      int32_t child = assumed ? tree_.LikeliestChild(at) : tree_.FindChild(at, own);
      if (assumed && length >= options_.assumed_tokens) child = -1;
      if (child < 0) return Verdict{tree_.PathTo(at), own};
      at = child;
    }
  }

  // All paths whose drafts the full model finds likely enough; the longest of them.
  absl::StatusOr<Verdict> TakeLongest() {
    std::vector<bool> stands(tree_.nodes().size());
    stands[0] = true;
    int32_t best = 0;
    for (int32_t parent = 0; parent < tree_.size(); ++parent) {
      const std::vector<int32_t> children = tree_.ChildrenOf(parent);
      if (!stands[static_cast<size_t>(parent)] || children.empty()) continue;
      RETURN_IF_ERROR(logits_(parent, scratch_));
      for (int32_t child : children) {
        if (Probability(scratch_, tree_.node(child).token, options_.temperature) < options_.threshold) continue;
        stands[static_cast<size_t>(child)] = true;
        if (Better(child, best)) best = child;
      }
    }
    ASSIGN_OR_RETURN(const TokenId own, ChooseAfter(best));
    return Verdict{tree_.PathTo(best), own};
  }

 private:
  bool Better(int32_t a, int32_t b) const {
    const DraftNode &one = tree_.node(a), &other = tree_.node(b);
    return one.depth != other.depth ? one.depth > other.depth : one.probability > other.probability;
  }

  // The full model's token after a node: it stands at the position that follows the node's.
  absl::StatusOr<TokenId> ChooseAfter(int32_t index) {
    const TokenPos position{ToInt(root_position_) + tree_.node(index).depth + 1};
    if (own_) return own_(index, position);
    RETURN_IF_ERROR(logits_(index, scratch_));
    return sampler_->Choose(scratch_, {settled_, tree_.TokensTo(index)}, sequence_, position);
  }

  const CorrectorOptions& options_;
  Sampler* sampler_;
  std::span<const TokenId> settled_;
  SequenceId sequence_;
  TokenPos root_position_;
  const DraftTree& tree_;
  const LogitsFn& logits_;
  const OwnTokenFn& own_;
  std::span<float> scratch_;
};

}  // namespace

absl::StatusOr<Verdict> Judge(const CorrectorOptions& options, Sampler* sampler, std::span<const TokenId> settled,
                              SequenceId sequence, TokenPos root_position, const DraftTree& tree,
                              const LogitsFn& logits, const OwnTokenFn& own, std::span<float> scratch) {
  Judgement judgement(options, sampler, settled, sequence, root_position, tree, logits, own, scratch);
  const bool by_threshold = options.rule == AcceptRule::kSirius && options.assumed_tokens <= 0;
  return by_threshold ? judgement.TakeLongest() : judgement.Follow();
}

}  // namespace dogstar
