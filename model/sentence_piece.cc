// SentencePiece BPE: characters are joined by the scores of the tokens they make.
#include <array>
#include <cstring>
#include <optional>
#include <queue>
#include <string>
#include <utility>

#include "fmt/format.h"
#include "model/gguf_format.h"
#include "model/text_encoder.h"
#include "model/utf8.h"

namespace dogstar {
namespace {

constexpr char kScoresKey[] = "tokenizer.ggml.scores";
constexpr char kSpacePrefixKey[] = "tokenizer.ggml.add_space_prefix";
constexpr char kUnknownKey[] = "tokenizer.ggml.unknown_token_id";
constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";  // U+2581, which stands for a space in these vocabularies
constexpr TokenId kNoToken{-1};
constexpr uint32_t kNone = UINT32_MAX;

// U+2581 as plain spaces, on both sides: the table's texts and the text to encode.
std::string WithPlainSpaces(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  while (!text.empty()) {
    const bool space = text.starts_with(kVisibleSpace);
    plain.push_back(space ? ' ' : text.front());
    text.remove_prefix(space ? kVisibleSpace.size() : 1);
  }
  return plain;
}

// "<0x0A>" -> "\n"; nullopt for other texts.
std::optional<std::string> ByteOfText(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  int byte = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return std::nullopt;
    byte = byte * 16 + digit;
  }
  return std::string(1, static_cast<char>(byte));
}

absl::StatusOr<TokenTable> MakeTable(const VocabularySource& source) {
  TokenTable table;
  size_t bytes = 0;
  for (const std::string& text : source.texts) bytes += text.size();
  table.Reserve(source.texts.size(), bytes);
  for (size_t i = 0; i < source.texts.size(); ++i) {
    const TokenKind kind = source.kinds[i];
    if (kind == TokenKind::kNormal || kind == TokenKind::kUnused) {
      table.Add(WithPlainSpaces(source.texts[i]), kind);
    } else if (kind == TokenKind::kByte) {
      const std::optional<std::string> byte = ByteOfText(source.texts[i]);
      if (!byte.has_value()) {
        return absl::InvalidArgumentError(
            fmt::format("token {} ({}) is a byte token, whose text must be like <0x0A>", i, Quoted(source.texts[i])));
      }
      table.Add(*byte, kind);
    } else {
      table.Add(source.texts[i], kind);
    }
  }
  return table;
}

absl::StatusOr<std::vector<float>> ReadScores(const VocabularySource& source) {
  ASSIGN_OR_RETURN(const GgufArray* array, source.header.GetArray(kScoresKey, GgufValueType::kFloat32));
  if (array->count != source.texts.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{} has {} elements for {} tokens", kScoresKey, array->count, source.texts.size()));
  }
  std::vector<float> scores(source.texts.size());
  std::memcpy(scores.data(), array->fixed.data(), scores.size() * sizeof(float));
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] != scores[i])
      return absl::InvalidArgumentError(fmt::format("{} of token {} is no number", kScoresKey, i));
  }
  return scores;
}

// What a byte without a character token becomes.
using Fallbacks = std::array<TokenId, 256>;
Fallbacks FindFallbacks(const TokenTable& table, TokenId unknown) {
  Fallbacks tokens;
  tokens.fill(unknown);
  for (int32_t i = 0; i < table.size(); ++i) {
    if (table.KindOf(TokenId{i}) != TokenKind::kByte) continue;
    tokens[static_cast<unsigned char>(table.BytesOf(TokenId{i}).front())] = TokenId{i};
  }
  return tokens;
}

// The token with kind unknown, or what the metadata names; kNoToken without one.
absl::StatusOr<TokenId> FindUnknown(const VocabularySource& source) {
  if (source.header.FindField(kUnknownKey) != nullptr) {
    ASSIGN_OR_RETURN(const uint64_t id, source.header.GetUint(kUnknownKey));
    if (id < source.texts.size()) return TokenId{static_cast<int32_t>(id)};
    return absl::InvalidArgumentError(
        fmt::format("{} is {}, but there are {} tokens", kUnknownKey, id, source.texts.size()));
  }
  for (size_t i = 0; i < source.kinds.size(); ++i) {
    if (source.kinds[i] == TokenKind::kUnknown) return TokenId{static_cast<int32_t>(i)};
  }
  return kNoToken;
}

class SentencePiece : public TextEncoder {
 public:
  SentencePiece(const TokenTable* table, std::vector<float> scores, const Fallbacks& fallbacks, bool space_prefix)
      : index_(table), scores_(std::move(scores)), fallbacks_(fallbacks), space_prefix_(space_prefix) {}

