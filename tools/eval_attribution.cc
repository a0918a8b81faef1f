#include "tools/eval_attribution.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "memory/accountant.h"
#include "runtime/attribution.h"
#include "runtime/integrated_gradients.h"
#include "runtime/run_plan.h"
#include "tools/output.h"

namespace dogstar {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kTop = 12;

struct Subject {
  std::unique_ptr<ModelFile> model;
  std::vector<TokenId> tokens;
  std::unique_ptr<AttributionPass> pass;
};

absl::StatusOr<Subject> Open(const AttributionArguments& arguments, const Config& config) {
  Subject subject;
  if (config.model.empty()) return absl::InvalidArgumentError("no model is given");
  ASSIGN_OR_RETURN(subject.model, ModelFile::Open(config.model));
  subject.tokens = subject.model->tokenizer().Encode(arguments.text, {});
  if (subject.tokens.empty()) return absl::InvalidArgumentError("the text has no tokens");
  AttributionPass::Options options{.threads = ThreadsOf(config), .precise = config.precise, .scope = arguments.scope};
  options.rows = static_cast<int32_t>(subject.tokens.size()) + std::max(0, arguments.integrated_steps - 1);
  if (config.budget.ram) {
    const uint64_t program = MeasureProgramBytes();
    options.memory_bytes = *config.budget.ram > program ? *config.budget.ram - program : 0;
  }
  ASSIGN_OR_RETURN(subject.pass, AttributionPass::Create(subject.model.get(), options));
  return subject;
}

// Labels of the positions that are scored: the last one, or all, each with the text's next token.
std::vector<std::optional<TokenId>> LabelsOf(const AttributionArguments& arguments,
                                             const std::vector<TokenId>& tokens) {
  std::vector<std::optional<TokenId>> labels;
  if (arguments.every_position) labels.assign(tokens.begin() + 1, tokens.end());
  labels.push_back(arguments.label < 0 ? std::nullopt : std::optional(TokenId{arguments.label}));
  return labels;
}

std::span<const float> LastRow(std::span<const float> values, int32_t rows) {
  const size_t cols = values.size() / static_cast<size_t>(rows);
  return values.last(cols);
}

Json Pairs(std::span<const float> scores, const std::vector<int32_t>& units) {
  Json pairs = Json::array();
  for (const int32_t unit : units) pairs.push_back({unit, scores[static_cast<size_t>(unit)]});
  return pairs;
}

// g x, not its negative: what autograd's users expect under this name.
std::vector<float> Negated(std::vector<float> scores) {
  for (float& score : scores) score = -score;
  return scores;
}

std::vector<float> OfUnits(ScoreOptions options, AttributionMetric metric, std::span<const float> x,
                           std::span<const float> g) {
  options.metric = metric;
  std::vector<float> scores(x.size());
  UnitScores(options, x, g, scores);
  return scores;
}

std::vector<float> OfHeads(ScoreOptions options, AttributionMetric metric, int32_t head_dim, std::span<const float> x,
                           std::span<const float> g) {
  options.metric = metric;
  std::vector<float> scores(x.size() / static_cast<size_t>(head_dim));
  HeadScores(options, head_dim, x, g, scores);
  return scores;
}

// Mean over the rows of each row's norm.
double MeanNorm(std::span<const float> values, int32_t rows) {
  const size_t cols = values.size() / static_cast<size_t>(rows);
  double sum = 0;
  for (size_t at = 0; at < values.size(); at += cols) sum += Norm2(values.subspan(at, cols));
  return sum / rows;
}

Json DescribeLayer(const LayerAttribution& at, const ScoreOptions& options, int32_t head_dim) {
  const std::span<const float> x = LastRow(at.ffn, at.rows), g = LastRow(at.ffn_gradient, at.rows);
  const std::span<const float> head_x = LastRow(at.head, at.rows), head_g = LastRow(at.head_gradient, at.rows);
  const std::vector<float> gxo = Negated(OfUnits(options, AttributionMetric::kGxo, x, g));
  const std::vector<float> corrected = OfUnits(options, AttributionMetric::kCorrected, x, g);
  Json layer = {
      {"grad_l2", Norm2(g)},
      {"activation_l2", Norm2(x)},
      {"gxo_top", Pairs(gxo, TopUnits(gxo, kTop, true))},
      {"corrected_top", Pairs(corrected, TopUnits(corrected, kTop, false))},
      {"head_gxo", Negated(OfHeads(options, AttributionMetric::kGxo, head_dim, head_x, head_g))},
      {"head_corrected", OfHeads(options, AttributionMetric::kCorrected, head_dim, head_x, head_g)},
  };
  if (options.metric != AttributionMetric::kCorrected) {
    const std::vector<float> scores = OfUnits(options, options.metric, x, g);
    layer["top"] = Pairs(scores, TopUnits(scores, kTop, false));
    layer["head_scores"] = OfHeads(options, options.metric, head_dim, head_x, head_g);
  }
  if (at.rows > 1) {
    layer["mean_grad_l2"] = MeanNorm(at.ffn_gradient, at.rows);
    layer["mean_activation_l2"] = MeanNorm(at.ffn, at.rows);
  }
  return layer;
}

absl::Status AddIntegrated(const AttributionArguments& arguments, Subject* subject, TokenId label, Json* layers) {
  const int32_t head_dim = subject->model->config().head_dim;
  const auto visit = [&](LayerIndex layer, UnitKind kind, std::span<const float> x, std::span<const float> g) {
    Json& entry = (*layers)[static_cast<size_t>(ToInt(layer))];
    if (kind == UnitKind::kHead) {
      entry["head_ig"] = Negated(OfHeads(arguments.scores, AttributionMetric::kGxo, head_dim, x, g));
      return;
    }
    const std::vector<float> scores = Negated(OfUnits(arguments.scores, AttributionMetric::kGxo, x, g));
    entry["ig_top"] = Pairs(scores, TopUnits(scores, kTop, true));
  };
  return IntegrateGradients(subject->pass.get(), subject->tokens, label, arguments.integrated_steps, visit);
}

Json Positions(const std::vector<RowLoss>& losses, size_t first) {
  Json positions = Json::array();
  for (size_t i = 0; i < losses.size(); ++i) {
    positions.push_back({{"position", first + i}, {"label", ToInt(losses[i].label)}, {"loss", losses[i].loss}});
  }
  return positions;
}

void PrintTable(const Json& result) {
  std::printf("label %d, loss %.6f nats at position %zu%s\n", result["label"].get<int>(), result["loss"].get<double>(),
              result["tokens"].size() - 1,
              result["precise"].get<bool>() ? "" : " (int8 activations in the forward pass; --precise for float32)");
  std::printf("layer  |g|       |x|        most important neurons (corrected)        heads\n");
  int index = 0;
  for (const Json& layer : result["layers"]) {
    std::string units, heads;
    for (size_t i = 0; i < std::min<size_t>(4, layer["corrected_top"].size()); ++i) {
      const Json& pair = layer["corrected_top"][i];
      units += fmt::format("{}:{:.3g} ", pair[0].get<int>(), pair[1].get<double>());
    }
    const auto scores = layer["head_corrected"].get<std::vector<float>>();
    for (const int32_t head : TopUnits(scores, 3, false)) {
      heads += fmt::format("{}:{:.3g} ", head, scores[static_cast<size_t>(head)]);
    }
    std::printf("%5d  %-8.3g  %-8.3g   %-41s %s\n", index++, layer["grad_l2"].get<double>(),
                layer["activation_l2"].get<double>(), units.c_str(), heads.c_str());
  }
}

}  // namespace

