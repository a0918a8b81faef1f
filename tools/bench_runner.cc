#include "tools/bench_runner.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <memory>

#include "base/clock.h"
#include "runtime/calibration_text.h"
#include "runtime/generator.h"
#include "runtime/run_plan.h"
#include "tools/model_options.h"

namespace dogstar {
namespace {

absl::Status DropCachedPages(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("open", path, -1, -1, errno);
  const int error = ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
  if (error != 0) return ErrnoStatus("drop the cached pages of", path, -1, -1, error);
  return absl::OkStatus();
}

// Linux: the peak of the process' memory begins anew. False where that is not allowed.
bool ResetPeakMemory() {
  const int fd = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = ::write(fd, "5", 1) == 1;
  ::close(fd);
  return written;
}

// So many tokens of the text that the program brings along, from its start, again and again.
std::vector<TokenId> PromptOf(const ModelFile& model, int32_t count) {
  const std::vector<TokenId> text = model.tokenizer().Encode(kCalibrationText, {});
  std::vector<TokenId> prompt;
  for (size_t i = 0; prompt.size() < static_cast<size_t>(count); ++i) prompt.push_back(text[i % text.size()]);
  return prompt;
}

// Weight bytes that the passes of a run's decoding read, wherever they lay, counted by the placement.
double WeightBytes(const Engine& engine, const GenerationResult& result) {
  const Placement& placement = engine.placement();
  const auto full = static_cast<double>(placement.resident_bytes + placement.complement_bytes);
  return static_cast<double>(result.full_passes) * full +
         static_cast<double>(result.draft_steps) * static_cast<double>(placement.draft_bytes);
}

class Metrics {
 public:
  explicit Metrics(std::vector<BenchMetric>* metrics) : metrics_(metrics) {}
  void Add(const std::string& name, double value, bool computed = false) {
    auto metric = std::ranges::find(*metrics_, name, &BenchMetric::name);
    if (metric == metrics_->end()) metric = metrics_->insert(metrics_->end(), BenchMetric{name, {}, computed});
    metric->runs.push_back(value);
  }
  void AddRatio(const std::string& name, double part, double whole, bool computed = false) {
    if (whole > 0) Add(name, part / whole, computed);
  }

 private:
  std::vector<BenchMetric>* metrics_;
};

void AddRun(const Engine& engine, const GenerationResult& result, const PageCache::Stats& before,
            const MachineRates& rates, BenchResult* bench) {
  Metrics metrics(&bench->metrics);
  bench->assumed_tokens = result.assumed_tokens;
  metrics.Add("prompt_tok_s", result.prompt_tokens_per_second());
  metrics.Add("decode_tok_s", result.decode_tokens_per_second());
  metrics.AddRatio("full_pass_s", result.full_seconds, static_cast<double>(result.full_passes));
  metrics.AddRatio("draft_step_s", result.draft_seconds, static_cast<double>(result.draft_steps));
  if (JudgesDrafts(engine.mode())) {
    metrics.Add("accepted_mean", result.accepted_mean());
    metrics.AddRatio("drafts_accepted_share", static_cast<double>(result.drafts_accepted),
                     static_cast<double>(result.drafts_judged));
    metrics.Add("dense_share", result.dense_share);
    metrics.Add("density", result.draft_density);
  }
  const auto disk_bytes = static_cast<double>(result.decode_disk_bytes);
  const double tokens = std::max(1.0, static_cast<double>(result.tokens.size()) - 1);
  metrics.Add("disk_bytes_per_token", disk_bytes / tokens);
  metrics.AddRatio("disk_gb_s", disk_bytes / 1e9, result.decode_seconds);
  const double disk = StreamRatesOf(rates, engine.model().path()).disk_bytes_per_second;
  if (disk > 0 && result.decode_seconds > 0) {
    metrics.Add("disk_share_of_measured", disk_bytes / result.decode_seconds / disk);
  }
  const double weight_bytes = WeightBytes(engine, result);
  metrics.Add("weight_bytes_per_token", weight_bytes / tokens, true);
  if (rates.memory_bytes_per_second > 0 && result.decode_seconds > 0) {
    metrics.Add("memory_share_of_measured", weight_bytes / result.decode_seconds / rates.memory_bytes_per_second, true);
  }
  const double complement =
      static_cast<double>(engine.placement().complement_bytes) * static_cast<double>(result.full_passes);
  metrics.AddRatio("fast_tier_hit_rate", weight_bytes - complement, weight_bytes, true);
  if (engine.overlay() != nullptr) {
    const PageCache::Stats after = engine.overlay()->stats();
    const auto hits = static_cast<double>(after.hits - before.hits);
    metrics.AddRatio("overlay_hit_rate", hits, hits + static_cast<double>(after.misses - before.misses));
  }
  metrics.Add("peak_rss_bytes", static_cast<double>(PeakResidentBytes()));
  if (bench->cycle_tokens.size() < result.cycle_tokens.size()) bench->cycle_tokens.resize(result.cycle_tokens.size());
  for (size_t i = 0; i < result.cycle_tokens.size(); ++i) bench->cycle_tokens[i] += result.cycle_tokens[i];
}

// A model, and the engine of the moment.
class Bench {
 public:
  Bench(const Config& config, const BenchOptions& options, const Hooks& hooks)
      : config_(config), options_(options), hooks_(hooks) {}

