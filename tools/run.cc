// dogstar run: a prompt in, text out.
#include <unistd.h>

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
#include "runtime/run_plan.h"
#include "runtime/stop_strings.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace dogstar {
namespace {

struct RunArguments {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string prompt, prompt_file, system, template_name, trace_file, record_file;
  std::vector<std::string> stops;
  int32_t max_tokens = 128;
  bool ignore_eos = false, chat = false, raw = false, json = false;
  int32_t logprobs = 0, assumed_tokens = 0;
  bool explain = false;
};

// What the drafts of a cycle came to, on standard error: those that stood, the one that did not, the full model's own.
class Explainer {
 public:
  explicit Explainer(const Tokenizer* tokenizer) : tokenizer_(tokenizer), colored_(::isatty(STDERR_FILENO) != 0) {}

  void Cycle(const DraftTree& tree, const Verdict& verdict) {
    std::string line = fmt::format("[{}] {} of {} drafts:", ++cycles_, verdict.accepted(), tree.size() - 1);
    // The path that stood, then what the draft would have gone on with.
    for (size_t i = 1; i < verdict.path.size(); ++i) line += Drafted(tree, verdict.path[i], true);
    int32_t node = verdict.path.back();
    while ((node = tree.LikeliestChild(node)) >= 0) line += Drafted(tree, node, false);
    fmt::print(stderr, "{} then {}\n", line, Marked(verdict.next, "36", "="));
  }

 private:
  std::string Marked(TokenId token, std::string_view color, std::string_view sign) const {
    const std::string text = Printable(tokenizer_->TokenBytes(token));
    return colored_ ? fmt::format("\x1b[{}m{}\x1b[0m", color, text) : fmt::format("{}{}", sign, text);
  }

  std::string Drafted(const DraftTree& tree, int32_t node, bool stood) const {
    return " " + Marked(tree.node(node).token, stood ? "32" : "31", stood ? "+" : "-");
  }

  const Tokenizer* tokenizer_;
  bool colored_;
  int cycles_ = 0;
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

// Everything but the text and its tokens.
nlohmann::json JsonOf(const Engine& engine, const GenerationResult& result, const std::string& model_path) {
  nlohmann::json json;
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
  json["verified"] = result.drafts_verified;
  json["drafts_accepted"] = result.drafts_accepted;
  json["looked_up"] = result.looked_up;
  json["lookups_accepted"] = result.lookups_accepted;
  json["accepted_by_position"] = nlohmann::json::array();
  for (size_t i = 0; i < result.judged_at.size(); ++i) {
    json["accepted_by_position"].push_back(static_cast<double>(result.accepted_at[i]) /
                                           static_cast<double>(result.judged_at[i]));
  }
  if (result.assumed_tokens > 0) json["assumed_accepted"] = result.assumed_tokens;
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

// The object, then text and tokens piece by piece: as JSON values they would take many times their bytes, at the moment
// when a budget is fullest. Text becomes valid UTF-8 whatever the model produced.
void PrintResult(const nlohmann::json& json, const std::string& text, std::span<const TokenId> tokens) {
  const std::string head = json.dump();
  fmt::print("{},\"text\":", std::string_view(head).substr(0, head.size() - 1));
  fmt::print("{},\"tokens\":[", nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  for (size_t i = 0; i < tokens.size(); ++i) fmt::print("{}{}", i > 0 ? "," : "", ToInt(tokens[i]));
  fmt::print("]}}\n");
}

// Bytes of a token's text, with what printing it as JSON takes.
constexpr uint64_t kTextBytesPerToken = 24;
constexpr uint64_t kLogprobBytes = 256;  // of one of --logprobs, as a JSON value
// Tokens that are counted of a text that may go on as its context slides; more take what the budget's slack has left.
constexpr int32_t kCountedTokens = 32768;

uint64_t TextBytes(const RunArguments& arguments, int32_t context_slots, const Config& config) {
  const int32_t most = config.context_overflow == ContextOverflow::kSlide ? kCountedTokens : context_slots;
  const int32_t tokens = arguments.max_tokens < 0 ? most : std::min(arguments.max_tokens, most);
  uint64_t bytes = Generator::kBytesPerToken + (arguments.json ? kTextBytesPerToken : 0);
  if (arguments.logprobs > 0) bytes += kTextBytesPerToken + static_cast<uint64_t>(arguments.logprobs) * kLogprobBytes;
  return static_cast<uint64_t>(tokens) * bytes;
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
  if (arguments.assumed_tokens > 0 && !JudgesDrafts(choice.mode)) return NothingToAssumeIn(choice.mode);

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
  options.logit_rows = LogitRows(config, choice.mode, *model, options.context_slots, hooks);
  options.text_bytes = TextBytes(arguments, options.context_slots, config);
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
  generation.assumed_tokens = arguments.assumed_tokens;
  Explainer explainer(&model->tokenizer());
  if (arguments.explain) {
    generation.on_cycle = [&](const DraftTree& tree, const Verdict& verdict) { explainer.Cycle(tree, verdict); };
  }
  generation.on_prompt = [&](int32_t done, int32_t total) { bar.Prompt(done, total); };
  std::string text;
  Utf8Stream stream;
  StopStrings stops(arguments.stops);
  const auto show = [&](const std::string& bytes) {
    if (arguments.json) {
      text += bytes;
      return;
    }
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
    nlohmann::json json = JsonOf(*engine, result, choice.path);
    if (!status.ok()) json["error"] = std::string(status.message());
    PrintResult(json, text, result.tokens);
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
  run->add_option("--assume-accepted", arguments->assumed_tokens,
                  "take K tokens of each cycle, whatever the drafts are: times a model whose text means nothing")
      ->check(CLI::Range(1, 1024));
  run->add_flag("--explain", arguments->explain, "on standard error, each cycle's drafts and which of them stood");
  run->add_option("--trace", arguments->trace_file,
                  "write a trace of reads, waits and passes for Perfetto or chrome://tracing");
  run->add_option("--record", arguments->record_file,
                  "write the requests that the overlay's policy sees, for dogstar simulate");
  run->add_flag("--json", arguments->json, "one JSON object on standard output");
  run->callback([arguments, context] { context->run = [arguments] { return Run(*arguments); }; });
}

}  // namespace dogstar
