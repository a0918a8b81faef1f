// dogstar bench: how fast a model runs here, by setting: prompt and decoding apart, again and again, with their spread.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/units.h"
#include "fmt/format.h"
#include "runtime/run_plan.h"
#include "tools/bench_runner.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/sweep.h"

namespace dogstar {
namespace {

struct BenchFlags {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::vector<std::string> sweeps;
  std::string state = "warm", output = "table";
  std::string record;
  int32_t prompt_tokens = 128, new_tokens = 64, repetitions = 5, assumed_tokens = 0;
};

// One point of the sweep: the values of the swept keys, in their order.
struct Setting {
  std::vector<std::pair<std::string, std::string>> keys;
  BenchState state = BenchState::kWarm;
};

struct Line {
  Setting setting;
  BenchResult result;
};

std::string_view StateName(BenchState state) { return state == BenchState::kCold ? "cold" : "warm"; }

// The cross product; the last key changes fastest.
absl::StatusOr<std::vector<Setting>> Expand(const BenchFlags& flags) {
  std::vector<Setting> settings(1);
  for (const std::string& sweep : flags.sweeps) {
    const size_t equals = sweep.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(fmt::format(
          "--sweep {}: write KEY=VALUES, such as cache.policy=lru,s3fifo or budget.ram=30%..90%+10%", sweep));
    }
    const absl::StatusOr<std::vector<std::string>> values = ExpandValues(sweep.substr(equals + 1));
    if (!values.ok()) return Annotate(values.status(), "--sweep " + sweep);
    std::vector<Setting> more;
    for (const Setting& setting : settings) {
      for (const std::string& value : *values) {
        more.push_back(setting);
        more.back().keys.emplace_back(sweep.substr(0, equals), value);
      }
    }
    settings = std::move(more);
  }
  std::vector<Setting> all;
  for (Setting& setting : settings) {
    if (flags.state != "cold") all.push_back(setting);
    if (flags.state == "warm") continue;
    all.push_back(setting);
    all.back().state = BenchState::kCold;
  }
  return all;
}

// Shares of a budget are of the model's file.
absl::StatusOr<Config> ConfigOf(const Config& base, const Setting& setting) {
  Config config = base;
  for (const auto& [key, value] : setting.keys) {
    std::string text = value;
    if (key == "budget.ram" && value.ends_with('%')) {
      std::error_code error;
      const uint64_t whole = std::filesystem::file_size(base.model, error);
      if (error) return ErrnoStatus("stat", base.model, -1, -1, error.value());
      ASSIGN_OR_RETURN(const uint64_t bytes, ParseSize(value, whole));
      text = fmt::format("{}", bytes);
    }
    const absl::Status status = SetConfigKey(key, text, &config);
    if (!status.ok()) return Annotate(status, "--sweep");
  }
  return config;
}

const BenchMetric* Find(const Line& line, std::string_view name) {
  const auto metric = std::ranges::find(line.result.metrics, name, &BenchMetric::name);
  return metric != line.result.metrics.end() ? &*metric : nullptr;
}

// A column of the table; scale turns the metric's unit into the table's.
struct Column {
  std::string_view title, metric;
  double scale = 1;
  int digits = 1;
  bool spread = true;
};
constexpr Column kColumns[] = {{"load s", "load_s", 1, 2},
                               {"prompt tok/s", "prompt_tok_s", 1, 1},
                               {"decode tok/s", "decode_tok_s", 1, 2},
                               {"full pass ms", "full_pass_s", 1e3, 2},
                               {"draft step ms", "draft_step_s", 1e3, 2},
                               {"accepted", "accepted_mean", 1, 2},
                               {"density", "density", 1, 2, false},
                               {"disk GB/s", "disk_gb_s", 1, 2},
                               {"of disk, %", "disk_share_of_measured", 100, 0, false},
                               {"of memory, % (computed)", "memory_share_of_measured", 100, 0, false},
                               {"overlay hits, %", "overlay_hit_rate", 100, 1, false},
                               {"peak MiB", "peak_rss_bytes", 1.0 / (1 << 20), 1, false}};

std::string CellOf(const Line& line, const Column& column) {
  const BenchMetric* metric = Find(line, column.metric);
  if (metric == nullptr) return "-";
  const Spread spread = SpreadOf(metric->runs);
  std::string cell = fmt::format("{:.{}f}", spread.mean * column.scale, column.digits);
  if (column.spread && spread.count > 1) {
    cell += fmt::format(" ± {:.{}f}", spread.deviation * column.scale, column.digits);
  }
  return cell;
}

// What is assumed is said where the mode stands, so that no line can be taken for a measured one.
std::string ModeOf(const BenchResult& result) {
  return result.assumed_tokens > 0 ? fmt::format("{} ({} ASSUMED)", result.mode, result.assumed_tokens) : result.mode;
}

std::vector<std::vector<std::string>> Cells(const std::vector<Line>& lines) {
  std::vector<std::vector<std::string>> cells(lines.size() + 1);
  for (const auto& [key, value] : lines[0].setting.keys) cells[0].push_back(key);
  cells[0].insert(cells[0].end(), {"mode", "state"});
  for (size_t i = 0; i < lines.size(); ++i) {
    for (const auto& [key, value] : lines[i].setting.keys) cells[i + 1].push_back(value);
    cells[i + 1].push_back(ModeOf(lines[i].result));
    cells[i + 1].emplace_back(StateName(lines[i].setting.state));
  }
  for (const Column& column : kColumns) {
    const auto has = [&](const Line& line) { return Find(line, column.metric) != nullptr; };
    if (std::ranges::none_of(lines, has)) continue;
    cells[0].emplace_back(column.title);
    for (size_t i = 0; i < lines.size(); ++i) cells[i + 1].push_back(CellOf(lines[i], column));
  }
  return cells;
}

// "±" is one column and two bytes.
size_t WidthOf(const std::string& cell) { return cell.size() - (cell.find("±") != std::string::npos ? 1 : 0); }

void PrintCells(const std::vector<std::vector<std::string>>& cells, bool markdown) {
  std::vector<size_t> widths(cells[0].size());
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], WidthOf(row[i]));
  }
  for (size_t r = 0; r < cells.size(); ++r) {
    std::string line = markdown ? "|" : "";
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string padding(widths[i] - WidthOf(cells[r][i]), ' ');
      line += markdown ? " " + padding + cells[r][i] + " |" : (i > 0 ? "  " : "") + padding + cells[r][i];
    }
    fmt::print("{}\n", line);
    if (r > 0 || !markdown) continue;
    line = "|";
    for (size_t width : widths) line += std::string(width + 1, '-') + ":|";
    fmt::print("{}\n", line);
  }
}

