// A cycle: drafts, the full pass over them, and what stands.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "base/clock.h"
#include "runtime/generator_session.h"
#include "runtime/run_plan.h"
#include "runtime/text_lookup.h"

namespace dogstar {
namespace {

// Tokens of a node that a best-first tree takes up; what no full pass would look at costs nothing but its place.
constexpr int32_t kBestFollowers = 8;
// Tokens that must have stood before where own drafts can be made as well: what is looked up has a tree's other nodes
// to beat.
constexpr int32_t kLookupBesideDrafts = 3;
constexpr float kLookupPrior = 0.7F;  // guess of what they are worth, before any was tried

int32_t CountFollowers(TreeShape shape, int32_t width) {
  switch (shape) {
    case TreeShape::kChain:
      return 1;
    case TreeShape::kBeam:
      return width;
    case TreeShape::kBest:
      return kBestFollowers;
  }
  return 1;
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

// Drafts whose parents stood.
void AddJudged(const DraftTree& tree, const Verdict& verdict, std::vector<JudgedDraft>* judged) {
  for (size_t i = 0; i < verdict.path.size(); ++i) {
    for (int32_t child : tree.ChildrenOf(verdict.path[i])) {
      const DraftNode& node = tree.node(child);
      const bool stood = i + 1 < verdict.path.size() && verdict.path[i + 1] == child;
      judged->push_back({node.source, node.confidence, stood});
    }
  }
}

// The likeliest draft after the path that stood: the full model's own token has taken its place; -1: none was made.
int32_t ReplacedDraft(const DraftTree& tree, const Verdict& verdict) {
  return tree.LikeliestChild(verdict.path.back());
}

// Adds a node as a row of the batch. slots: of the tree's nodes, as far as its path needs them.
void AddNodeRow(const KvCache& kv, SequenceId sequence, const DraftTree& tree, int32_t index,
                std::span<const KvSlot> slots, Batch* batch) {
  std::vector<KvSlot> path;
  for (int32_t node : tree.PathTo(index)) path.push_back(slots[static_cast<size_t>(node)]);
  batch->tokens.push_back(tree.node(index).token);
  batch->positions.push_back(TokenPos{kv.length(sequence) + tree.node(index).depth});
  batch->slots.push_back(path.back());
  kv.AddPathRow(sequence, path, &batch->mask);
  ++batch->logit_rows;
}

}  // namespace

struct Generator::Place {
  Text* text;
  int32_t node;
};

// Slots of nodes that no position holds yet; those that nobody kept are free again in the end, whatever happens.
class Generator::NodeSlots {
 public:
  explicit NodeSlots(KvCache* kv) : kv_(kv) {}
  ~NodeSlots() { kv_->GiveBack(taken_); }
  NodeSlots(const NodeSlots&) = delete;
  NodeSlots& operator=(const NodeSlots&) = delete;

  absl::StatusOr<std::vector<KvSlot>> Take(int32_t count) {
    ASSIGN_OR_RETURN(const std::vector<KvSlot> slots, kv_->Take(count));
    taken_.insert(taken_.end(), slots.begin(), slots.end());
    return slots;
  }
  // The sequence holds them from now on.
  void Keep(SequenceId sequence, std::span<const KvSlot> slots) {
    std::erase_if(taken_, [&](KvSlot slot) { return std::ranges::find(slots, slot) != slots.end(); });
    kv_->Extend(sequence, slots);
  }

