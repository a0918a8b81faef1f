// Generator: prompts in, tokens out. The loop of every mode is in generator.cc, GenerateTogether; a cycle of drafts and
// their full pass in generator_cycle.cc. Texts that are generated together share every pass, and nothing else.
//
// Only tokens that the full model has judged are handed out (in sparse mode: all of them, it has no judge).
// A failure in the middle leaves everything before it in the result.
//
// Threads: one; `interrupted` may be set from a signal handler.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "runtime/corrector.h"
#include "runtime/draft_rows.h"
#include "runtime/draft_tree.h"
#include "runtime/engine.h"
#include "runtime/period.h"
#include "runtime/prompt_harvest.h"
#include "runtime/row_scores.h"
#include "runtime/stats.h"
#include "runtime/text_harvest.h"

namespace dogstar {

struct GenerationOptions {
  int32_t max_tokens = 128;
  bool ignore_end = false;                // end tokens do not stop
  bool reuse_prefix = false;              // what the KV cache already holds of the prompt is not computed again
  int32_t logprobs = 0;                   // per token, the k likeliest of the full model
  std::function<bool(TokenId)> on_token;  // may be empty; false ends the text (kStopString)
  std::function<void(int32_t done, int32_t total)> on_prompt;  // may be empty
  const std::atomic<bool>* interrupted = nullptr;
  int32_t assumed_tokens = 0;  // CorrectorOptions::assumed_tokens
  // After each cycle: its drafts, and what the full model made of them. May be empty.
  std::function<void(const DraftTree& tree, const Verdict& verdict)> on_cycle;
};

// One of several texts.
struct TextRequest {
  std::span<const TokenId> prompt;
  GenerationOptions options;
  GenerationResult* result = nullptr;
};

// Who looks on while Generator::CompareDrafts runs.
struct CompareHooks {
  PassObserver* full = nullptr;  // of the full pass over each piece of the text
  // Before each draft, of this row of the piece; pieces are drafted from their last row to the first. What the
  // predictor chooses then is what the draft uses.
  std::function<void(int32_t row)> before_draft;
};

class Generator {
 public:
  // Bytes that Generate keeps of each token of the text. (Room is taken beforehand: a vector that doubles would hold
  // three times as much for a moment.)
  static constexpr uint64_t kBytesPerToken = 2 * sizeof(TokenId);

  // mode: the engine's, unless another one is given that needs no more of it.
  explicit Generator(Engine* engine, std::optional<RunMode> mode = std::nullopt);

  // REQUIRES: prompt is not empty. InvalidArgument when it does not fit the context. A full context ends the text
  // (StopReason::kContextFull) or, with context.overflow: slide, loses the older half of its tokens after the first
  // context.keep; those left are processed again as a prompt, so that the state is that of a fresh run on them. It
  // happens at the same token in every mode.
  absl::Status Generate(std::span<const TokenId> prompt, const GenerationOptions& options, GenerationResult* result);
  // The same for several texts, each in a context of its own, with results as if it were alone (but for the seconds,
  // which are those of passes that it took part in, and what a shared draft chose). REQUIRES: at most Engine::texts()
  // of them, and a row of logits for each.
  absl::Status GenerateTogether(std::span<const TextRequest> requests);

  // -log p under the full model of each token after tokens[from], [tokens - 1 - from].
  absl::StatusOr<std::vector<double>> Score(std::span<const TokenId> tokens, int32_t from = 0);
  // The sparse model beside the full one along a given text: `prompt_tokens` of it are the prompt that row-choosing
  // predictors look at; at each later position both see the full model's keys and values of what came before.
  // on_position: the text's own next token and the logits of both. REQUIRES: engine.can_draft().
  using CompareFn = std::function<void(TokenId next, std::span<const float> full, std::span<const float> draft)>;
  absl::Status CompareDrafts(std::span<const TokenId> tokens, int32_t prompt_tokens, const CompareFn& on_position,
                             const CompareHooks& hooks = {});
  // Logits of the full model after the last token. [vocab_size]
  absl::StatusOr<std::vector<float>> LogitsAfter(std::span<const TokenId> tokens);

