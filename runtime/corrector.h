// Corrector: which drafted tokens stand. Pure functions of the full model's logits.
//
// A cycle: the root token (chosen by the full model, already emitted) and a tree of drafts; the full model's pass over
// all nodes gives logits[i], its opinion after node i. A draft is judged by the logits of its parent.
//   sirius: stands while softmax(logits / temperature)[draft] >= threshold (arXiv 2409.03856; lossy); of a tree's paths
//           that stand, the longest (of equally long ones the one that the draft found likelier);
//   strict: stands while it is the token that the full model itself chooses at that position.
// The token after the path that stands is the full model's own, by the logits of the path's last node: the correction
// of rejected drafts, or the bonus token. (The published tree takes it from the row of the rejected node.)
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "runtime/draft_tree.h"
#include "runtime/sampler.h"

namespace dogstar {

enum class AcceptRule { kStrict, kSirius };

struct CorrectorOptions {
  AcceptRule rule = AcceptRule::kStrict;
  float threshold = 0.1F;    // sirius
  float temperature = 0.6F;  // sirius
  // > 0: drafts stand, whatever they are, until a cycle has so many tokens, its root included. For timing models whose
  // text means nothing; a result of it is assumed, not measured.
  int32_t assumed_tokens = 0;
};

struct Verdict {
  std::vector<int32_t> path;  // nodes that stand, the root first
  TokenId next{};             // the full model's token after them
  // Drafts that stand.
  int32_t accepted() const { return static_cast<int32_t>(path.size()) - 1; }
};

// settled: the tokens up to the root, for penalties; the root is at root_position. logits(i, out) gives the full
// model's logits after node i.
// own(i, position) gives the full model's token after it where that needs no more than a few of them; empty: it needs
// all.
using LogitsFn = std::function<absl::Status(int32_t node, std::span<float> logits)>;
using OwnTokenFn = std::function<absl::StatusOr<TokenId>(int32_t node, TokenPos position)>;
absl::StatusOr<Verdict> Judge(const CorrectorOptions& options, Sampler* sampler, std::span<const TokenId> settled,
                              SequenceId sequence, TokenPos root_position, const DraftTree& tree,
                              const LogitsFn& logits, const OwnTokenFn& own, std::span<float> scratch);

}  // namespace dogstar