 private:
  KvCache* kv_;
  std::vector<KvSlot> taken_;
};

absl::Status Generator::Cycle(Session* session) {
  const int32_t texts = static_cast<int32_t>(session->live.size());
  const int32_t rows_each = std::max(1, engine_->forward().limits().logit_rows / texts);
  session->period.BeginCycle(texts);
  session->shape = ShapeOfCycle(session->period);
  for (Text* text : session->live) {
    BeginTree(session, text, rows_each);
  }
  if (JudgesDrafts(mode_) && engine_->can_draft()) RETURN_IF_ERROR(Draft(session));
  return Verify(session);
}

// One path; alternatives to it join where a full pass has time for more rows.
TreeShape Generator::ShapeOfCycle(const PeriodController& period) const {
  const Config& config = engine_->config();
  if (config.draft.tree) return *config.draft.tree;
  return AdaptsDrafts(config, mode_) && period.AlternativesPay() ? TreeShape::kBest : TreeShape::kChain;
}

void Generator::BeginTree(Session* session, Text* text, int32_t rows_each) {
  const Config& config = engine_->config();
  const int32_t slots = RoomOf(*text) + TreeSlots(config, mode_);
  const int32_t most_rows = JudgesDrafts(mode_) ? std::min(slots, rows_each) : 1;
  TreeOptions options;
  options.shape = session->shape;
  options.width = options.shape == TreeShape::kChain || !config.draft.tree ? 1 : config.draft.width;
  options.depth = std::min({config.corrector.period - 1, most_rows - 1, RoomOf(*text) - 1, text->tokens_left() - 1});
  text->tree.Begin(options, text->root);
  text->slots.clear();
  text->looked_beyond = 0;
  text->most_drafts = std::min(most_rows - 1, DraftsOfCycle(config));
  text->drafts = !AddFreeDrafts(session, text, options.depth);
}

int32_t Generator::LookupLength(TreeShape shape) const {
  constexpr int32_t kWithoutDrafts = 2;  // a wrong one costs a row of a pass that waits for the disk anyway
  const Config& config = engine_->config();
  if (config.draft.lookup >= 0) return config.draft.lookup;
  if (mode_ != RunMode::kStrict) return 0;
  if (!engine_->can_draft()) return kWithoutDrafts;
  return shape == TreeShape::kBest ? kLookupBesideDrafts : 0;
}

bool Generator::AddFreeDrafts(Session* session, Text* text, int32_t depth) {
  if (!JudgesDrafts(mode_) || depth < 1) return false;
  const auto add = [&](std::span<const TokenId> found, DraftSource source) {
    const int32_t count = session->period.FreeDraftsToTry(source, std::min(depth, static_cast<int32_t>(found.size())));
    text->tree.AddPath(found.first(static_cast<size_t>(count)), source, 1);
    return count > 0;
  };
  const std::vector<TokenId> repair = std::exchange(text->repair, {});
  if (!repair.empty() && add(repair, DraftSource::kRepair)) return true;
  const int32_t lookup = LookupLength(session->shape);
  const bool joins_the_tree = engine_->can_draft() && session->shape == TreeShape::kBest;
  if (lookup == 0 || joins_the_tree) return false;
  return add(LookUpText(text->tokens, lookup, depth).tokens, DraftSource::kLookup);
}

absl::Status Generator::Draft(Session* session) {
  {
    NodeSlots slots(&engine_->kv());  // the full pass writes keys and values of its own
    for (bool more = true; more;) {
      ASSIGN_OR_RETURN(more, DraftRound(session, &slots));
    }
  }
  for (Text* text : session->live) {
    if (!text->drafts) continue;
    if (const int32_t lookup = LookupLength(session->shape); session->shape == TreeShape::kBest && lookup > 0) {
      const std::span<const TokenId> found = LookUpText(text->tokens, lookup, text->most_drafts).tokens;
      text->tree.AddPath(found, DraftSource::kLookup, session->period.AcceptanceOf(DraftSource::kLookup, kLookupPrior));
    }
    text->tree.Prune(text->most_drafts, session->period.LeastProbability());
  }
  return absl::OkStatus();
}

// Nodes of all texts that the next pass may look beyond, the likeliest first.
std::vector<Generator::Place> Generator::NextPlaces(Session* session) {
  std::vector<Place> places;
  for (Text* text : session->live) {
    if (!text->drafts) continue;
    int32_t room = RoomOf(*text) + TreeSlots(engine_->config(), mode_) - text->looked_beyond;
    for (int32_t node : text->tree.NextToLookBeyond()) {
      if (room-- > 0) places.push_back({text, node});
    }
  }
  const auto probability = [](const Place& place) { return place.text->tree.node(place.node).probability; };
  std::ranges::stable_sort(places, std::greater{}, probability);
  const size_t most = static_cast<size_t>(engine_->forward().limits().logit_rows);
  if (places.size() > most) places.resize(most);
  std::vector<double> reached;
  for (const Place& place : places) reached.push_back(probability(place));
  places.resize(static_cast<size_t>(session->period.NodesToLookBeyond(reached)));
  return places;
}

// One pass of the sparse model; false: no more of them is worth its time.
absl::StatusOr<bool> Generator::DraftRound(Session* session, NodeSlots* slots) {
  const std::vector<Place> places = NextPlaces(session);
  if (places.empty()) return false;
  const double start = Now();
  Batch batch;
  for (const Place& place : places) {
    Text* const text = place.text;
    ASSIGN_OR_RETURN(const std::vector<KvSlot> slot, slots->Take(1));
    text->slots.resize(text->tree.nodes().size());
    text->slots[static_cast<size_t>(place.node)] = slot.front();
    ++text->looked_beyond;
    AddNodeRow(engine_->kv(), text->sequence, text->tree, place.node, text->slots, &batch);
  }
  RETURN_IF_ERROR(DraftPass(batch, session->draft_rows));
  RETURN_IF_ERROR(Propose(session, places));
  const double seconds = Now() - start;
  session->period.RecordDraft(batch.rows(), seconds);
  for (Text* text : session->live) {
    if (std::ranges::find(places, text, &Place::text) == places.end()) continue;
    text->result().draft_seconds += seconds;
    ++text->result().draft_steps;
  }
  return true;
}

bool Generator::needs_few_logits() const {
  const int32_t few = sampler_.options().few();
  return few > 0 && few <= kMostTop && few < engine_->model().config().vocab_size;
}

// By the largest logits of row `row` of the last pass, which are found where they are.
absl::StatusOr<TokenLogit> Generator::ChooseAmongFew(int32_t row, TokenPos position) {
  if (sampler_.options().greedy()) {
    ASSIGN_OR_RETURN(const RowPeak peak, engine_->forward().Peak(row, 1));
    return TokenLogit{TokenId{peak.col}, peak.value};
  }
  std::array<RowEntry, kMostTop> entries;
  const std::span<RowEntry> wanted = std::span(entries).first(static_cast<size_t>(sampler_.options().few()));
  ASSIGN_OR_RETURN(const size_t found, engine_->forward().Top(row, wanted));
  std::vector<TokenLogit> largest;
  for (const RowEntry& entry : wanted.first(found)) largest.push_back({TokenId{entry.col}, entry.value});
  const TokenId token = sampler_.ChooseAmong(largest, kSequenceKey, position);
  return *std::ranges::find(largest, token, &TokenLogit::token);
}

// What may follow a node of the text's tree, by the logits of row `row` of the last draft pass.
absl::StatusOr<std::vector<TokenProbability>> Generator::FollowersOf(const Session& session, const Text& text,
                                                                     int32_t node, int32_t row) {
  const int32_t count = CountFollowers(session.shape, engine_->config().draft.width);
  const float temperature = session.shape == TreeShape::kBeam ? corrector_.temperature : 1;
  if (count == 1 && needs_few_logits()) {
    const TokenPos position = text.PositionAfter(text.tree.node(node).depth);
    ASSIGN_OR_RETURN(const TokenLogit chosen, ChooseAmongFew(row, position));
    ASSIGN_OR_RETURN(const RowPeak peak, engine_->forward().Peak(row, 1 / temperature));
    const float probability = std::exp((chosen.logit - peak.value) / temperature) / peak.weight;
    return std::vector<TokenProbability>{{chosen.token, probability}};
  }
  RETURN_IF_ERROR(engine_->forward().Logits(row, logits_));
  const std::vector<TokenId> drafted = text.tree.TokensTo(node);
  return sampler_.Propose(logits_, {text.tokens, drafted}, kSequenceKey, text.PositionAfter(text.tree.node(node).depth),
                          count, temperature);
}

// What may follow the nodes of the last draft pass.
absl::Status Generator::Propose(Session* session, std::span<const Place> places) {
  const Tokenizer& tokenizer = engine_->model().tokenizer();
  // A beam scores as published; other drafts by what such confidences were worth in this text.
  const bool beam = session->shape == TreeShape::kBeam;
  for (Text* text : session->live) {
    std::vector<int32_t> nodes;
    std::vector<Proposal> proposals;
    for (size_t i = 0; i < places.size(); ++i) {
      if (places[i].text != text) continue;
      const int32_t parent = nodes.emplace_back(places[i].node);
      ASSIGN_OR_RETURN(const std::vector<TokenProbability> followers,
                       FollowersOf(*session, *text, parent, static_cast<int32_t>(i)));
      for (size_t rank = 0; rank < followers.size(); ++rank) {
        const auto [token, confidence] = followers[rank];
        const DraftSource source = rank == 0 ? DraftSource::kFirst : DraftSource::kOther;
        const double acceptance = beam ? confidence : session->period.AcceptanceOf(source, confidence);
        // Nothing follows an end.
        const bool ends = tokenizer.IsEnd(token) && !text->options().ignore_end;
        proposals.push_back({parent, token, source, confidence, acceptance, ends});
      }
    }
    if (!nodes.empty()) text->tree.Add(nodes, std::move(proposals));
  }
  return absl::OkStatus();
}

// The full pass writes the nodes' keys and values anew; what does not stand is forgotten.
absl::Status Generator::Verify(Session* session) {
  const double start = Now(), waited = engine_->io_wait_seconds();
  KvCache& kv = engine_->kv();
  NodeSlots taken(&kv);
  Batch batch;
  std::vector<int32_t> first_rows;
  for (Text* text : session->live) {
    first_rows.push_back(batch.rows());
    ASSIGN_OR_RETURN(text->slots, taken.Take(text->tree.size()));
    for (int32_t node = 0; node < text->tree.size(); ++node) {
      AddNodeRow(kv, text->sequence, text->tree, node, text->slots, &batch);
    }
  }
  RecordPass(JudgesDrafts(mode_) ? AccessPhase::kVerify : AccessPhase::kFull, batch.tokens.size());
  RETURN_IF_ERROR(engine_->forward().Full(batch, text_harvest_.get()));

  std::vector<Verdict> verdicts;
  std::vector<JudgedDraft> judged;
  std::vector<int32_t> verified_rows;
  CycleOutcome outcome{.rows = batch.rows()};
  for (size_t i = 0; i < session->live.size(); ++i) {
    Text* const text = session->live[i];
    const auto logits_of = [&](int32_t node, std::span<float> out) {
      return engine_->forward().Logits(first_rows[i] + node, out);
    };
    OwnTokenFn own_token;
    if (needs_few_logits()) {
      own_token = [&](int32_t node, TokenPos position) -> absl::StatusOr<TokenId> {
        ASSIGN_OR_RETURN(const TokenLogit chosen, ChooseAmongFew(first_rows[i] + node, position));
        return chosen.token;
      };
    }
    ASSIGN_OR_RETURN(const Verdict verdict,
                     Judge(corrector_, &sampler_, text->tokens, kSequenceKey,
                           TokenPos{ToInt(text->PositionAfter(0)) - 1}, text->tree, logits_of, own_token, logits_));
    Commit(text, verdict, text->slots, &taken);
    AddJudged(text->tree, verdict, &judged);
    for (int32_t node : verdict.path) verified_rows.push_back(first_rows[i] + node);
    outcome.accepted += verdict.accepted();
    outcome.ended_by_a_draft += ReplacedDraft(text->tree, verdict) >= 0 ? 1 : 0;
    verdicts.push_back(verdict);
  }
  if (text_harvest_ != nullptr) FollowTexts(session, verified_rows);
  outcome.seconds = Now() - start;
  outcome.wait_seconds = engine_->io_wait_seconds() - waited;
  if (JudgesDrafts(mode_)) session->period.RecordVerify(outcome, judged);
  for (size_t i = 0; i < session->live.size(); ++i) {
    CountCycle(*session->live[i], verdicts[i], outcome.seconds);
    RETURN_IF_ERROR(EmitVerified(session->live[i], verdicts[i], first_rows[i]));
  }
  return absl::OkStatus();
}

// The path moves to the first of the tree's slots, so that a text's slots follow each other. A node's slot is never
// before its place on the path: no slot is written before it was read.
void Generator::Commit(Text* text, const Verdict& verdict, std::span<const KvSlot> slots, NodeSlots* taken) {
  for (size_t i = 0; i < verdict.path.size(); ++i) {
    const KvSlot from = slots[static_cast<size_t>(verdict.path[i])];
    if (from != slots[i]) engine_->backend().CopyKv(from, slots[i], &engine_->kv_store());
  }
  taken->Keep(text->sequence, slots.first(verdict.path.size()));
  const int32_t replaced = ReplacedDraft(text->tree, verdict);
  if (!engine_->config().corrector.repair || replaced < 0) return;
  if (text->tree.node(replaced).source == DraftSource::kRepair) return;  // a second time it is rolled back
  for (int32_t node = replaced; (node = text->tree.LikeliestChild(node)) >= 0;) {
    text->repair.push_back(text->tree.node(node).token);
  }
}

void Generator::CountCycle(const Text& text, const Verdict& verdict, double seconds) {
  GenerationResult& result = text.result();
  result.full_seconds += seconds;
  ++result.full_passes;
  result.advanced += verdict.accepted() + 1;
  if (!JudgesDrafts(mode_)) return;
  const size_t won = static_cast<size_t>(verdict.accepted()) + 1;
  if (result.cycle_tokens.size() <= won) result.cycle_tokens.resize(won + 1);
  ++result.cycle_tokens[won];
  result.drafts_accepted += verdict.accepted();
  result.drafts_verified += text.tree.size() - 1;
  const int32_t ended = ReplacedDraft(text.tree, verdict) >= 0 ? 1 : 0;
  CountJudged(verdict.accepted() + ended, verdict.accepted(), &result);
  for (const DraftNode& node : text.tree.nodes()) result.looked_up += node.source == DraftSource::kLookup ? 1 : 0;
  for (int32_t node : verdict.path) {
    result.lookups_accepted += text.tree.node(node).source == DraftSource::kLookup ? 1 : 0;
  }
  if (text.options().on_cycle) text.options().on_cycle(text.tree, verdict);
}

absl::Status Generator::EmitVerified(Text* text, const Verdict& verdict, int32_t first_row) {
  std::vector<TokenId>& held = Held(text->sequence);
  for (size_t i = 0; i < verdict.path.size() && !text->done; ++i) {
    const int32_t node = verdict.path[i];
    const bool last = i + 1 == verdict.path.size();
    held.push_back(text->tree.node(node).token);
    text->root = last ? verdict.next : text->tree.node(verdict.path[i + 1]).token;
    RETURN_IF_ERROR(Emit(text, text->root, first_row + node));
  }
  return absl::OkStatus();
}

// The next drafts use the rows that this cycle's tokens brought in.
void Generator::FollowTexts(Session* session, std::span<const int32_t> verified_rows) {
  text_harvest_->EndPass(verified_rows);
  Overlay* overlay = engine_->overlay();
  const bool chooses = engine_->predictor().observes_prompt();
  for (int32_t i = 0; i < engine_->weights().layer_count(); ++i) {
    const LayerIndex layer{i};
    const bool changed = overlay != nullptr && overlay->TakeChanged(layer);
    if (changed || chooses) session->draft_rows.Update(layer, engine_->draft_sources());
  }
}

}  // namespace dogstar
