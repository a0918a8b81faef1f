#include "model/token_table.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/status.h"
#include "xxhash.h"

namespace dogstar {
namespace {

constexpr TokenId kEmptySlot{-1};

bool IsSpecial(TokenKind kind) { return kind == TokenKind::kControl || kind == TokenKind::kUserDefined; }

}  // namespace

void TokenTable::Reserve(size_t tokens, size_t bytes) {
  bytes_.reserve(bytes);
  ends_.reserve(tokens);
  kinds_.reserve(tokens);
}

void TokenTable::Add(std::string_view bytes, TokenKind kind) {
  bytes_.append(bytes);
  CHECK(bytes_.size() <= UINT32_MAX);  // a header is limited to 1 GiB
  ends_.push_back(static_cast<uint32_t>(bytes_.size()));
  kinds_.push_back(kind);
}

std::string_view TokenTable::BytesOf(TokenId token) const {
  const auto i = static_cast<size_t>(ToInt(token));
  const uint32_t start = i == 0 ? 0 : ends_[i - 1];
  return std::string_view(bytes_).substr(start, ends_[i] - start);
}

uint64_t TokenTable::memory_bytes() const {
  return bytes_.capacity() + ends_.capacity() * sizeof(uint32_t) + kinds_.capacity() * sizeof(TokenKind);
}

SpecialTokens::SpecialTokens(const TokenTable* table) : table_(table) {
  for (int32_t i = 0; i < table->size(); ++i) {
    const TokenId token{i};
    if (IsSpecial(table->KindOf(token)) && !table->BytesOf(token).empty()) sorted_.push_back(token);
  }
  sorted_.shrink_to_fit();
  // Of equal texts the last token comes last and wins.
  std::stable_sort(sorted_.begin(), sorted_.end(),
                   [&](TokenId a, TokenId b) { return table->BytesOf(a) < table->BytesOf(b); });
}

std::optional<SpecialTokens::Match> SpecialTokens::LongestAt(std::string_view text, size_t start,
                                                             ControlCounts control_counts) const {
  std::optional<Match> longest;
  auto first = sorted_.begin();
  auto last = sorted_.end();
  // [first, last): the tokens that begin with text[start, start + depth).
  for (size_t depth = 0; first != last && start + depth < text.size(); ++depth) {
    const auto wanted = static_cast<unsigned char>(text[start + depth]);
    const auto byte_at = [&](TokenId token) {
      const std::string_view bytes = table_->BytesOf(token);
      return depth < bytes.size() ? static_cast<unsigned char>(bytes[depth]) : -1;
    };
    first = std::lower_bound(first, last, wanted, [&](TokenId token, int byte) { return byte_at(token) < byte; });
    last = std::upper_bound(first, last, wanted, [&](int byte, TokenId token) { return byte < byte_at(token); });
    for (auto token = first; token != last && table_->BytesOf(*token).size() == depth + 1; ++token) {
      if (table_->KindOf(*token) == TokenKind::kUserDefined || control_counts(start, depth + 1)) {
        longest = Match{.token = *token, .start = start, .bytes = depth + 1};
      }
    }
  }
  return longest;
}

std::optional<SpecialTokens::Match> SpecialTokens::Find(std::string_view text, size_t from,
                                                        ControlCounts control_counts) const {
  if (sorted_.empty()) return std::nullopt;
  for (size_t start = from; start < text.size(); ++start) {
    if (const std::optional<Match> match = LongestAt(text, start, control_counts)) return match;
  }
  return std::nullopt;
}

TokenIndex::TokenIndex(const TokenTable* table) : table_(table) {
  slots_.assign(std::bit_ceil(static_cast<size_t>(table->size()) * 2 + 1), kEmptySlot);
  // Backwards, so that of equal texts the last token is found.
  for (int32_t i = table->size() - 1; i >= 0; --i) {
    const TokenId token{i};
    if (table->KindOf(token) != TokenKind::kNormal || Find(table->BytesOf(token)).has_value()) continue;
    size_t slot = HomeSlot(table->BytesOf(token));
    while (slots_[slot] != kEmptySlot) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = token;
  }
}

size_t TokenIndex::HomeSlot(std::string_view bytes) const {
  return XXH3_64bits(bytes.data(), bytes.size()) & (slots_.size() - 1);
}

std::optional<TokenId> TokenIndex::Find(std::string_view bytes) const {
  if (slots_.empty()) return std::nullopt;
  for (size_t slot = HomeSlot(bytes); slots_[slot] != kEmptySlot; slot = (slot + 1) & (slots_.size() - 1)) {
    if (table_->BytesOf(slots_[slot]) == bytes) return slots_[slot];
  }
  return std::nullopt;
}

}  // namespace dogstar
