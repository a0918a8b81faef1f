#include "model/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <utility>

#include "base/status.h"

namespace dogstar {
namespace {

// guess: up to here a scan for the lowest rank beats a heap.
constexpr size_t kShortSymbols = 32;
constexpr uint32_t kNone = UINT32_MAX;

}  // namespace

BpeMerges::BpeMerges(size_t merge_count) {
  left_.reserve(merge_count);
  right_.reserve(merge_count);
  result_.reserve(merge_count);
  // Two thirds full at most: most lookups miss, and a miss walks to the next empty slot.
  table_.assign(std::bit_ceil(merge_count + merge_count / 2 + 1), kNoRank);
}

size_t BpeMerges::HomeSlot(TokenId left, TokenId right) const {
  const uint64_t key =
      (static_cast<uint64_t>(static_cast<uint32_t>(ToInt(left))) << 32) | static_cast<uint32_t>(ToInt(right));
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  const uint64_t mixed = (key ^ (key >> 29)) * kGolden;
  return (mixed >> 32) & (table_.size() - 1);
}

bool BpeMerges::IsPair(uint32_t rank, TokenId left, TokenId right) const {
  return left_[rank] == left && right_[rank] == right;
}

uint32_t BpeMerges::RankOf(TokenId left, TokenId right) const {
  for (size_t slot = HomeSlot(left, right); table_[slot] != kNoRank; slot = (slot + 1) & (table_.size() - 1)) {
    if (IsPair(table_[slot], left, right)) return table_[slot];
  }
  return kNoRank;
}

void BpeMerges::Add(TokenId left, TokenId right, TokenId result) {
  CHECK(left_.size() + 1 < table_.size());
  size_t slot = HomeSlot(left, right);
  while (table_[slot] != kNoRank) {
    if (IsPair(table_[slot], left, right)) return;
    slot = (slot + 1) & (table_.size() - 1);
  }
  table_[slot] = static_cast<uint32_t>(left_.size());
  left_.push_back(left);
  right_.push_back(right);
  result_.push_back(result);
}

void BpeMerges::Apply(std::vector<TokenId>* symbols) const {
  if (symbols->size() <= kShortSymbols) {
    ApplyShort(symbols);
  } else {
    ApplyLong(symbols);
  }
}

void BpeMerges::ApplyShort(std::vector<TokenId>* symbols) const {
  uint32_t ranks[kShortSymbols];  // ranks[i]: of symbols i and i + 1
  size_t count = symbols->size();
  if (count < 2) return;
  TokenId* ids = symbols->data();
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = RankOf(ids[i], ids[i + 1]);
  while (count > 1) {
    const size_t best = static_cast<size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[best] == kNoRank) break;
    ids[best] = result_[ranks[best]];
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(ranks + best + 1, ranks + count - 1, ranks + best);
    --count;
    if (best > 0) ranks[best - 1] = RankOf(ids[best - 1], ids[best]);
    if (best + 1 < count) ranks[best] = RankOf(ids[best], ids[best + 1]);
  }
  symbols->resize(count);
}

// The symbols of a long piece as a doubly linked list, and the pairs that may merge as a heap.
struct BpeMerges::Chain {
  using Candidate = std::pair<uint32_t, uint32_t>;  // rank, position of the left symbol

  const BpeMerges& merges;
  std::vector<TokenId>& ids;
  std::vector<uint32_t> next, previous;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;

  Chain(const BpeMerges& owner, std::vector<TokenId>* symbols)
      : merges(owner), ids(*symbols), next(symbols->size()), previous(symbols->size()) {
    const uint32_t count = static_cast<uint32_t>(ids.size());
    for (uint32_t i = 0; i < count; ++i) {
      next[i] = i + 1 < count ? i + 1 : kNone;
      previous[i] = i > 0 ? i - 1 : kNone;
    }
    for (uint32_t i = 0; i < count; ++i) Consider(i);
  }

  void Consider(uint32_t left) {
    if (left == kNone || next[left] == kNone) return;
    const uint32_t rank = merges.RankOf(ids[left], ids[next[left]]);
    if (rank != kNoRank) candidates.emplace(rank, left);
  }

  // A candidate is stale when its symbols have merged with others since; a swallowed
  // symbol has no next.
  bool IsFresh(const Candidate& candidate) const {
    const auto [rank, left] = candidate;
    return next[left] != kNone && merges.IsPair(rank, ids[left], ids[next[left]]);
  }

  void Merge(const Candidate& candidate) {
    const auto [rank, left] = candidate;
    const uint32_t right = next[left];
    ids[left] = merges.result_[rank];
    next[left] = next[right];
    if (next[right] != kNone) previous[next[right]] = left;
    next[right] = kNone;
    Consider(previous[left]);
    Consider(left);
  }

  void Run() {
    while (!candidates.empty()) {
      const Candidate best = candidates.top();
      candidates.pop();
      if (IsFresh(best)) Merge(best);
    }
  }

  void Compact() {
    size_t count = 0;
    for (uint32_t i = 0; i != kNone; i = next[i]) ids[count++] = ids[i];
    ids.resize(count);
  }
};

void BpeMerges::ApplyLong(std::vector<TokenId>* symbols) const {
  Chain chain(*this, symbols);
  chain.Run();
  chain.Compact();
}

uint64_t BpeMerges::memory_bytes() const {
  return (left_.capacity() + right_.capacity() + result_.capacity()) * sizeof(TokenId) +
         table_.capacity() * sizeof(uint32_t);
}

}  // namespace dogstar
