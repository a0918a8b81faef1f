#include "tools/eval_sparsity.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <sstream>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/chat_template.h"
#include "nlohmann/json.hpp"
#include "runtime/generator.h"
#include "runtime/sparsity_eval.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace dogstar {
namespace {

constexpr int32_t kPeriod = 16;
// Scores that only a computed FFN gives: what a predictor could reach at best.
constexpr std::array<std::string_view, 2> kOracles = {"magnitude", "contribution"};

bool IsOracle(std::string_view method) { return std::ranges::find(kOracles, method) != kOracles.end(); }

struct Cell {
  std::string method;
  double density = 0;
  SparsityResult result;
};

// A line of a prompts file.
absl::StatusOr<std::string> PromptOf(const std::string& line, const std::string& file, int number) {
  if (!line.starts_with('{')) return line;
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
  for (const char* key : {"prompt", "question"}) {
    if (json.is_object() && json.contains(key) && json[key].is_string()) return json[key].get<std::string>();
  }
  return absl::InvalidArgumentError(
      fmt::format("{}:{}: neither plain text nor a JSON object with \"prompt\" or \"question\"", file, number));
}

absl::StatusOr<std::vector<TokenId>> Encode(const Tokenizer& tokenizer, const std::string& text, bool chat) {
  if (!chat) return tokenizer.Encode(text, {});
  ASSIGN_OR_RETURN(const ChatTemplate form, ChatTemplate::Recognise(tokenizer.chat_template()));
  const std::vector<ChatMessage> messages = {{"user", text}};
  return form.Render(messages).Encode(tokenizer);
}

absl::StatusOr<std::vector<std::vector<TokenId>>> ReadPrompts(const SparsityArguments& arguments,
                                                              const Tokenizer& tokenizer) {
  std::vector<std::vector<TokenId>> prompts;
  if (arguments.prompts_file.empty()) return prompts;
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.prompts_file));
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line) && std::ssize(prompts) < arguments.prompts; ++number) {
    if (line.empty()) continue;
    ASSIGN_OR_RETURN(const std::string prompt, PromptOf(line, arguments.prompts_file, number));
    ASSIGN_OR_RETURN(prompts.emplace_back(), Encode(tokenizer, prompt, arguments.chat));
    if (prompts.back().empty()) prompts.pop_back();
  }
  return prompts;
}

// Everything resident, drafts of period 16 as published.
Config CellConfig(Config config, const std::string& method, double density) {
  config.budget.ram.reset();
  config.corrector.mode = RunMode::kStrict;
  config.corrector.period = kPeriod;
  config.corrector.adaptive = false;
  config.sampling.temperature = 0;
  config.draft.predictor = method;
  config.draft.density = density;
  return config;
}

class SparsityTask {
 public:
  SparsityTask(const SparsityArguments& arguments, const Config& config) : arguments_(arguments), config_(config) {}

  absl::Status Run() {
    RETURN_IF_ERROR(Open());
    CatchInterrupt();
    int done = 0;
    for (const std::string& method : arguments_.methods) {
      for (const double density : arguments_.densities) {
        bar_.Steps(fmt::format("{} {}", method, density), done++,
                   static_cast<int>(arguments_.methods.size() * arguments_.densities.size()));
        ASSIGN_OR_RETURN(SparsityResult result, Measure(method, density));
        cells_.push_back({method, density, std::move(result)});
        if (!arguments_.csv.empty()) RETURN_IF_ERROR(WriteCsv());  // what is done stays when a later cell fails
      }
    }
    bar_.Finish();
    Print();
    return absl::OkStatus();
  }

