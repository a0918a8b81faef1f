// dogstar pack: writes the packed form of a GGUF model.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "model/model_file.h"
#include "model/packed_file.h"
#include "predictors/statistics.h"
#include "runtime/calibration.h"
#include "runtime/importance.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/progress.h"

namespace dogstar {
namespace {

struct PackFlags {
  std::string model;
  std::string output;
  std::string order = "hot";
  std::string statistics;
  int32_t page_rows = 0;
  int32_t run_rows = 8;
  bool planes = true;
  int threads = 0;
};

// How often a row was important along the calibration texts.
absl::StatusOr<ImportanceFn> ImportanceOf(const PackFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(flags.model));
  ASSIGN_OR_RETURN(const ModelIdentity identity, IdentityOf(*model));
  ASSIGN_OR_RETURN(Statistics statistics, ReadStatistics(flags.statistics));
  RETURN_IF_ERROR(CheckStatistics(statistics, identity, flags.statistics));
  auto layers = std::make_shared<std::vector<LayerStatistics>>(std::move(statistics.layers));
  return ImportanceFn([layers](LayerIndex layer, const LayerMatrices&) -> absl::StatusOr<std::vector<float>> {
    return (*layers)[static_cast<size_t>(ToInt(layer))].frequency;
  });
}

absl::StatusOr<PackOptions> OptionsOf(const PackFlags& flags) {
  PackOptions options{.page_rows = flags.page_rows, .run_rows = flags.run_rows, .planes = flags.planes};
  if (flags.order == "original") return options;
  if (!flags.statistics.empty()) {
    ASSIGN_OR_RETURN(options.importance, ImportanceOf(flags));
    return options;
  }
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  ASSIGN_OR_RETURN(options.importance,
                   NewImportancePass(flags.model, flags.threads > 0 ? flags.threads : std::max(processors, 1)));
  return options;
}

nlohmann::ordered_json Describe(const PackFlags& flags, const PackedFile& packed, uint64_t bytes, double seconds) {
  uint64_t pages = 0, low_bytes = 0;
  for (const PackedLayer& layer : packed.layers()) {
    const auto count = static_cast<uint64_t>(layer.layout.page_count());
    pages += count;
    if (layer.low_offset > 0) low_bytes += count * layer.layout.low.bytes;
  }
  const FfnPageLayout& layout = packed.layers()[0].layout;
  return {{"output", flags.output},
          {"bytes", bytes},
          {"source_bytes", packed.source().bytes},
          {"order", flags.order},
          {"layers", packed.layers().size()},
          {"pages", pages},
          {"page_bytes", layout.page_bytes},
          {"page_rows", layout.page_rows},
          {"run_rows", layout.run_rows},
          {"low_plane_bytes", low_bytes},
          {"seconds", seconds}};
}

void PrintSummary(const nlohmann::ordered_json& summary) {
  const auto number = [&](const char* key) { return summary[key].get<uint64_t>(); };
  fmt::print("{}: {} (source {}; low planes {}), {} layers, {} pages of {} ({} rows), order {}, {:.1f} s\n",
             Printable(summary["output"].get<std::string>()), FormatSize(number("bytes")),
             FormatSize(number("source_bytes")), FormatSize(number("low_plane_bytes")), number("layers"),
             number("pages"), FormatSize(number("page_bytes")), number("page_rows"),
             summary["order"].get<std::string>(), summary["seconds"].get<double>());
}

absl::Status RunPack(const PackFlags& flags, bool json) {
  ASSIGN_OR_RETURN(PackOptions options, OptionsOf(flags));
  double seconds = 0;
  {
    ProgressBar bar("packing");
    options.progress = [&bar](uint64_t done, uint64_t total) { bar.Update(done, total); };
    RETURN_IF_ERROR(PackModel(flags.model, flags.output, options));
    seconds = bar.seconds();
  }
  // Opening checks what was written.
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(flags.output));
  ASSIGN_OR_RETURN(const PackedFile packed, PackedFile::Open(flags.output, header));
  const nlohmann::ordered_json summary = Describe(flags, packed, header.file_bytes(), seconds);
  json ? PrintJson(summary) : PrintSummary(summary);
  return absl::OkStatus();
}

}  // namespace

void AddPackCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<PackFlags>();
  CLI::App* const command =
      app.add_subcommand("pack", "Write a model's packed form: FFN rows in pages, the important ones first");
  command->add_option("model", flags->model, "GGUF file")->required();
  command->add_option("-o,--output", flags->output, "File to write, for example model.dog.gguf")->required();
  command->add_option("--order", flags->order, "hot: by the importance of rows for a short bundled text")
      ->check(CLI::IsMember({"hot", "original"}))
      ->capture_default_str();
  command->add_option("--statistics", flags->statistics,
                      "hot: by how often rows were important to the texts of dogstar calibrate instead; its file");
  command->add_option("--page-rows", flags->page_rows, "Rows of a page, a multiple of 32 (0: a page of about 64 KiB)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--run-rows", flags->run_rows, "Neighbouring rows that share their scales")
      ->check(CLI::IsMember({8, 16, 32}))
      ->capture_default_str();
  command->add_flag("--planes,!--no-planes", flags->planes,
                    "Low bit planes once more, for runs that keep high planes in memory (types of 4 to 8 bits)");
  command->add_option("-t,--threads", flags->threads, "Threads (0: all)")->check(CLI::NonNegativeNumber);
  command->add_flag("--json", context->json, "One JSON object on stdout");
  command->callback([flags, context] { context->run = [flags, context] { return RunPack(*flags, context->json); }; });
}

}  // namespace dogstar
