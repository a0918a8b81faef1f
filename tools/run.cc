// dogstar run: a prompt in, text out.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>

#include "base/units.h"
#include "fmt/format.h"
#include "model/chat_template.h"
#include "nlohmann/json.hpp"
#include "runtime/engine.h"
#include "runtime/generator.h"
#include "runtime/stop_strings.h"
#include "tools/command.h"
#include "tools/model_options.h"

namespace dogstar {
namespace {

struct RunArguments {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string prompt, prompt_file, system, template_name, trace_file, record_file;
  std::vector<std::string> stops;
  int32_t max_tokens = 128;
  bool ignore_eos = false, chat = false, raw = false, json = false;
  int32_t logprobs = 0;
  bool verbose = false;
};

absl::StatusOr<std::vector<TokenId>> EncodePrompt(const RunArguments& arguments, const ModelFile& model) {
  std::string text = arguments.prompt;
  if (!arguments.prompt_file.empty()) {
    ASSIGN_OR_RETURN(text, ReadTextFile(arguments.prompt_file));
  }
  EncodeOptions options;
  if (arguments.chat) {
    ASSIGN_OR_RETURN(const ChatTemplate chat, arguments.template_name.empty()
                                                  ? ChatTemplate::Recognise(model.tokenizer().chat_template())
                                                  : ChatTemplate::Named(arguments.template_name));
    std::vector<ChatMessage> messages;
    if (!arguments.system.empty()) messages.push_back({"system", arguments.system});
    messages.push_back({"user", text});
    return chat.Render(messages).Encode(model.tokenizer());
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
    case StopReason::kStopString:
      return "stop";
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

// The overlay of drafts.
nlohmann::json JsonOfCache(const Engine& engine) {
  const PageCache::Stats stats = engine.overlay()->stats();
  return {{"policy", EvictionName(engine.config().cache.eviction.kind)},
          {"slots", engine.overlay()->cache().slots()},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"admissions", stats.admissions},
          {"evictions", stats.evictions},
          {"refused", stats.refused}};
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
  if (engine.overlay() != nullptr) json["cache"] = JsonOfCache(engine);
  for (const Accountant::Entry& entry : engine.accountant().entries()) json["memory"][entry.what] = entry.bytes;
  for (const auto& token : result.logprobs) {
    nlohmann::json row = nlohmann::json::array();
    for (const TokenLogprob& entry : token) row.push_back({{"id", ToInt(entry.token)}, {"logprob", entry.logprob}});
    json["logprobs"].push_back(std::move(row));
  }
  return json;
}

// Without an end in sight (-n -1) the context is the model's, or this many tokens.
constexpr int32_t kOpenEndedContext = 4096;

int32_t ContextSlots(const Config& config, const ModelFile& model, int32_t prompt_tokens, int32_t max_tokens) {
  if (config.context > 0) return config.context;
  if (max_tokens >= 0) return prompt_tokens + max_tokens;
  return std::max(std::min(kOpenEndedContext, model.config().context_length), prompt_tokens + 1);
}

absl::Status WriteTrace(Trace* trace, const std::string& path, const Hooks& hooks) {
  if (trace->dropped() > 0) {
    hooks.note(fmt::format("the trace is full after {} events; the last {} are missing: trace fewer tokens",
                           trace->event_count(), trace->dropped()));
  }
  RETURN_IF_ERROR(trace->Write());
  hooks.note(fmt::format("trace of {} events in {}; open it with ui.perfetto.dev", trace->event_count(), path));
  return absl::OkStatus();
}

absl::Status Run(const RunArguments& arguments) {
  ASSIGN_OR_RETURN(const Config config, ReadConfig(*arguments.model));
  Progress bar;
  const Hooks hooks = MakeHooks(&bar);
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, hooks));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(choice.path));
  ASSIGN_OR_RETURN(const std::vector<TokenId> prompt, EncodePrompt(arguments, *model));

