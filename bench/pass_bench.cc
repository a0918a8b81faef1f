// Times of full passes over a model in memory, by rows in the pass, beside what the machine can do: 1 row is decoding,
// 4 to 32 a verify batch, 128 and more a prompt. Warmed up like llama-bench; medians.
//
//   pass_bench MODEL [--threads N] [--rows 1,4,8,16,32,128,512] [--runs N] [--json]
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/machine_peaks.h"
#include "fmt/format.h"
#include "model/synth.h"
#include "runtime/engine.h"

namespace dogstar {
namespace {

struct Options {
  std::string model;
  int threads = 0;
  std::vector<int> rows = {1, 4, 8, 16, 32, 128, 512};
  int runs = 5;
  bool json = false;
  bool small = false;  // a look at the code only: a tiny random model
};

// The next `rows` positions of the text; logits of the last one.
absl::StatusOr<Batch> NextRows(Engine* engine, int rows) {
  const SequenceId sequence{0};
  KvCache& kv = engine->kv();
  const TokenPos first{kv.length(sequence)};
  Batch batch;
  for (int i = 0; i < rows; ++i) {
    batch.tokens.push_back(TokenId{(100 + 37 * i) % engine->model().config().vocab_size});
    batch.positions.push_back(TokenPos{ToInt(first) + i});
  }
  ASSIGN_OR_RETURN(batch.slots, kv.Append(sequence, rows));
  batch.mask = kv.CausalMask(sequence, first, rows);
  batch.logit_rows = 1;
  return batch;
}

// Seconds of one pass; a single row is the mean of 32 that follow each other, as in decoding.
absl::StatusOr<double> TimePass(Engine* engine, int rows) {
  const int passes = rows == 1 ? 32 : 1;
  engine->kv().Truncate(SequenceId{0}, 0);
  const double start = Now();
  for (int pass = 0; pass < passes; ++pass) {
    ASSIGN_OR_RETURN(const Batch batch, NextRows(engine, rows));
    RETURN_IF_ERROR(engine->forward().Full(batch, nullptr));
  }
  return (Now() - start) / passes;
}

absl::StatusOr<double> MedianSeconds(Engine* engine, int rows, int runs) {
  RETURN_IF_ERROR(TimePass(engine, rows).status());
  std::vector<double> seconds;
  for (int run = 0; run < runs; ++run) {
    ASSIGN_OR_RETURN(const double one, TimePass(engine, rows));
    seconds.push_back(one);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Bytes that a pass reads: all matrices.
uint64_t WeightBytes(const Engine& engine) {
  uint64_t bytes = 0;
  for (const PlanLine& line : engine.placement().lines) {
    if (line.what.starts_with("attention") || line.what.starts_with("head") || line.what.starts_with("FFN")) {
      bytes += line.total_bytes;
    }
  }
  return bytes;
}

absl::Status Run(const Options& options) {
  Config config;
  config.model = options.model;
  config.threads = options.threads;
  config.corrector.mode = RunMode::kDense;
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(options.model));
  const int most = *std::max_element(options.rows.begin(), options.rows.end());
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Engine> engine,
      Engine::Create(config, model.get(), {.mode = RunMode::kDense, .context_slots = std::max(most, 64)}, {}));
  const ModelFile::ParameterCounts counts = model->CountParameters();
  const double head = static_cast<double>(model->head().rows) * model->head().cols;
  const double products = counts.ffn + counts.attention;  // of a row without logits
  const int threads = options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  const MachinePeaks peaks = MeasureMachinePeaks(threads, options.small);
  if (!options.json) {
    std::printf("%s, reading %.1f GB/s, int8 products %.0f per ns\n", engine->DescribeBackend().c_str(),
                peaks.read_gb_s, peaks.int8_products_per_ns);
    std::printf("| rows | ms a pass | ms a row | tokens/s | GB/s, share of reading | products/ns, share of peak |\n");
    std::printf("|---|---|---|---|---|---|\n");
  }
  for (const int rows : options.rows) {
    ASSIGN_OR_RETURN(const double seconds, MedianSeconds(engine.get(), rows, options.runs));
    const double gb_s = static_cast<double>(WeightBytes(*engine)) / seconds * 1e-9;
    const double per_ns = (products * rows + head) / seconds * 1e-9;
    if (options.json) {
      std::printf("{\"rows\": %d, \"seconds\": %g, \"tok_s\": %g}\n", rows, seconds, rows / seconds);
    } else {
      std::printf("| %d | %.2f | %.3f | %.1f | %.1f, %.0f%% | %.0f, %.0f%% |\n", rows, seconds * 1e3,
                  seconds * 1e3 / rows, rows / seconds, gb_s, 100 * gb_s / peaks.read_gb_s, per_ns,
                  100 * per_ns / peaks.int8_products_per_ns);
    }
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status RunSmall(Options options) {
  options.model = (std::filesystem::temp_directory_path() / fmt::format("pass_bench_{}.gguf", getpid())).string();
  options.rows = {1, 5};
  options.runs = 1;
  SynthOptions synth;
  synth.shape = {2, 256, 512, 4, 2};
  RETURN_IF_ERROR(WriteSyntheticModel(synth, options.model, nullptr));
  const absl::Status status = Run(options);
  std::filesystem::remove(options.model);
  return status;
}

// 0 for text that is no number.
int ParseNumber(std::string_view text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// "1,4,8"
std::vector<int> ParseNumbers(std::string_view text) {
  std::vector<int> numbers;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    numbers.push_back(ParseNumber(part));
    text.remove_prefix(std::min(part.size() + 1, text.size()));
  }
  return numbers;
}

int Usage() {
  std::fprintf(stderr, "usage: pass_bench MODEL [--threads N] [--rows 1,4,8] [--runs N] [--json]\n");
  return 2;
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) {
  dogstar::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--small") {
      options.small = true;
    } else if (argument == "--json") {
      options.json = true;
    } else if (argument == "--threads" && has_value) {
      options.threads = dogstar::ParseNumber(argv[++i]);
    } else if (argument == "--runs" && has_value) {
      options.runs = std::max(1, dogstar::ParseNumber(argv[++i]));
    } else if (argument == "--rows" && has_value) {
      options.rows = dogstar::ParseNumbers(argv[++i]);
      for (int& rows : options.rows) rows = std::clamp(rows, 1, 512);
      if (options.rows.empty()) return dogstar::Usage();
    } else if (options.model.empty() && !argument.starts_with("-")) {
      options.model = argument;
    } else {
      return dogstar::Usage();
    }
  }
  if (options.model.empty() && !options.small) return dogstar::Usage();
  const absl::Status status = options.small ? dogstar::RunSmall(options) : dogstar::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "pass_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