  void Encode(std::string_view text, bool at_start, std::vector<TokenId>* out) const override {
    std::string plain = WithPlainSpaces(text);
    if (at_start && space_prefix_) plain.insert(0, 1, ' ');
    Chain chain(*this, plain);
    chain.Run();
    chain.Emit(out);
  }
  bool adds_bos() const override { return true; }
  uint64_t memory_bytes() const override {
    return sizeof(*this) + index_.memory_bytes() + scores_.capacity() * sizeof(float);
  }

 private:
  // Stretches of the text that will be tokens, as a doubly linked list, and the neighbours that may join as a heap.
  struct Symbol {
    uint32_t start = 0, bytes = 0;
    uint32_t previous = kNone, next = kNone;
    TokenId token = kNoToken;
  };
  struct Candidate {
    float score;
    uint32_t left;
    uint32_t bytes;  // of both: stale when the symbols have grown since
    TokenId token;
    bool operator<(const Candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };

  class Chain {
   public:
    Chain(const SentencePiece& owner, std::string_view text) : owner_(owner), text_(text) {
      for (uint32_t start = 0; start < text.size();) {
        const size_t bytes = FirstUtf8Char(text.substr(start)).bytes;
        Symbol symbol{.start = start, .bytes = bytes == 0 ? 1 : static_cast<uint32_t>(bytes)};
        symbol.token = owner.index_.Find(text.substr(start, symbol.bytes)).value_or(kNoToken);
        if (!symbols_.empty()) {
          symbol.previous = static_cast<uint32_t>(symbols_.size()) - 1;
          symbols_.back().next = symbol.previous + 1;
        }
        symbols_.push_back(symbol);
        start += symbol.bytes;
      }
      for (uint32_t i = 0; i < symbols_.size(); ++i) Consider(i);
    }

    void Run() {
      while (!candidates_.empty()) {
        const Candidate best = candidates_.top();
        candidates_.pop();
        Symbol& left = symbols_[best.left];
        if (left.bytes == 0 || left.next == kNone || left.bytes + symbols_[left.next].bytes != best.bytes) continue;
        Join(best);
      }
    }

    void Emit(std::vector<TokenId>* out) const {
      for (uint32_t i = symbols_.empty() ? kNone : 0; i != kNone; i = symbols_[i].next) {
        const Symbol& symbol = symbols_[i];
        if (symbol.token != kNoToken) {
          out->push_back(symbol.token);
          continue;
        }
        for (const char c : text_.substr(symbol.start, symbol.bytes)) {
          const TokenId token = owner_.fallbacks_[static_cast<unsigned char>(c)];
          if (token != kNoToken) out->push_back(token);
        }
      }
    }

   private:
    void Consider(uint32_t left) {
      if (left == kNone || symbols_[left].next == kNone) return;
      const Symbol& right = symbols_[symbols_[left].next];
      const uint32_t bytes = symbols_[left].bytes + right.bytes;
      const std::optional<TokenId> token = owner_.index_.Find(text_.substr(symbols_[left].start, bytes));
      if (token.has_value())
        candidates_.push({owner_.scores_[static_cast<size_t>(ToInt(*token))], left, bytes, *token});
    }

    void Join(const Candidate& candidate) {
      Symbol& left = symbols_[candidate.left];
      Symbol& right = symbols_[left.next];
      left.bytes = candidate.bytes;
      left.token = candidate.token;
      left.next = right.next;
      if (right.next != kNone) symbols_[right.next].previous = candidate.left;
      right.bytes = 0;
      Consider(left.previous);
      Consider(candidate.left);
    }

    const SentencePiece& owner_;
    std::string_view text_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Candidate> candidates_;
  };

  TokenIndex index_;
  std::vector<float> scores_;
  Fallbacks fallbacks_;
  bool space_prefix_;
};

}  // namespace

absl::StatusOr<Vocabulary> ReadSentencePiece(const VocabularySource& source) {
  ASSIGN_OR_RETURN(TokenTable table, MakeTable(source));
  ASSIGN_OR_RETURN(std::vector<float> scores, ReadScores(source));
  ASSIGN_OR_RETURN(const TokenId unknown, FindUnknown(source));
  bool space_prefix = true;
  if (source.header.FindField(kSpacePrefixKey) != nullptr) {
    ASSIGN_OR_RETURN(space_prefix, source.header.GetBool(kSpacePrefixKey));
  }
  Vocabulary vocabulary;
  vocabulary.table = std::make_unique<TokenTable>(std::move(table));
  vocabulary.encoder = std::make_unique<SentencePiece>(vocabulary.table.get(), std::move(scores),
                                                       FindFallbacks(*vocabulary.table, unknown), space_prefix);
  return vocabulary;
}

}  // namespace dogstar
