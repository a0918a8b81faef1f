// ModelConfig: the description of a model that the forward pass follows. Differences between architectures are
// fields here, not branches there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/activation.h"
#include "base/status.h"
#include "model/gguf.h"

namespace dogstar {

struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;          // general.name, may be empty
  int32_t layer_count = 0;
  int32_t dim = 0;       // hidden size
  int32_t ffn_rows = 0;  // FFN width
  int32_t head_count = 0;
  int32_t kv_head_count = 0;
  int32_t head_dim = 0;
  int32_t rotary_dims = 0;
  int32_t vocab_size = 0;
  int32_t context_length = 0;  // as trained
  float rms_epsilon = 0;
  bool rope_halves = false;             // pairing NeoX instead of adjacent
  std::vector<float> rope_frequencies;  // [rotary_dims / 2], scaling included
  FfnActivation activation = FfnActivation::kSilu;
  bool tied_head = false;  // logits use token_embd.weight

  // Reads and checks metadata and the shapes and types of every tensor needed to run (a missing or misshapen tensor
  // is named with what is expected and what is there). Unimplemented for an unknown architecture or a weight type
  // that cannot run, named. Works for plain and packed files (packed: FFN tensors are pages, checked by PackedFile).
  static absl::StatusOr<ModelConfig> FromGguf(const GgufHeader& header);
};

// Tensor names of the llama family.
std::string LayerTensorName(int32_t layer, const char* part);  // "blk.3.ffn_up.weight" for part "ffn_up"
inline constexpr char kEmbeddingTensor[] = "token_embd.weight";
inline constexpr char kOutputNormTensor[] = "output_norm.weight";
inline constexpr char kHeadTensor[] = "output.weight";

}  // namespace dogstar
