// dogstar calibrate: what a model's FFN rows do along texts, for predictors and plans.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "memory/accountant.h"
#include "runtime/calibration.h"
#include "runtime/residual_targets.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace dogstar {
namespace {

struct CalibrateFlags {
  std::string model, output, ram;
  std::vector<std::string> texts;
  int32_t tokens = 4096, rank = 32, epochs = 12, threads = 0;
  double density = 0.5;
  uint64_t seed = 1;
  bool fresh = false;
  std::vector<std::string> residuals;
  std::string packed;
  int32_t attribution = 0;
};

absl::StatusOr<CalibrationOptions> OptionsOf(const CalibrateFlags& flags) {
  CalibrationOptions options;
  options.output = !flags.output.empty() ? flags.output : flags.model + ".stats";
  for (const std::string& path : flags.texts) {
    ASSIGN_OR_RETURN(std::string text, ReadTextFile(path));
    options.texts.push_back(std::move(text));
  }
  if (!flags.ram.empty()) {
    ASSIGN_OR_RETURN(options.ram, ParseSize(flags.ram));
  }
  options.tokens = flags.tokens;
  options.density = flags.density;
  options.rank = flags.rank;
  options.epochs = flags.epochs;
  options.seed = flags.seed;
  options.threads =
      flags.threads > 0 ? flags.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  options.fresh = flags.fresh;
  for (const std::string& text : flags.residuals) {
    ASSIGN_OR_RETURN(ResidualKind kind, ParseResidualKind(text));
    options.residuals.push_back(std::move(kind));
  }
  options.packed = flags.packed;
  options.attribution = flags.attribution;
  return options;
}

struct Means {
  double recall = 0, static_recall = 0, likely_recall = 0, likely_precision = 0;
};

Means MeansOf(const Statistics& statistics) {
  Means means;
  const double share = 1.0 / static_cast<double>(std::max<size_t>(1, statistics.layers.size()));
  for (const LayerStatistics& layer : statistics.layers) {
    means.recall += share * layer.recall.recall;
    means.static_recall += share * layer.recall.static_recall;
    means.likely_recall += share * layer.recall.likely_recall;
    means.likely_precision += share * layer.recall.likely_precision;
  }
  return means;
}

double MeanExplained(const Statistics& statistics, size_t residual) {
  double sum = 0;
  for (const LayerStatistics& layer : statistics.layers) sum += double{layer.explained[residual]};
  return sum / static_cast<double>(std::max<size_t>(1, statistics.layers.size()));
}

nlohmann::ordered_json DescribeResiduals(const Statistics& statistics) {
  nlohmann::ordered_json residuals = nlohmann::ordered_json::array();
  for (size_t i = 0; i < statistics.settings.residuals.size(); ++i) {
    const ResidualKind& kind = statistics.settings.residuals[i];
    residuals.push_back(
        {{"predictor", kind.predictor}, {"density", kind.density}, {"explained", MeanExplained(statistics, i)}});
  }
  return residuals;
}

nlohmann::ordered_json Describe(const std::string& output, const Statistics& statistics) {
  const CalibrationSettings& settings = statistics.settings;
  const Means means = MeansOf(statistics);
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerStatistics& layer : statistics.layers) {
    layers.push_back({{"recall", layer.recall.recall},
                      {"static_recall", layer.recall.static_recall},
                      {"likely_recall", layer.recall.likely_recall},
                      {"likely_precision", layer.recall.likely_precision},
                      {"losses", layer.losses},
                      {"thresholds", layer.thresholds}});
  }
  return {{"output", output},
          {"tokens", settings.tokens},
          {"held_out", settings.held_out},
          {"density", settings.density},
          {"rank", settings.rank},
          {"recall", means.recall},
          {"static_recall", means.static_recall},
          {"likely_recall", means.likely_recall},
          {"likely_precision", means.likely_precision},
          {"map_bytes_per_layer", LowRankBytes(settings.rank, statistics.model.dim, statistics.model.rows)},
          {"peak_rss_bytes", PeakResidentBytes()},
          {"residuals", DescribeResiduals(statistics)},
          {"attributed", statistics.attributed},
          {"density_grid", kDensityGrid},
          {"layers", layers}};
}