void PrintHistograms(const std::vector<Line>& lines) {
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::vector<int64_t>& counts = lines[i].result.cycle_tokens;
    if (counts.empty()) continue;
    std::string text;
    for (size_t tokens = 1; tokens < counts.size(); ++tokens) {
      if (counts[tokens] > 0) text += fmt::format(" {}:{}", tokens, counts[tokens]);
    }
    fmt::print("line {}: full passes by tokens won{}:{}\n", i + 1,
               lines[i].result.assumed_tokens > 0 ? " (ASSUMED)" : "", text);
  }
}

nlohmann::ordered_json JsonOf(const Line& line) {
  nlohmann::ordered_json json;
  for (const auto& [key, value] : line.setting.keys) json[key] = value;
  json["mode"] = line.result.mode;
  if (line.result.assumed_tokens > 0) json["assumed_accepted"] = line.result.assumed_tokens;
  json["state"] = StateName(line.setting.state);
  for (const BenchMetric& metric : line.result.metrics) {
    const Spread spread = SpreadOf(metric.runs);
    json[metric.name] = {{"mean", spread.mean}, {"sd", spread.deviation}, {"min", spread.least}, {"runs", metric.runs}};
    if (metric.computed) json[metric.name]["computed"] = true;
  }
  for (size_t tokens = 1; tokens < line.result.cycle_tokens.size(); ++tokens) {
    json["cycle_tokens"][std::to_string(tokens)] = line.result.cycle_tokens[tokens];
  }
  json["peak_is_of_this_setting"] = line.result.peak_is_own;
  json["io"] = line.result.io;
  return json;
}

