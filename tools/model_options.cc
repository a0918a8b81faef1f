#include "tools/model_options.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <utility>

#include "base/units.h"
#include "fmt/format.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

std::atomic<bool> g_interrupted{false};  // set by Ctrl-C: the one thing a signal handler may do

void OnInterrupt(int) {
  if (g_interrupted.exchange(true)) std::_Exit(130);  // the second one does not wait
}

std::string DefaultCacheDir() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return std::string(cache) + "/dogstar";
  const char* home = std::getenv("HOME");
  return home != nullptr ? std::string(home) + "/.cache/dogstar" : "";
}

using Arguments = std::shared_ptr<ModelArguments>;

// Short names for settings; each is --set key=value.
void AddSetting(CLI::App* command, const Arguments& arguments, const std::string& names, const std::string& key,
                const std::string& help) {
  command->add_option_function<std::string>(
      names, [arguments, key](const std::string& value) { arguments->assignments.push_back(key + "=" + value); },
      help + " (" + key + ")");
}

}  // namespace

void AddModelOptions(CLI::App* command, Arguments arguments) {
  const auto setting = [&](const std::string& names, const std::string& key, const std::string& help) {
    AddSetting(command, arguments, names, key, help);
  };
  command->add_option("model", arguments->model, "GGUF or packed file");
  command->add_option("-m,--model", arguments->model_option, "the same, as an option");
  command->add_option("--config", arguments->config_file, "YAML file of settings");
  setting("--ram", "budget.ram", "memory the program stays below, e.g. 84MiB");
  setting("--vram", "budget.vram", "GPU memory");
  setting("--mode", "corrector.mode", "auto, dense, sparse, sirius, strict");
  setting("--period", "corrector.period", "tokens per cycle");
  setting("--density", "draft.density", "share of FFN rows a draft uses");
  setting("--predictor", "draft.predictor", "which rows a draft uses");
  setting("-c,--ctx-size", "context", "tokens of context");
  setting("-t,--threads", "threads", "compute threads");
  setting("--kv-type", "kv_type", "numbers of the KV cache: f16, f32, q8_0");
  command->add_flag_function(
      "--precise", [arguments](int64_t) { arguments->assignments.push_back("precise=true"); },
      "float32 activations: slow, the reference");
  command
      ->add_option_function<std::vector<std::string>>(
          "--set",
          [arguments](const std::vector<std::string>& values) {
            arguments->assignments.insert(arguments->assignments.end(), values.begin(), values.end());
          },
          "any setting, key=value; may be repeated")
      ->allow_extra_args(false);
}

void AddSamplingOptions(CLI::App* command, Arguments arguments) {
  const auto setting = [&](const std::string& names, const std::string& key, const std::string& help) {
    AddSetting(command, arguments, names, key, help);
  };
  setting("--temp", "sampling.temperature", "0: the likeliest token");
  setting("--top-k", "sampling.top_k", "only the k likeliest tokens");
  setting("--top-p", "sampling.top_p", "only the likeliest tokens whose sum reaches p");
  setting("--min-p", "sampling.min_p", "only tokens so many times as likely as the likeliest");
  setting("--repeat-last-n", "sampling.penalty_window", "tokens that penalties look back; -1: all");
  setting("--repeat-penalty", "sampling.repeat_penalty", "divides the logits of repeated tokens");
  setting("--presence-penalty", "sampling.presence_penalty", "subtracted from the logits of repeated tokens");
  setting("--frequency-penalty", "sampling.frequency_penalty", "subtracted for every repetition");
  setting("--seed", "sampling.seed", "random seed");
  command
      ->add_option_function<std::vector<std::string>>(
          "-l,--logit-bias",
          [arguments](const std::vector<std::string>& values) {
            for (const std::string& value : values) arguments->assignments.push_back("sampling.bias=" + value);
          },
          "TOKEN_ID+BIAS or TOKEN_ID-BIAS, -inf to ban; may be repeated (sampling.bias)")
      ->allow_extra_args(false);
  setting("--context-overflow", "context_overflow", "a full context: stop, or slide");
  setting("--keep", "context_keep", "first tokens that a sliding context never drops");
}

absl::StatusOr<Config> ReadConfig(const ModelArguments& arguments) {
  Config config;
  config.cache_dir = DefaultCacheDir();
  if (!arguments.config_file.empty()) RETURN_IF_ERROR(ReadYamlConfigFile(arguments.config_file, &config));
  RETURN_IF_ERROR(ReadEnvironment([](const std::string& name) { return std::getenv(name.c_str()); }, &config));
  for (const std::string& assignment : arguments.assignments) {
    RETURN_IF_ERROR(SetConfigFromAssignment(assignment, &config));
  }
  if (!arguments.model.empty()) config.model = arguments.model;
  if (!arguments.model_option.empty()) config.model = arguments.model_option;
  return config;
}

