#include "runtime/generator.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "fmt/format.h"
#include "runtime/generator_session.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

constexpr int32_t kReservedTokens = 1 << 17;  // of texts without an end; longer ones grow

}  // namespace

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
  const TextRequest request{prompt, options, result};
  return GenerateTogether({&request, 1});
}

absl::Status Generator::GenerateTogether(std::span<const TextRequest> requests) {
  const Config& config = engine_->config();
  CHECK(!requests.empty() && static_cast<int32_t>(requests.size()) <= engine_->texts());
  Session session{.texts = {},
                  .live = {},
                  .period = PeriodController({AdaptsDrafts(config, mode_), config.corrector.period}),
                  .draft_rows = {}};
  for (const TextRequest& request : requests) {
    CHECK(!request.prompt.empty());
    Text& text = session.texts.emplace_back(
        Text{.request = request, .sequence = SequenceId{static_cast<int32_t>(session.texts.size())}});
    const size_t tokens = static_cast<size_t>(std::clamp(request.options.max_tokens, 0, kReservedTokens));
    text.tokens.reserve(request.prompt.size() + tokens);
    request.result->tokens.reserve(tokens);
    text.tokens.assign(request.prompt.begin(), request.prompt.end());
    corrector_.assumed_tokens = request.result->assumed_tokens = request.options.assumed_tokens;
  }

  RETURN_IF_ERROR(Prefill(&session));
  for (session.FindLive(); !session.live.empty(); session.FindLive()) {
    for (Text* text : session.live) {
      if (RoomOf(*text) == 0) RETURN_IF_ERROR(Slide(text));
    }
    session.FindLive();
    if (session.live.empty()) break;
    RETURN_IF_ERROR(mode_ == RunMode::kSparse ? SparseStep(&session) : Cycle(&session));
  }
  for (const Text& text : session.texts) {
    text.result().dense_share = JudgesDrafts(mode_) ? session.period.dense_share() : 0;
    text.result().io_wait_seconds = engine_->io_wait_seconds();
  }
  return absl::OkStatus();
}

std::vector<TokenId>& Generator::Held(SequenceId sequence) {
  const auto at = static_cast<size_t>(ToInt(sequence));
  if (at >= held_.size()) held_.resize(at + 1);
  return held_[at];
}

int32_t Generator::RoomOf(const Text& text) const {
  return engine_->context_slots() - engine_->kv().length(text.sequence);
}

void Generator::RecordPass(AccessPhase phase, size_t rows) {
  if (engine_->accesses() != nullptr) engine_->accesses()->Pass(phase, static_cast<int32_t>(rows));
}

// All prompts, then what drafts use; a prompt's first token is the full model's.
absl::Status Generator::Prefill(Session* session) {
  Predictor& predictor = engine_->predictor();
  predictor.BeginPrompt();
  if (engine_->heads() != nullptr) engine_->heads()->BeginPrompt();
  if (row_scores_ != nullptr) row_scores_->BeginPrompt();
  if (engine_->prompt_attribution() != nullptr) engine_->prompt_attribution()->Begin();
  for (Text& text : session->texts) RETURN_IF_ERROR(BeginPrompt(&text));
  PromptHarvest harvest(&predictor, row_scores_.get(), engine_->overlay(), engine_->heads(),
                        engine_->observes_prompt());
  const double start = Now();
  for (bool more = true; more;) {
    ASSIGN_OR_RETURN(more, PrefillPass(session, start, &harvest));
  }
  const bool begun =
      std::ranges::any_of(session->texts, [](const Text& text) { return !text.result().tokens.empty(); });
  return begun ? BeginDrafts(session) : absl::OkStatus();
}

absl::Status Generator::BeginPrompt(Text* text) {
  const int32_t total = static_cast<int32_t>(text->request.prompt.size());
  if (total >= engine_->context_slots()) {
    return absl::InvalidArgumentError(
        fmt::format("the prompt has {} tokens and leaves no room in a context of {}; raise -c or shorten it", total,
                    engine_->context_slots()));
  }
  std::vector<TokenId>& held = Held(text->sequence);
  held.resize(ReusablePrefix(*text));
  const int32_t reused = static_cast<int32_t>(held.size());
  engine_->kv().Truncate(text->sequence, reused);
  text->result().prompt_tokens = total;
  text->result().reused_tokens = reused;
  return absl::OkStatus();
}

// Tokens that a text's prompt has in a pass.
struct Generator::PromptPiece {
  Text* text;
  std::span<const TokenId> tokens;
  bool is_last;
};