void PrintCsv(const std::vector<Line>& lines) {
  std::vector<std::string> names;
  for (const Line& line : lines) {
    for (const BenchMetric& metric : line.result.metrics) {
      if (std::ranges::find(names, metric.name) == names.end()) names.push_back(metric.name);
    }
  }
  for (const auto& [key, value] : lines[0].setting.keys) fmt::print("{},", key);
  fmt::print("mode,state,runs");
  for (const std::string& name : names) fmt::print(",{0}_mean,{0}_sd,{0}_min", name);
  fmt::print("\n");
  for (const Line& line : lines) {
    for (const auto& [key, value] : line.setting.keys) fmt::print("{},", value);
    fmt::print("{},{},{}", ModeOf(line.result), StateName(line.setting.state), line.result.metrics[0].runs.size());
    for (const std::string& name : names) {
      const BenchMetric* metric = Find(line, name);
      if (metric == nullptr) {
        fmt::print(",,,");
        continue;
      }
      const Spread spread = SpreadOf(metric->runs);
      fmt::print(",{:.6g},{:.6g},{:.6g}", spread.mean, spread.deviation, spread.least);
    }
    fmt::print("\n");
  }
}

void Print(const BenchFlags& flags, bool json, const Config& config, const MachineRates& rates,
           const std::vector<Line>& lines) {
  const std::string machine =
      fmt::format("{}; {} hardware threads", lines[0].result.backend, std::thread::hardware_concurrency());
  const auto disk = StreamRatesOf(rates, config.model).disk_bytes_per_second;
  if (json || flags.output == "json") {
    nlohmann::ordered_json out = {{"model", config.model},
                                  {"machine", machine},
                                  {"settings", GivenSettings(*flags.model)},
                                  {"prompt_tokens", flags.prompt_tokens},
                                  {"new_tokens", flags.new_tokens},
                                  {"repetitions", flags.repetitions}};
    out["measured_disk_bytes_per_second"] = disk > 0 ? nlohmann::ordered_json(disk) : nullptr;
    out["measured_memory_bytes_per_second"] =
        rates.memory_bytes_per_second > 0 ? nlohmann::ordered_json(rates.memory_bytes_per_second) : nullptr;
    std::error_code error;
    const uint64_t model_bytes = std::filesystem::file_size(config.model, error);
    if (!error) out["model_bytes"] = model_bytes;
    for (const Line& line : lines) out["results"].push_back(JsonOf(line));
    PrintJson(out);
    return;
  }
  if (flags.output == "csv") {
    PrintCsv(lines);
    return;
  }
  fmt::print("{}, prompt {} tokens, {} new ones, {} runs: mean ± standard deviation\n", Printable(config.model),
             flags.prompt_tokens, flags.new_tokens, flags.repetitions);
  fmt::print("{}{}\n\n", machine,
             disk > 0 ? fmt::format("; disk {:.2f} GB/s, memory {:.1f} GB/s (dogstar probe)", disk / 1e9,
                                    rates.memory_bytes_per_second / 1e9)
                      : "; disk and memory not measured (dogstar probe MODEL)");
  PrintCells(Cells(lines), flags.output == "markdown");
  if (flags.output == "table") PrintHistograms(lines);
}

std::string TimeLeft(double seconds) {
  return seconds < 90 ? fmt::format("{:.0f} s", seconds) : fmt::format("{:.0f} min", seconds / 60);
}

