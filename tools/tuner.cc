#include "tools/tuner.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "base/panel.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "memory/access_trace.h"
#include "model/packed_file.h"
#include "runtime/generator.h"
#include "runtime/importance.h"
#include "runtime/overlay_replay.h"
#include "runtime/run_plan.h"
#include "tools/model_options.h"

namespace dogstar {
namespace {

// A change that is this much slower on the first prompt is not tried to the end.
constexpr double kHopeless = 0.9;
// Policies whose replay has fewer hits than this share more than the policy in use are not run.
constexpr double kWorthHits = 0.01;

// Seconds a token of each prompt.
using Seconds = std::vector<double>;

double TokensPerSecond(const Seconds& seconds) {
  double sum = 0;
  for (const double one : seconds) sum += one;
  return sum > 0 ? static_cast<double>(seconds.size()) / sum : 0;
}

absl::StatusOr<Config> With(Config config, const std::vector<Assignment>& settings) {
  for (const auto& [key, value] : settings) RETURN_IF_ERROR(SetConfigKey(key, value, &config));
  return config;
}

class Search {
 public:
  Search(const Config& base, const TuneOptions& options, const Hooks& hooks,
         const std::function<bool(const std::string&)>& on_trial)
      : base_(base), options_(options), hooks_(hooks), on_trial_(on_trial) {}

  absl::StatusOr<TuneResult> Run();

 private:
  // Decodes every prompt with an engine of its own.
  absl::StatusOr<Seconds> Measure(const Config& config, std::span<const std::vector<TokenId>> prompts,
                                  AccessRecorder* accesses);
  // Rounds of both, the order turned each time; after the first prompt a hopeless change ends.
  absl::StatusOr<double> Compare(const Config& before, const Config& after,
                                 std::span<const std::vector<TokenId>> prompts, Trial* trial);
  // What the planner makes of it.
  struct Judgement {
    std::string refusal;  // why it would not run it; empty: it would
    double resident_density = 0;
  };
  absl::StatusOr<Judgement> AskPlanner(const Config& config, const Change& change) const;
  absl::Status Try(const Change& change);
  absl::Status TryModes();
  absl::Status TryRows();
  absl::Status TryPolicies();
  absl::Status TryPages();
  absl::Status TryOthers();
  absl::Status HoldOut();
  RunMode mode() const { return ChooseModel(best_, {}).value_or(ModelChoice{}).mode; }

  const Config& base_;
  const TuneOptions& options_;
  const Hooks& hooks_;
  const std::function<bool(const std::string&)>& on_trial_;
  Config best_;
  TuneResult result_;
};

absl::StatusOr<Seconds> Search::Measure(const Config& config, std::span<const std::vector<TokenId>> prompts,
                                        AccessRecorder* accesses) {
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, hooks_));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(choice.path));
  size_t longest = 0;
  for (const std::vector<TokenId>& prompt : prompts) longest = std::max(longest, prompt.size());
  Engine::Options options;
  options.mode = choice.mode;
  options.context_slots = std::max(config.context, static_cast<int32_t>(longest) + options_.new_tokens + 1);
  options.logit_rows = LogitRows(config, choice.mode, *model, options.context_slots, {});
  options.accesses = accesses;
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), options, {}));
  Generator generator(engine.get());
  Seconds seconds;
  for (const std::vector<TokenId>& prompt : prompts) {
    GenerationResult result;
    GenerationOptions run;
    run.max_tokens = options_.new_tokens;
    run.ignore_end = true;
    run.interrupted = &Interrupted();
    RETURN_IF_ERROR(generator.Generate(prompt, run, &result));
    if (result.stop == StopReason::kInterrupted) return absl::CancelledError("interrupted");
    seconds.push_back(result.decode_seconds / std::max(1.0, static_cast<double>(result.tokens.size()) - 1));
  }
  return seconds;
}

absl::StatusOr<double> Search::Compare(const Config& before, const Config& after,
                                       std::span<const std::vector<TokenId>> prompts, Trial* trial) {
  ASSIGN_OR_RETURN(const Seconds first_before, Measure(before, prompts.first(1), nullptr));
  ASSIGN_OR_RETURN(const Seconds first_after, Measure(after, prompts.first(1), nullptr));
  if (trial != nullptr && first_before[0] < kHopeless * first_after[0]) {
    trial->reason = "much slower on the first prompt: not tried to the end";
    trial->before_tok_s = 1 / first_before[0];
    trial->after_tok_s = 1 / first_after[0];
    return first_before[0] / first_after[0];
  }
  double logs = 0;
  int pairs = 0;
  Seconds all_before, all_after;
  for (int round = 0; round < options_.rounds; ++round) {
    Seconds a, b;
    for (const bool second : {false, true}) {
      const bool changed = (round % 2 == 1) != second;
      ASSIGN_OR_RETURN(Seconds seconds, Measure(changed ? after : before, prompts, nullptr));
      (changed ? b : a) = std::move(seconds);
    }
    for (size_t i = 0; i < a.size(); ++i, ++pairs) logs += std::log(a[i] / b[i]);
    all_before.insert(all_before.end(), a.begin(), a.end());
    all_after.insert(all_after.end(), b.begin(), b.end());
  }
  if (trial != nullptr) {
    trial->before_tok_s = TokensPerSecond(all_before);
    trial->after_tok_s = TokensPerSecond(all_after);
  } else {
    result_.default_tok_s = TokensPerSecond(all_before);
    result_.tuned_tok_s = TokensPerSecond(all_after);
  }
  return std::exp(logs / pairs);
}

