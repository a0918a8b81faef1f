// Tokenizer: a model's vocabulary (byte-level BPE or SentencePiece, model/text_encoder.h) and its special tokens.
// Compact: flat arrays, no string per token, because it lives inside the RAM budget.
//
// Threads: const after construction; Encode may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "model/gguf.h"

namespace dogstar {

struct TextRange {
  size_t start = 0, bytes = 0;
};

struct EncodeOptions {
  bool add_bos = true;               // add BOS if the model asks for it (tokenizer.ggml.add_bos_token)
  bool parse_special = false;        // text that looks like a special token becomes that token
  std::span<const TextRange> plain;  // with parse_special: control tokens are not looked for where these lie
  bool at_start = true;  // the text starts a text or follows a special token: SentencePiece may put a space first
};

class Tokenizer {
 public:
  // Vocabulary-only files and architectures that cannot run are fine. Unimplemented names a tokenizer model or
  // pre-tokenizer that is not known (with the list of those that are).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufHeader& header);
  ~Tokenizer();

  // Invalid UTF-8 bytes are encoded as the bytes they are (byte-level BPE loses nothing).
  std::vector<TokenId> Encode(std::string_view text, const EncodeOptions& options) const;
  // The raw bytes of a token; may be part of a UTF-8 character. Control tokens give "" unless `special`.
  std::string TokenBytes(TokenId token, bool special = false) const;
  std::string Decode(std::span<const TokenId> tokens, bool special = false) const;

  int32_t vocab_size() const;
  std::optional<TokenId> bos() const;
  bool adds_bos() const;  // BOS exists and Encode puts it first
  // Tokens that end a generation: EOS, EOT and the like.
  const std::vector<TokenId>& end_tokens() const;
  bool IsEnd(TokenId token) const;
  std::string_view chat_template() const;  // tokenizer.chat_template, "" if absent
  std::string_view model() const;          // "gpt2", "llama"
  std::string_view pre_tokenizer() const;  // "smollm"; "" where the file names none
  uint64_t memory_bytes() const;           // for the budget's table

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Holds back the bytes of a token stream until they are whole UTF-8 characters, so that a terminal or a JSON string
// never sees half of one. Flush gives what is left (invalid bytes as they are).
class Utf8Stream {
 public:
  std::string Push(std::string_view bytes);
  std::string Flush();

 private:
  std::string held_;
};

}  // namespace dogstar
