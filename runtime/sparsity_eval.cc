#include "runtime/sparsity_eval.h"

#include "runtime/bleu.h"
#include "runtime/generator.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

struct Continuation {
  std::string text;
  GenerationResult result;
};

absl::StatusOr<Continuation> Continue(Engine* engine, RunMode mode, const std::vector<TokenId>& prompt,
                                      int32_t tokens) {
  Continuation continuation;
  const GenerationOptions options{.max_tokens = tokens, .ignore_end = true};
  RETURN_IF_ERROR(Generator(engine, mode).Generate(prompt, options, &continuation.result));
  continuation.text = engine->model().tokenizer().Decode(continuation.result.tokens, true);
  return continuation;
}

// Where tokens choose, what each of them used and read of the model's rows.
void AddUse(const ModelConfig& model, const FfnUse& use, int64_t tokens, SparsityResult* result) {
  if (use.gate_rows == 0) return;  // one set for all tokens
  const double rows = static_cast<double>(model.layer_count) * model.ffn_rows * static_cast<double>(tokens);
  result->used_density = static_cast<double>(use.used) / rows;
  result->read_share = static_cast<double>(use.gate_rows + use.up_rows + use.down_rows) / (3 * rows);
}

// Runs of one mode over all prompts.
struct Totals {
  int64_t advanced = 0, passes = 0, tokens = 0;
  int32_t differences = 0;
  double bleu = 0, seconds = 0;

  double accepted() const { return passes > 0 ? static_cast<double>(advanced) / static_cast<double>(passes) : 0; }
};

absl::StatusOr<Totals> RunPrompts(Engine* engine, RunMode mode, const SparsityTexts& texts,
                                  const std::function<bool()>& go_on) {
  Totals totals;
  for (size_t i = 0; i < texts.prompts.size(); ++i) {
    if (!go_on()) return absl::CancelledError("the evaluation was stopped");
    ASSIGN_OR_RETURN(const Continuation run, Continue(engine, mode, texts.prompts[i], texts.new_tokens));
    totals.advanced += run.result.advanced;
    totals.passes += run.result.full_passes;
    totals.tokens += static_cast<int64_t>(run.result.tokens.size()) - 1;
    totals.seconds += run.result.decode_seconds;
    totals.differences += run.text != texts.dense[i];
    totals.bleu += Bleu(run.text, texts.dense[i]) / static_cast<double>(texts.prompts.size());
  }
  return totals;
}

}  // namespace

absl::Status ContinueDense(Engine* engine, SparsityTexts* texts) {
  texts->dense.clear();
  for (const std::vector<TokenId>& prompt : texts->prompts) {
    ASSIGN_OR_RETURN(const Continuation run, Continue(engine, RunMode::kDense, prompt, texts->new_tokens));
    texts->dense.push_back(run.text);
  }
  return absl::OkStatus();
}

absl::StatusOr<SparsityResult> MeasureSparsity(Engine* engine, const SparsityTexts& texts,
                                               const std::function<bool()>& go_on) {
  SparsityResult result;
  engine->forward().TakeDraftUse();
  ASSIGN_OR_RETURN(const std::unique_ptr<RowUse> row_use,
                   RowUse::Create(engine->weights(), ThreadsOf(engine->config()), engine->forward().limits().logit_rows,
                                  &engine->backend(), &engine->predictor()));
  engine->forward().SetDraftObserver(row_use.get());
  const absl::StatusOr<Agreement> agreement =
      MeasureAgreement(engine, texts.scored, texts.prompt_tokens, row_use->Hooks());
  engine->forward().SetDraftObserver(nullptr);
  RETURN_IF_ERROR(agreement.status());
  result.agreement = *agreement;
  result.rows = row_use->Totals();
  result.used_density = result.read_share = result.rows.mean_used();
  AddUse(engine->model().config(), engine->forward().TakeDraftUse(), result.agreement.positions(), &result);
  if (engine->predictor().evaluation_only()) {
    return result;
  }
  ASSIGN_OR_RETURN(const Totals sparse, RunPrompts(engine, RunMode::kSparse, texts, go_on));
  result.bleu = sparse.bleu;
  result.tokens_per_second = sparse.seconds > 0 ? static_cast<double>(sparse.tokens) / sparse.seconds : 0;
  ASSIGN_OR_RETURN(const Totals strict, RunPrompts(engine, RunMode::kStrict, texts, go_on));
  result.strict_accepted = strict.accepted();
  result.strict_cycles = strict.passes;
  result.strict_differences = strict.differences;
  ASSIGN_OR_RETURN(const Totals sirius, RunPrompts(engine, RunMode::kSirius, texts, go_on));
  result.sirius_accepted = sirius.accepted();
  result.sirius_cycles = sirius.passes;
  result.sirius_bleu = sirius.bleu;
  return result;
}

}  // namespace dogstar