// The texts' next tokens in their order, as many as a pass takes.
std::vector<Generator::PromptPiece> Generator::NextPieces(Session* session) {
  auto room = static_cast<size_t>(engine_->forward().limits().batch_rows);
  std::vector<PromptPiece> pieces;
  for (Text& text : session->texts) {
    const std::span<const TokenId> left = text.request.prompt.subspan(Held(text.sequence).size());
    if (text.done || left.empty() || room == 0) continue;
    if (text.interrupted()) {
      text.Stop(StopReason::kInterrupted);
      continue;
    }
    const size_t count = std::min(room, left.size());
    pieces.push_back({&text, left.first(count), count == left.size()});
    room -= count;
  }
  return pieces;
}

// One pass over tokens of all prompts that are not read yet; false: there are none.
absl::StatusOr<bool> Generator::PrefillPass(Session* session, double start, PromptHarvest* harvest) {
  const std::vector<PromptPiece> pieces = NextPieces(session);
  if (pieces.empty()) return false;
  harvest->BeginPiece();  // after the last one its rows stay
  // The last tokens of prompts come behind all others: rows with logits are the pass's last ones.
  Batch batch, last_tokens;
  for (const PromptPiece& piece : pieces) {
    const size_t last = piece.is_last ? 1 : 0;
    ASSIGN_OR_RETURN(const Batch rows,
                     MakeChain(piece.text->sequence, piece.tokens.first(piece.tokens.size() - last), 0));
    batch.Add(rows);
    if (!piece.is_last) continue;
    ASSIGN_OR_RETURN(const Batch row, MakeChain(piece.text->sequence, piece.tokens.last(1), 1));
    last_tokens.Add(row);
  }
  batch.Add(last_tokens);
  RecordPass(AccessPhase::kPrefill, batch.tokens.size());
  const bool observes = engine_->forward().limits().capture_rows > 0 || harvest->reads_contexts();
  RETURN_IF_ERROR(engine_->forward().Full(batch, observes ? harvest : nullptr));
  for (const PromptPiece& piece : pieces) {
    Text* const text = piece.text;
    std::vector<TokenId>& held = Held(text->sequence);
    held.insert(held.end(), piece.tokens.begin(), piece.tokens.end());
    text->result().prompt_seconds = Now() - start;
    if (!text->options().on_prompt) continue;
    text->options().on_prompt(static_cast<int32_t>(held.size()), text->result().prompt_tokens);
  }
  int32_t logits_row = 0;
  for (const PromptPiece& piece : pieces) {
    if (piece.is_last) RETURN_IF_ERROR(EndPrompt(piece.text, logits_row++));
  }
  return true;
}

absl::Status Generator::EndPrompt(Text* text, int32_t logits_row) {
  RETURN_IF_ERROR(engine_->forward().Logits(logits_row, logits_));
  if (engine_->prompt_attribution() != nullptr) {
    const double start = Now();
    RETURN_IF_ERROR(engine_->prompt_attribution()->Add(text->request.prompt));
    text->result().prompt_seconds += Now() - start;
  }
  text->root = sampler_.Choose(logits_, {text->tokens, {}}, kSequenceKey, text->PositionAfter(0));
  return Emit(text, text->root, -1);  // logits_ has them
}

absl::Status Generator::BeginDrafts(Session* session) {
  engine_->predictor().EndPrompt();
  if (engine_->prompt_attribution() != nullptr) engine_->prompt_attribution()->GiveTo(&engine_->predictor());
  std::vector<TokenId> prompts;
  int32_t observed = 0;
  for (const Text& text : session->texts) {
    prompts.insert(prompts.end(), text.request.prompt.begin(), text.request.prompt.end());
    observed += text.result().prompt_tokens - text.result().reused_tokens;
  }
  if (text_harvest_ != nullptr) text_harvest_->BeginText(engine_->observes_prompt() ? observed : 0);
  if (engine_->draft_head() != nullptr) RETURN_IF_ERROR(engine_->draft_head()->SetPrompt(prompts));
  if (!engine_->can_draft() || mode_ == RunMode::kDense) return absl::OkStatus();
  session->draft_rows = DraftRows::Build(engine_->draft_sources());
  const bool dense = engine_->predictor().name() == "dense";
  for (const Text& text : session->texts) text.result().draft_density = dense ? 1 : session->draft_rows.density();
  return absl::OkStatus();
}

absl::Status Generator::Process(SequenceId sequence, std::span<const TokenId> tokens, int32_t logit_rows,
                                const std::atomic<bool>* interrupted) {
  std::vector<TokenId>& held = Held(sequence);
  const size_t piece = static_cast<size_t>(engine_->forward().limits().batch_rows);
  for (size_t done = 0; done < tokens.size() && (interrupted == nullptr || !*interrupted);) {
    const std::span<const TokenId> rows = tokens.subspan(done, std::min(piece, tokens.size() - done));
    done += rows.size();
    ASSIGN_OR_RETURN(const Batch batch, MakeChain(sequence, rows, done == tokens.size() ? logit_rows : 0));
    RecordPass(AccessPhase::kPrefill, rows.size());
    RETURN_IF_ERROR(engine_->forward().Full(batch, nullptr));
    held.insert(held.end(), rows.begin(), rows.end());
  }
  return absl::OkStatus();
}

