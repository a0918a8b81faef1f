#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "fmt/format.h"
#include "model/bpe.h"
#include "model/byte_alphabet.h"
#include "model/gguf_format.h"
#include "model/pre_tokenizer.h"
#include "model/token_table.h"
#include "model/utf8.h"

namespace dogstar {
namespace {

constexpr char kModelKey[] = "tokenizer.ggml.model";
constexpr char kPreKey[] = "tokenizer.ggml.pre";
constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kTokenTypeKey[] = "tokenizer.ggml.token_type";
constexpr char kMergesKey[] = "tokenizer.ggml.merges";
constexpr char kBosKey[] = "tokenizer.ggml.bos_token_id";
constexpr char kAddBosKey[] = "tokenizer.ggml.add_bos_token";
constexpr char kTemplateKey[] = "tokenizer.chat_template";
constexpr const char* kEndKeys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                    "tokenizer.ggml.eom_token_id"};
constexpr char kSupportedModel[] = "gpt2";

// Control tokens that end a turn or a text in the model families we know, whatever the metadata's EOS is.
constexpr std::string_view kEndTexts[] = {
    "<|im_end|>", "<|eot_id|>",      "<|eom_id|>",    "<|endoftext|>",         "<|end_of_text|>",
    "<|end|>",    "<|end_of_turn|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "</s>"};

using TextIndex = absl::flat_hash_map<std::string_view, TokenId>;

absl::StatusOr<const std::vector<std::string>*> ReadTokenTexts(const GgufHeader& header) {
  ASSIGN_OR_RETURN(const GgufArray* tokens, header.GetArray(kTokensKey, GgufValueType::kString));
  if (tokens->strings.empty()) return absl::InvalidArgumentError(fmt::format("{} is empty", kTokensKey));
  return &tokens->strings;
}

absl::StatusOr<TokenKind> KindFromNumber(uint32_t number, size_t token) {
  if (number < static_cast<uint32_t>(TokenKind::kNormal) || number > static_cast<uint32_t>(TokenKind::kByte)) {
    return absl::InvalidArgumentError(
        fmt::format("{} of token {} is {}, expected 1 to 6", kTokenTypeKey, token, number));
  }
  return static_cast<TokenKind>(number);
}

// All normal when the file does not say.
absl::StatusOr<std::vector<TokenKind>> ReadTokenKinds(const GgufHeader& header, size_t token_count) {
  std::vector<TokenKind> kinds(token_count, TokenKind::kNormal);
  if (header.FindField(kTokenTypeKey) == nullptr) return kinds;
  absl::StatusOr<const GgufArray*> types = header.GetArray(kTokenTypeKey, GgufValueType::kInt32);
  if (!types.ok()) types = header.GetArray(kTokenTypeKey, GgufValueType::kUint32);
  if (!types.ok()) return header.GetArray(kTokenTypeKey, GgufValueType::kInt32).status();
  if ((*types)->count != token_count) {
    return absl::InvalidArgumentError(
        fmt::format("{} has {} elements, {} has {}", kTokenTypeKey, (*types)->count, kTokensKey, token_count));
  }
  for (size_t i = 0; i < token_count; ++i) {
    uint32_t number = 0;
    std::memcpy(&number, (*types)->fixed.data() + i * sizeof(number), sizeof(number));
    ASSIGN_OR_RETURN(kinds[i], KindFromNumber(number, i));
  }
  return kinds;
}

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

// nullopt when the key is missing.
absl::StatusOr<std::optional<TokenId>> ReadTokenId(const GgufHeader& header, const char* key, int32_t vocab_size) {
  if (header.FindField(key) == nullptr) return std::nullopt;
  ASSIGN_OR_RETURN(const uint64_t id, header.GetUint(key));
  if (id >= static_cast<uint64_t>(vocab_size)) {
    return absl::InvalidArgumentError(fmt::format("{} is {}, but there are {} tokens", key, id, vocab_size));
  }
  return TokenId{static_cast<int32_t>(id)};
}

absl::StatusOr<std::vector<TokenId>> ReadEndTokens(const GgufHeader& header, const TokenTable& table) {
  std::vector<TokenId> ends;
  const auto add = [&ends](TokenId token) {
    if (std::find(ends.begin(), ends.end(), token) == ends.end()) ends.push_back(token);
  };
  for (const char* key : kEndKeys) {
    ASSIGN_OR_RETURN(const std::optional<TokenId> token, ReadTokenId(header, key, table.size()));
    if (token.has_value()) add(*token);
  }
  for (int32_t i = 0; i < table.size(); ++i) {
    const TokenId token{i};
    if (table.KindOf(token) != TokenKind::kControl) continue;
    const std::string_view text = table.BytesOf(token);
    if (std::find(std::begin(kEndTexts), std::end(kEndTexts), text) != std::end(kEndTexts)) add(token);
  }
  return ends;
}

absl::StatusOr<std::string> ReadModelName(const GgufHeader& header) {
  ASSIGN_OR_RETURN(const std::string_view model, header.GetString(kModelKey));
  if (model == kSupportedModel) return std::string(model);
  return absl::UnimplementedError(
      fmt::format("tokenizer model {} is not known; known: {}", Quoted(model), kSupportedModel));
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

// "" if the key is missing.
absl::StatusOr<std::string> ReadChatTemplate(const GgufHeader& header) {
  if (header.FindField(kTemplateKey) == nullptr) return std::string();
  ASSIGN_OR_RETURN(const std::string_view text, header.GetString(kTemplateKey));
  return std::string(text);
}

}  // namespace

struct Tokenizer::State {
  std::string model;
  std::string pre_name;
  std::string chat_template;
  TokenTable table;
  SpecialTokens specials;
  PreTokenizer pre_tokenizer;
  ByteTokens byte_tokens;
  BpeMerges merges;
  TokenIndex whole_pieces;  // filled only when the pre-tokenizer ignores merges
  std::optional<TokenId> bos;
  bool adds_bos = false;
  std::vector<TokenId> end_tokens;

  State(PreTokenizer pre, BpeMerges bpe) : pre_tokenizer(std::move(pre)), merges(std::move(bpe)) {}

  // `scratch` spares an allocation per piece.
  void EncodePiece(std::string_view piece, std::vector<TokenId>* scratch, std::vector<TokenId>* out) const {
    if (const std::optional<TokenId> whole = whole_pieces.Find(piece)) {
      out->push_back(*whole);
      return;
    }
    scratch->clear();
    for (const char c : piece) scratch->push_back(byte_tokens[static_cast<unsigned char>(c)]);
    merges.Apply(scratch);
    // A byte that the vocabulary has no token for has kept its neighbours apart and is left out, as in the engines
    // and libraries that these models come with.
    std::copy_if(scratch->begin(), scratch->end(), std::back_inserter(*out),
                 [](TokenId token) { return token != BpeMerges::kNoToken; });
  }

  void EncodeText(std::string_view text, std::vector<TokenId>* out) const {
    std::vector<TokenId> scratch;
    pre_tokenizer.Split(text, [&](std::string_view piece) { EncodePiece(piece, &scratch, out); });
  }

  bool IsHidden(TokenId token) const {
    const TokenKind kind = table.KindOf(token);
    return kind == TokenKind::kControl || kind == TokenKind::kUnknown;
  }

  std::string_view BytesOf(TokenId token, bool special) const {
    if (ToInt(token) < 0 || ToInt(token) >= table.size()) return {};
    return !special && IsHidden(token) ? std::string_view() : table.BytesOf(token);
  }

  absl::Status ReadOptions(const GgufHeader& header) {
    ASSIGN_OR_RETURN(bos, ReadTokenId(header, kBosKey, table.size()));
    adds_bos = pre_tokenizer.adds_bos();
    if (header.FindField(kAddBosKey) != nullptr) {
      ASSIGN_OR_RETURN(adds_bos, header.GetBool(kAddBosKey));
    }
    ASSIGN_OR_RETURN(end_tokens, ReadEndTokens(header, table));
    ASSIGN_OR_RETURN(chat_template, ReadChatTemplate(header));
    return absl::OkStatus();
  }
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufHeader& header) {
  ASSIGN_OR_RETURN(std::string model, ReadModelName(header));
  ASSIGN_OR_RETURN(std::string pre_name, ReadPreTokenizerName(header));
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(pre_name));
  ASSIGN_OR_RETURN(const std::vector<std::string>* texts, ReadTokenTexts(header));
  ASSIGN_OR_RETURN(const std::vector<TokenKind> kinds, ReadTokenKinds(header, texts->size()));
  const TextIndex index = IndexTexts(*texts);
  ASSIGN_OR_RETURN(const ByteTokens byte_tokens, FindByteTokens(index));
  ASSIGN_OR_RETURN(BpeMerges merges, ReadMerges(header, index));
  auto state = std::make_unique<State>(std::move(pre_tokenizer), std::move(merges));
  state->model = std::move(model);
  state->pre_name = std::move(pre_name);
  state->table = MakeTable(*texts, kinds);
  state->specials = SpecialTokens(&state->table);
  state->byte_tokens = byte_tokens;
  if (state->pre_tokenizer.ignores_merges()) state->whole_pieces = TokenIndex(&state->table);
  RETURN_IF_ERROR(state->ReadOptions(header));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(state)));
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> tokens;
  if (options.add_bos && state_->adds_bos && state_->bos.has_value()) tokens.push_back(*state_->bos);
  size_t done = 0;
  while (const auto match = state_->specials.Find(text, done, options.parse_special)) {
    state_->EncodeText(text.substr(done, match->start - done), &tokens);
    tokens.push_back(match->token);
    done = match->start + match->bytes;
  }
  state_->EncodeText(text.substr(done), &tokens);
  return tokens;
}

