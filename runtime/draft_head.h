// DraftHead: the output rows of frequent tokens, so that drafts need not hold the whole head. A vocabulary of 262144
// makes the head two thirds of a small model, and nearly every token of a text is one of some thousands; a token that
// is not among them cannot be drafted, and the full pass, which streams the rest of the head, decides as ever.
//
// Tokens: those that end a text, then the commonest of a bundled text, single ASCII characters, and the lowest ids
// (vocabularies made by merging have their frequent tokens first); at each prompt the prompt's own are added.
//
// Threads: one. Memory: allocated in Create.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"
#include "model/model_file.h"

namespace dogstar {

class DraftHead {
 public:
  static constexpr int32_t kPromptTokens = 512;  // of a prompt, at most, beside the frequent ones

  // Bytes that Create takes for so many frequent tokens and drafts of so many rows.
  static uint64_t Bytes(const ModelFile& model, const Backend& backend, int32_t tokens, int32_t rows);
  // Reads the rows. `model` and `backend` outlive the object. REQUIRES: tokens is a multiple of 16.
  static absl::StatusOr<std::unique_ptr<DraftHead>> Create(const ModelFile* model, Backend* backend, int32_t tokens,
                                                           int32_t rows);
  ~DraftHead();

  // A new prompt: its tokens, the last ones first, stand in for those of the last prompt.
  absl::Status SetPrompt(std::span<const TokenId> prompt);

  // Scores of the tokens for `rows` activation rows (as the head sees them).
  void Multiply(const Activations& x, int32_t rows);
  // Of row `row` of the last Multiply: logits of all tokens, -infinity for those that are not held. [vocab_size]
  absl::Status Logits(int32_t row, std::span<float> logits);

  // Row i of the matrix is the output of token tokens()[i].
  std::span<const TokenId> tokens() const { return tokens_; }

 private:
  DraftHead(const ModelFile* model, Backend* backend) : model_(model), backend_(backend) {}
  // Rows [first, first + 16) of the matrix from the file; those past the tokens are zero.
  absl::Status LoadPanel(int32_t first);

  const ModelFile* model_;
  Backend* backend_;
  int32_t frequent_ = 0;
  std::vector<TokenId> tokens_;  // frequent ones, then the prompt's
  std::vector<bool> is_frequent_;
  std::byte* panels_ = nullptr;
  MatrixView view_;
  std::vector<std::byte> plain_;  // 16 rows
  std::unique_ptr<Tensor> scores_;
  std::vector<float> host_;
};

// The tokens that Create takes, `count` of them.
std::vector<TokenId> FrequentTokens(const Tokenizer& tokenizer, int32_t vocab_size, int32_t count);

}  // namespace dogstar
