// dogstar run: a prompt in, text out.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include "base/units.h"
#include "fmt/format.h"
#include "model/chat_template.h"
#include "nlohmann/json.hpp"
#include "runtime/engine.h"
#include "runtime/generator.h"
#include "tools/command.h"
#include "tools/progress.h"

namespace dogstar {
namespace {

std::atomic<bool> g_interrupted{false};  // set by Ctrl-C: the one thing a signal handler may do

void OnInterrupt(int) {
  if (g_interrupted.exchange(true)) std::_Exit(130);  // the second one does not wait
}

struct RunArguments {
  std::string model, model_option, prompt, prompt_file, config_file;
  std::vector<std::string> assignments;  // key=value, in the order of the command line
  int32_t max_tokens = 128;
  bool ignore_eos = false, chat = false, raw = false, json = false;
  int32_t logprobs = 0;
  bool verbose = false;
};

std::string DefaultCacheDir() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return std::string(cache) + "/dogstar";
  const char* home = std::getenv("HOME");
  return home != nullptr ? std::string(home) + "/.cache/dogstar" : "";
}

// defaults < file < environment < command line
absl::StatusOr<Config> ReadConfig(const RunArguments& arguments) {
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

absl::StatusOr<std::string> ReadPrompt(const RunArguments& arguments) {
  if (arguments.prompt_file.empty()) return arguments.prompt;
  std::stringstream text;
  if (arguments.prompt_file == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream file(arguments.prompt_file, std::ios::binary);
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(fmt::format("cannot read the prompt file {}", arguments.prompt_file));
  }
  return text.str();
}

absl::StatusOr<std::vector<TokenId>> EncodePrompt(const RunArguments& arguments, const ModelFile& model) {
  ASSIGN_OR_RETURN(std::string text, ReadPrompt(arguments));
  EncodeOptions options;
  if (arguments.chat) {
    ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::Recognise(model.tokenizer().chat_template()));
    const ChatMessage message{"user", text};
    text = chat.Render({&message, 1});
    options.parse_special = true;
  }
  std::vector<TokenId> tokens = model.tokenizer().Encode(text, options);
  if (tokens.empty() && model.tokenizer().bos()) tokens.push_back(*model.tokenizer().bos());
  if (tokens.empty()) return absl::InvalidArgumentError("the prompt is empty; give one with -p or -f");
  return tokens;
}

// Valid UTF-8 whatever the model produced, for JSON.
std::string Replaced(const std::string& text) {
  return nlohmann::json::parse(nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
      .get<std::string>();
}

std::string_view StopName(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEndToken:
      return "end";
    case StopReason::kContextFull:
      return "context";
    case StopReason::kInterrupted:
      return "interrupted";
    case StopReason::kFailed:
      return "failed";
  }
  return "";
}

// Share of the weight bytes that passes used and found in tier 0.
double HitRate(const Engine& engine, const GenerationResult& result) {
  uint64_t resident = 0;
  for (const PlanLine& line : engine.placement().lines) {
    if (line.what.starts_with("attention") || line.what.starts_with("head") || line.what.starts_with("FFN")) {
      resident += line.resident_bytes;
    }
  }
  const double hits = static_cast<double>(resident) * static_cast<double>(result.full_passes + result.draft_steps);
  const double misses =
      static_cast<double>(engine.placement().complement_bytes) * static_cast<double>(result.full_passes);
  return hits + misses > 0 ? hits / (hits + misses) : 1;
}

// Effective density (references: Sirius 3.3): weights used per token / weights, the whole model counted.
double EffectiveDensity(const Engine& engine, const GenerationResult& result) {
  const ModelFile::ParameterCounts counts = engine.model().CountParameters();
  const double sparse = 1 - (1 - result.draft_density) * counts.ffn / counts.total();
  if (result.advanced == 0) return sparse;
  return (static_cast<double>(result.draft_steps) * sparse + static_cast<double>(result.full_passes)) /
         static_cast<double>(result.advanced);
}

nlohmann::json JsonOf(const Engine& engine, const GenerationResult& result, const std::string& text,
                      const std::string& model_path) {
  nlohmann::json json;
  json["text"] = Replaced(text);
  json["tokens"] = nlohmann::json::array();
  for (TokenId token : result.tokens) json["tokens"].push_back(ToInt(token));
  json["stop"] = StopName(result.stop);
  json["model"] = model_path;
  json["mode"] = RunModeName(engine.mode());
  json["prompt_tokens"] = result.prompt_tokens;
  json["prompt_s"] = result.prompt_seconds;
  json["prompt_tok_s"] = result.prompt_tokens_per_second();
  json["decode_s"] = result.decode_seconds;
  json["decode_tok_s"] = result.decode_tokens_per_second();
  json["cycles"] = result.full_passes;
  json["accepted_mean"] = result.accepted_mean();
  json["drafted"] = result.draft_steps;
  json["drafts_accepted"] = result.drafts_accepted;
  json["draft_s"] = result.draft_seconds;
  json["verify_s"] = result.full_seconds;
  json["dense_share"] = result.dense_share;
  json["density"] = result.draft_density;
  json["effective_density"] = EffectiveDensity(engine, result);
  json["resident_density"] = engine.placement().resident_density;
  json["disk_bytes"] = result.disk_bytes;
  json["decode_disk_bytes"] = result.decode_disk_bytes;
  json["disk_gb_s"] =
      result.decode_seconds > 0 ? static_cast<double>(result.decode_disk_bytes) / result.decode_seconds / 1e9 : 0;
  json["complement_bytes"] = engine.placement().complement_bytes;
  json["io_wait_s"] = result.io_wait_seconds;
  json["h2d_bytes"] = 0;
  json["peak_rss_bytes"] = PeakResidentBytes();
  json["budget_bytes"] = engine.config().budget.ram ? nlohmann::json(*engine.config().budget.ram) : nlohmann::json();
  json["fast_tier_hit_rate"] = HitRate(engine, result);
  json["backend"] = engine.DescribeBackend();
  json["io"] = engine.DescribeIo();
  for (const Accountant::Entry& entry : engine.accountant().entries()) json["memory"][entry.what] = entry.bytes;
  for (const auto& token : result.logprobs) {
    nlohmann::json row = nlohmann::json::array();
    for (const TokenLogprob& entry : token) row.push_back({{"id", ToInt(entry.token)}, {"logprob", entry.logprob}});
    json["logprobs"].push_back(std::move(row));
  }
  return json;
}

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
  }
  line += fmt::format("; rss {}", FormatSize(PeakResidentBytes()));
  if (engine.config().budget.ram) line += fmt::format(" of {}", FormatSize(*engine.config().budget.ram));
  std::fprintf(stderr, "%s\n", line.c_str());
}