 private:
  absl::Status Open() {
    ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(CellConfig(config_, "resident", -1), MakeHooks(&bar_)));
    ASSIGN_OR_RETURN(model_, ModelFile::Open(choice.path));
    const Tokenizer& tokenizer = model_->tokenizer();
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments_.text_file));
    texts_.scored = tokenizer.Encode(text, {});
    if (std::ssize(texts_.scored) > arguments_.max_tokens) {
      texts_.scored.resize(static_cast<size_t>(arguments_.max_tokens));
    }
    texts_.prompt_tokens = arguments_.prompt_tokens;
    if (std::ssize(texts_.scored) < arguments_.prompt_tokens + 2) {
      return absl::InvalidArgumentError(fmt::format("{} has {} tokens, {} of them are the prompt: nothing is left",
                                                    arguments_.text_file, texts_.scored.size(),
                                                    arguments_.prompt_tokens));
    }
    ASSIGN_OR_RETURN(texts_.prompts, ReadPrompts(arguments_, tokenizer));
    texts_.new_tokens = arguments_.new_tokens;
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> dense, MakeEngine("resident", -1));
    return ContinueDense(dense.get(), &texts_);
  }

  absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const std::string& method, double density) {
    size_t longest = texts_.scored.size();
    for (const auto& prompt : texts_.prompts) {
      longest = std::max(longest, prompt.size() + static_cast<size_t>(texts_.new_tokens));
    }
    const Engine::Options options{
        .mode = RunMode::kStrict, .context_slots = static_cast<int32_t>(longest) + kPeriod + 1, .logit_rows = kPeriod};
    return Engine::Create(CellConfig(config_, method, density), model_.get(), options, {});
  }

  absl::StatusOr<SparsityResult> Measure(const std::string& method, double density) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, MakeEngine(method, density));
    return MeasureSparsity(engine.get(), texts_, [] { return !Interrupted(); });
  }

  nlohmann::ordered_json JsonOf(const Cell& cell) const {
    const SparsityResult& r = cell.result;
    nlohmann::ordered_json json = {{"method", cell.method},
                                   {"oracle", IsOracle(cell.method)},
                                   {"density", cell.density},
                                   {"used_density", r.used_density},
                                   {"resident_share", 1},
                                   {"read_share", r.read_share},
                                   {"fetched_share", 0},
                                   {"positions", r.agreement.positions()},
                                   {"perplexity_full", r.agreement.full.perplexity()},
                                   {"perplexity", r.agreement.draft.perplexity()},
                                   {"perplexity_error", r.agreement.draft.perplexity_error()},
                                   {"kl", r.agreement.mean_divergence()},
                                   {"agreement", r.agreement.agreement()}};
    if (texts_.prompts.empty()) return json;
    json["strict_accepted_mean"] = r.strict_accepted;
    json["strict_cycles"] = r.strict_cycles;
    json["strict_differences"] = r.strict_differences;
    json["sirius_accepted_mean"] = r.sirius_accepted;
    json["sirius_cycles"] = r.sirius_cycles;
    json["bleu"] = r.bleu;
    json["sirius_bleu"] = r.sirius_bleu;
    json["sparse_tok_s"] = r.tokens_per_second;
    return json;
  }

  absl::Status WriteCsv() const {
    std::ofstream file(arguments_.csv, std::ios::trunc);
    for (size_t i = 0; i < cells_.size(); ++i) {
      const nlohmann::ordered_json json = JsonOf(cells_[i]);
      std::vector<std::string> names, values;
      for (const auto& [name, value] : json.items()) {
        names.push_back(name);
        values.push_back(value.is_string() ? value.get<std::string>() : value.dump());
      }
      if (i == 0) file << fmt::format("{}\n", fmt::join(names, ","));
      file << fmt::format("{}\n", fmt::join(values, ","));
    }
    file.close();
    if (!file) return absl::UnavailableError(fmt::format("cannot write {}", arguments_.csv));
    return absl::OkStatus();
  }

  void Print() const {
    if (arguments_.json) {
      nlohmann::ordered_json json = {
          {"model", model_->path()}, {"period", kPeriod}, {"cells", nlohmann::json::array()}};
      for (const Cell& cell : cells_) json["cells"].push_back(JsonOf(cell));
      PrintJson(json);
      return;
    }
    fmt::print(
        "{}: {} positions, perplexity of the full model {:.2f}; {} prompts of {} new tokens, periods of {}\n\n"
        "| method | density | rows used | FFN read | perplexity | KL | agreement | strict | sirius | BLEU | tokens/s "
        "|\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n",
        model_->path(), cells_.empty() ? 0 : cells_[0].result.agreement.positions(),
        cells_.empty() ? 0.0 : cells_[0].result.agreement.full.perplexity(), texts_.prompts.size(), texts_.new_tokens,
        kPeriod);
    for (const Cell& cell : cells_) {
      const SparsityResult& r = cell.result;
      fmt::print("| {}{} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.3f} | {:.3f} | {:.2f} | {:.2f} | {:.0f} | {:.1f} |\n",
                 cell.method, IsOracle(cell.method) ? " (oracle)" : "", cell.density, r.used_density, r.read_share,
                 r.agreement.draft.perplexity(), r.agreement.mean_divergence(), r.agreement.agreement(),
                 r.strict_accepted, r.sirius_accepted, r.bleu, r.tokens_per_second);
    }
    for (const Cell& cell : cells_) {
      if (cell.result.strict_differences == 0) continue;
      fmt::print("\nWRONG: {} strict texts of {} at {} are not the full model's\n", cell.result.strict_differences,
                 cell.method, cell.density);
    }
  }

  const SparsityArguments& arguments_;
  const Config& config_;
  Progress bar_;
  std::unique_ptr<ModelFile> model_;
  SparsityTexts texts_;
  std::vector<Cell> cells_;
};

}  // namespace

absl::Status RunSparsity(const SparsityArguments& arguments, const Config& config) {
  return SparsityTask(arguments, config).Run();
}

}  // namespace dogstar