  std::unique_ptr<Trace> trace;
  if (!arguments.trace_file.empty()) {
    ASSIGN_OR_RETURN(trace, Trace::Create(arguments.trace_file));
  }
  std::unique_ptr<AccessRecorder> accesses;
  if (!arguments.record_file.empty()) {
    ASSIGN_OR_RETURN(accesses, AccessRecorder::Create(arguments.record_file));
  }
  Engine::Options options;
  options.mode = choice.mode;
  options.accesses = accesses.get();
  options.trace = trace.get();
  options.context_slots = ContextSlots(config, *model, static_cast<int32_t>(prompt.size()), arguments.max_tokens);
  options.logit_rows = LogitRows(config, choice.mode);
  if (static_cast<int32_t>(prompt.size()) >= options.context_slots) {
    return absl::InvalidArgumentError(fmt::format("the prompt has {} tokens and does not fit a context of {} (-c)",
                                                  prompt.size(), options.context_slots));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), options, hooks));

  CatchInterrupt();
  GenerationResult result;
  GenerationOptions generation;
  generation.max_tokens = arguments.max_tokens < 0 ? std::numeric_limits<int32_t>::max() : arguments.max_tokens;
  generation.ignore_end = arguments.ignore_eos;
  generation.logprobs = arguments.logprobs;
  generation.interrupted = &Interrupted();
  generation.on_prompt = [&](int32_t done, int32_t total) { bar.Prompt(done, total); };
  std::string text;
  Utf8Stream stream;
  StopStrings stops(arguments.stops);
  const auto show = [&](const std::string& bytes) {
    text += bytes;
    if (arguments.json) return;
    const std::string whole = stream.Push(bytes);
    std::fwrite(whole.data(), 1, whole.size(), stdout);
    std::fflush(stdout);
  };
  generation.on_token = [&](TokenId token) {
    bar.Finish();
    show(stops.Push(model->tokenizer().TokenBytes(token)));
    return !stops.stopped();
  };
  if (!arguments.json && !arguments.chat && arguments.prompt_file.empty()) {
    std::fwrite(arguments.prompt.data(), 1, arguments.prompt.size(), stdout);
    std::fflush(stdout);
  }
  const absl::Status status = Generator(engine.get()).Generate(prompt, generation, &result);
  bar.Finish();
  show(stops.Flush());
  if (!status.ok()) result.stop = StopReason::kFailed;
  // A trace that could not be written costs no text: that is printed first.
  const absl::Status recorded =
      accesses != nullptr ? FinishRecord(accesses.get(), arguments.record_file, hooks) : absl::OkStatus();
  if (trace != nullptr) RETURN_IF_ERROR(WriteTrace(trace.get(), arguments.trace_file, hooks));
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
  return status.ok() ? recorded : status;
}

}  // namespace

void AddRunCommand(CLI::App& app, CommandContext* context) {
  auto arguments = std::make_shared<RunArguments>();
  CLI::App* run = app.add_subcommand("run", "generate text from a prompt");
  AddModelOptions(run, arguments->model);
  AddSamplingOptions(run, arguments->model);
  CLI::Option* prompt = run->add_option("-p,--prompt", arguments->prompt, "the prompt");
  run->add_option("-f,--file", arguments->prompt_file, "read the prompt from a file (- for standard input)")
      ->excludes(prompt);
  run->add_option("-n,--predict", arguments->max_tokens, "tokens to generate; -1: until the text or the context ends")
      ->check(CLI::Range(1, 1 << 24) | CLI::IsMember({"-1"}));
  run->add_flag("--ignore-eos", arguments->ignore_eos, "go on after the end token");
  CLI::Option* raw = run->add_flag("--raw", arguments->raw, "the prompt as it is (the default)");
  run->add_flag("--chat", arguments->chat, "the prompt as a user's message in the model's chat format")->excludes(raw);
  run->add_option("--system", arguments->system, "with --chat: the system message");
  run->add_option("--chat-template", arguments->template_name, "with --chat: the format, where the model's is unknown")
      ->check(CLI::IsMember(ChatFormatNames()));
  run->add_option("--stop", arguments->stops, "text that ends the output; may be repeated")->allow_extra_args(false);
  run->add_option("--logprobs", arguments->logprobs,
                  "with --json: the K likeliest tokens of the full model at each token")
      ->check(CLI::Range(0, 1000));
  run->add_option("--trace", arguments->trace_file,
                  "write a trace of reads, waits and passes for Perfetto or chrome://tracing");
  run->add_option("--record", arguments->record_file,
                  "write the requests that the overlay's policy sees, for dogstar simulate");
  run->add_flag("--json", arguments->json, "one JSON object on standard output");
  run->callback([arguments, context] { context->run = [arguments] { return Run(*arguments); }; });
}

}  // namespace dogstar
