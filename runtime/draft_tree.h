// DraftTree: the drafts of one cycle: a root that stands, and tokens that may follow it, each after its parent. A chain
// is a tree of one path.
//
//   chain   each pass drafts the likeliest token after the last one
//   beam    each pass looks beyond `width` tokens; of all that may follow them the `width` likeliest paths live on
//           (arXiv 2409.03856: the sum of log-probabilities decides; a token whose likeliest follower has more than
//           0.95 proposes no other)
//   best    each pass looks beyond the `width` likeliest paths that none has looked beyond yet, however long they are
//           (best first; after EAGLE-2, arXiv 2406.16858, whose trees grow by level)
//
// A node's probability is that of its path: the product of what its tokens' confidences are worth. So a node is never
// likelier than its parent, and the likeliest nodes of a tree are a tree.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace dogstar {

enum class TreeShape { kChain, kBeam, kBest };

struct TreeOptions {
  TreeShape shape = TreeShape::kChain;
  int32_t depth = 15;  // drafts of a path, at most
  int32_t width = 1;   // tokens that a draft pass looks beyond, at most
};

// What speaks for a draft.
enum class DraftSource {
  kFirst,   // the sparse model's own choice
  kOther,   // another token that it finds likely
  kLookup,  // the text's own past (text_lookup.h)
  kRepair,  // what was drafted behind a token that the full model has replaced
};
inline constexpr int kDraftSources = 4;

struct DraftNode {
  TokenId token{};
  int32_t parent = -1;  // index, below its own; -1: the root
  int32_t depth = 0;    // of the root: 0
  DraftSource source = DraftSource::kFirst;
  float confidence = 1;    // the source's own probability of the token after its parent
  double probability = 1;  // that the path to it stands
  bool looked_beyond = false;
};

// A token that may follow a node.
struct Proposal {
  int32_t parent = 0;
  TokenId token{};
  DraftSource source = DraftSource::kFirst;
  float confidence = 0;
  double acceptance = 0;  // probability that it stands where its parent does
  bool ends = false;      // nothing can follow it
};

class DraftTree {
 public:
  // REQUIRES: width >= 1.
  void Begin(const TreeOptions& options, TokenId root);

  std::span<const DraftNode> nodes() const { return nodes_; }
  int32_t size() const { return static_cast<int32_t>(nodes_.size()); }
  const DraftNode& node(int32_t index) const { return nodes_[static_cast<size_t>(index)]; }
  // In the order of their indices.
  std::vector<int32_t> ChildrenOf(int32_t parent) const;
  // The child with this token; -1: none.
  int32_t FindChild(int32_t parent, TokenId token) const;
  // Of the node's children the likeliest, of equal ones the first; -1: none.
  int32_t LikeliestChild(int32_t parent) const;
  // Indices from the root to the node, both included.
  std::vector<int32_t> PathTo(int32_t index) const;
  // Tokens after the root, the node's included.
  std::vector<TokenId> TokensTo(int32_t index) const;

  // Nodes that the next pass looks beyond, the likeliest first; empty: the tree is done.
  std::vector<int32_t> NextToLookBeyond() const;
  // What that pass found, of all its nodes; they are looked beyond from now on. A beam keeps `width` of the proposals.
  void Add(std::span<const int32_t> looked_beyond, std::vector<Proposal> proposals);
  // A path from the root that costs no pass; what of it is there already stays as it is.
  void AddPath(std::span<const TokenId> tokens, DraftSource source, double acceptance);

  // Leaves the root and the `most` likeliest drafts, of those only the ones of at least this probability.
  void Prune(int32_t most, double least_probability);

 private:
  int32_t AddNode(const Proposal& proposal);

  TreeOptions options_;
  std::vector<DraftNode> nodes_;
};

}  // namespace dogstar