void PrintLayer(const Statistics& so_far) {
  const LayerStatistics& layer = so_far.layers.back();
  if (so_far.layers.size() == 1) {
    fmt::print(stderr, "layer  recall  static | p > 1/2: recall  precision | loss at density .3      .5      .7\n");
  }
  fmt::print(stderr, "{:5}   {:.3f}   {:.3f} |          {:.3f}      {:.3f} |            {:.1e} {:.1e} {:.1e}\n",
             so_far.layers.size() - 1, layer.recall.recall, layer.recall.static_recall, layer.recall.likely_recall,
             layer.recall.likely_precision, layer.losses[2], layer.losses[4], layer.losses[6]);
}

absl::Status RunCalibrate(const CalibrateFlags& flags, bool json) {
  ASSIGN_OR_RETURN(CalibrationOptions options, OptionsOf(flags));
  CatchInterrupt();
  Progress bar;
  options.note = [&](std::string_view message) {
    bar.Finish();
    fmt::print(stderr, "dogstar: {}\n", Printable(message));
  };
  options.on_layer = [&](const Statistics& so_far) {
    bar.Finish();
    if (!json) PrintLayer(so_far);
    bar.Steps("calibrating, layers", static_cast<int>(so_far.layers.size()), so_far.model.layers);
    return !Interrupted();
  };
  options.on_attributed = [&](int32_t tokens) {
    bar.Steps("attributing, tokens", std::min(tokens, options.attribution), options.attribution);
    return !Interrupted();
  };
  absl::StatusOr<Statistics> statistics = Calibrate(flags.model, options);
  bar.Finish();
  RETURN_IF_ERROR(statistics.status());
  if (json) {
    PrintJson(Describe(options.output, *statistics));
    return absl::OkStatus();
  }
  const Means means = MeansOf(*statistics);
  const CalibrationSettings& settings = statistics->settings;
  fmt::print(
      "{}: {} tokens, {} of them held out; important rows (density {}) found: {:.3f} by input, {:.3f} without a "
      "look at it; {} a layer for the map; peak {}\n",
      Printable(options.output), settings.tokens, settings.held_out, settings.density, means.recall,
      means.static_recall, FormatSize(LowRankBytes(settings.rank, statistics->model.dim, statistics->model.rows)),
      FormatSize(PeakResidentBytes()));
  for (size_t i = 0; i < settings.residuals.size(); ++i) {
    fmt::print("residual of {} at density {}: {:.3f} of what is left out\n", settings.residuals[i].predictor,
               settings.residuals[i].density, MeanExplained(*statistics, i));
  }
  if (statistics->attributed > 0) fmt::print("{} tokens attributed\n", statistics->attributed);
  return absl::OkStatus();
}

}  // namespace

void AddCalibrateCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<CalibrateFlags>();
  CLI::App* const command = app.add_subcommand(
      "calibrate", "Learn which FFN rows matter, along texts; a stopped calibration goes on when called again");
  command->add_option("model", flags->model, "plain GGUF file")->required();
  command->add_option("-o,--output", flags->output, "statistics file (default: MODEL.stats)");
  command->add_option("--text", flags->texts, "text files; default: texts that come with the program");
  command->add_option("--ram", flags->ram, "memory for everything, such as 2300MiB (default: no limit)");
  command->add_option("--tokens", flags->tokens, "at most so many tokens of the texts")
      ->check(CLI::Range(256, 1 << 20))
      ->capture_default_str();
  command->add_option("--density", flags->density, "share of rows that count as important to a token")
      ->check(CLI::Range(0.01, 0.99))
      ->capture_default_str();
  command->add_option("--rank", flags->rank, "of the learned maps, a multiple of 32")
      ->check(CLI::Range(32, 1024))
      ->capture_default_str();
  command->add_option("--epochs", flags->epochs, "passes over the tokens in training")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "of the training")->capture_default_str();
  command->add_option("-t,--threads", flags->threads, "threads (0: all)")->check(CLI::NonNegativeNumber);
  command->add_option("--residual", flags->residuals,
                      "learn what PREDICTOR leaves out at DENSITY (gate, gate-weighted, hot, resident), such as "
                      "gate-weighted:0.5; may be given several times");
  command->add_option("--packed", flags->packed, "packed form of the model: residuals of resident follow its order");
  command
      ->add_option("--attribution", flags->attribution,
                   "sum attribution scores of neurons and heads over so many tokens (0: none)")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_flag("--fresh", flags->fresh, "do not go on from an unfinished calibration");
  command->add_flag("--json", context->json, "One JSON object on stdout");
  command->callback(
      [flags, context] { context->run = [flags, context] { return RunCalibrate(*flags, context->json); }; });
}

}  // namespace dogstar
