// dogstar eval: perplexity of a text, how well sparse drafts agree with the full model on it, or what each neuron and
// head did for a token.
#include <chrono>
#include <cstdio>
#include <memory>

#include "base/units.h"
#include "fmt/format.h"
#include "runtime/evaluation.h"
#include "tools/command.h"
#include "tools/eval_attribution.h"
#include "tools/eval_sparsity.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace dogstar {
namespace {

struct EvalArguments {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string task = "perplexity", file, prompt;
  int32_t chunks = -1, prompt_tokens = 64, max_tokens = 1024;
  bool json = false;
  AttributionArguments attribution;
  SparsityArguments sparsity;
  std::string metric = "corrected", head_reduce = "sum", grad_scope = "own";
};

constexpr int32_t kLogitRows = 32;  // of a pass: a vocabulary of 262144 takes 1 MiB a row
constexpr int32_t kDefaultWindow = 512;

// A model opened for evaluation, and the text in its tokens.
struct Subject {
  std::unique_ptr<ModelFile> model;
  std::unique_ptr<Engine> engine;
  std::vector<TokenId> tokens;
};

absl::StatusOr<Subject> Open(const EvalArguments& arguments, Config config, int32_t context_slots, const Hooks& hooks) {
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, hooks));
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.file));
  Subject subject;
  ASSIGN_OR_RETURN(subject.model, ModelFile::Open(choice.path));
  subject.tokens = subject.model->tokenizer().Encode(text, {});
  const Engine::Options options{.mode = choice.mode, .context_slots = context_slots, .logit_rows = kLogitRows};
  ASSIGN_OR_RETURN(subject.engine, Engine::Create(config, subject.model.get(), options, hooks));
  return subject;
}

nlohmann::ordered_json JsonOf(const NllStats& stats) {
  return {{"tokens", stats.count},
          {"nll", stats.mean()},
          {"perplexity", stats.perplexity()},
          {"perplexity_error", stats.perplexity_error()}};
}

absl::Status Perplexity(const EvalArguments& arguments, Config config) {
  PerplexityOptions options{.window = config.context > 0 ? config.context : kDefaultWindow, .chunks = arguments.chunks};
  if (config.corrector.mode == RunMode::kAuto)
    config.corrector.mode = RunMode::kDense;  // only full passes are asked for
  Progress bar;
  ASSIGN_OR_RETURN(const Subject subject, Open(arguments, config, options.window, MakeHooks(&bar)));
  bar.Finish();
  CatchInterrupt();
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  int32_t chunks = 0;
  const auto on_chunk = [&](int32_t done, int32_t total, const NllStats& stats) {
    chunks = done;
    std::fprintf(stderr, "\rchunk %d of %d: perplexity %.4f, %.0f s left%s", done, total, stats.perplexity(),
                 seconds() / done * (total - done), done == total ? "\n" : "   ");
    return !Interrupted();
  };
  ASSIGN_OR_RETURN(const NllStats stats, MeasurePerplexity(subject.engine.get(), subject.tokens, options, on_chunk));
  const double rate = static_cast<double>(chunks) * options.window / seconds();
  if (arguments.json) {
    nlohmann::ordered_json json = JsonOf(stats);
    json["window"] = options.window;
    json["chunks"] = chunks;
    json["tok_s"] = rate;
    json["peak_rss_bytes"] = PeakResidentBytes();
    PrintJson(json);
  } else {
    std::printf("perplexity %.4f +/- %.4f over %ld tokens (%d chunks of %d), %.0f tok/s\n", stats.perplexity(),
                stats.perplexity_error(), static_cast<long>(stats.count), chunks, options.window, rate);
  }
  return absl::OkStatus();
}

