#include "runtime/generator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/clock.h"
#include "fmt/format.h"
#include "runtime/prompt_harvest.h"
#include "runtime/text_lookup.h"

namespace dogstar {
namespace {

constexpr int32_t kReservedTokens = 1 << 17;  // of texts without an end; longer ones grow
constexpr SequenceId kSequence{0};            // a generator has one text at a time

// softmax(logits)[token], without the terms that cannot change three digits: it is asked for every draft.
float Confidence(std::span<const float> logits, TokenId token) {
  constexpr float kNegligible = 14;  // e^-14 * 49152 tokens = 4%, at the very most
  const float own = logits[static_cast<size_t>(ToInt(token))];
  const float largest = *std::max_element(logits.begin(), logits.end());
  float sum = 0;
  for (float logit : logits) {
    if (largest - logit < kNegligible) sum += std::exp(logit - largest);
  }
  return std::exp(own - largest) / sum;
}

void CountJudged(int32_t judged, int32_t accepted, GenerationResult* result) {
  result->drafts_judged += judged;
  if (result->judged_at.size() < static_cast<size_t>(judged)) {
    result->judged_at.resize(static_cast<size_t>(judged));
    result->accepted_at.resize(static_cast<size_t>(judged));
  }
  for (size_t i = 0; i < static_cast<size_t>(judged); ++i) {
    ++result->judged_at[i];
    result->accepted_at[i] += static_cast<int32_t>(i) < accepted ? 1 : 0;
  }
}

}  // namespace

// One generation in progress.
struct Generator::Run {
  const GenerationOptions& options;
  GenerationResult* result;
  PeriodController period;
  DraftRows draft_rows;
  std::vector<TokenId> text;   // the prompt and what was emitted
  TokenId root{};              // the last of it, not yet in the KV cache
  std::vector<TokenId> chain;  // root and drafts of the cycle
  double first_token_at = 0;
  uint64_t disk_at_first_token = 0;
  bool done = false;