// Progress of whatever takes long at the moment, one bar at a time.
class Progress {
 public:
  void Bytes(std::string_view what, uint64_t done, uint64_t total) {
    if (what != what_) {
      bar_ = std::make_unique<ProgressBar>(std::string(what));
      what_ = what;
    }
    bar_->Update(done, total);
  }
  // A prompt that takes more than a second, on a terminal.
  void Prompt(int32_t done, int32_t total) {
    Finish();
    if (!prompt_since_) prompt_since_ = std::chrono::steady_clock::now();
    if (isatty(STDERR_FILENO) == 0 || std::chrono::steady_clock::now() - *prompt_since_ < std::chrono::seconds(1))
      return;
    std::fprintf(stderr, "\rprompt: %d of %d tokens%s", done, total, done == total ? "\r\x1b[K" : "");
  }
  void Finish() {
    bar_.reset();
    what_.clear();
  }

 private:
  std::string what_;
  std::unique_ptr<ProgressBar> bar_;
  std::optional<std::chrono::steady_clock::time_point> prompt_since_;
};

Hooks MakeHooks(Progress* bar) {
  Hooks hooks;
  hooks.note = [bar](std::string_view message) {
    bar->Finish();
    std::fprintf(stderr, "dogstar: %.*s\n", static_cast<int>(message.size()), message.data());
  };
  hooks.progress = [bar](std::string_view what, uint64_t done, uint64_t total) { bar->Bytes(what, done, total); };
  return hooks;
}

int32_t LogitRows(const Config& config, RunMode mode) {
  const bool corrected = mode == RunMode::kStrict || mode == RunMode::kSirius;
  return corrected ? std::max(1, config.corrector.period) : 1;
}

