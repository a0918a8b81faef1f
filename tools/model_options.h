// What every command that runs a model shares: its options, the configuration they make, notes and progress, Ctrl-C.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/status.h"
#include "runtime/config.h"
#include "runtime/engine.h"
#include "runtime/stats.h"
#include "tools/progress.h"

namespace dogstar {

struct ModelArguments {
  std::string model, model_option, config_file;
  std::vector<std::string> assignments;  // key=value, in the order of the command line
};

// Adds the model, --config, --set and the short names of settings to a command.
void AddModelOptions(CLI::App* command, std::shared_ptr<ModelArguments> arguments);
// Names of sampling settings as llama.cpp has them.
void AddSamplingOptions(CLI::App* command, std::shared_ptr<ModelArguments> arguments);
// defaults < file < environment < command line
absl::StatusOr<Config> ReadConfig(const ModelArguments& arguments);
// What was given beside the defaults, a line each: the file's name, then assignments of the command line.
std::vector<std::string> GivenSettings(const ModelArguments& arguments);

// Logits rows that a pass must be able to give; `hooks` hear of it where they are fewer than the settings ask for.
int32_t LogitRows(const Config& config, RunMode mode, const ModelFile& model, int32_t context_slots, const Hooks& hooks,
                  int32_t texts = 1);
// The error of --assume-accepted in a mode that judges no drafts.
absl::Status NothingToAssumeIn(RunMode mode);

// The text of a file; "-": standard input.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// Progress of whatever takes long at the moment, one bar at a time, on stderr.
class Progress {
 public:
  void Bytes(std::string_view what, uint64_t done, uint64_t total);
  // Steps of unlike length, on a terminal.
  void Steps(std::string_view what, int done, int total);
  // A prompt that takes more than a second, on a terminal.
  void Prompt(int32_t done, int32_t total);
  void Finish();

 private:
  std::string what_;
  std::unique_ptr<ProgressBar> bar_;
  bool steps_shown_ = false;
  std::optional<std::chrono::steady_clock::time_point> prompt_since_;
};
// Notes as lines on stderr. `bar` must outlive them.
Hooks MakeHooks(Progress* bar);

// Ends an access trace and says what it holds.
absl::Status FinishRecord(AccessRecorder* accesses, const std::string& path, const Hooks& hooks);

// Set by Ctrl-C once CatchInterrupt was called; a second Ctrl-C ends the program at once.
const std::atomic<bool>& Interrupted();
void CatchInterrupt();
void ForgetInterrupt();

// # 256 tok: 12.3 tok/s, 81 ms/tok; prompt 140 tok/s; disk 1.9 GB/s; density 0.31; accepted 14.2/16; rss 61 of 64 MiB
void PrintClosingLine(const Engine& engine, const GenerationResult& result);

}  // namespace dogstar