 private:
  struct Text;
  struct Session;
  struct PromptPiece;
  struct Place;     // a node of a text's tree, as a row of a pass
  class NodeSlots;  // KV slots of a cycle's nodes

  absl::StatusOr<Batch> MakeChain(SequenceId sequence, std::span<const TokenId> tokens, int32_t logit_rows);
  void RecordPass(AccessPhase phase, size_t rows);
  std::vector<TokenId>& Held(SequenceId sequence);  // of held_
  int32_t RoomOf(const Text& text) const;           // positions left in its context
  void Forget();                                    // what the KV cache holds

  absl::Status Prefill(Session* session);
  absl::Status BeginPrompt(Text* text);
  std::vector<PromptPiece> NextPieces(Session* session);
  absl::StatusOr<bool> PrefillPass(Session* session, double start, PromptHarvest* harvest);
  absl::Status EndPrompt(Text* text, int32_t logits_row);
  // The prompts are over: what drafts use.
  absl::Status BeginDrafts(Session* session);
  // Full passes over tokens that follow those held, in pieces; logits of so many of the last. interrupted may be null.
  absl::Status Process(SequenceId sequence, std::span<const TokenId> tokens, int32_t logit_rows,
                       const std::atomic<bool>* interrupted);
  absl::Status Slide(Text* text);
  size_t ReusablePrefix(const Text& text);
  // logits_row: row of the last pass's logits that judged it, < 0 when logits_ holds them.
  absl::Status Emit(Text* text, TokenId token, int32_t logits_row);

  absl::Status DraftPass(const Batch& batch, const DraftRows& rows);
  absl::Status SparseStep(Session* session);
  // Drafts, verifies, keeps what stands. Without drafts it is a plain full pass.
  absl::Status Cycle(Session* session);
  void BeginTree(Session* session, Text* text, int32_t rows_each);
  TreeShape ShapeOfCycle(const PeriodController& period) const;
  // Tokens of the text's end that must have stood before; 0: nothing is looked up.
  int32_t LookupLength(TreeShape shape) const;
  // Drafts that cost no pass, instead of the sparse model's; false: there are none.
  bool AddFreeDrafts(Session* session, Text* text, int32_t depth);
  absl::Status Draft(Session* session);
  absl::StatusOr<bool> DraftRound(Session* session, NodeSlots* slots);
  std::vector<Place> NextPlaces(Session* session);
  // Choices need a few of the largest logits, not all of them.
  bool needs_few_logits() const;
  absl::StatusOr<TokenLogit> ChooseAmongFew(int32_t row, TokenPos position);
  absl::StatusOr<std::vector<TokenProbability>> FollowersOf(const Session& session, const Text& text, int32_t node,
                                                            int32_t row);
  absl::Status Propose(Session* session, std::span<const Place> places);
  absl::Status Verify(Session* session);
  // Its next positions hold what stands.
  void Commit(Text* text, const Verdict& verdict, std::span<const KvSlot> slots, NodeSlots* taken);
  void CountCycle(const Text& text, const Verdict& verdict, double seconds);
  absl::Status EmitVerified(Text* text, const Verdict& verdict, int32_t first_row);
  void FollowTexts(Session* session, std::span<const int32_t> verified_rows);

  Engine* engine_;
  RunMode mode_;
  Sampler sampler_;
  CorrectorOptions corrector_;
  std::vector<float> logits_;               // [vocab_size]
  std::vector<std::vector<TokenId>> held_;  // [sequence]: tokens in the KV cache, by position
  // What full passes are watched for; null where the engine's harvest is off.
  std::unique_ptr<RowScores> row_scores_;
  std::unique_ptr<TextHarvest> text_harvest_;
};

}  // namespace dogstar
