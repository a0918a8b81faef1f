#include "tools/eval_sparsity.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"
#include "predictors/density.h"
#include "runtime/generator.h"
#include "runtime/sparsity_eval.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/prompts.h"

namespace dogstar {
namespace {

constexpr int32_t kPeriod = 16;
// Scores that only a computed FFN gives: what a predictor could reach at best.
constexpr std::array<std::string_view, 3> kOracles = {"magnitude", "contribution", "oracle"};

bool IsOracle(std::string_view method) { return std::ranges::find(kOracles, method) != kOracles.end(); }

// Where sensitivities of layers are measured, and on how many tokens of the text's rest.
constexpr std::array<double, 3> kLayerGrid = {0.25, 0.5, 0.75};
constexpr int32_t kLayerTokens = 48;

struct Cell {
  std::string method;
  double density = 0;
  std::vector<double> layer_densities;  // empty: the same everywhere
  SparsityResult result;
};

// Everything resident, drafts of period 16 as published.
Config CellConfig(Config config, const Cell& cell) {
  config.budget.ram.reset();
  config.corrector.mode = RunMode::kStrict;
  config.corrector.period = kPeriod;
  config.corrector.adaptive = false;
  config.sampling.temperature = 0;
  config.draft.predictor = cell.method;
  config.draft.density = cell.density;
  config.draft.layer_densities = cell.layer_densities;
  config.draft.refresh = 1;  // comparisons show every token's rows
  return config;
}

class SparsityTask {
 public:
  SparsityTask(const SparsityArguments& arguments, const Config& config) : arguments_(arguments), config_(config) {}

  absl::Status Run() {
    RETURN_IF_ERROR(Open());
    CatchInterrupt();
    for (const std::string& method : arguments_.methods) {
      for (const double density : arguments_.densities) RETURN_IF_ERROR(AddCell({method, density, {}, {}}));
      if (arguments_.by_layer && method != "oracle") RETURN_IF_ERROR(AddByLayer(method));
    }
    bar_.Finish();
    Print();
    return absl::OkStatus();
  }

 private:
  absl::Status AddCell(Cell cell) {
    bar_.Steps(
        fmt::format("{} {}", cell.method, cell.density), static_cast<int>(cells_.size()),
        static_cast<int>(arguments_.methods.size() * arguments_.densities.size()) * (arguments_.by_layer ? 2 : 1));
    ASSIGN_OR_RETURN(cell.result, Measure(cell));
    cells_.push_back(std::move(cell));
    return arguments_.csv.empty() ? absl::OkStatus() : WriteCsv();  // what is done stays when a later cell fails
  }

  absl::Status AddByLayer(const std::string& method) {
    ASSIGN_OR_RETURN(const std::vector<std::vector<float>> sensitivity, MeasureLayers(method));
    for (const double density : arguments_.densities) {
      RETURN_IF_ERROR(AddCell({method, density, AllocateDensities(sensitivity, kLayerGrid, density), {}}));
    }
    return absl::OkStatus();
  }

  // KL of the full model and one whose one layer is sparse, [layer][kLayerGrid.size()].
  absl::StatusOr<std::vector<std::vector<float>>> MeasureLayers(const std::string& method) {
    const auto layers = static_cast<size_t>(model_->config().layer_count);
    std::vector<std::vector<float>> sensitivity(layers);
    for (size_t layer = 0; layer < layers; ++layer) {
      for (const double density : kLayerGrid) {
        if (Interrupted()) return absl::CancelledError("the evaluation was stopped");
        std::vector<double> densities(layers, 1.0);
        densities[layer] = density;
        ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, MakeEngine({method, 1, densities, {}}));
        ASSIGN_OR_RETURN(const Agreement agreement,
                         MeasureAgreement(engine.get(), layer_text_, arguments_.prompt_tokens));
        sensitivity[layer].push_back(static_cast<float>(agreement.mean_divergence()));
      }
    }
    return sensitivity;
  }

