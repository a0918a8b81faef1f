// Byte-level BPE: text is cut into pieces, bytes of a piece are merged.
#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "fmt/format.h"
#include "model/bpe.h"
#include "model/byte_alphabet.h"
#include "model/gguf_format.h"
#include "model/pre_tokenizer.h"
#include "model/text_encoder.h"

namespace dogstar {
namespace {

constexpr char kPreKey[] = "tokenizer.ggml.pre";
constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kMergesKey[] = "tokenizer.ggml.merges";

using TextIndex = absl::flat_hash_map<std::string_view, TokenId>;

// Of equal texts the last token is the one that text becomes.
TextIndex IndexTexts(const std::vector<std::string>& texts) {
  TextIndex index;
  index.reserve(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) index[texts[i]] = TokenId{static_cast<int32_t>(i)};
  return index;
}

// Vocabularies of normal tokens are written in the byte alphabet, the other tokens as they are.
TokenTable MakeTable(const std::vector<std::string>& texts, const std::vector<TokenKind>& kinds) {
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  TokenTable table;
  table.Reserve(texts.size(), bytes);
  for (size_t i = 0; i < texts.size(); ++i) {
    const bool verbatim = kinds[i] == TokenKind::kControl || kinds[i] == TokenKind::kUserDefined;
    table.Add(verbatim ? texts[i] : BytesOfAlphabetText(texts[i]), kinds[i]);
  }
  return table;
}

using ByteTokens = std::array<TokenId, 256>;

// Bytes that no training text had may lack a token (SmolLM2: 21 of them, such as 0xff); printable ASCII may not.
absl::StatusOr<ByteTokens> FindByteTokens(const TextIndex& index) {
  ByteTokens tokens;
  for (unsigned byte = 0; byte < tokens.size(); ++byte) {
    const std::string text = ByteAlphabetChar(static_cast<unsigned char>(byte));
    const auto found = index.find(text);
    tokens[byte] = found == index.end() ? BpeMerges::kNoToken : found->second;
    if (found == index.end() && byte >= 0x20 && byte < 0x7f) {
      return absl::InvalidArgumentError(fmt::format(
          "{} has no token {} for the byte 0x{:02x}: not a byte-level vocabulary", kTokensKey, Quoted(text), byte));
    }
  }
  return tokens;
}

absl::StatusOr<TokenId> FindMergePart(const TextIndex& index, std::string_view part, size_t rank,
                                      std::string_view merge) {
  const auto found = index.find(part);
  if (found != index.end()) return found->second;
  return absl::InvalidArgumentError(
      fmt::format("merge {} ({}) needs the token {}, which {} lacks", rank, Quoted(merge), Quoted(part), kTokensKey));
}

absl::Status AddMerge(const TextIndex& index, std::string_view merge, size_t rank, BpeMerges* merges) {
  const size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == merge.size()) {
    return absl::InvalidArgumentError(
        fmt::format("merge {} ({}) is not two tokens with a space between them", rank, Quoted(merge)));
  }
  const std::string_view left = merge.substr(0, space);
  const std::string_view right = merge.substr(space + 1);
  ASSIGN_OR_RETURN(const TokenId left_id, FindMergePart(index, left, rank, merge));
  ASSIGN_OR_RETURN(const TokenId right_id, FindMergePart(index, right, rank, merge));
  ASSIGN_OR_RETURN(const TokenId result_id, FindMergePart(index, fmt::format("{}{}", left, right), rank, merge));
  merges->Add(left_id, right_id, result_id);
  return absl::OkStatus();
}

absl::StatusOr<BpeMerges> ReadMerges(const GgufHeader& header, const TextIndex& index) {
  ASSIGN_OR_RETURN(const GgufArray* lines, header.GetArray(kMergesKey, GgufValueType::kString));
  BpeMerges merges(lines->strings.size());
  for (size_t rank = 0; rank < lines->strings.size(); ++rank) {
    RETURN_IF_ERROR(AddMerge(index, lines->strings[rank], rank, &merges));
  }
  return merges;
}

absl::StatusOr<std::string> ReadPreTokenizerName(const GgufHeader& header) {
  if (header.FindField(kPreKey) == nullptr) {
    return absl::UnimplementedError(fmt::format(
        "the file does not name its pre-tokenizer ({}), so text could only be cut by guess; convert the model again",
        kPreKey));
  }
  ASSIGN_OR_RETURN(const std::string_view name, header.GetString(kPreKey));
  return std::string(name);
}

class ByteLevelBpe : public TextEncoder {
 public:
  ByteLevelBpe(PreTokenizer pre, const ByteTokens& byte_tokens, BpeMerges merges, const TokenTable* table)
      : pre_tokenizer_(std::move(pre)), byte_tokens_(byte_tokens), merges_(std::move(merges)) {
    if (pre_tokenizer_.ignores_merges()) whole_pieces_ = TokenIndex(table);
  }

  void Encode(std::string_view text, bool, std::vector<TokenId>* out) const override {
    std::vector<TokenId> scratch;
    pre_tokenizer_.Split(text, [&](std::string_view piece) { EncodePiece(piece, &scratch, out); });
  }
  bool adds_bos() const override { return pre_tokenizer_.adds_bos(); }
  uint64_t memory_bytes() const override {
    return sizeof(*this) + pre_tokenizer_.memory_bytes() + merges_.memory_bytes() + whole_pieces_.memory_bytes();
  }

 private:
  // `scratch` spares an allocation per piece.
  void EncodePiece(std::string_view piece, std::vector<TokenId>* scratch, std::vector<TokenId>* out) const {
    if (const std::optional<TokenId> whole = whole_pieces_.Find(piece)) {
      out->push_back(*whole);
      return;
    }
    scratch->clear();
    for (const char c : piece) scratch->push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    merges_.Apply(scratch);
    // A byte that the vocabulary has no token for has kept its neighbours apart and is left out, as in the engines
    // and libraries that these models come with.
    std::copy_if(scratch->begin(), scratch->end(), std::back_inserter(*out),
                 [](TokenId token) { return token != BpeMerges::kNoToken; });
  }

  PreTokenizer pre_tokenizer_;
  ByteTokens byte_tokens_;
  BpeMerges merges_;
  TokenIndex whole_pieces_;  // filled only when the pre-tokenizer ignores merges
};

}  // namespace

absl::StatusOr<Vocabulary> ReadByteLevelBpe(const VocabularySource& source) {
  ASSIGN_OR_RETURN(const std::string pre_name, ReadPreTokenizerName(source.header));
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(pre_name));
  const TextIndex index = IndexTexts(source.texts);
  ASSIGN_OR_RETURN(const ByteTokens byte_tokens, FindByteTokens(index));
  ASSIGN_OR_RETURN(BpeMerges merges, ReadMerges(source.header, index));
  Vocabulary vocabulary;
  vocabulary.table = std::make_unique<TokenTable>(MakeTable(source.texts, source.kinds));
  vocabulary.encoder =
      std::make_unique<ByteLevelBpe>(std::move(pre_tokenizer), byte_tokens, std::move(merges), vocabulary.table.get());
  return vocabulary;
}

}  // namespace dogstar