absl::StatusOr<Search::Judgement> Search::AskPlanner(const Config& config, const Change& change) const {
  const auto refused = [](const absl::Status& status) { return Judgement{std::string(status.message())}; };
  const absl::StatusOr<ModelChoice> choice = ChooseModel(config, {});
  if (!choice.ok()) return refused(choice.status());
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(choice->path));
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                   NewCpuBackend({.threads = ThreadsOf(config), .precise = config.precise}));
  const absl::StatusOr<DraftChoices> choices = MakeDraftChoices(config, *model);
  if (!choices.ok()) return refused(choices.status());
  RunPlanOptions options;
  options.mode = choice->mode;
  options.context_slots = std::max(config.context, 2 * options_.new_tokens);
  options.logit_rows = LogitRows(config, choice->mode, *model, options.context_slots, {});
  AskChoices(*choices, &options);
  options.program_bytes = MeasureProgramBytes();
  const absl::StatusOr<RunPlan> plan = PlanRun(config, *model, *backend, options, {});
  if (!plan.ok()) return refused(plan.status());
  const auto about_drafts = [](const Assignment& setting) {
    return setting.first.starts_with("draft.") && setting.first != "draft.lookup";
  };
  if (!plan->placement.drafts_need_no_disk && std::ranges::any_of(change.settings, about_drafts)) {
    return Judgement{"planner: this budget holds no sparse model to draft with"};
  }
  return Judgement{"", plan->placement.resident_density};
}

absl::Status Search::Try(const Change& change) {
  if (!on_trial_(change.Name())) return absl::CancelledError("interrupted");
  Trial trial{.change = change};
  ASSIGN_OR_RETURN(const Config after, With(best_, change.settings));
  ASSIGN_OR_RETURN(const Judgement judgement, AskPlanner(after, change));
  trial.reason = judgement.refusal;
  if (trial.reason.empty()) {
    trial.ran = true;
    ASSIGN_OR_RETURN(trial.gain, Compare(best_, after, options_.prompts, &trial));
    trial.kept = trial.reason.empty() && trial.gain >= 1 + options_.least_gain;
  }
  if (trial.kept) {
    best_ = after;
    for (const Assignment& setting : change.settings) SetAssignment(setting, &result_.kept);
  }
  result_.trials.push_back(std::move(trial));
  return absl::OkStatus();
}

absl::Status Search::TryModes() {
  if (!options_.chooses_mode) return absl::OkStatus();
  const std::string_view other = mode() == RunMode::kDense ? "strict" : "dense";
  return Try({{{"corrector.mode", std::string(other)}}});
}

// Which rows drafts have.
absl::Status Search::TryRows() {
  if (!JudgesDrafts(mode())) return absl::OkStatus();
  std::vector<Change> changes = {
      {{{"cache.harvest", "prompt"}}},
      {{{"cache.harvest", "text"}}},
      {{{"cache.harvest", "text"}, {"draft.overlay", "0.3"}}},
      {{{"draft.predictor", "griffin"}, {"draft.density", "0.5"}}},
  };
  if (!base_.draft.statistics.empty()) {
    changes.push_back({{{"draft.predictor", "hot"}, {"draft.density", "0.5"}}});
    changes.push_back({{{"draft.predictor", "low-rank"}, {"draft.density", "0.5"}}});
    changes.push_back({{{"draft.predictor", "gate-weighted"}, {"draft.density", "0.5"}}});
  }
  // Fewer rows than are resident: cheaper drafts, fewer of them accepted.
  ASSIGN_OR_RETURN(const Judgement now, AskPlanner(best_, {}));
  for (const double share : {0.75, 0.5}) {
    changes.push_back({{{"draft.density", fmt::format("{:.2f}", share * now.resident_density)}}});
  }
  for (const Change& change : changes) RETURN_IF_ERROR(Try(change));
  return absl::OkStatus();
}

// Pages of half and twice the rows: smaller ones choose rows more finely, larger ones are read in longer pieces.
absl::Status Search::TryPages() {
  if (options_.pages_prefix.empty() || !NeedsPacked(mode())) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(best_, hooks_));
  int32_t rows = 0;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> packed, ModelFile::Open(choice.path));
    rows = packed->packed()->layers()[0].layout.page_rows;
  }
  for (const int32_t other : {rows / 2 / kQuantBlock * kQuantBlock, rows * 2}) {
    if (other < kQuantBlock) continue;
    const std::string path = fmt::format("{}.{}.dog.gguf", options_.pages_prefix, other);
    PackOptions pack{.page_rows = other};
    ASSIGN_OR_RETURN(pack.importance, NewImportancePass(base_.model, ThreadsOf(base_)));
    RETURN_IF_ERROR(PackModel(base_.model, path, pack));
    const absl::Status tried = Try({{{"model", path}}});
    if (!tried.ok() || !result_.trials.back().kept) std::filesystem::remove(path);
    RETURN_IF_ERROR(tried);
  }
  return absl::OkStatus();
}

