#include "runtime/draft_tree.h"

#include <algorithm>
#include <numeric>

namespace dogstar {
namespace {

// Above this a token of a beam has one follower.
constexpr float kCertain = 0.95F;

}  // namespace

void DraftTree::Begin(const TreeOptions& options, TokenId root) {
  options_ = options;
  nodes_.assign(1, DraftNode{.token = root});
}

std::vector<int32_t> DraftTree::ChildrenOf(int32_t parent) const {
  std::vector<int32_t> children;
  for (int32_t i = parent + 1; i < size(); ++i) {
    if (node(i).parent == parent) children.push_back(i);
  }
  return children;
}

int32_t DraftTree::FindChild(int32_t parent, TokenId token) const {
  for (int32_t child : ChildrenOf(parent)) {
    if (node(child).token == token) return child;
  }
  return -1;
}

int32_t DraftTree::LikeliestChild(int32_t parent) const {
  int32_t best = -1;
  for (int32_t child : ChildrenOf(parent)) {
    if (best < 0 || node(child).probability > node(best).probability) best = child;
  }
  return best;
}

std::vector<int32_t> DraftTree::PathTo(int32_t index) const {
  std::vector<int32_t> path(static_cast<size_t>(node(index).depth) + 1);
  for (size_t at = path.size(); at-- > 0; index = node(index).parent) path[at] = index;
  return path;
}

std::vector<TokenId> DraftTree::TokensTo(int32_t index) const {
  std::vector<TokenId> tokens(static_cast<size_t>(node(index).depth));
  for (size_t at = tokens.size(); at-- > 0; index = node(index).parent) tokens[at] = node(index).token;
  return tokens;
}

std::vector<int32_t> DraftTree::NextToLookBeyond() const {
  std::vector<int32_t> next;
  for (int32_t i = 0; i < size(); ++i) {
    if (!node(i).looked_beyond && node(i).depth < options_.depth) next.push_back(i);
  }
  std::stable_sort(next.begin(), next.end(),
                   [&](int32_t a, int32_t b) { return node(a).probability > node(b).probability; });
  if (std::ssize(next) > options_.width) next.resize(static_cast<size_t>(options_.width));
  return next;
}

int32_t DraftTree::AddNode(const Proposal& proposal) {
  DraftNode added;
  added.token = proposal.token;
  added.parent = proposal.parent;
  added.depth = node(proposal.parent).depth + 1;
  added.source = proposal.source;
  added.confidence = proposal.confidence;
  added.probability = node(proposal.parent).probability * std::clamp(proposal.acceptance, 0.0, 1.0);
  added.looked_beyond = proposal.ends;
  nodes_.push_back(added);
  return size() - 1;
}

void DraftTree::Add(std::span<const int32_t> looked_beyond, std::vector<Proposal> proposals) {
  for (int32_t index : looked_beyond) nodes_[static_cast<size_t>(index)].looked_beyond = true;
  if (options_.shape == TreeShape::kBeam) {
    const auto certain = [&](int32_t parent) {
      return std::any_of(proposals.begin(), proposals.end(), [&](const Proposal& proposal) {
        return proposal.parent == parent && proposal.source == DraftSource::kFirst && proposal.confidence > kCertain;
      });
    };
    std::vector<Proposal> kept;
    for (const Proposal& proposal : proposals) {
      if (proposal.source == DraftSource::kFirst || !certain(proposal.parent)) kept.push_back(proposal);
    }
    std::stable_sort(kept.begin(), kept.end(), [&](const Proposal& a, const Proposal& b) {
      return node(a.parent).probability * a.acceptance > node(b.parent).probability * b.acceptance;
    });
    if (std::ssize(kept) > options_.width) kept.resize(static_cast<size_t>(options_.width));
    proposals = std::move(kept);
  }
  for (const Proposal& proposal : proposals) AddNode(proposal);
}

void DraftTree::AddPath(std::span<const TokenId> tokens, DraftSource source, double acceptance) {
  int32_t at = 0;
  for (TokenId token : tokens) {
    if (node(at).depth == options_.depth) return;
    const int32_t child = FindChild(at, token);
    at = child >= 0 ? child : AddNode({at, token, source, static_cast<float>(acceptance), acceptance, true});
  }
}

void DraftTree::Prune(int32_t most, double least_probability) {
  std::vector<int32_t> order(nodes_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin() + 1, order.end(),
                   [&](int32_t a, int32_t b) { return node(a).probability > node(b).probability; });
  size_t kept = 1;
  while (kept < order.size() && static_cast<int32_t>(kept) <= most &&
         node(order[kept]).probability >= least_probability) {
    ++kept;
  }
  order.resize(kept);
  std::sort(order.begin(), order.end());
  std::vector<int32_t> new_index(nodes_.size(), -1);
  std::vector<DraftNode> left;
  for (int32_t index : order) {
    new_index[static_cast<size_t>(index)] = static_cast<int32_t>(left.size());
    left.push_back(node(index));
    if (left.back().parent >= 0) left.back().parent = new_index[static_cast<size_t>(left.back().parent)];
  }
  nodes_ = std::move(left);
}

}  // namespace dogstar
