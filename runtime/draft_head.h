// DraftHead: the output rows that drafts use, so that they need not hold the whole head. A vocabulary of 262144 makes
// the head two thirds of a small model, and nearly every token of a text is one of some thousands; a token that is not
// among them cannot be drafted, and the full pass, which streams the rest of the head, decides as ever.
//
// Tokens: the lowest ids, whose rows are the head's resident ones (vocabularies made by merging have their frequent
// tokens first); and copies of the rows of tokens beyond them: those that end a text, the commonest of the bundled
// texts, single ASCII characters, and at each prompt the prompt's own.
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
  // Copied rows at most: of frequent tokens, and of a prompt's.
  static constexpr int32_t kFrequentTokens = 768;
  static constexpr int32_t kPromptTokens = 512;

  // Bytes that Create takes beside the head's first rows, for drafts of so many rows.
  static uint64_t Bytes(const ModelFile& model, const Backend& backend, int32_t first_rows, int32_t rows);
  // Reads the rows to copy. first_rows: of the head, in panels. `model`, `backend` and these rows outlive the object.
  static absl::StatusOr<std::unique_ptr<DraftHead>> Create(const ModelFile* model, Backend* backend,
                                                           const MatrixView& first_rows, int32_t rows);
  ~DraftHead();

  // A new prompt: its tokens, the last ones first, stand in for those of the last prompt.
  absl::Status SetPrompt(std::span<const TokenId> prompt);

  // Scores of the tokens for `rows` activation rows (as the head sees them).
  void Multiply(const Activations& x, int32_t rows);
  // Of row `row` of the last Multiply: logits of all tokens, -infinity for those that are not held. [vocab_size]
  absl::Status Logits(int32_t row, std::span<float> logits);

  // The likeliest tokens of rows from `first_row` on (RowPeak::col is an id) among those that are held.
  absl::Status FindPeaks(int32_t first_row, float scale, std::span<RowPeak> peaks) const;

  // The likeliest of them, as many as top holds or there are (RowEntry::col is a token's id); how many.
  absl::StatusOr<size_t> Top(int32_t row, std::span<RowEntry> top) const;

  // Copied rows, and which of them is the token's; -1: none.
  const MatrixView& copies() const { return copies_; }
  int32_t FindCopy(TokenId token) const;

 private:
  DraftHead(const ModelFile* model, Backend* backend, const MatrixView& first_rows)
      : model_(model), backend_(backend), first_rows_(first_rows) {}
  // Copies [first, first + 16) from the file; those past the tokens are zero.
  absl::Status LoadPanel(int32_t first);

  const ModelFile* model_;
  Backend* backend_;
  MatrixView first_rows_;
  size_t frequent_ = 0;
  std::vector<TokenId> tokens_;  // of the copies: frequent ones, then the prompt's
  std::byte* panels_ = nullptr;
  MatrixView copies_;
  std::vector<std::byte> plain_;  // 16 rows
  std::unique_ptr<Tensor> scores_;
  std::vector<float> host_;
};

// Tokens from `first` on that drafts want, the likeliest first; at most `count`.
std::vector<TokenId> FrequentTokens(const Tokenizer& tokenizer, int32_t vocab_size, int32_t first, int32_t count);

}  // namespace dogstar