absl::Status AgreementTask(const EvalArguments& arguments, Config config) {
  if (config.corrector.mode == RunMode::kAuto || config.corrector.mode == RunMode::kDense) {
    config.corrector.mode = RunMode::kSparse;  // a packed file, and rows chosen as drafts choose them
  }
  Progress bar;
  ASSIGN_OR_RETURN(Subject subject, Open(arguments, config, arguments.max_tokens + 1, MakeHooks(&bar)));
  bar.Finish();
  if (static_cast<int32_t>(subject.tokens.size()) > arguments.max_tokens) {
    subject.tokens.resize(static_cast<size_t>(arguments.max_tokens));
  }
  if (static_cast<int32_t>(subject.tokens.size()) < arguments.prompt_tokens + 2) {
    return absl::InvalidArgumentError(fmt::format("the text has {} tokens, {} of them are the prompt: nothing is left",
                                                  subject.tokens.size(), arguments.prompt_tokens));
  }
  if (!subject.engine->can_draft()) {
    return absl::ResourceExhaustedError("drafts need attention and head in memory; raise the budget");
  }
  ASSIGN_OR_RETURN(const Agreement result,
                   MeasureAgreement(subject.engine.get(), subject.tokens, arguments.prompt_tokens));
  const Predictor& predictor = subject.engine->predictor();
  if (arguments.json) {
    PrintJson({{"predictor", predictor.name()},
               {"density", config.draft.density},
               {"positions", result.positions()},
               {"agreement", result.agreement()},
               {"kl", result.mean_divergence()},
               {"nll_full", result.full.mean()},
               {"nll_draft", result.draft.mean()},
               {"top10_overlap", result.top_ten_overlap()}});
    return absl::OkStatus();
  }
  std::printf("predictor %s, %ld positions after a prompt of %d tokens\n", std::string(predictor.name()).c_str(),
              static_cast<long>(result.positions()), arguments.prompt_tokens);
  std::printf("  same first choice   %.1f%%\n  KL(full || draft)   %.4f nats\n", 100 * result.agreement(),
              result.mean_divergence());
  std::printf("  NLL full, draft     %.4f, %.4f\n  top-10 overlap      %.1f%%\n", result.full.mean(),
              result.draft.mean(), 100 * result.top_ten_overlap());
  return absl::OkStatus();
}

absl::Status Attribution(const EvalArguments& arguments, const Config& config) {
  if (arguments.prompt.empty() == arguments.file.empty()) {
    return absl::InvalidArgumentError("attribution needs one text: -p TEXT or -f FILE");
  }
  AttributionArguments attribution = arguments.attribution;
  attribution.text = arguments.prompt;
  if (!arguments.file.empty()) {
    ASSIGN_OR_RETURN(attribution.text, ReadTextFile(arguments.file));
  }
  ASSIGN_OR_RETURN(attribution.scores.metric, ParseAttributionMetric(arguments.metric));
  if (arguments.head_reduce == "mean") attribution.scores.head_reduce = HeadReduce::kMean;
  if (arguments.grad_scope == "causal") attribution.scope = GradientScope::kCausal;
  attribution.json = arguments.json;
  return RunAttribution(attribution, config);
}

absl::Status Eval(const EvalArguments& arguments) {
  ASSIGN_OR_RETURN(const Config config, ReadConfig(*arguments.model));
  if (arguments.task == "attribution") return Attribution(arguments, config);
  if (arguments.file.empty()) return absl::InvalidArgumentError("no text is given: -f FILE (- for standard input)");
  if (arguments.task == "sparsity") {
    SparsityArguments sparsity = arguments.sparsity;
    sparsity.text_file = arguments.file;
    sparsity.prompt_tokens = arguments.prompt_tokens;
    sparsity.max_tokens = arguments.max_tokens;
    sparsity.json = arguments.json;
    return RunSparsity(sparsity, config);
  }
  return arguments.task == "perplexity" ? Perplexity(arguments, config) : AgreementTask(arguments, config);
}

