// What the models make of a given text.
#include <algorithm>

#include "runtime/generator_session.h"

namespace dogstar {
namespace {

constexpr SequenceId kScored{0};  // one text at a time

}  // namespace

void Generator::Forget() {
  engine_->kv().Truncate(kScored, 0);
  held_.assign(1, {});
}

absl::StatusOr<std::vector<double>> Generator::Score(std::span<const TokenId> tokens, int32_t from) {
  Forget();
  RETURN_IF_ERROR(Process(kScored, tokens.first(static_cast<size_t>(from)), 0, nullptr));
  std::vector<double> nll;
  const size_t piece = static_cast<size_t>(engine_->forward().limits().logit_rows);
  for (size_t done = static_cast<size_t>(from); done + 1 < tokens.size(); done += piece) {
    const size_t rows = std::min(piece, tokens.size() - 1 - done);
    ASSIGN_OR_RETURN(const Batch batch, MakeChain(kScored, tokens.subspan(done, rows), static_cast<int32_t>(rows)));
    RETURN_IF_ERROR(engine_->forward().Full(batch, nullptr));
    for (size_t row = 0; row < rows; ++row) {
      RETURN_IF_ERROR(engine_->forward().Logits(static_cast<int32_t>(row), logits_));
      nll.push_back(NegativeLogLikelihood(logits_, tokens[done + row + 1]));
    }
  }
  return nll;
}

absl::Status Generator::CompareDrafts(std::span<const TokenId> tokens, int32_t prompt_tokens,
                                      const CompareFn& on_position, const CompareHooks& hooks) {
  KvCache& kv = engine_->kv();
  GenerationResult unused;
  const TextRequest request{
      tokens.first(static_cast<size_t>(prompt_tokens)), {.max_tokens = 1, .ignore_end = true}, &unused};
  Session session{.texts = {}, .live = {}, .period = PeriodController({false, 1}), .draft_rows = {}};
  session.texts.push_back(Text{.request = request, .sequence = kScored});
  session.texts.back().tokens.assign(request.prompt.begin(), request.prompt.end());
  RETURN_IF_ERROR(Prefill(&session));
  const size_t piece = static_cast<size_t>(engine_->forward().limits().logit_rows);
  std::vector<std::vector<float>> full_logits(piece, std::vector<float>(logits_.size()));
  for (size_t done = static_cast<size_t>(prompt_tokens); done + 1 < tokens.size(); done += piece) {
    const auto rows = tokens.subspan(done, std::min(piece, tokens.size() - 1 - done));
    const auto full_pass = [&](PassObserver* observer) -> absl::Status {
      kv.Truncate(kScored, static_cast<int32_t>(done));
      ASSIGN_OR_RETURN(const Batch batch, MakeChain(kScored, rows, static_cast<int32_t>(rows.size())));
      return engine_->forward().Full(batch, observer);
    };
    RETURN_IF_ERROR(full_pass(hooks.full));
    for (size_t row = 0; row < rows.size(); ++row) {
      RETURN_IF_ERROR(engine_->forward().Logits(static_cast<int32_t>(row), full_logits[row]));
    }
    // From the last row to the first: each draft still finds the full model's keys and values before it.
    for (size_t row = rows.size(); row-- > 0;) {
      kv.Truncate(kScored, static_cast<int32_t>(done + row));
      if (hooks.before_draft) {
        hooks.before_draft(static_cast<int32_t>(row));
        session.draft_rows = DraftRows::Build(engine_->draft_sources());
      }
      ASSIGN_OR_RETURN(const Batch batch, MakeChain(kScored, rows.subspan(row, 1), 1));
      RETURN_IF_ERROR(DraftPass(batch, session.draft_rows));
      RETURN_IF_ERROR(engine_->forward().Logits(0, logits_));
      on_position(tokens[done + row + 1], full_logits[row], logits_);
    }
    RETURN_IF_ERROR(full_pass(nullptr));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Generator::LogitsAfter(std::span<const TokenId> tokens) {
  Forget();
  RETURN_IF_ERROR(Process(kScored, tokens, 1, nullptr));
  RETURN_IF_ERROR(engine_->forward().Logits(0, logits_));
  return logits_;
}

}  // namespace dogstar
