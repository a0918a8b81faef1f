// ModelConfig: the description of a model that the forward pass follows. Differences between architectures are
// fields here, not branches there.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/activation.h"
#include "base/status.h"
#include "base/types.h"
#include "model/gguf.h"

namespace dogstar {

// Vectors of a layer: norm weights and biases. An architecture has the first two, and others as its fields say.
enum class LayerVector {
  kAttentionNorm,
  kFfnNorm,
  kQueryBias,
  kKeyBias,
  kValueBias,
  kQueryNorm,  // of each head
  kKeyNorm,
  kPostAttentionNorm,
  kPostFfnNorm,
};
inline constexpr int kLayerVectors = 9;

// How layers of one kind attend. A model has one kind, or local and global layers.
struct AttentionKind {
  int32_t window = 0;                   // positions that a token sees, its own included; 0: all before it
  std::vector<float> rope_frequencies;  // [rotary_dims / 2]: angle per position of each pair, scaling included
};

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2", "qwen3", "gemma3"
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
  float embedding_scale = 1;  // embedding rows are multiplied by it
  float score_scale = 0;      // of attention, usually 1 / sqrt(head_dim)
  bool rope_halves = false;   // pairing NeoX instead of adjacent
  bool qkv_bias = false;      // added to queries, keys and values
  bool qk_norm = false;       // each head of queries and keys is normed before it is rotated
  bool post_norms = false;    // what attention and FFN add to the residual stream is normed first
  std::vector<AttentionKind> attention_kinds;
  std::vector<uint8_t> kind_of_layer;  // [layer_count], index into attention_kinds
  FfnActivation activation = FfnActivation::kSilu;
  bool tied_head = false;  // logits use token_embd.weight

  int32_t kind(LayerIndex layer) const { return kind_of_layer[static_cast<size_t>(ToInt(layer))]; }
  const AttentionKind& attention(LayerIndex layer) const { return attention_kinds[static_cast<size_t>(kind(layer))]; }
  // Values in a layer's vector; 0 where the model has none.
  int32_t VectorSize(LayerVector vector) const;
  // Divides the frequency of each pair, in every layer, by its factor (Llama 3.1's rope_freqs.weight).
  // InvalidArgument where a factor is not a positive number. REQUIRES: factors.size() is rotary_dims / 2.
  absl::Status DivideRopeFrequencies(std::span<const float> factors);

  // Reads and checks metadata and the shapes and types of every tensor needed to run (a missing or misshapen tensor
  // is named with what is expected and what is there). Unimplemented for an unknown architecture, a part that the
  // forward pass does not compute or a weight type that cannot run, named. Works for plain and packed files (packed:
  // FFN tensors are pages, checked by PackedFile). Factors of a kRopeFactorsTensor are left to the caller.
  static absl::StatusOr<ModelConfig> FromGguf(const GgufHeader& header);
};

// Tensor names of the llama family.
std::string LayerTensorName(int32_t layer, const char* part);  // "blk.3.ffn_up.weight" for part "ffn_up"
std::string LayerVectorName(int32_t layer, LayerVector vector);
inline constexpr char kEmbeddingTensor[] = "token_embd.weight";
inline constexpr char kOutputNormTensor[] = "output_norm.weight";
inline constexpr char kHeadTensor[] = "output.weight";
inline constexpr char kRopeFactorsTensor[] = "rope_freqs.weight";

}  // namespace dogstar