void AddAttributionOptions(CLI::App* eval, const std::shared_ptr<EvalArguments>& arguments) {
  AttributionArguments& attribution = arguments->attribution;
  eval->add_option("-p,--prompt", arguments->prompt, "attribution: the text itself");
  eval->add_option("--label", attribution.label,
                   "attribution: token id that the last position should give; else its own")
      ->check(CLI::NonNegativeNumber);
  eval->add_flag("--every-position", attribution.every_position, "attribution: each position for its next token");
  eval->add_option("--metric", arguments->metric, "attribution: one more score to print")
      ->check(
          CLI::IsMember(std::vector<std::string>(AttributionMetricNames().begin(), AttributionMetricNames().end())));
  eval->add_option("--lambda", attribution.scores.lambda, "attribution: weight of the correction")
      ->check(CLI::NonNegativeNumber);
  eval->add_option("--head-reduce", arguments->head_reduce, "attribution: sum (exact), mean (the released code's)")
      ->check(CLI::IsMember({"sum", "mean"}));
  eval->add_option("--grad-scope", arguments->grad_scope, "attribution: own, causal (effects on later tokens, too)")
      ->check(CLI::IsMember({"own", "causal"}));
  eval->add_option("--ig-steps", attribution.integrated_steps,
                   "attribution: integrated gradients, slow; 20 as published")
      ->check(CLI::Range(1, 1000));
}

// `sparsity` lives as long as the command.
void AddSparsityOptions(CLI::App* eval, SparsityArguments* sparsity) {
  eval->add_option("--methods", sparsity->methods, "sparsity: predictors, by commas")
      ->delimiter(',')
      ->check(CLI::IsMember(std::vector<std::string>(PredictorNames().begin(), PredictorNames().end())));
  eval->add_option("--densities", sparsity->densities, "sparsity: shares of the FFN rows, by commas")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0));
  eval->add_option("--prompts", sparsity->prompts_file,
                   "sparsity: prompts to continue, one a line, or JSON objects with \"prompt\" or \"question\"");
  eval->add_option("--prompt-count", sparsity->prompts, "sparsity: at most so many of them")
      ->check(CLI::Range(1, 1 << 20));
  eval->add_option("--new-tokens", sparsity->new_tokens, "sparsity: tokens to continue them by")
      ->check(CLI::Range(2, 1 << 20));
  eval->add_flag("--chat", sparsity->chat, "sparsity: prompts are messages of a user");
  eval->add_flag("--by-layer", sparsity->by_layer,
                 "sparsity: each method again with a density for each layer, by sensitivities measured first (slow)");
  eval->add_option("--csv", sparsity->csv, "sparsity: also as a CSV file");
}

}  // namespace

void AddEvalCommand(CLI::App& app, CommandContext* context) {
  auto arguments = std::make_shared<EvalArguments>();
  CLI::App* eval = app.add_subcommand("eval", "perplexity of a text; agreement of sparse drafts; attribution");
  AddModelOptions(eval, arguments->model);
  eval->add_option("--task", arguments->task, "perplexity, agreement, attribution, sparsity")
      ->check(CLI::IsMember({"perplexity", "agreement", "attribution", "sparsity"}));
  eval->add_option("-f,--file", arguments->file, "the text (- for standard input)");
  eval->add_option("--chunks", arguments->chunks, "perplexity: at most so many chunks; -1: all")
      ->check(CLI::Range(1, 1 << 24) | CLI::IsMember({"-1"}));
  eval->add_option("--prompt-tokens", arguments->prompt_tokens, "agreement: tokens that are the prompt")
      ->check(CLI::Range(1, 1 << 20));
  eval->add_option("--max-tokens", arguments->max_tokens, "agreement: tokens of the text used")
      ->check(CLI::Range(3, 1 << 20));
  AddAttributionOptions(eval, arguments);
  AddSparsityOptions(eval, &arguments->sparsity);
  eval->add_flag("--json", arguments->json, "one JSON object on standard output");
  eval->callback([arguments, context] { context->run = [arguments] { return Eval(*arguments); }; });
}

}  // namespace dogstar
