#include "tests/support/model_run.h"

#include <stdlib.h>

#include <cstdlib>
#include <filesystem>

#include "runtime/run_plan.h"

namespace dogstar::testing_support {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

TestFolder::TestFolder() {
  char name[] = "/tmp/dogstar_test_XXXXXX";
  CHECK(mkdtemp(name) != nullptr);
  path_ = name;
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string DemoModelPath() { return Environment("DOGSTAR_SMOLLM2"); }
std::string GemmaModelPath() { return Environment("DOGSTAR_GEMMA3"); }

std::string WriteTinyModel(const TestFolder& folder, QuantType type, bool plain) {
  SynthOptions options;
  options.shape = {4, 256, 4096, 4, 2};  // wide enough that half of the FFN is more than a process' own ups and downs
  options.type = type;
  options.packed = !plain;
  const std::string path = folder.Path(plain ? "tiny.gguf" : "tiny.dog.gguf");
  const absl::Status status = WriteSyntheticModel(options, path, nullptr);
  CHECK(status.ok());
  return path;
}

absl::StatusOr<OpenedModel> OpenModel(const Config& config, int32_t context_slots, int32_t logit_rows, int32_t texts) {
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, {}));
  OpenedModel opened;
  ASSIGN_OR_RETURN(opened.model, ModelFile::Open(choice.path));
  Engine::Options options;
  options.mode = choice.mode;
  options.context_slots = context_slots;
  options.logit_rows = logit_rows;
  options.texts = texts;
  options.program_bytes = kProgramBytes;
  ASSIGN_OR_RETURN(opened.engine, Engine::Create(config, opened.model.get(), options, {}));
  return opened;
}

uint64_t BudgetForFfn(const Config& config, double share) {
  const auto opened = OpenModel(config, 64, 16);
  CHECK(opened.ok());
  double weights = 0;
  for (const PlanLine& line : opened->engine->placement().lines) {
    if (line.what.starts_with("FFN")) weights += share * static_cast<double>(line.total_bytes);
    if (line.what.starts_with("attention") || line.what.starts_with("head")) {
      weights += static_cast<double>(line.total_bytes);
    }
  }
  Config least = config;
  least.budget.ram = 64 * 1024;
  const absl::Status refused = OpenModel(least, 64, 16).status();
  CHECK(refused.code() == absl::StatusCode::kResourceExhausted);
  const std::string message(refused.message());
  const double smallest_mib = std::strtod(message.c_str() + message.find("works is ") + 9, nullptr);
  return static_cast<uint64_t>(smallest_mib * (1 << 20) + weights);
}

absl::StatusOr<RunOutput> RunModel(const Config& config, const std::string& prompt, const GenerationOptions& options) {
  const int32_t needed = static_cast<int32_t>(prompt.size()) + options.max_tokens + 8;
  ASSIGN_OR_RETURN(const OpenedModel opened,
                   OpenModel(config, config.context > 0 ? config.context : needed, DraftsOfCycle(config) + 1));
  RunOutput output;
  const std::vector<TokenId> ids = opened.model->tokenizer().Encode(prompt, {});
  RETURN_IF_ERROR(Generator(opened.engine.get()).Generate(ids, options, &output.result));
  output.text = opened.model->tokenizer().Decode(output.result.tokens, true);
  output.complement_bytes = opened.engine->placement().complement_bytes;
  return output;
}

absl::StatusOr<RunOutput> RunModel(const Config& config, const std::string& prompt, int32_t tokens) {
  return RunModel(config, prompt, GenerationOptions{.max_tokens = tokens, .ignore_end = true});
}

}  // namespace dogstar::testing_support