std::string Tokenizer::TokenBytes(TokenId token, bool special) const {
  return std::string(state_->BytesOf(token, special));
}

std::string Tokenizer::Decode(std::span<const TokenId> tokens, bool special) const {
  std::string bytes;
  for (const TokenId token : tokens) bytes.append(state_->BytesOf(token, special));
  return bytes;
}

int32_t Tokenizer::vocab_size() const { return state_->table.size(); }
std::optional<TokenId> Tokenizer::bos() const { return state_->bos; }
const std::vector<TokenId>& Tokenizer::end_tokens() const { return state_->end_tokens; }

bool Tokenizer::IsEnd(TokenId token) const {
  return std::find(state_->end_tokens.begin(), state_->end_tokens.end(), token) != state_->end_tokens.end();
}

std::string_view Tokenizer::chat_template() const { return state_->chat_template; }
std::string_view Tokenizer::model() const { return state_->model; }
std::string_view Tokenizer::pre_tokenizer() const { return state_->pre_name; }

uint64_t Tokenizer::memory_bytes() const {
  return sizeof(State) + state_->chat_template.capacity() + state_->table.memory_bytes() +
         state_->specials.memory_bytes() + state_->pre_tokenizer.memory_bytes() + state_->merges.memory_bytes() +
         state_->whole_pieces.memory_bytes() + state_->end_tokens.capacity() * sizeof(TokenId);
}

std::string Utf8Stream::Push(std::string_view bytes) {
  held_.append(bytes);
  constexpr size_t kIncompleteBytesMax = 3;
  const size_t first = held_.size() > kIncompleteBytesMax ? held_.size() - kIncompleteBytesMax : 0;
  size_t whole = held_.size();
  for (size_t i = first; i < held_.size(); ++i) {
    if (FirstUtf8Char(std::string_view(held_).substr(i)).incomplete) {
      whole = i;
      break;
    }
  }
  std::string result = held_.substr(0, whole);
  held_.erase(0, whole);
  return result;
}

std::string Utf8Stream::Flush() { return std::exchange(held_, {}); }

}  // namespace dogstar
