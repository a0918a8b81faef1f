// Sparsity evaluation: what a model loses when tokens use only some of its FFN rows, and what drafts by these rows are
// worth to the corrector.
//
// One engine in a mode that drafts, with one predictor and density, made with Options::captures_verified. Everything is
// in memory; what would have to be, and what would be fetched otherwise, is counted (row_use.h).
//
// Threads: one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/engine.h"
#include "runtime/evaluation.h"
#include "runtime/row_use.h"

namespace dogstar {

struct SparsityTexts {
  std::vector<TokenId> scored;  // teacher-forced, after its first prompt_tokens
  int32_t prompt_tokens = 0;
  std::vector<std::vector<TokenId>> prompts;  // continued
  std::vector<std::string> dense;             // what the full model continues them with; see ContinueDense
  int32_t new_tokens = 0;
};

struct SparsityResult {
  Agreement agreement;
  double used_density = 0;  // rows whose down part a token uses / rows
  double read_share = 0;  // of the bytes of gate, up and down that a token reads, by rows (gate-first reads all gates)
  RowUseTotals rows;      // along the scored text
  // Tokens per full pass with periods of 16, and how many passes that is the mean of.
  double strict_accepted = 0, sirius_accepted = 0;
  int64_t strict_cycles = 0, sirius_cycles = 0;
  int32_t strict_differences = 0;  // strict texts that are not the dense one: must be 0
  double bleu = 0;                 // of the sparse model's own texts, beside the dense ones
  double sirius_bleu = 0;
  double tokens_per_second = 0;  // of the sparse model
};

// Texts of the full model, by an engine in mode dense or any other.
absl::Status ContinueDense(Engine* engine, SparsityTexts* texts);
// Cancelled when go_on says false. A predictor for evaluation only (the oracle) is compared along the scored text and
// continues nothing.
absl::StatusOr<SparsityResult> MeasureSparsity(Engine* engine, const SparsityTexts& texts,
                                               const std::function<bool()>& go_on);

}  // namespace dogstar