// The policy of the overlay: every one on the requests of a recorded run, the best ones for real.
absl::Status Search::TryPolicies() {
  if (!JudgesDrafts(mode()) || best_.cache.harvest != HarvestMode::kText) return absl::OkStatus();
  const std::string path = options_.scratch + "/tune.trace";
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<AccessRecorder> recorder, AccessRecorder::Create(path));
    RETURN_IF_ERROR(Measure(best_, options_.prompts, recorder.get()).status());
    RETURN_IF_ERROR(recorder->Finish());
    if (recorder->requests() == 0) return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const AccessTrace trace, ReadAccessTrace(path));
  ASSIGN_OR_RETURN(const ReplayOptions recorded, RecordedOptions(trace, best_.cache.eviction));
  const int64_t in_use = ReplayOverlay(trace, recorded).stats.hits;
  std::vector<std::pair<int64_t, std::string>> better;
  for (size_t kind = 0; kind < EvictionNames().size(); ++kind) {
    ReplayOptions options = recorded;
    options.eviction.kind = static_cast<EvictionKind>(kind);
    if (options.eviction.kind == recorded.eviction.kind) continue;
    const int64_t hits = ReplayOverlay(trace, options).stats.hits;
    const std::string name(EvictionNames()[kind]);
    if (static_cast<double>(hits) >= (1 + kWorthHits) * static_cast<double>(in_use)) {
      better.emplace_back(hits, name);
    } else {
      result_.trials.push_back(
          {.change = {{{"cache.policy", name}}},
           .reason = fmt::format("simulator: {} hits where the policy in use has {}", hits, in_use)});
    }
  }
  std::ranges::sort(better, std::greater<>());
  for (size_t i = 0; i < std::min<size_t>(2, better.size()); ++i) {
    RETURN_IF_ERROR(Try({{{"cache.policy", better[i].second}}}));
  }
  return absl::OkStatus();
}

absl::Status Search::TryOthers() {
  std::vector<Change> changes;
  if (JudgesDrafts(mode())) {
    for (const int32_t period : {4, 8, 16, 32}) {
      if (period != best_.corrector.period) changes.push_back({{{"corrector.period", std::to_string(period)}}});
    }
    for (const char* lookup : {"2", "4"}) changes.push_back({{{"draft.lookup", lookup}}});
    for (const char* width : {"1", "2"}) changes.push_back({{{"draft.tree", "best"}, {"draft.width", width}}});
  }
  if (best_.budget.ram) {
    for (const char* ring : {"2MiB", "8MiB", "32MiB"}) changes.push_back({{{"io.ring", ring}}});
  }
  const int threads = ThreadsOf(best_);
  if (threads > 2) changes.push_back({{{"threads", std::to_string(threads / 2)}}});
  for (const Change& change : changes) RETURN_IF_ERROR(Try(change));
  return absl::OkStatus();
}

absl::Status Search::HoldOut() {
  if (!on_trial_("held-out prompts")) return absl::CancelledError("interrupted");
  ASSIGN_OR_RETURN(result_.held_out_gain, Compare(base_, best_, options_.held_out, nullptr));
  if (result_.held_out_gain >= 1 || result_.kept.empty()) return absl::OkStatus();
  result_.dropped = std::move(result_.kept);
  result_.kept.clear();
  return absl::OkStatus();
}

absl::StatusOr<TuneResult> Search::Run() {
  CHECK(!options_.prompts.empty() && !options_.held_out.empty());
  best_ = base_;
  RETURN_IF_ERROR(TryModes());
  RETURN_IF_ERROR(TryPages());
  RETURN_IF_ERROR(TryRows());
  RETURN_IF_ERROR(TryPolicies());
  RETURN_IF_ERROR(TryOthers());
  RETURN_IF_ERROR(HoldOut());
  return std::move(result_);
}

}  // namespace

void SetAssignment(const Assignment& setting, std::vector<Assignment>* settings) {
  const auto known = std::ranges::find(*settings, setting.first, &Assignment::first);
  if (known == settings->end()) {
    settings->push_back(setting);
  } else {
    known->second = setting.second;
  }
}

std::string Change::Name() const {
  std::string name;
  for (const auto& [key, value] : settings) name += fmt::format("{}{}={}", name.empty() ? "" : ", ", key, value);
  return name;
}

absl::StatusOr<TuneResult> Tune(const Config& base, const TuneOptions& options, const Hooks& hooks,
                                const std::function<bool(const std::string& what)>& on_trial) {
  return Search(base, options, hooks, on_trial).Run();
}

}  // namespace dogstar
