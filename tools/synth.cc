// dogstar synth: writes a model of any LLaMA shape with random weights.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "base/units.h"
#include "fmt/format.h"
#include "model/gguf.h"
#include "model/synth.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/progress.h"

namespace dogstar {
namespace {

struct SynthFlags {
  std::string shape = "tiny";
  std::string type = "Q4_0";
  std::string like;
  std::string output;
  int32_t layers = 0;
  uint64_t seed = 1;
  bool packed = false;
  bool planes = true;
  int32_t page_rows = 0;
};

absl::StatusOr<SynthOptions> OptionsOf(const SynthFlags& flags) {
  SynthOptions options{.name = flags.shape,
                       .seed = flags.seed,
                       .packed = flags.packed,
                       .page_rows = flags.page_rows,
                       .planes = flags.planes};
  ASSIGN_OR_RETURN(options.shape, FindSynthShape(flags.shape));
  ASSIGN_OR_RETURN(options.type, ParseQuantType(flags.type));
  if (flags.layers > 0) options.shape.layers = flags.layers;
  if (!flags.like.empty()) options.like = flags.like;
  options.threads = std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
  return options;
}

void PrintSummary(const SynthFlags& flags, const SynthOptions& options, uint64_t bytes, double seconds, bool json) {
  if (json) {
    PrintJson({{"output", flags.output},
               {"bytes", bytes},
               {"shape", flags.shape},
               {"type", flags.type},
               {"layers", options.shape.layers},
               {"packed", flags.packed},
               {"seconds", seconds}});
    return;
  }
  fmt::print("{}: {}, shape {}, {}, {} layers, {}, {:.1f} s\n", Printable(flags.output), FormatSize(bytes), flags.shape,
             flags.type, options.shape.layers, flags.packed ? "packed" : "plain", seconds);
}

absl::Status RunSynth(const SynthFlags& flags, bool json) {
  ASSIGN_OR_RETURN(const SynthOptions options, OptionsOf(flags));
  double seconds = 0;
  {
    ProgressBar bar("writing");
    RETURN_IF_ERROR(
        WriteSyntheticModel(options, flags.output, [&bar](uint64_t done, uint64_t total) { bar.Update(done, total); }));
    seconds = bar.seconds();
  }
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(flags.output));
  PrintSummary(flags, options, header.file_bytes(), seconds, json);
  return absl::OkStatus();
}

}  // namespace

void AddSynthCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* const command =
      app.add_subcommand("synth", "Write a model with random weights, for measurements; its text means nothing");
  command->add_option("--shape", flags->shape, "Shape of the model")
      ->check(CLI::IsMember(SynthShapeNames()))
      ->capture_default_str();
  command->add_option("--type", flags->type, "Weight type")
      ->check(CLI::IsMember(RunnableQuantTypes()))
      ->capture_default_str();
  command->add_option("--layers", flags->layers, "Layers, where the shape's number is not wanted")
      ->check(CLI::Range(1, 10000));
  command->add_option("--like", flags->like, "GGUF whose tokenizer is copied (default: a small one of bytes)");
  command->add_option("--seed", flags->seed, "Seed of the weights")->capture_default_str();
  command->add_flag("--packed", flags->packed, "Write the packed form directly");
  command->add_option("--page-rows", flags->page_rows, "Packed: rows of a page (0: a page of about 64 KiB)")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--planes,!--no-planes", flags->planes, "Packed: low bit planes once more, as dogstar pack");
  command->add_option("-o,--output", flags->output, "File to write")->required();
  command->add_flag("--json", context->json, "One JSON object on stdout");
  command->callback([flags, context] { context->run = [flags, context] { return RunSynth(*flags, context->json); }; });
}

}  // namespace dogstar
