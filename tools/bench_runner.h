// BenchRunner: one configuration of a model, run again and again, with what each run measured. docs/measuring.md says
// what every figure means.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "memory/machine_rates.h"
#include "runtime/config.h"
#include "runtime/engine.h"

namespace dogstar {

// Cold: before each run the model's pages leave the system's cache and an engine is built anew, loading included. Warm:
// one engine, and a run before the first that is measured.
enum class BenchState { kCold, kWarm };

struct BenchOptions {
  int32_t prompt_tokens = 128;
  int32_t new_tokens = 64;
  int32_t repetitions = 5;
  BenchState state = BenchState::kWarm;
  int32_t assumed_tokens = 0;  // CorrectorOptions::assumed_tokens, where drafts are judged; 0: they are judged truly
  AccessRecorder* accesses = nullptr;  // hears of every run's passes and requests; may be null
};

struct Spread {
  double mean = 0, deviation = 0, least = 0;  // deviation: of the sample, 0 for one run
  int count = 0;
};
Spread SpreadOf(const std::vector<double>& values);

struct BenchMetric {
  std::string name;  // with its unit at the end
  std::vector<double> runs;
  bool computed = false;  // from sizes of the placement and counts, not measured
};

struct BenchResult {
  std::string mode, backend, io;
  int32_t assumed_tokens = 0;  // > 0: so many tokens a cycle stood by assumption, and every figure rests on it
  std::vector<BenchMetric> metrics;
  std::vector<int64_t> cycle_tokens;  // [t]: full passes that won t tokens, all runs
  bool peak_is_own = true;            // peak memory of this configuration, not of the whole bench
};

// on_run: before each run; false ends the bench (Cancelled). disk, memory: measured bandwidths, 0 where not known.
absl::StatusOr<BenchResult> RunBench(const Config& config, const BenchOptions& options, const MachineRates& rates,
                                     const Hooks& hooks, const std::function<bool()>& on_run);

}  // namespace dogstar
