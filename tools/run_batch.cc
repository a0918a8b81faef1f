#include "tools/run_batch.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <sstream>

#include "base/clock.h"
#include "fmt/format.h"
#include "runtime/engine.h"
#include "runtime/run_plan.h"
#include "runtime/stop_strings.h"
#include "tools/run_output.h"

namespace dogstar {
namespace {

struct BatchPrompt {
  int line = 0;  // of the file
  std::string text;
  std::vector<TokenId> tokens;
};

absl::StatusOr<std::vector<BatchPrompt>> ReadBatch(const RunArguments& arguments, const ModelFile& model) {
  ASSIGN_OR_RETURN(const std::string file, ReadTextFile(arguments.batch_file));
  std::istringstream lines(file);
  std::vector<BatchPrompt> prompts;
  int line = 0;
  for (std::string text; std::getline(lines, text);) {
    ++line;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.find_first_not_of(" \t") == std::string::npos) continue;
    BatchPrompt& prompt = prompts.emplace_back(BatchPrompt{line, text, {}});
    ASSIGN_OR_RETURN(prompt.tokens, EncodePrompt(arguments, model, text));
  }
  if (prompts.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{} has no prompts; it is read as one prompt a line", arguments.batch_file));
  }
  return prompts;
}

absl::Status CheckArguments(const RunArguments& arguments) {
  if (!arguments.trace_file.empty() || !arguments.record_file.empty()) {
    return absl::InvalidArgumentError("--batch-file: --trace and --record follow one text; give it with -p or -f");
  }
  if (arguments.explain) return absl::InvalidArgumentError("--batch-file: --explain follows one text");
  return absl::OkStatus();
}

// One text in progress, in a place that does not move.
struct BatchText {
  explicit BatchText(const std::vector<std::string>& stop_strings) : stops(stop_strings) {}
  GenerationResult result;
  StopStrings stops;
  std::string text;
};

class BatchRun {
 public:
  BatchRun(const RunArguments& arguments, const ModelFile& model, Engine* engine)
      : arguments_(arguments), model_(model), engine_(engine), generator_(engine) {}

  // A group of texts that share passes; what was made of them is printed even where an error ends them.
  absl::Status Run(std::span<const BatchPrompt> prompts) {
    std::deque<BatchText> texts;
    std::vector<TextRequest> requests;
    for (const BatchPrompt& prompt : prompts) {
      BatchText& text = texts.emplace_back(arguments_.stops);
      GenerationOptions options = GenerationOptionsOf(arguments_);
      options.on_token = [this, &text](TokenId token) {
        text.text += text.stops.Push(model_.tokenizer().TokenBytes(token));
        return !text.stops.stopped();
      };
      requests.push_back({prompt.tokens, std::move(options), &text.result});
    }
    const double start = Now();
    const absl::Status status = generator_.GenerateTogether(requests);
    seconds_ += Now() - start;
    for (size_t i = 0; i < texts.size(); ++i) {
      texts[i].text += texts[i].stops.Flush();
      if (!status.ok() && texts[i].result.stop == StopReason::kLength) texts[i].result.stop = StopReason::kFailed;
      tokens_ += static_cast<int64_t>(texts[i].result.tokens.size());
      Print(prompts[i], texts[i], status);
    }
    std::fflush(stdout);
    return status;
  }

  // # 40 texts, 2560 tok in 12.1 s: 211.6 tok/s
  void PrintClosingLine(size_t texts) const {
    std::string line = fmt::format("# {} texts, {} tok in {:.1f} s: {:.1f} tok/s, prompts included", texts, tokens_,
                                   seconds_, seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0);
    if (arguments_.assumed_tokens > 0) line += " (acceptance ASSUMED, the text means nothing)";
    std::fprintf(stderr, "%s\n", line.c_str());
  }

 private:
  void Print(const BatchPrompt& prompt, const BatchText& text, const absl::Status& status) const {
    if (!arguments_.json) {
      fmt::print("{}{}\n", arguments_.chat ? "" : prompt.text, Utf8Of(text.text));
      return;
    }
    nlohmann::json json = JsonOf(*engine_, text.result, model_.path());
    json["line"] = prompt.line;
    if (!status.ok()) json["error"] = std::string(status.message());
    PrintResult(json, text.text, text.result.tokens);
  }
  static std::string Utf8Of(const std::string& text) {
    Utf8Stream stream;
    const std::string whole = stream.Push(text);
    return whole + stream.Flush();
  }

  const RunArguments& arguments_;
  const ModelFile& model_;
  Engine* engine_;
  Generator generator_;
  double seconds_ = 0;
  int64_t tokens_ = 0;
};

absl::Status CheckPrompts(std::span<const BatchPrompt> prompts, int32_t context_slots, const std::string& file) {
  for (const BatchPrompt& prompt : prompts) {
    if (static_cast<int32_t>(prompt.tokens.size()) < context_slots) continue;
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: the prompt has {} tokens and does not fit a context of {} (-c)", file, prompt.line,
                    prompt.tokens.size(), context_slots));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunBatch(const RunArguments& arguments) {
  RETURN_IF_ERROR(CheckArguments(arguments));
  ASSIGN_OR_RETURN(const Config config, ReadConfig(*arguments.model));
  Progress bar;
  const Hooks hooks = MakeHooks(&bar);
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, hooks));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(choice.path));
  ASSIGN_OR_RETURN(const std::vector<BatchPrompt> prompts, ReadBatch(arguments, *model));
  if (arguments.assumed_tokens > 0 && !JudgesDrafts(choice.mode)) return NothingToAssumeIn(choice.mode);

  int32_t longest = 0;
  for (const BatchPrompt& prompt : prompts) longest = std::max(longest, static_cast<int32_t>(prompt.tokens.size()));
  Engine::Options options;
  options.mode = choice.mode;
  options.texts = std::min(arguments.parallel, static_cast<int32_t>(prompts.size()));
  options.context_slots = ContextSlots(arguments, config, *model, longest);
  RETURN_IF_ERROR(CheckPrompts(prompts, options.context_slots, arguments.batch_file));
  options.logit_rows = LogitRows(config, choice.mode, *model, options.context_slots, hooks, options.texts);
  options.text_bytes = TextBytes(arguments, options.context_slots, config) * static_cast<uint64_t>(options.texts);
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), options, hooks));
  bar.Finish();

  CatchInterrupt();
  BatchRun run(arguments, *model, engine.get());
  const size_t group = static_cast<size_t>(options.texts);
  size_t done = 0;
  absl::Status status;
  while (done < prompts.size() && status.ok() && !Interrupted()) {
    const auto some = std::span(prompts).subspan(done, std::min(group, prompts.size() - done));
    status = run.Run(some);
    done += some.size();
  }
  run.PrintClosingLine(done);
  return status;
}

}  // namespace dogstar