absl::Status RunAttribution(const AttributionArguments& arguments, const Config& config) {
  if (arguments.scope == GradientScope::kCausal && !arguments.every_position) {
    return absl::InvalidArgumentError(
        "--grad-scope causal sums the losses of all positions: it needs --every-position");
  }
  if (arguments.scope == GradientScope::kCausal && arguments.integrated_steps > 0) {
    return absl::InvalidArgumentError("--ig-steps integrates the own scope's gradients; leave --grad-scope at own");
  }
  ASSIGN_OR_RETURN(Subject subject, Open(arguments, config));
  Json layers = Json::array();
  for (int32_t i = 0; i < subject.model->config().layer_count; ++i) layers.push_back(Json::object());
  const auto visit = [&](const LayerAttribution& at) {
    layers[static_cast<size_t>(ToInt(at.layer))] =
        DescribeLayer(at, arguments.scores, subject.model->config().head_dim);
  };
  RETURN_IF_ERROR(subject.pass->Forward(AttributionBatch::Text(subject.tokens), nullptr));
  ASSIGN_OR_RETURN(const std::vector<RowLoss> losses,
                   subject.pass->Backward(LabelsOf(arguments, subject.tokens), LayerIndex{0}, visit));
  const RowLoss& last = losses.back();
  if (arguments.integrated_steps > 0) RETURN_IF_ERROR(AddIntegrated(arguments, &subject, last.label, &layers));
  std::vector<int32_t> ids;
  for (const TokenId token : subject.tokens) ids.push_back(ToInt(token));
  Json result = {{"tokens", ids},
                 {"label", ToInt(last.label)},
                 {"loss", last.loss},
                 {"precise", config.precise},
                 {"lambda", arguments.scores.lambda},
                 {"head_reduce", arguments.scores.head_reduce == HeadReduce::kSum ? "sum" : "mean"},
                 {"grad_scope", arguments.scope == GradientScope::kOwn ? "own" : "causal"},
                 {"metric", AttributionMetricNames()[static_cast<size_t>(arguments.scores.metric)]}};
  if (arguments.every_position) result["positions"] = Positions(losses, 0);
  result["layers"] = std::move(layers);
  result["peak_rss_bytes"] = PeakResidentBytes();
  if (arguments.json) {
    PrintJson(result);
  } else {
    PrintTable(result);
  }
  return absl::OkStatus();
}

}  // namespace dogstar
