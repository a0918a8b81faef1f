// TextEncoder: plain text, between special tokens, to token ids. One implementation per kind of vocabulary.
//
// Threads: const after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "model/gguf.h"
#include "model/token_table.h"

namespace dogstar {

class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  // Appends the tokens of `text`. at_start: nothing, or a special token, comes before it.
  virtual void Encode(std::string_view text, bool at_start, std::vector<TokenId>* out) const = 0;
  // What the family does about BOS when the file says nothing.
  virtual bool adds_bos() const = 0;
  virtual uint64_t memory_bytes() const = 0;
};

// A vocabulary as the file has it.
struct VocabularySource {
  const GgufHeader& header;
  const std::vector<std::string>& texts;  // tokenizer.ggml.tokens
  const std::vector<TokenKind>& kinds;
};

// A vocabulary ready for use: the bytes each token stands for, and the encoder. The encoder keeps a pointer to the
// table.
struct Vocabulary {
  std::unique_ptr<TokenTable> table;
  std::unique_ptr<TextEncoder> encoder;
};

// tokenizer.ggml.model "gpt2": byte-level BPE with a pre-tokenizer. Unimplemented names a pre-tokenizer that is not
// known.
absl::StatusOr<Vocabulary> ReadByteLevelBpe(const VocabularySource& source);
// tokenizer.ggml.model "llama": SentencePiece BPE. Of neighbours whose joint text is a token, those with the best score
// join first (the leftmost of equals); characters without a token become byte tokens (<0x0A>), or the unknown token.
absl::StatusOr<Vocabulary> ReadSentencePiece(const VocabularySource& source);

}  // namespace dogstar