  absl::Status Open() {
    ASSIGN_OR_RETURN(const ModelChoice choice,
                     ChooseModel(CellConfig(config_, {"resident", -1, {}, {}}), MakeHooks(&bar_)));
    ASSIGN_OR_RETURN(model_, ModelFile::Open(choice.path));
    const Tokenizer& tokenizer = model_->tokenizer();
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments_.text_file));
    texts_.scored = tokenizer.Encode(text, {});
    RETURN_IF_ERROR(TakeLayerText());
    if (std::ssize(texts_.scored) > arguments_.max_tokens) {
      texts_.scored.resize(static_cast<size_t>(arguments_.max_tokens));
    }
    texts_.prompt_tokens = arguments_.prompt_tokens;
    if (std::ssize(texts_.scored) < arguments_.prompt_tokens + 2) {
      return absl::InvalidArgumentError(fmt::format("{} has {} tokens, {} of them are the prompt: nothing is left",
                                                    arguments_.text_file, texts_.scored.size(),
                                                    arguments_.prompt_tokens));
    }
    if (!arguments_.prompts_file.empty()) {
      ASSIGN_OR_RETURN(texts_.prompts,
                       ReadPrompts(arguments_.prompts_file, tokenizer, arguments_.chat, arguments_.prompts));
    }
    texts_.new_tokens = arguments_.new_tokens;
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> dense, MakeEngine({"resident", -1, {}, {}}));
    return ContinueDense(dense.get(), &texts_);
  }

  // What follows the scored text: densities must not be fitted to what they are measured on.
  absl::Status TakeLayerText() {
    if (!arguments_.by_layer) return absl::OkStatus();
    const int64_t first = arguments_.max_tokens, needed = first + arguments_.prompt_tokens + kLayerTokens;
    if (std::ssize(texts_.scored) < needed) {
      return absl::InvalidArgumentError(
          fmt::format("{} has {} tokens; --by-layer needs {} after the {} scored ones: a longer text, or --max-tokens",
                      arguments_.text_file, texts_.scored.size(), needed - first, first));
    }
    layer_text_.assign(texts_.scored.begin() + first, texts_.scored.begin() + needed);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const Cell& cell) {
    size_t longest = texts_.scored.size();
    for (const auto& prompt : texts_.prompts) {
      longest = std::max(longest, prompt.size() + static_cast<size_t>(texts_.new_tokens));
    }
    const Engine::Options options{.mode = RunMode::kStrict,
                                  .context_slots = static_cast<int32_t>(longest) + kPeriod + 1,
                                  .logit_rows = kPeriod,
                                  .captures_verified = true};
    return Engine::Create(CellConfig(config_, cell), model_.get(), options, {});
  }

  absl::StatusOr<SparsityResult> Measure(const Cell& cell) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, MakeEngine(cell));
    return MeasureSparsity(engine.get(), texts_, [] { return !Interrupted(); });
  }

  nlohmann::ordered_json JsonOf(const Cell& cell) const {
    const SparsityResult& r = cell.result;
    nlohmann::ordered_json json = {{"method", cell.method},
                                   {"oracle", IsOracle(cell.method)},
                                   {"density", cell.density},
                                   {"by_layer", !cell.layer_densities.empty()},
                                   {"used_density", r.used_density},
                                   {"read_share", r.read_share},
                                   {"recall", r.rows.mean_recall()},
                                   {"ffn_bytes", r.rows.ffn_bytes},
                                   {"resident_bytes", r.rows.mean_resident()},
                                   {"touched_bytes", r.rows.mean_touched()},
                                   {"fetched_bytes", r.rows.mean_fetched()},
                                   {"positions", r.agreement.positions()},
                                   {"perplexity_full", r.agreement.full.perplexity()},
                                   {"perplexity", r.agreement.draft.perplexity()},
                                   {"perplexity_error", r.agreement.draft.perplexity_error()},
                                   {"kl", r.agreement.mean_divergence()},
                                   {"agreement", r.agreement.agreement()}};
    for (const char* name : {"strict_accepted_mean", "strict_cycles", "strict_differences", "sirius_accepted_mean",
                             "sirius_cycles", "bleu", "sirius_bleu", "sparse_tok_s"}) {
      json[name] = nullptr;  // nothing was continued
    }
    if (r.strict_cycles == 0) return json;
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
        values.push_back(value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump());
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
      for (const Cell& cell : cells_) {
        json["cells"].push_back(JsonOf(cell));
        json["cells"].back()["layer_densities"] = cell.layer_densities;
      }
      PrintJson(json);
      return;
    }
    fmt::print(
        "{}: {} positions, perplexity of the full model {:.2f}; {} prompts of {} new tokens, periods of {}\n\n"
        "FFN bytes, of {:.1f} MB: resident (what {} tokens touch between them), touched (by one), fetched (by one, if "
        "only its neighbour's were kept)\n\n"
        "| method | density | rows used | recall | resident | touched | fetched | perplexity | KL | agreement | strict "
        "| "
        "sirius | BLEU | tokens/s |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        model_->path(), cells_.empty() ? 0 : cells_[0].result.agreement.positions(),
        cells_.empty() ? 0.0 : cells_[0].result.agreement.full.perplexity(), texts_.prompts.size(), texts_.new_tokens,
        kPeriod, cells_.empty() ? 0.0 : cells_[0].result.rows.ffn_bytes / 1e6, kPeriod);
    for (const Cell& cell : cells_) PrintCell(cell);
    for (const Cell& cell : cells_) {
      if (cell.layer_densities.empty()) continue;
      fmt::print("\n{} at {}: draft.layer_densities={:.3f}\n", cell.method, cell.density,
                 fmt::join(cell.layer_densities, ","));
    }
    for (const Cell& cell : cells_) {
      if (cell.result.strict_differences == 0) continue;
      fmt::print("\nWRONG: {} strict texts of {} at {} are not the full model's\n", cell.result.strict_differences,
                 cell.method, cell.density);
    }
  }

  void PrintCell(const Cell& cell) const {
    const SparsityResult& r = cell.result;
    const double all = r.rows.ffn_bytes;
    fmt::print("| {}{}{} | {:.2f} | {:.2f} | {:.3f} | {:.2f} | {:.2f} | {:.3f} | {:.2f} | {:.3f} | {:.3f} |",
               cell.method, IsOracle(cell.method) ? " (oracle)" : "", cell.layer_densities.empty() ? "" : ", by layer",
               cell.density, r.used_density, r.rows.mean_recall(), r.rows.mean_resident() / all,
               r.rows.mean_touched() / all, r.rows.mean_fetched() / all, r.agreement.draft.perplexity(),
               r.agreement.mean_divergence(), r.agreement.agreement());
    if (texts_.prompts.empty() || r.strict_cycles == 0) {
      fmt::print(" | | | |\n");
      return;
    }
    fmt::print(" {:.2f} | {:.2f} | {:.0f} | {:.1f} |\n", r.strict_accepted, r.sirius_accepted, r.bleu,
               r.tokens_per_second);
  }

  const SparsityArguments& arguments_;
  const Config& config_;
  Progress bar_;
  std::unique_ptr<ModelFile> model_;
  SparsityTexts texts_;
  std::vector<TokenId> layer_text_;
  std::vector<Cell> cells_;
};

}  // namespace

absl::Status RunSparsity(const SparsityArguments& arguments, const Config& config) {
  return SparsityTask(arguments, config).Run();
}

}  // namespace dogstar
