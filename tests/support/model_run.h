// Runs a model through the engine's own interface, for tests of whole paths.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/synth.h"
#include "runtime/config.h"
#include "runtime/engine.h"
#include "runtime/generator.h"

namespace dogstar::testing_support {

// A folder for a test's files that goes away with it.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  std::string Path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// The demo model, from DOGSTAR_SMOLLM2 (scripts/get_demo_model.sh); empty when it is not there.
std::string DemoModelPath();
inline constexpr char kNoDemoModel[] = "DOGSTAR_SMOLLM2 is not set: scripts/get_demo_model.sh fetches the model";

// Gemma 3 270M (gemma-3-270m-q4_k_m.gguf), from DOGSTAR_GEMMA3; empty when it is not there.
std::string GemmaModelPath();
inline constexpr char kNoGemmaModel[] = "DOGSTAR_GEMMA3 is not set: it names gemma-3-270m-q4_k_m.gguf";

// A tiny random model, packed unless `plain`.
std::string WriteTinyModel(const TestFolder& folder, QuantType type, bool plain);

// What runs count for the program: a test program's own memory, which grows as it goes, says nothing about a run's.
inline constexpr uint64_t kProgramBytes = 8 << 20;

// An opened model with an engine on it.
struct OpenedModel {
  std::unique_ptr<ModelFile> model;
  std::unique_ptr<Engine> engine;
};
absl::StatusOr<OpenedModel> OpenModel(const Config& config, int32_t context_slots, int32_t logit_rows,
                                      int32_t texts = 1);

// A budget that holds attention, head and about this share of the FFN, from the planner's own figures.
uint64_t BudgetForFfn(const Config& config, double share);

struct RunOutput {
  GenerationResult result;
  std::string text;
  uint64_t complement_bytes = 0;
};
// Generates from a prompt with `config` (config.model is run as it is when packed or dense).
absl::StatusOr<RunOutput> RunModel(const Config& config, const std::string& prompt, const GenerationOptions& options);
// The same for so many tokens, past any end token.
absl::StatusOr<RunOutput> RunModel(const Config& config, const std::string& prompt, int32_t tokens);

}  // namespace dogstar::testing_support