int32_t LogitRows(const Config& config, RunMode mode, const ModelFile& model, int32_t context_slots, const Hooks& hooks,
                  int32_t texts) {
  const CycleRows cycle = RowsOfCycles(config, mode, model.config(), context_slots, texts);
  if (!cycle.reduced.empty() && hooks.note) hooks.note(cycle.reduced);
  return cycle.rows;
}

std::vector<std::string> GivenSettings(const ModelArguments& arguments) {
  std::vector<std::string> settings;
  if (!arguments.config_file.empty()) settings.push_back("--config " + arguments.config_file);
  settings.insert(settings.end(), arguments.assignments.begin(), arguments.assignments.end());
  return settings;
}

absl::Status NothingToAssumeIn(RunMode mode) {
  return absl::InvalidArgumentError(fmt::format(
      "--assume-accepted needs drafts that are judged: --mode strict or sirius, this is {}", RunModeName(mode)));
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::stringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream file(path, std::ios::binary);
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(fmt::format("cannot read the file {}", path));
  return text.str();
}

void Progress::Bytes(std::string_view what, uint64_t done, uint64_t total) {
  if (what != what_) {
    bar_ = std::make_unique<ProgressBar>(std::string(what));
    what_ = what;
  }
  bar_->Update(done, total);
}

void Progress::Steps(std::string_view what, int done, int total) {
  if (isatty(STDERR_FILENO) == 0) return;
  steps_shown_ = true;
  std::fprintf(stderr, "\r\x1b[K%.*s: step %d of %d", static_cast<int>(what.size()), what.data(), done + 1, total);
}

void Progress::Prompt(int32_t done, int32_t total) {
  Finish();
  if (!prompt_since_) prompt_since_ = std::chrono::steady_clock::now();
  if (isatty(STDERR_FILENO) == 0 || std::chrono::steady_clock::now() - *prompt_since_ < std::chrono::seconds(1)) return;
  std::fprintf(stderr, "\rprompt: %d of %d tokens%s", done, total, done == total ? "\r\x1b[K" : "");
}

void Progress::Finish() {
  if (std::exchange(steps_shown_, false)) std::fputs("\r\x1b[K", stderr);
  bar_.reset();
  what_.clear();
}

Hooks MakeHooks(Progress* bar) {
  Hooks hooks;
  hooks.note = [bar](std::string_view message) {
    bar->Finish();
    std::fprintf(stderr, "dogstar: %.*s\n", static_cast<int>(message.size()), message.data());
  };
  hooks.progress = [bar](std::string_view what, uint64_t done, uint64_t total) { bar->Bytes(what, done, total); };
  return hooks;
}

absl::Status FinishRecord(AccessRecorder* accesses, const std::string& path, const Hooks& hooks) {
  RETURN_IF_ERROR(accesses->Finish());
  if (accesses->requests() > 0) {
    hooks.note(fmt::format("{} requests in {}; dogstar simulate reads it", accesses->requests(), path));
  } else {
    hooks.note(
        fmt::format("{} has passes and no requests: those are what an overlay that follows the text sees, in "
                    "strict and sirius mode with --set cache.harvest=text",
                    path));
  }
  return absl::OkStatus();
}

const std::atomic<bool>& Interrupted() { return g_interrupted; }
void CatchInterrupt() { std::signal(SIGINT, OnInterrupt); }
void ForgetInterrupt() { g_interrupted = false; }

// # 256 tok: 12.3 tok/s, 81 ms/tok; prompt 140 tok/s; disk 1.9 GB/s; density 0.31; accepted 14.2/16; rss 61 of 64 MiB
void PrintClosingLine(const Engine& engine, const GenerationResult& result) {
  const double rate = result.decode_tokens_per_second();
  std::string line = fmt::format("# {} tok: {:.1f} tok/s, {:.1f} ms/tok; prompt {:.0f} tok/s", result.tokens.size(),
                                 rate, rate > 0 ? 1000 / rate : 0, result.prompt_tokens_per_second());
  if (result.decode_seconds > 0 && result.decode_disk_bytes > 0) {
    line +=
        fmt::format("; disk {:.2f} GB/s", static_cast<double>(result.decode_disk_bytes) / result.decode_seconds / 1e9);
  }
  if (result.draft_steps > 0) line += fmt::format("; density {:.2f}", result.draft_density);
  if (result.full_passes > 0 && engine.mode() != RunMode::kDense) {
    line += fmt::format("; accepted {:.2f}/{}", result.accepted_mean(), engine.config().corrector.period);
    if (result.assumed_tokens > 0) line += " (ASSUMED, the text means nothing)";
  }
  line += fmt::format("; rss {}", FormatSize(PeakResidentBytes()));
  if (engine.config().budget.ram) line += fmt::format(" of {}", FormatSize(*engine.config().budget.ram));
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace dogstar
