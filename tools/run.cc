// dogstar run: a prompt in, text out.
#include <unistd.h>

#include <cstdio>
#include <memory>

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
#include "tools/run_arguments.h"
#include "tools/run_batch.h"
#include "tools/run_output.h"

namespace dogstar {
namespace {

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
  std::string prompt_text = arguments.prompt;
  if (!arguments.prompt_file.empty()) {
    ASSIGN_OR_RETURN(prompt_text, ReadTextFile(arguments.prompt_file));
  }
  ASSIGN_OR_RETURN(const std::vector<TokenId> prompt, EncodePrompt(arguments, *model, prompt_text));
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
  options.context_slots = ContextSlots(arguments, config, *model, static_cast<int32_t>(prompt.size()));
  options.logit_rows = LogitRows(config, choice.mode, *model, options.context_slots, hooks);
  options.text_bytes = TextBytes(arguments, options.context_slots, config);
  if (static_cast<int32_t>(prompt.size()) >= options.context_slots) {
    return absl::InvalidArgumentError(fmt::format("the prompt has {} tokens and does not fit a context of {} (-c)",
                                                  prompt.size(), options.context_slots));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), options, hooks));

  CatchInterrupt();
  GenerationResult result;
  GenerationOptions generation = GenerationOptionsOf(arguments);
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
  CLI::Option* file =
      run->add_option("-f,--file", arguments->prompt_file, "read the prompt from a file (- for standard input)")
          ->excludes(prompt);
  run->add_option("--batch-file", arguments->batch_file,
                  "a file with a prompt a line: their texts share every pass over the weights; with --json a line each")
      ->excludes(prompt)
      ->excludes(file);
  run->add_option("--parallel", arguments->parallel, "with --batch-file: texts at a time")->check(CLI::Range(1, 256));
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
  run->callback([arguments, context] {
    context->run = [arguments] { return arguments->batch_file.empty() ? Run(*arguments) : RunBatch(*arguments); };
  });
}

}  // namespace dogstar