absl::Status RunBenchCommand(const BenchFlags& flags, bool json) {
  ASSIGN_OR_RETURN(const Config base, ReadConfig(*flags.model));
  if (base.model.empty()) return absl::InvalidArgumentError("no model is given");
  ASSIGN_OR_RETURN(const std::vector<Setting> settings, Expand(flags));
  std::vector<Config> configs;
  for (const Setting& setting : settings) {  // mistakes show before the first run
    ASSIGN_OR_RETURN(Config config, ConfigOf(base, setting));
    configs.push_back(std::move(config));
  }
  const auto may_judge = [](const Config& config) {
    return config.corrector.mode == RunMode::kAuto || JudgesDrafts(config.corrector.mode);
  };
  if (flags.assumed_tokens > 0 && std::ranges::none_of(configs, may_judge)) {
    return NothingToAssumeIn(configs[0].corrector.mode);
  }
  if (!flags.record.empty() && (settings.size() > 1 || settings[0].state == BenchState::kCold)) {
    return absl::InvalidArgumentError(
        fmt::format("--record {}: a trace is of one setting and one engine: no sweep, --state warm", flags.record));
  }
  Progress bar;
  const Hooks hooks = MakeHooks(&bar);
  std::unique_ptr<AccessRecorder> accesses;
  if (!flags.record.empty()) {
    ASSIGN_OR_RETURN(accesses, AccessRecorder::Create(flags.record));
  }
  ASSIGN_OR_RETURN(const MachineRates rates, KnownRates(base, hooks.note));
  CatchInterrupt();
  int total = 0, done = 0;
  for (const Setting& setting : settings) total += flags.repetitions + (setting.state == BenchState::kWarm ? 1 : 0);
  const double start = Now();
  const auto on_run = [&] {
    bar.Finish();  // the last run's loading
    const double left = done > 0 ? (Now() - start) / done * (total - done) : 0;
    bar.Steps(done > 0 ? fmt::format("bench, {} left", TimeLeft(left)) : "bench", done, total);
    ++done;
    return !Interrupted();
  };
  std::vector<Line> lines;
  for (size_t i = 0; i < settings.size(); ++i) {
    const BenchOptions options{flags.prompt_tokens, flags.new_tokens,     flags.repetitions,
                               settings[i].state,   flags.assumed_tokens, accesses.get()};
    absl::StatusOr<BenchResult> result = RunBench(configs[i], options, rates, hooks, on_run);
    if (absl::IsCancelled(result.status()) && !lines.empty()) {  // what was measured is shown
      hooks.note(fmt::format("interrupted: {} of {} settings were measured", lines.size(), settings.size()));
      break;
    }
    if (!result.ok()) {
      std::string where;
      for (const auto& [key, value] : settings[i].keys) where += (where.empty() ? "" : ", ") + key + "=" + value;
      bar.Finish();
      return where.empty() ? result.status() : Annotate(result.status(), where);
    }
    lines.push_back({settings[i], *std::move(result)});
  }
  bar.Finish();
  const auto assumed = [](const Line& line) { return line.result.assumed_tokens > 0; };
  if (flags.assumed_tokens > 0 && std::ranges::none_of(lines, assumed)) {
    hooks.note(fmt::format("no drafts were judged in mode {}: nothing is assumed, all of this is measured",
                           lines[0].result.mode));
  }
  Print(flags, json, base, rates, lines);
  return accesses != nullptr ? FinishRecord(accesses.get(), flags.record, hooks) : absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* bench = app.add_subcommand("bench", "measure prompt and decoding speed, over any settings");
  AddModelOptions(bench, flags->model);
  bench->add_option("-p,--n-prompt", flags->prompt_tokens, "tokens of the prompt")->check(CLI::Range(1, 1 << 20));
  bench->add_option("-n,--n-gen", flags->new_tokens, "tokens to generate")->check(CLI::Range(2, 1 << 20));
  bench->add_option("-r,--repetitions", flags->repetitions, "measured runs of each setting")
      ->check(CLI::Range(1, 1000));
  bench
      ->add_option("--sweep", flags->sweeps,
                   "KEY=VALUES of any setting: cache.policy=lru,s3fifo, budget.ram=30%..90%+10% (of the file); may be "
                   "repeated, all combinations are run")
      ->allow_extra_args(false);
  bench->add_option("--state", flags->state, "warm: one run first; cold: a fresh engine and file pages dropped; both")
      ->check(CLI::IsMember({"warm", "cold", "both"}));
  bench
      ->add_option(
          "--assume-accepted", flags->assumed_tokens,
          "so many tokens stand in every cycle, whatever the drafts say: times models whose text means nothing; "
          "lines of other modes are measured as ever")
      ->check(CLI::Range(1, 1024));
  bench->add_option("--record", flags->record,
                    "of one setting: write the requests that the overlay's policy sees, for dogstar simulate");
  bench->add_option("-o,--output", flags->output, "how to print")
      ->check(CLI::IsMember({"table", "markdown", "csv", "json"}));
  bench->add_flag("--json", context->json, "one JSON object on standard output");
  bench->callback(
      [flags, context] { context->run = [flags, context] { return RunBenchCommand(*flags, context->json); }; });
}

}  // namespace dogstar
