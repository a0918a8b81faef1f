#include "model/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "fmt/format.h"
#include "model/gguf_format.h"
#include "model/text_encoder.h"
#include "model/token_table.h"
#include "model/utf8.h"

namespace dogstar {
namespace {

constexpr char kModelKey[] = "tokenizer.ggml.model";
constexpr char kPreKey[] = "tokenizer.ggml.pre";
constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kTokenTypeKey[] = "tokenizer.ggml.token_type";
constexpr char kBosKey[] = "tokenizer.ggml.bos_token_id";
constexpr char kAddBosKey[] = "tokenizer.ggml.add_bos_token";
constexpr char kTemplateKey[] = "tokenizer.chat_template";
constexpr const char* kEndKeys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                    "tokenizer.ggml.eom_token_id"};

// Control tokens that end a turn or a text in the model families we know, whatever the metadata's EOS is.
constexpr std::string_view kEndTexts[] = {
    "<|im_end|>", "<|eot_id|>",      "<|eom_id|>",    "<|endoftext|>",         "<|end_of_text|>",
    "<|end|>",    "<|end_of_turn|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "</s>"};

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

absl::StatusOr<Vocabulary> ReadVocabulary(std::string_view model, const VocabularySource& source) {
  if (model == "gpt2") return ReadByteLevelBpe(source);
  if (model == "llama") return ReadSentencePiece(source);
  return absl::UnimplementedError(fmt::format("tokenizer model {} is not known; known: gpt2, llama", Quoted(model)));
}

// "" where the file names none (SentencePiece vocabularies have none).
std::string ReadPreTokenizerName(const GgufHeader& header) {
  const absl::StatusOr<std::string_view> name = header.GetString(kPreKey);
  return name.ok() ? std::string(*name) : std::string();
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
  Vocabulary vocabulary;
  SpecialTokens specials;
  std::optional<TokenId> bos;
  bool adds_bos = false;
  std::vector<TokenId> end_tokens;

  const TokenTable& table() const { return *vocabulary.table; }

  bool IsHidden(TokenId token) const {
    const TokenKind kind = table().KindOf(token);
    return kind == TokenKind::kControl || kind == TokenKind::kUnknown;
  }

  std::string_view BytesOf(TokenId token, bool special) const {
    if (ToInt(token) < 0 || ToInt(token) >= table().size()) return {};
    return !special && IsHidden(token) ? std::string_view() : table().BytesOf(token);
  }

  absl::Status ReadOptions(const GgufHeader& header) {
    ASSIGN_OR_RETURN(bos, ReadTokenId(header, kBosKey, table().size()));
    adds_bos = vocabulary.encoder->adds_bos();
    if (header.FindField(kAddBosKey) != nullptr) {
      ASSIGN_OR_RETURN(adds_bos, header.GetBool(kAddBosKey));
    }
    ASSIGN_OR_RETURN(end_tokens, ReadEndTokens(header, table()));
    ASSIGN_OR_RETURN(chat_template, ReadChatTemplate(header));
    return absl::OkStatus();
  }
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufHeader& header) {
  ASSIGN_OR_RETURN(const std::string_view model, header.GetString(kModelKey));
  ASSIGN_OR_RETURN(const std::vector<std::string>* texts, ReadTokenTexts(header));
  ASSIGN_OR_RETURN(const std::vector<TokenKind> kinds, ReadTokenKinds(header, texts->size()));
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->vocabulary, ReadVocabulary(model, {header, *texts, kinds}));
  state->model = model;
  state->pre_name = ReadPreTokenizerName(header);
  state->specials = SpecialTokens(state->vocabulary.table.get());
  RETURN_IF_ERROR(state->ReadOptions(header));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(state)));
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> tokens;
  if (options.add_bos && adds_bos()) tokens.push_back(*state_->bos);
  const auto encode = [&](std::string_view part, bool at_start) {
    if (!part.empty()) state_->vocabulary.encoder->Encode(part, at_start, &tokens);
  };
  size_t done = 0;
  bool at_start = options.at_start;
  const auto control_counts = [&](size_t start, size_t bytes) {
    return options.parse_special &&
           std::none_of(options.plain.begin(), options.plain.end(), [&](const TextRange& range) {
             return start < range.start + range.bytes && range.start < start + bytes;
           });
  };
  while (const auto match = state_->specials.Find(text, done, control_counts)) {
    encode(text.substr(done, match->start - done), at_start);
    tokens.push_back(match->token);
    done = match->start + match->bytes;
    at_start = true;
  }
  encode(text.substr(done), at_start);
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

int32_t Tokenizer::vocab_size() const { return state_->table().size(); }
bool Tokenizer::adds_bos() const { return state_->adds_bos && state_->bos.has_value(); }
std::optional<TokenId> Tokenizer::bos() const { return state_->bos; }
const std::vector<TokenId>& Tokenizer::end_tokens() const { return state_->end_tokens; }

bool Tokenizer::IsEnd(TokenId token) const {
  return std::find(state_->end_tokens.begin(), state_->end_tokens.end(), token) != state_->end_tokens.end();
}

std::string_view Tokenizer::chat_template() const { return state_->chat_template; }
std::string_view Tokenizer::model() const { return state_->model; }
std::string_view Tokenizer::pre_tokenizer() const { return state_->pre_name; }

uint64_t Tokenizer::memory_bytes() const {
  return sizeof(State) + state_->chat_template.capacity() + state_->table().memory_bytes() +
         state_->specials.memory_bytes() + state_->vocabulary.encoder->memory_bytes() +
         state_->end_tokens.capacity() * sizeof(TokenId);
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