absl::Status Run(const RunArguments& arguments) {
  ASSIGN_OR_RETURN(const Config config, ReadConfig(arguments));
  Progress bar;
  const Hooks hooks = MakeHooks(&bar);
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, hooks));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(choice.path));
  ASSIGN_OR_RETURN(const std::vector<TokenId> prompt, EncodePrompt(arguments, *model));

  Engine::Options options;
  options.mode = choice.mode;
  options.context_slots =
      config.context > 0 ? config.context : static_cast<int32_t>(prompt.size()) + arguments.max_tokens;
  options.logit_rows = LogitRows(config, choice.mode);
  if (static_cast<int32_t>(prompt.size()) >= options.context_slots) {
    return absl::InvalidArgumentError(fmt::format("the prompt has {} tokens and does not fit a context of {} (-c)",
                                                  prompt.size(), options.context_slots));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), options, hooks));

  std::signal(SIGINT, OnInterrupt);
  GenerationResult result;
  GenerationOptions generation;
  generation.max_tokens = arguments.max_tokens;
  generation.ignore_end = arguments.ignore_eos;
  generation.logprobs = arguments.logprobs;
  generation.interrupted = &g_interrupted;
  generation.on_prompt = [&](int32_t done, int32_t total) { bar.Prompt(done, total); };
  std::string text;
  Utf8Stream stream;
  generation.on_token = [&](TokenId token) {
    bar.Finish();
    const std::string bytes = model->tokenizer().TokenBytes(token);
    text += bytes;
    if (arguments.json) return;
    const std::string whole = stream.Push(bytes);
    std::fwrite(whole.data(), 1, whole.size(), stdout);
    std::fflush(stdout);
  };
  if (!arguments.json && !arguments.chat && arguments.prompt_file.empty()) {
    std::fwrite(arguments.prompt.data(), 1, arguments.prompt.size(), stdout);
    std::fflush(stdout);
  }
  const absl::Status status = Generator(engine.get()).Generate(prompt, generation, &result);
  bar.Finish();
  if (!status.ok()) result.stop = StopReason::kFailed;
  if (config.draft.density > result.draft_density + 0.01) {
    hooks.note(fmt::format("draft.density {} was asked for, the budget holds {:.2f} of the rows: drafts used those",
                           config.draft.density, result.draft_density));
  }
  if (arguments.json) {
    nlohmann::json json = JsonOf(*engine, result, text, choice.path);
    if (!status.ok()) json["error"] = std::string(status.message());
    std::printf("%s\n", json.dump().c_str());
  } else {
    const std::string rest = stream.Flush() + "\n";
    std::fwrite(rest.data(), 1, rest.size(), stdout);
    std::fflush(stdout);
    if (!result.tokens.empty()) PrintClosingLine(*engine, result);
  }
  return status;
}

}  // namespace

void AddRunCommand(CLI::App& app, CommandContext* context) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* run = app.add_subcommand("run", "generate text from a prompt");
  run->add_option("model", arguments->model, "GGUF or packed file");
  run->add_option("-m,--model", arguments->model_option, "the same, as an option");
  CLI::Option* prompt = run->add_option("-p,--prompt", arguments->prompt, "the prompt");
  run->add_option("-f,--file", arguments->prompt_file, "read the prompt from a file (- for standard input)")
      ->excludes(prompt);
  run->add_option("-n,--predict", arguments->max_tokens, "tokens to generate")->check(CLI::Range(1, 1 << 24));
  run->add_flag("--ignore-eos", arguments->ignore_eos, "go on after the end token");
  CLI::Option* raw = run->add_flag("--raw", arguments->raw, "the prompt as it is (the default)");
  run->add_flag("--chat", arguments->chat, "the prompt as a user's message in the model's chat format")->excludes(raw);
  run->add_option("--logprobs", arguments->logprobs,
                  "with --json: the K likeliest tokens of the full model at each token")
      ->check(CLI::Range(0, 1000));
  run->add_flag("--json", arguments->json, "one JSON object on standard output");
  run->add_option("--config", arguments->config_file, "YAML file of settings");
  // Short names for settings; each is --set key=value.
  const auto setting = [&](const std::string& names, const std::string& key, const std::string& help) {
    run->add_option_function<std::string>(
        names, [arguments, key](const std::string& value) { arguments->assignments.push_back(key + "=" + value); },
        help + " (" + key + ")");
  };
  setting("--ram", "budget.ram", "memory the program stays below, e.g. 84MiB");
  setting("--vram", "budget.vram", "GPU memory");
  setting("--mode", "corrector.mode", "auto, dense, sparse, sirius, strict");
  setting("--period", "corrector.period", "tokens per cycle");
  setting("--density", "draft.density", "share of FFN rows a draft uses");
  setting("--predictor", "draft.predictor", "which rows a draft uses");
  setting("-c,--ctx-size", "context", "tokens of context");
  setting("-t,--threads", "threads", "compute threads");
  setting("--temp", "sampling.temperature", "0: the likeliest token");
  setting("--top-k", "sampling.top_k", "only the k likeliest tokens");
  setting("--top-p", "sampling.top_p", "only the likeliest tokens whose sum reaches p");
  setting("--seed", "sampling.seed", "random seed");
  run->add_flag_function(
      "--precise", [arguments](int64_t) { arguments->assignments.push_back("precise=true"); },
      "float32 activations: slow, the reference");
  run->add_option_function<std::vector<std::string>>(
         "--set",
         [arguments](const std::vector<std::string>& values) {
           arguments->assignments.insert(arguments->assignments.end(), values.begin(), values.end());
         },
         "any setting, key=value; may be repeated")
      ->allow_extra_args(false);
  run->callback([arguments, context] { context->run = [arguments] { return Run(*arguments); }; });
}

}  // namespace dogstar