  TokenPos next_position() const { return TokenPos{static_cast<int32_t>(text.size())}; }  // of the token to choose
};

Generator::Generator(Engine* engine, std::optional<RunMode> mode)
    : engine_(engine),
      mode_(mode.value_or(engine->mode())),
      sampler_(engine->config().sampling),
      logits_(static_cast<size_t>(engine->model().config().vocab_size)) {
  const Config& config = engine->config();
  corrector_.rule = mode_ == RunMode::kSirius ? AcceptRule::kSirius : AcceptRule::kStrict;
  corrector_.threshold = static_cast<float>(config.corrector.threshold);
  corrector_.temperature = static_cast<float>(config.corrector.temperature);
  if (engine->harvest() == HarvestMode::kOff) return;
  const ModelConfig& model = engine->model().config();
  row_scores_ = std::make_unique<RowScores>(
      model.layer_count, model.ffn_rows, RowScores::Options{config.cache.eviction.lfu_half_life, config.cache.prior});
  // Something must follow the text: the overlay's rows, or the predictor's choice.
  const bool follows = engine->overlay() != nullptr || engine->predictor().observes_prompt();
  if (engine->harvest() != HarvestMode::kText || !follows) return;
  text_harvest_ = std::make_unique<TextHarvest>(
      &engine->weights(), &engine->predictor(), row_scores_.get(), engine->overlay(),
      TextHarvest::Options{config.draft.density, engine->forward().limits().logit_rows, engine->accesses()});
}

// Rows for `tokens` as the next positions of the sequence.
absl::StatusOr<Batch> Generator::MakeChain(SequenceId sequence, std::span<const TokenId> tokens, int32_t logit_rows) {
  KvCache& kv = engine_->kv();
  const TokenPos first{kv.length(sequence)};
  const int32_t rows = static_cast<int32_t>(tokens.size());
  Batch batch;
  batch.tokens.assign(tokens.begin(), tokens.end());
  ASSIGN_OR_RETURN(batch.slots, kv.Append(sequence, rows));
  for (int32_t i = 0; i < rows; ++i) batch.positions.push_back(TokenPos{ToInt(first) + i});
  batch.mask = kv.CausalMask(sequence, first, rows);
  batch.logit_rows = logit_rows;
  return batch;
}

absl::Status Generator::Generate(std::span<const TokenId> prompt, const GenerationOptions& options,
                                 GenerationResult* result) {
  CHECK(!prompt.empty());
  const Config& config = engine_->config();
  const RunMode mode = mode_;
  const bool adaptive = config.corrector.adaptive.value_or(mode == RunMode::kStrict);
  Run run{.options = options, .result = result, .period = PeriodController({adaptive, config.corrector.period})};
  const size_t tokens = static_cast<size_t>(std::clamp(options.max_tokens, 0, kReservedTokens));
  run.text.reserve(prompt.size() + tokens);
  result->tokens.reserve(tokens);
  run.text.assign(prompt.begin(), prompt.end());
  corrector_.assumed_tokens = result->assumed_tokens = options.assumed_tokens;

  RETURN_IF_ERROR(Prefill(prompt, &run));
  while (!run.done) {
    if (engine_->kv().free_slots() == 0) {
      RETURN_IF_ERROR(Slide(&run));
      if (run.done) break;
    }
    switch (mode) {
      case RunMode::kSparse:
        RETURN_IF_ERROR(SparseStep(&run));
        break;
      case RunMode::kSirius:
      case RunMode::kStrict:
        RETURN_IF_ERROR(engine_->can_draft() || LookupLength() > 0 ? CorrectedCycle(&run) : DenseStep(&run));
        break;
      case RunMode::kAuto:
      case RunMode::kDense:
        RETURN_IF_ERROR(DenseStep(&run));
        break;
    }
  }
  result->dense_share = run.period.dense_share();
  result->io_wait_seconds = engine_->io_wait_seconds();
  return absl::OkStatus();
}

void Generator::RecordPass(AccessPhase phase, size_t rows) {
  if (engine_->accesses() != nullptr) engine_->accesses()->Pass(phase, static_cast<int32_t>(rows));
}

// Full passes over the prompt in pieces; the first token is the full model's.
absl::Status Generator::Prefill(std::span<const TokenId> prompt, Run* run) {
  const int32_t total = static_cast<int32_t>(prompt.size());
  if (total >= engine_->context_slots()) {
    return absl::InvalidArgumentError(
        fmt::format("the prompt has {} tokens and leaves no room in a context of {}; raise -c or shorten it", total,
                    engine_->context_slots()));
  }
  const double start = Now();
  Predictor& predictor = engine_->predictor();
  PromptHarvest harvest(&predictor, row_scores_.get(), engine_->overlay(), engine_->heads(),
                        engine_->observes_prompt());
  predictor.BeginPrompt();
  if (engine_->heads() != nullptr) engine_->heads()->BeginPrompt();
  if (row_scores_ != nullptr) row_scores_->BeginPrompt();
  held_.resize(ReusablePrefix(prompt, run->options));
  engine_->kv().Truncate(kSequence, static_cast<int32_t>(held_.size()));
  const int32_t reused = static_cast<int32_t>(held_.size());
  const auto go_on = [&](int32_t done) {
    if (reused + done < total) harvest.BeginPiece();  // after the last piece its rows stay
    if (run->options.on_prompt && done > 0) run->options.on_prompt(reused + done, total);
    return run->options.interrupted == nullptr || !*run->options.interrupted;
  };
  const bool observes = engine_->forward().limits().capture_rows > 0 || harvest.reads_contexts();
  PassObserver* observer = observes ? &harvest : nullptr;
  RETURN_IF_ERROR(Process(prompt.subspan(held_.size()), true, observer, go_on));
  if (held_.size() < prompt.size()) {
    run->done = true;
    run->result->stop = StopReason::kInterrupted;
    return absl::OkStatus();
  }
  predictor.EndPrompt();
  if (text_harvest_ != nullptr) text_harvest_->BeginText(engine_->observes_prompt() ? total - reused : 0);
  if (engine_->draft_head() != nullptr) RETURN_IF_ERROR(engine_->draft_head()->SetPrompt(prompt));
  if (engine_->can_draft() && mode_ != RunMode::kDense) {
    run->draft_rows = DraftRows::Build(engine_->draft_sources());
    run->result->draft_density = predictor.name() == "dense" ? 1 : run->draft_rows.density();
  }
  run->result->prompt_tokens = total;
  run->result->reused_tokens = reused;
  run->result->prompt_seconds = Now() - start;
  RETURN_IF_ERROR(engine_->forward().Logits(0, logits_));
  run->root = sampler_.Choose(logits_, {run->text, {}}, kSequence, TokenPos{total});
  return Emit(run, run->root, 0);
}

absl::Status Generator::Process(std::span<const TokenId> tokens, bool with_logits, PassObserver* observer,
                                const std::function<bool(int32_t done)>& go_on) {
  const size_t piece = static_cast<size_t>(engine_->forward().limits().batch_rows);
  for (size_t done = 0; done < tokens.size() && go_on(static_cast<int32_t>(done));) {
    const std::span<const TokenId> rows = tokens.subspan(done, std::min(piece, tokens.size() - done));
    done += rows.size();
    const bool last = done == tokens.size();
    ASSIGN_OR_RETURN(const Batch batch, MakeChain(kSequence, rows, with_logits && last ? 1 : 0));
    RecordPass(AccessPhase::kPrefill, rows.size());
    RETURN_IF_ERROR(engine_->forward().Full(batch, observer));
    held_.insert(held_.end(), rows.begin(), rows.end());
    if (last) go_on(static_cast<int32_t>(done));
  }
  return absl::OkStatus();
}

// At least the last token of the prompt is computed: its logits are needed.
size_t Generator::ReusablePrefix(std::span<const TokenId> prompt, const GenerationOptions& options) const {
  if (!options.reuse_prefix) return 0;
  const size_t most = std::min(held_.size(), prompt.size() - 1);
  return static_cast<size_t>(
      std::mismatch(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(most), prompt.begin()).first - held_.begin());
}

absl::Status Generator::Slide(Run* run) {
  const std::vector<TokenId> full = std::exchange(held_, {});
  const size_t keep = std::min(static_cast<size_t>(engine_->config().context_keep), full.size() - 1);
  const size_t dropped = (full.size() - keep + 1) / 2;
  std::vector<TokenId> left(full.begin(), full.begin() + static_cast<ptrdiff_t>(keep));
  left.insert(left.end(), full.begin() + static_cast<ptrdiff_t>(keep + dropped), full.end());
  engine_->kv().Truncate(kSequence, 0);
  ++run->result->context_slides;
  const auto go_on = [&](int32_t) { return run->options.interrupted == nullptr || !*run->options.interrupted; };
  RETURN_IF_ERROR(Process(left, false, nullptr, go_on));
  if (held_.size() == left.size()) return absl::OkStatus();
  run->done = true;
  run->result->stop = StopReason::kInterrupted;
  return absl::OkStatus();
}

// A token becomes final. logits_row: row of the last pass's logits that judged it, < 0 when logits_ holds them.
absl::Status Generator::Emit(Run* run, TokenId token, int32_t logits_row) {
  GenerationResult& result = *run->result;
  const double now = Now();
  if (result.tokens.empty()) {
    run->first_token_at = now;
    run->disk_at_first_token = engine_->disk_bytes();
  }
  if (run->options.logprobs > 0) {
    if (logits_row >= 0) RETURN_IF_ERROR(engine_->forward().Logits(logits_row, logits_));
    result.logprobs.push_back(TopLogprobs(logits_, run->options.logprobs));
  }
  result.tokens.push_back(token);
  run->text.push_back(token);
  result.decode_seconds = now - run->first_token_at;
  result.decode_disk_bytes = engine_->disk_bytes() - run->disk_at_first_token;
  result.disk_bytes = engine_->disk_bytes();
  const bool go_on = !run->options.on_token || run->options.on_token(token);

  if (engine_->model().tokenizer().IsEnd(token) && !run->options.ignore_end) {
    run->done = true;
    result.stop = StopReason::kEndToken;
  } else if (!go_on) {
    run->done = true;
    result.stop = StopReason::kStopString;
  } else if (static_cast<int32_t>(result.tokens.size()) >= run->options.max_tokens) {
    run->done = true;
    result.stop = StopReason::kLength;
  } else if (static_cast<int32_t>(held_.size()) >= engine_->context_slots() &&
             engine_->config().context_overflow == ContextOverflow::kStop) {
    run->done = true;
    result.stop = StopReason::kContextFull;
  } else if (run->options.interrupted != nullptr && *run->options.interrupted) {
    run->done = true;
    result.stop = StopReason::kInterrupted;
  }
  return absl::OkStatus();
}

absl::Status Generator::DenseStep(Run* run) {
  const double start = Now();
  ASSIGN_OR_RETURN(const Batch batch, MakeChain(kSequence, {&run->root, 1}, 1));
  RecordPass(AccessPhase::kFull, 1);
  RETURN_IF_ERROR(engine_->forward().Full(batch, nullptr));
  held_.push_back(run->root);
  RETURN_IF_ERROR(engine_->forward().Logits(0, logits_));
  run->result->full_seconds += Now() - start;
  ++run->result->full_passes;
  ++run->result->advanced;
  run->root = sampler_.Choose(logits_, {run->text, {}}, kSequence, run->next_position());
  return Emit(run, run->root, -1);
}

// One pass of the sparse model; logits_ are those after the last token.
absl::Status Generator::DraftPass(std::span<const TokenId> tokens, const DraftRows& rows) {
  ASSIGN_OR_RETURN(const Batch batch, MakeChain(kSequence, tokens, 1));
  RecordPass(AccessPhase::kDraft, tokens.size());
  if (engine_->predictor().name() == "dense") {
    RETURN_IF_ERROR(engine_->forward().Full(batch, nullptr));
  } else {
    RETURN_IF_ERROR(engine_->forward().Draft(batch, rows));
  }
  return engine_->forward().Logits(0, logits_);
}

// Its token is logits_' choice for the next position.
absl::Status Generator::DraftToken(Run* run) {
  const TokenId input = run->chain.back();
  RETURN_IF_ERROR(DraftPass({&input, 1}, run->draft_rows));
  const auto drafted = std::span<const TokenId>(run->chain).subspan(1);
  const TokenPos position{ToInt(run->next_position()) + static_cast<int32_t>(drafted.size())};
  run->chain.push_back(sampler_.Choose(logits_, {run->text, drafted}, kSequence, position));
  ++run->result->draft_steps;
  return absl::OkStatus();
}

absl::Status Generator::SparseStep(Run* run) {
  const double start = Now();
  run->chain = {run->root};
  RETURN_IF_ERROR(DraftToken(run));
  held_.push_back(run->root);
  run->result->draft_seconds += Now() - start;
  run->root = run->chain.back();
  return Emit(run, run->root, -1);
}

int32_t Generator::LookupLength() const {
  constexpr int32_t kWithoutDrafts = 2;  // a wrong one costs a row of a pass that waits for the disk anyway
  const int32_t given = engine_->config().draft.lookup;
  if (given >= 0) return given;
  return mode_ == RunMode::kStrict && !engine_->can_draft() ? kWithoutDrafts : 0;
}

int32_t Generator::LookUp(int32_t most_rows, Run* run) {
  const int32_t least = LookupLength();
  if (least == 0) return 0;
  const LookupResult found = LookUpText(run->text, least, most_rows - 1);
  const int32_t count = run->period.LookupsToTry(static_cast<int32_t>(found.tokens.size()));
  run->chain.insert(run->chain.end(), found.tokens.begin(), found.tokens.begin() + count);
  run->result->looked_up += count;
  return count;
}

absl::Status Generator::DraftChain(int32_t most_rows, Run* run) {
  const Tokenizer& tokenizer = engine_->model().tokenizer();
  const int32_t root_position = engine_->kv().length(kSequence);
  while (static_cast<int32_t>(run->chain.size()) < most_rows && run->period.DraftAnother()) {
    const double start = Now();
    RETURN_IF_ERROR(DraftToken(run));
    const TokenId drafted = run->chain.back();
    const float confidence = Confidence(logits_, drafted);
    const double seconds = Now() - start;
    run->period.RecordDraft(confidence, seconds);
    run->result->draft_seconds += seconds;
    if (tokenizer.IsEnd(drafted) && !run->options.ignore_end) break;  // nothing follows an end: verify now
  }
  engine_->kv().Truncate(kSequence, root_position);
  return absl::OkStatus();
}

// The full pass rewrites the drafts' keys and values; what was not accepted is forgotten.
absl::StatusOr<Verdict> Generator::Verify(Run* run) {
  KvCache& kv = engine_->kv();
  const int32_t root_position = kv.length(kSequence);
  ASSIGN_OR_RETURN(const Batch batch, MakeChain(kSequence, run->chain, static_cast<int32_t>(run->chain.size())));
  RecordPass(AccessPhase::kVerify, run->chain.size());
  RETURN_IF_ERROR(engine_->forward().Full(batch, text_harvest_.get()));
  const auto logits_of = [&](int32_t row, std::span<float> out) { return engine_->forward().Logits(row, out); };
  ASSIGN_OR_RETURN(const Verdict verdict,
                   Judge(corrector_, &sampler_, run->text, kSequence, TokenPos{ToInt(run->next_position()) - 1},
                         run->chain, logits_of, logits_));
  kv.Truncate(kSequence, root_position + verdict.accepted + 1);
  if (text_harvest_ != nullptr) FollowText(verdict.accepted + 1, run);
  return verdict;
}

absl::Status Generator::EmitVerified(const Verdict& verdict, Run* run) {
  for (int32_t i = 0; i < verdict.accepted && !run->done; ++i) {
    held_.push_back(run->chain[static_cast<size_t>(i)]);
    RETURN_IF_ERROR(Emit(run, run->chain[static_cast<size_t>(i) + 1], i));
  }
  if (run->done) return absl::OkStatus();
  held_.push_back(run->chain[static_cast<size_t>(verdict.accepted)]);
  run->root = verdict.next;
  return Emit(run, run->root, verdict.accepted);
}

absl::Status Generator::CorrectedCycle(Run* run) {
  const int32_t tokens_left = run->options.max_tokens - static_cast<int32_t>(run->result->tokens.size());
  const int32_t most_rows = std::min({engine_->kv().free_slots(), tokens_left, engine_->forward().limits().logit_rows});
  run->chain = {run->root};
  const int32_t looked_up = LookUp(most_rows, run);
  if (looked_up == 0) {
    run->period.BeginCycle();
    if (engine_->can_draft()) RETURN_IF_ERROR(DraftChain(most_rows, run));
  }

  const double start = Now();
  ASSIGN_OR_RETURN(const Verdict verdict, Verify(run));
  const double seconds = Now() - start;
  const int32_t rows = static_cast<int32_t>(run->chain.size());
  GenerationResult& result = *run->result;
  if (looked_up > 0) {
    run->period.RecordLookup(rows, verdict.accepted, seconds);
    result.lookups_accepted += verdict.accepted;
  } else {
    run->period.RecordVerify(rows, verdict.accepted, seconds);
  }
  result.full_seconds += seconds;
  ++result.full_passes;
  result.advanced += verdict.accepted + 1;
  const size_t won = static_cast<size_t>(verdict.accepted) + 1;
  if (result.cycle_tokens.size() <= won) result.cycle_tokens.resize(won + 1);
  ++result.cycle_tokens[won];
  result.drafts_accepted += verdict.accepted;
  CountJudged(std::min(verdict.accepted + 1, rows - 1), verdict.accepted, &result);
  if (run->options.on_cycle) run->options.on_cycle(run->chain, verdict.accepted, verdict.next);
  return EmitVerified(verdict, run);
}

// The next drafts use the rows that this cycle's tokens brought in.
void Generator::FollowText(int32_t verified_rows, Run* run) {
  text_harvest_->EndPass(verified_rows);
  Overlay* overlay = engine_->overlay();
  const bool chooses = engine_->predictor().observes_prompt();
  for (int32_t i = 0; i < engine_->weights().layer_count(); ++i) {
    const LayerIndex layer{i};
    const bool changed = overlay != nullptr && overlay->TakeChanged(layer);
    if (changed || chooses) run->draft_rows.Update(layer, engine_->draft_sources());
  }
}

absl::StatusOr<std::vector<double>> Generator::Score(std::span<const TokenId> tokens, int32_t from) {
  const SequenceId sequence{0};
  engine_->kv().Truncate(sequence, 0);
  held_.clear();
  const auto go_on = [](int32_t) { return true; };
  RETURN_IF_ERROR(Process(tokens.first(static_cast<size_t>(from)), false, nullptr, go_on));
  std::vector<double> nll;
  const size_t piece = static_cast<size_t>(engine_->forward().limits().logit_rows);
  for (size_t done = static_cast<size_t>(from); done + 1 < tokens.size(); done += piece) {
    const size_t rows = std::min(piece, tokens.size() - 1 - done);
    ASSIGN_OR_RETURN(const Batch batch, MakeChain(sequence, tokens.subspan(done, rows), static_cast<int32_t>(rows)));
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
  const SequenceId sequence{0};
  KvCache& kv = engine_->kv();
  GenerationResult unused;
  const GenerationOptions options{.max_tokens = 1, .ignore_end = true};
  Run run{.options = options, .result = &unused, .period = PeriodController({false, 1})};
  RETURN_IF_ERROR(Prefill(tokens.first(static_cast<size_t>(prompt_tokens)), &run));
  const size_t piece = static_cast<size_t>(engine_->forward().limits().logit_rows);
  std::vector<std::vector<float>> full_logits(piece, std::vector<float>(logits_.size()));
  for (size_t done = static_cast<size_t>(prompt_tokens); done + 1 < tokens.size(); done += piece) {
    const auto rows = tokens.subspan(done, std::min(piece, tokens.size() - 1 - done));
    const auto full_pass = [&](PassObserver* observer) -> absl::Status {
      kv.Truncate(sequence, static_cast<int32_t>(done));
      ASSIGN_OR_RETURN(const Batch batch, MakeChain(sequence, rows, static_cast<int32_t>(rows.size())));
      return engine_->forward().Full(batch, observer);
    };
    RETURN_IF_ERROR(full_pass(hooks.full));
    for (size_t row = 0; row < rows.size(); ++row) {
      RETURN_IF_ERROR(engine_->forward().Logits(static_cast<int32_t>(row), full_logits[row]));
    }
    // From the last row to the first: each draft still finds the full model's keys and values before it.
    for (size_t row = rows.size(); row-- > 0;) {
      kv.Truncate(sequence, static_cast<int32_t>(done + row));
      if (hooks.before_draft) {
        hooks.before_draft(static_cast<int32_t>(row));
        run.draft_rows = DraftRows::Build(engine_->draft_sources());
      }
      RETURN_IF_ERROR(DraftPass(rows.subspan(row, 1), run.draft_rows));
      on_position(tokens[done + row + 1], full_logits[row], logits_);
    }
    RETURN_IF_ERROR(full_pass(nullptr));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Generator::LogitsAfter(std::span<const TokenId> tokens) {
  engine_->kv().Truncate(kSequence, 0);
  held_.clear();
  RETURN_IF_ERROR(Process(tokens, true, nullptr, [](int32_t) { return true; }));
  RETURN_IF_ERROR(engine_->forward().Logits(0, logits_));
  return logits_;
}

}  // namespace dogstar
