// Synthetic models: valid files of any LLaMA shape with random weights, for measurements at sizes that nobody ships
// and for tests. Their text means nothing.
//
// A weight depends on seed, tensor and row only: not on threads, and not on the plain or packed form.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/quant.h"
#include "base/status.h"

namespace dogstar {

struct SynthShape {
  int32_t layers = 0;
  int32_t dim = 0;
  int32_t ffn_rows = 0;
  int32_t head_count = 0;
  int32_t kv_head_count = 0;
};
// "tiny", "1b", "3b", "8b", "13b", "70b"; InvalidArgument lists them.
absl::StatusOr<SynthShape> FindSynthShape(std::string_view name);
std::vector<std::string> SynthShapeNames();

struct SynthOptions {
  std::string name = "tiny";  // general.name is "synthetic-<name>"
  SynthShape shape;
  QuantType type = QuantType::kQ4_0;   // of all matrices
  std::optional<QuantType> down_type;  // of ffn_down where it differs
  uint64_t seed = 1;
  std::optional<std::string> like;  // a GGUF whose tokenizer is copied; else 256 bytes, a few merges and specials
  bool packed = false;
  int32_t page_rows = 0;  // packed: 0 chooses
  int32_t run_rows = 8;   // packed
  bool planes = true;     // packed: as PackOptions
  int threads = 2;
};

// Writes the model to `path`, in one go: no second copy is made, and no partial file stays. progress: bytes written so
// far and in all; may be null.
absl::Status WriteSyntheticModel(const SynthOptions& options, const std::string& path,
                                 const std::function<void(uint64_t done_bytes, uint64_t total_bytes)>& progress);

}  // namespace dogstar