// At least the last token of the prompt is computed: its logits are needed.
size_t Generator::ReusablePrefix(const Text& text) {
  if (!text.options().reuse_prefix) return 0;
  const std::vector<TokenId>& held = Held(text.sequence);
  const size_t most = std::min(held.size(), text.request.prompt.size() - 1);
  const auto end = held.begin() + static_cast<ptrdiff_t>(most);
  return static_cast<size_t>(std::mismatch(held.begin(), end, text.request.prompt.begin()).first - held.begin());
}

absl::Status Generator::Slide(Text* text) {
  std::vector<TokenId>& held = Held(text->sequence);
  const std::vector<TokenId> full = std::exchange(held, {});
  const size_t keep = std::min(static_cast<size_t>(engine_->config().context_keep), full.size() - 1);
  const size_t dropped = (full.size() - keep + 1) / 2;
  std::vector<TokenId> left(full.begin(), full.begin() + static_cast<ptrdiff_t>(keep));
  left.insert(left.end(), full.begin() + static_cast<ptrdiff_t>(keep + dropped), full.end());
  engine_->kv().Truncate(text->sequence, 0);
  ++text->result().context_slides;
  RETURN_IF_ERROR(Process(text->sequence, left, 0, text->options().interrupted));
  if (held.size() < left.size()) text->Stop(StopReason::kInterrupted);
  return absl::OkStatus();
}

// A token becomes final.
absl::Status Generator::Emit(Text* text, TokenId token, int32_t logits_row) {
  GenerationResult& result = text->result();
  const GenerationOptions& options = text->options();
  const double now = Now();
  if (result.tokens.empty()) {
    text->first_token_at = now;
    text->disk_at_first_token = engine_->disk_bytes();
  }
  if (options.logprobs > 0) {
    if (logits_row >= 0) RETURN_IF_ERROR(engine_->forward().Logits(logits_row, logits_));
    result.logprobs.push_back(TopLogprobs(logits_, options.logprobs));
  }
  result.tokens.push_back(token);
  text->tokens.push_back(token);
  result.decode_seconds = now - text->first_token_at;
  result.decode_disk_bytes = engine_->disk_bytes() - text->disk_at_first_token;
  result.disk_bytes = engine_->disk_bytes();
  const bool go_on = !options.on_token || options.on_token(token);

  const size_t held = Held(text->sequence).size();
  if (engine_->model().tokenizer().IsEnd(token) && !options.ignore_end) {
    text->Stop(StopReason::kEndToken);
  } else if (!go_on) {
    text->Stop(StopReason::kStopString);
  } else if (text->tokens_left() <= 0) {
    text->Stop(StopReason::kLength);
  } else if (static_cast<int32_t>(held) >= engine_->context_slots() &&
             engine_->config().context_overflow == ContextOverflow::kStop) {
    text->Stop(StopReason::kContextFull);
  } else if (text->interrupted()) {
    text->Stop(StopReason::kInterrupted);
  }
  return absl::OkStatus();
}

// One token of the sparse model for every text.
absl::Status Generator::SparseStep(Session* session) {
  const double start = Now();
  Batch batch;
  for (Text* text : session->live) {
    ASSIGN_OR_RETURN(const Batch row, MakeChain(text->sequence, {&text->root, 1}, 1));
    batch.Add(row);
  }
  RETURN_IF_ERROR(DraftPass(batch, session->draft_rows));
  for (size_t i = 0; i < session->live.size(); ++i) {
    Text* const text = session->live[i];
    RETURN_IF_ERROR(engine_->forward().Logits(static_cast<int32_t>(i), logits_));
    Held(text->sequence).push_back(text->root);
    text->root = sampler_.Choose(logits_, {text->tokens, {}}, kSequenceKey, text->PositionAfter(0));
    text->result().draft_seconds += Now() - start;
    ++text->result().draft_steps;
    RETURN_IF_ERROR(Emit(text, text->root, -1));
  }
  return absl::OkStatus();
}

absl::Status Generator::DraftPass(const Batch& batch, const DraftRows& rows) {
  RecordPass(AccessPhase::kDraft, batch.tokens.size());
  if (engine_->predictor().name() == "dense") return engine_->forward().Full(batch, nullptr);
  return engine_->forward().Draft(batch, rows);
}

}  // namespace dogstar
