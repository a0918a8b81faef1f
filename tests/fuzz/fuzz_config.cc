// YAML text of any bytes gives a Config or an error that names the file.
#include <string>
#include <string_view>

#include "runtime/config.h"
#include "tests/fuzz/fuzz.h"

std::vector<std::string> FuzzSeeds() {
  return {
      "model: smollm2.gguf\n"
      "budget: {ram: 64MiB, vram: 0, pinned: 0}\n"
      "draft: {predictor: griffin, density: 0.5}\n"
      "io: {engine: auto, queue_depth: 64, direct: auto, verify: first}\n"
      "corrector: {mode: strict, period: 16, threshold: 0.1, temperature: 0.6}\n"
      "sampling: {temperature: 0, top_k: 0, top_p: 1, seed: 1}\n",
      "budget:\n  ram: 2.5 GiB\n# a comment\ncorrector:\n  adaptive: false\n",
      "a: &x [1, 2]\nb: *x\n? {complex: key}\n: |\n  block\n",
  };
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  dogstar::Config config;
  const absl::Status status = dogstar::ReadYamlConfig(text, "fuzz.yaml", &config);
  CHECK(status.ok() || status.message().find("fuzz.yaml") != absl::string_view::npos);
  // A line of it as a command line assignment.
  const std::string_view line = text.substr(0, text.find('\n'));
  dogstar::SetConfigFromAssignment(line, &config).IgnoreError();
  return 0;
}
