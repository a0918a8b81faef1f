// TokenTable: the bytes and kind of every token, in one block of memory.
//
// Threads: const after the last Add.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/types.h"

namespace dogstar {

// The numbers are those of tokenizer.ggml.token_type: do not renumber.
enum class TokenKind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

class TokenTable {
 public:
  void Reserve(size_t tokens, size_t bytes);
  void Add(std::string_view bytes, TokenKind kind);

  int32_t size() const { return static_cast<int32_t>(kinds_.size()); }
  // REQUIRES (both): 0 <= token < size().
  std::string_view BytesOf(TokenId token) const;
  TokenKind KindOf(TokenId token) const { return kinds_[static_cast<size_t>(ToInt(token))]; }
  uint64_t memory_bytes() const;

 private:
  std::string bytes_;
  std::vector<uint32_t> ends_;
  std::vector<TokenKind> kinds_;
};

// Finds the tokens that stand for themselves in text: control and user-defined ones.
class SpecialTokens {
 public:
  SpecialTokens() = default;
  // Keeps a pointer to `table`.
  explicit SpecialTokens(const TokenTable* table);

  struct Match {
    TokenId token;
    size_t start;
    size_t bytes;
  };
  // The first place from `from` on where a token stands, and the longest token there. Control tokens count only where
  // control_counts(start, bytes) says so.
  using ControlCounts = absl::FunctionRef<bool(size_t start, size_t bytes)>;
  std::optional<Match> Find(std::string_view text, size_t from, ControlCounts control_counts) const;
  uint64_t memory_bytes() const { return sorted_.capacity() * sizeof(TokenId); }

 private:
  std::optional<Match> LongestAt(std::string_view text, size_t start, ControlCounts control_counts) const;

  const TokenTable* table_ = nullptr;
  std::vector<TokenId> sorted_;  // by bytes
};

// Finds the normal token with given bytes.
class TokenIndex {
 public:
  TokenIndex() = default;
  explicit TokenIndex(const TokenTable* table);
  std::optional<TokenId> Find(std::string_view bytes) const;
  uint64_t memory_bytes() const { return slots_.capacity() * sizeof(TokenId); }

 private:
  size_t HomeSlot(std::string_view bytes) const;

  const TokenTable* table_ = nullptr;
  std::vector<TokenId> slots_;  // open addressing; a power of two, or none
};

}  // namespace dogstar