  absl::Status Open() {
    ASSIGN_OR_RETURN(choice_, ChooseModel(config_, hooks_));
    ASSIGN_OR_RETURN(model_, ModelFile::Open(choice_.path));
    prompt_ = PromptOf(*model_, options_.prompt_tokens);
    return absl::OkStatus();
  }

  absl::StatusOr<double> MakeEngine() {
    generator_.reset();
    engine_.reset();
    const double start = Now();
    Engine::Options options;
    options.mode = choice_.mode;
    options.context_slots = std::max(config_.context, options_.prompt_tokens + options_.new_tokens);
    options.logit_rows = LogitRows(config_, choice_.mode, *model_, options.context_slots, hooks_);
    options.accesses = options_.accesses;
    ASSIGN_OR_RETURN(engine_, Engine::Create(config_, model_.get(), options, hooks_));
    generator_ = std::make_unique<Generator>(engine_.get());
    return Now() - start;
  }

  absl::StatusOr<GenerationResult> Run() {
    GenerationResult result;
    GenerationOptions options;
    options.max_tokens = options_.new_tokens;
    options.ignore_end = true;
    if (JudgesDrafts(choice_.mode)) options.assumed_tokens = options_.assumed_tokens;
    options.interrupted = &Interrupted();
    RETURN_IF_ERROR(generator_->Generate(prompt_, options, &result));
    if (result.stop == StopReason::kInterrupted) return absl::CancelledError("interrupted");
    return result;
  }

  const Engine& engine() const { return *engine_; }
  const std::string& path() const { return choice_.path; }
  PageCache::Stats overlay_stats() const {
    return engine_->overlay() != nullptr ? engine_->overlay()->stats() : PageCache::Stats();
  }

 private:
  const Config& config_;
  const BenchOptions& options_;
  const Hooks& hooks_;
  ModelChoice choice_;
  std::unique_ptr<ModelFile> model_;
  std::vector<TokenId> prompt_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Generator> generator_;
};

}  // namespace

Spread SpreadOf(const std::vector<double>& values) {
  Spread spread;
  spread.count = static_cast<int>(values.size());
  if (values.empty()) return spread;
  for (double value : values) spread.mean += value / spread.count;
  spread.least = *std::ranges::min_element(values);
  if (values.size() < 2) return spread;
  double squares = 0;
  for (double value : values) squares += (value - spread.mean) * (value - spread.mean);
  spread.deviation = std::sqrt(squares / (spread.count - 1));
  return spread;
}

absl::StatusOr<BenchResult> RunBench(const Config& config, const BenchOptions& options, const MachineRates& rates,
                                     const Hooks& hooks, const std::function<bool()>& on_run) {
  BenchResult result;
  Bench bench(config, options, hooks);
  RETURN_IF_ERROR(bench.Open());
  const bool cold = options.state == BenchState::kCold;
  for (int run = cold ? 0 : -1; run < options.repetitions; ++run) {
    if (!on_run()) return absl::CancelledError("interrupted");
    if (run <= 0) result.peak_is_own = ResetPeakMemory();
    if (cold || run < 0) {
      if (cold) RETURN_IF_ERROR(DropCachedPages(bench.path()));
      ASSIGN_OR_RETURN(const double seconds, bench.MakeEngine());
      if (cold) Metrics(&result.metrics).Add("load_s", seconds);
    }
    const PageCache::Stats before = bench.overlay_stats();
    ASSIGN_OR_RETURN(const GenerationResult generated, bench.Run());
    if (run >= 0) AddRun(bench.engine(), generated, before, rates, &result);
  }
  result.mode = RunModeName(bench.engine().mode());
  result.backend = bench.engine().DescribeBackend();
  result.io = bench.engine().DescribeIo();
  return result;
}

}  // namespace dogstar
