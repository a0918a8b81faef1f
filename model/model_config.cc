#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <utility>
#include <variant>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

// What an architecture's files do not say about themselves.
struct Architecture {
  std::string_view name;
  FfnActivation activation = FfnActivation::kSilu;
  bool rope_halves = false;
  bool needs_qkv_bias = false;  // the others may have biases
  bool qk_norm = false;
  bool post_norms = false;
  bool scales_embedding = false;     // by sqrt(dim)
  int32_t global_layer_every = 0;    // where there is a window: of so many layers the last is global; 0: none
  bool local_rope_is_plain = false;  // local layers have a base of their own and no scaling
};
constexpr Architecture kArchitectures[] = {
    {.name = "llama"},
    {.name = "qwen2", .rope_halves = true, .needs_qkv_bias = true},
    {.name = "qwen3", .rope_halves = true, .qk_norm = true},
    {.name = "gemma3",
     .activation = FfnActivation::kGeluTanh,
     .rope_halves = true,
     .qk_norm = true,
     .post_norms = true,
     .scales_embedding = true,
     .global_layer_every = 6,
     .local_rope_is_plain = true},
};

struct VectorTensor {
  LayerVector vector;
  std::string_view part;  // of the tensor's name, after "blk.N."
};
constexpr VectorTensor kVectorTensors[kLayerVectors] = {
    {LayerVector::kAttentionNorm, "attn_norm.weight"},
    {LayerVector::kFfnNorm, "ffn_norm.weight"},
    {LayerVector::kQueryBias, "attn_q.bias"},
    {LayerVector::kKeyBias, "attn_k.bias"},
    {LayerVector::kValueBias, "attn_v.bias"},
    {LayerVector::kQueryNorm, "attn_q_norm.weight"},
    {LayerVector::kKeyNorm, "attn_k_norm.weight"},
    {LayerVector::kPostAttentionNorm, "post_attention_norm.weight"},
    {LayerVector::kPostFfnNorm, "post_ffw_norm.weight"},
};
static_assert(kVectorTensors[kLayerVectors - 1].vector == LayerVector{kLayerVectors - 1});  // found by number

constexpr char kPackedVersionKey[] = "dogstar.packed.version";
constexpr int64_t kBlockWeights = 32;  // kernels read whole blocks of this many columns

// Sanity limits, far above any real model; they keep every product of sizes inside 64 bits.
constexpr int64_t kLayersMax = 10000;
constexpr int64_t kWidthMax = 1 << 22;
constexpr int64_t kHeadsMax = 1 << 16;
constexpr int64_t kVocabMax = 1 << 24;
constexpr int64_t kContextMax = 1 << 30;
constexpr double kDefaultRopeBase = 10000;
constexpr int32_t kGemma27BLayers = 62;  // the size is not in the metadata

bool IsPackedFile(const GgufHeader& header) { return header.FindField(kPackedVersionKey) != nullptr; }

// Reads keys of one architecture: Int("block_count") is llama.block_count.
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufHeader& header, std::string_view architecture)
      : header_(header), prefix_(fmt::format("{}.", architecture)) {}

  std::string Name(std::string_view key) const { return fmt::format("{}{}", prefix_, key); }
  bool Has(std::string_view key) const { return header_.FindField(Name(key)) != nullptr; }

  absl::StatusOr<int32_t> Int(std::string_view key, int64_t value_max) const {
    ASSIGN_OR_RETURN(const uint64_t value, header_.GetUint(Name(key)));
    if (value < 1 || value > static_cast<uint64_t>(value_max)) {
      return absl::InvalidArgumentError(fmt::format("{} is {}, expected 1 to {}", Name(key), value, value_max));
    }
    return static_cast<int32_t>(value);
  }
  absl::StatusOr<int32_t> IntOr(std::string_view key, int64_t value_max, int32_t otherwise) const {
    return Has(key) ? Int(key, value_max) : absl::StatusOr<int32_t>(otherwise);
  }
  absl::StatusOr<double> PositiveFloat(std::string_view key) const {
    ASSIGN_OR_RETURN(const double value, header_.GetFloat(Name(key)));
    if (!std::isfinite(value) || value <= 0) {
      return absl::InvalidArgumentError(fmt::format("{} is {}, expected a positive number", Name(key), value));
    }
    return value;
  }
  absl::StatusOr<double> PositiveFloatOr(std::string_view key, double otherwise) const {
    return Has(key) ? PositiveFloat(key) : absl::StatusOr<double>(otherwise);
  }
  absl::StatusOr<std::string> StringOr(std::string_view key, std::string otherwise) const {
    if (!Has(key)) return otherwise;
    ASSIGN_OR_RETURN(const std::string_view value, header_.GetString(Name(key)));
    return std::string(value);
  }

 private:
  const GgufHeader& header_;
  std::string prefix_;
};

absl::StatusOr<const Architecture*> ReadArchitecture(const GgufHeader& header) {
  ASSIGN_OR_RETURN(const std::string_view name, header.GetString("general.architecture"));
  std::vector<std::string_view> supported;
  for (const Architecture& architecture : kArchitectures) {
    if (name == architecture.name) return &architecture;
    supported.push_back(architecture.name);
  }
  return absl::UnimplementedError(
      fmt::format("architecture {} cannot run; supported: {}", Quoted(name), fmt::join(supported, ", ")));
}

absl::Status CheckMultiple(std::string_view what, int64_t value, int64_t factor, std::string_view factor_name) {
  if (value % factor == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}, expected a multiple of {} ({})", what, value, factor_name, factor));
}

absl::Status ReadHeads(const ArchitectureKeys& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->head_count, keys.Int("attention.head_count", kHeadsMax));
  ASSIGN_OR_RETURN(config->kv_head_count, keys.IntOr("attention.head_count_kv", kHeadsMax, config->head_count));
  RETURN_IF_ERROR(CheckMultiple(keys.Name("attention.head_count"), config->head_count, config->kv_head_count,
                                keys.Name("attention.head_count_kv")));
  if (keys.Has("attention.key_length")) {
    ASSIGN_OR_RETURN(config->head_dim, keys.Int("attention.key_length", kWidthMax));
  } else {
    RETURN_IF_ERROR(CheckMultiple(keys.Name("embedding_length"), config->dim, config->head_count,
                                  keys.Name("attention.head_count")));
    config->head_dim = config->dim / config->head_count;
  }
  ASSIGN_OR_RETURN(const int32_t value_dim, keys.IntOr("attention.value_length", kWidthMax, config->head_dim));
  if (value_dim != config->head_dim) {
    return absl::UnimplementedError(fmt::format("{} is {} but keys have {}: different lengths cannot run",
                                                keys.Name("attention.value_length"), value_dim, config->head_dim));
  }
  if (int64_t{config->head_count} * config->head_dim > kWidthMax) {
    return absl::InvalidArgumentError(
        fmt::format("{} heads of {} are impossibly large", config->head_count, config->head_dim));
  }
  return absl::OkStatus();
}

// The factor that positions are divided by.
absl::StatusOr<double> ReadRopeScale(const ArchitectureKeys& keys) {
  ASSIGN_OR_RETURN(const std::string kind, keys.StringOr("rope.scaling.type", "none"));
  if (kind == "linear") return keys.PositiveFloat("rope.scaling.factor");
  if (kind != "none") {
    return absl::UnimplementedError(
        fmt::format("{} {} cannot run; supported: none, linear", keys.Name("rope.scaling.type"), Quoted(kind)));
  }
  return keys.PositiveFloatOr("rope.scale_linear", 1);  // the key of older files
}

std::vector<float> RopeFrequencies(int32_t rotary_dims, double base, double scale) {
  std::vector<float> frequencies;
  for (int32_t i = 0; i < rotary_dims; i += 2) {
    frequencies.push_back(static_cast<float>(std::pow(base, -static_cast<double>(i) / rotary_dims) / scale));
  }
  return frequencies;
}

// Whether each layer is local, where there is a window: metadata says so layer by layer or by every n-th layer that is
// not, or the architecture does.
absl::StatusOr<std::vector<uint8_t>> ReadLocalLayers(const GgufHeader& header, const ArchitectureKeys& keys,
                                                     const Architecture& architecture, int32_t layer_count) {
  constexpr char kKey[] = "attention.sliding_window_pattern";
  std::vector<uint8_t> local(static_cast<size_t>(layer_count), 1);
  const GgufField* field = header.FindField(keys.Name(kKey));
  if (field != nullptr && field->type == GgufValueType::kArray) {
    ASSIGN_OR_RETURN(const GgufArray* array, header.GetArray(field->key, GgufValueType::kBool));
    if (array->count != local.size()) {
      return absl::InvalidArgumentError(
          fmt::format("{} has {} values, expected one for each of {} layers", field->key, array->count, layer_count));
    }
    for (size_t i = 0; i < local.size(); ++i) local[i] = array->fixed[i] != std::byte{0};
    return local;
  }
  ASSIGN_OR_RETURN(const int32_t every, keys.IntOr(kKey, kLayersMax, architecture.global_layer_every));
  for (int32_t i = every - 1; every > 0 && i < layer_count; i += every) local[static_cast<size_t>(i)] = 0;
  return local;
}

absl::StatusOr<int32_t> ReadWindow(const GgufHeader& header, const ArchitectureKeys& keys) {
  const std::string key = keys.Name("attention.sliding_window");
  if (header.FindField(key) == nullptr) return 0;
  ASSIGN_OR_RETURN(const uint64_t window, header.GetUint(key));  // some converters write 0 for none
  return static_cast<int32_t>(std::min<uint64_t>(window, kContextMax));
}

absl::StatusOr<std::vector<float>> ReadLocalRope(const ArchitectureKeys& keys, int32_t rotary_dims) {
  ASSIGN_OR_RETURN(const double base, keys.PositiveFloatOr("rope.freq_base_swa", kDefaultRopeBase));
  return RopeFrequencies(rotary_dims, base, 1);
}

// Windows and rotary frequencies of every layer.
absl::Status ReadAttentionKinds(const GgufHeader& header, const ArchitectureKeys& keys,
                                const Architecture& architecture, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->rotary_dims, keys.IntOr("rope.dimension_count", config->head_dim, config->head_dim));
  RETURN_IF_ERROR(CheckMultiple(keys.Name("rope.dimension_count"), config->rotary_dims, 2, "pairs"));
  ASSIGN_OR_RETURN(const double base, keys.PositiveFloatOr("rope.freq_base", kDefaultRopeBase));
  ASSIGN_OR_RETURN(const double scale, ReadRopeScale(keys));
  AttentionKind global;
  global.rope_frequencies = RopeFrequencies(config->rotary_dims, base, scale);
  config->attention_kinds = {global};
  config->kind_of_layer.assign(static_cast<size_t>(config->layer_count), 0);
  AttentionKind local = global;
  ASSIGN_OR_RETURN(local.window, ReadWindow(header, keys));
  if (local.window == 0) return absl::OkStatus();
  if (architecture.local_rope_is_plain) {
    ASSIGN_OR_RETURN(local.rope_frequencies, ReadLocalRope(keys, config->rotary_dims));
  }
  config->attention_kinds.push_back(std::move(local));
  ASSIGN_OR_RETURN(config->kind_of_layer, ReadLocalLayers(header, keys, architecture, config->layer_count));
  return absl::OkStatus();
}

// Gemma 3 of 27B scales scores by the heads' share of the hidden size, the smaller ones by their width.
float ScoreScale(const ModelConfig& config) {
  const bool by_share = config.architecture == "gemma3" && config.layer_count == kGemma27BLayers;
  return 1.0F / std::sqrt(static_cast<float>(by_share ? config.dim / config.head_count : config.head_dim));
}

void Describe(const Architecture& architecture, const GgufHeader& header, ModelConfig* config) {
  config->activation = architecture.activation;
  config->rope_halves = architecture.rope_halves;
  config->qk_norm = architecture.qk_norm;
  config->post_norms = architecture.post_norms;
  config->qkv_bias =
      architecture.needs_qkv_bias || header.FindTensor(LayerVectorName(0, LayerVector::kQueryBias)) != nullptr;
  if (architecture.scales_embedding) config->embedding_scale = std::sqrt(static_cast<float>(config->dim));
  config->score_scale = ScoreScale(*config);
}

absl::Status ReadSizes(const ArchitectureKeys& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->layer_count, keys.Int("block_count", kLayersMax));
  ASSIGN_OR_RETURN(config->dim, keys.Int("embedding_length", kWidthMax));
  ASSIGN_OR_RETURN(config->ffn_rows, keys.Int("feed_forward_length", kWidthMax));
  ASSIGN_OR_RETURN(config->context_length, keys.Int("context_length", kContextMax));
  ASSIGN_OR_RETURN(const double epsilon, keys.PositiveFloat("attention.layer_norm_rms_epsilon"));
  config->rms_epsilon = static_cast<float>(epsilon);
  RETURN_IF_ERROR(CheckMultiple(keys.Name("embedding_length"), config->dim, kBlockWeights, "a block of weights"));
  return CheckMultiple(keys.Name("feed_forward_length"), config->ffn_rows, kBlockWeights, "a block of weights");
}

// True for "blk.3.ffn_up.weight" and the like; parts that are not in the list change what a layer computes.
bool IsKnownLayerTensor(const ModelConfig& config, std::string_view name) {
  static constexpr std::string_view kParts[] = {
      "attn_q.weight",        "attn_k.weight", "attn_v.weight",   "attn_output.weight",
      "ffn_gate.weight",      "ffn_up.weight", "ffn_down.weight",
      "attn_rot_embd.weight",  // frequencies of old files, which follow from the metadata
  };
  const size_t dot = name.find('.', std::string_view("blk.").size());
  if (dot == std::string_view::npos) return false;
  const std::string_view part = name.substr(dot + 1);
  for (const VectorTensor& tensor : kVectorTensors) {
    if (part == tensor.part) return config.VectorSize(tensor.vector) > 0;
  }
  return std::find(std::begin(kParts), std::end(kParts), part) != std::end(kParts);
}

absl::Status CheckTensorRuns(const GgufTensor& tensor, const ModelConfig& config, bool packed) {
  const bool of_layer = tensor.name.starts_with("blk.");
  const bool known = !of_layer || IsKnownLayerTensor(config, tensor.name);
  if (tensor.name.ends_with(".bias") && !(of_layer && known)) {
    return absl::UnimplementedError(
        fmt::format("tensor {}: biases other than those of queries, keys and values cannot run", Quoted(tensor.name)));
  }
  if (!known && !packed) {  // a packed file has parts of its own, and was checked when it was made
    return absl::UnimplementedError(fmt::format("tensor {}: a layer with this part cannot run in architecture {}",
                                                Quoted(tensor.name), Quoted(config.architecture)));
  }
  if (tensor.name.starts_with("rope_") && tensor.name != kRopeFactorsTensor) {
    return absl::UnimplementedError(
        fmt::format("tensor {}: rotary frequencies that follow the length of the text "
                    "(longrope) cannot run; supported: '{}'",
                    Quoted(tensor.name), kRopeFactorsTensor));
  }
  return absl::OkStatus();
}

std::optional<double> NumberIn(const GgufField& field) {
  if (const auto* value = std::get_if<uint64_t>(&field.value)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<int64_t>(&field.value)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<double>(&field.value)) return *value;
  return std::nullopt;
}

// A key that asks for `what` unless it is 0.
absl::Status CheckNotAsked(const GgufHeader& header, const std::string& key, std::string_view what) {
  const GgufField* field = header.FindField(key);
  if (field == nullptr) return absl::OkStatus();
  const std::optional<double> value = NumberIn(*field);
  if (!value) return absl::InvalidArgumentError(fmt::format("{} is not a number", key));
  if (*value == 0) return absl::OkStatus();
  return absl::UnimplementedError(fmt::format("{} is {}: {} cannot run", key, *value, what));
}

// What the forward pass would have to do and does not: silence here would be a wrong answer there.
absl::Status CheckNoUnknownParts(const GgufHeader& header, const ArchitectureKeys& keys, const ModelConfig& config) {
  RETURN_IF_ERROR(CheckNotAsked(header, keys.Name("expert_count"), "mixtures of experts"));
  RETURN_IF_ERROR(CheckNotAsked(header, keys.Name("attn_logit_softcapping"), "scores with a soft cap"));
  RETURN_IF_ERROR(CheckNotAsked(header, keys.Name("final_logit_softcapping"), "logits with a soft cap"));
  const bool packed = IsPackedFile(header);
  for (const GgufTensor& tensor : header.tensors()) RETURN_IF_ERROR(CheckTensorRuns(tensor, config, packed));
  return absl::OkStatus();
}

// A tensor that is there must have the expected shape and a type that runs.
absl::Status CheckTensor(const GgufHeader& header, std::string_view name, std::initializer_list<uint64_t> expected) {
  const GgufTensor* tensor = header.FindTensor(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("tensor {} of shape [{}] is missing", Quoted(name), fmt::join(expected, ", ")));
  }
  if (!std::equal(expected.begin(), expected.end(), tensor->shape.begin(), tensor->shape.end())) {
    return absl::InvalidArgumentError(fmt::format("tensor {} has shape [{}], expected [{}]", Quoted(name),
                                                  fmt::join(tensor->shape, ", "), fmt::join(expected, ", ")));
  }
  const QuantTraits* traits = FindQuantTraits(tensor->gguf_type);
  if (traits == nullptr || !traits->runnable) {
    return absl::UnimplementedError(fmt::format("tensor {} has type {}, which cannot run", Quoted(name),
                                                traits == nullptr ? "unknown" : traits->name));
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const GgufHeader& header, const ModelConfig& config, int32_t layer, bool packed) {
  const uint64_t dim = static_cast<uint64_t>(config.dim);
  const uint64_t ffn = static_cast<uint64_t>(config.ffn_rows);
  const uint64_t q_dim = static_cast<uint64_t>(config.head_count) * static_cast<uint64_t>(config.head_dim);
  const uint64_t kv_dim = static_cast<uint64_t>(config.kv_head_count) * static_cast<uint64_t>(config.head_dim);
  for (const VectorTensor& tensor : kVectorTensors) {
    const uint64_t size = static_cast<uint64_t>(config.VectorSize(tensor.vector));
    if (size > 0) RETURN_IF_ERROR(CheckTensor(header, LayerVectorName(layer, tensor.vector), {size}));
  }
  const auto check = [&](const char* part, std::initializer_list<uint64_t> shape) {
    return CheckTensor(header, LayerTensorName(layer, part), shape);
  };
  RETURN_IF_ERROR(check("attn_q", {dim, q_dim}));
  RETURN_IF_ERROR(check("attn_k", {dim, kv_dim}));
  RETURN_IF_ERROR(check("attn_v", {dim, kv_dim}));
  RETURN_IF_ERROR(check("attn_output", {q_dim, dim}));
  if (packed) return absl::OkStatus();  // its FFN is pages, which PackedFile checks
  RETURN_IF_ERROR(check("ffn_gate", {dim, ffn}));
  RETURN_IF_ERROR(check("ffn_up", {dim, ffn}));
  return check("ffn_down", {ffn, dim});
}

// vocab_size and the tensors outside the layers.
absl::Status ReadEmbedding(const GgufHeader& header, ModelConfig* config) {
  const GgufTensor* embedding = header.FindTensor(kEmbeddingTensor);
  if (embedding == nullptr) {
    return absl::InvalidArgumentError(
        header.tensors().empty() ? "the file holds no tensors (a vocabulary only?), so there is no model to run"
                                 : fmt::format("tensor '{}' is missing", kEmbeddingTensor));
  }
  const uint64_t rows = embedding->rows();
  if (rows > static_cast<uint64_t>(kVocabMax)) {
    return absl::InvalidArgumentError(
        fmt::format("tensor '{}' has {} rows, expected at most {}", kEmbeddingTensor, rows, kVocabMax));
  }
  config->vocab_size = static_cast<int32_t>(rows);
  const uint64_t dim = static_cast<uint64_t>(config->dim);
  RETURN_IF_ERROR(CheckTensor(header, kEmbeddingTensor, {dim, rows}));
  RETURN_IF_ERROR(CheckTensor(header, kOutputNormTensor, {dim}));
  if (header.FindTensor(kRopeFactorsTensor) != nullptr) {
    RETURN_IF_ERROR(CheckTensor(header, kRopeFactorsTensor, {static_cast<uint64_t>(config->rotary_dims / 2)}));
  }
  config->tied_head = header.FindTensor(kHeadTensor) == nullptr;
  return config->tied_head ? absl::OkStatus() : CheckTensor(header, kHeadTensor, {dim, rows});
}

// A token id past the embedding would be read out of bounds.
absl::Status CheckVocabularyFits(const GgufHeader& header, const ModelConfig& config) {
  const absl::StatusOr<const GgufArray*> tokens = header.GetArray("tokenizer.ggml.tokens", GgufValueType::kString);
  if (!tokens.ok() || (*tokens)->count <= static_cast<uint64_t>(config.vocab_size)) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("tokenizer.ggml.tokens has {} tokens, but '{}' only {} rows",
                                                (*tokens)->count, kEmbeddingTensor, config.vocab_size));
}

}  // namespace

std::string LayerTensorName(int32_t layer, const char* part) { return fmt::format("blk.{}.{}.weight", layer, part); }

std::string LayerVectorName(int32_t layer, LayerVector vector) {
  return fmt::format("blk.{}.{}", layer, kVectorTensors[static_cast<size_t>(vector)].part);
}

int32_t ModelConfig::VectorSize(LayerVector vector) const {
  switch (vector) {
    case LayerVector::kAttentionNorm:
    case LayerVector::kFfnNorm:
      return dim;
    case LayerVector::kQueryBias:
      return qkv_bias ? head_count * head_dim : 0;
    case LayerVector::kKeyBias:
    case LayerVector::kValueBias:
      return qkv_bias ? kv_head_count * head_dim : 0;
    case LayerVector::kQueryNorm:
    case LayerVector::kKeyNorm:
      return qk_norm ? head_dim : 0;
    case LayerVector::kPostAttentionNorm:
    case LayerVector::kPostFfnNorm:
      return post_norms ? dim : 0;
  }
  return 0;
}

absl::Status ModelConfig::DivideRopeFrequencies(std::span<const float> factors) {
  for (const float factor : factors) {
    if (std::isfinite(factor) && factor > 0) continue;
    return absl::InvalidArgumentError(
        fmt::format("tensor '{}' has the factor {}, expected positive numbers", kRopeFactorsTensor, factor));
  }
  for (AttentionKind& attention : attention_kinds) {
    CHECK(attention.rope_frequencies.size() == factors.size());
    for (size_t i = 0; i < factors.size(); ++i) attention.rope_frequencies[i] /= factors[i];
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ModelConfig::FromGguf(const GgufHeader& header) {
  ModelConfig config;
  ASSIGN_OR_RETURN(const Architecture* architecture, ReadArchitecture(header));
  config.architecture = std::string(architecture->name);
  const ArchitectureKeys keys(header, config.architecture);
  const absl::StatusOr<std::string_view> name = header.GetString("general.name");
  if (name.ok()) config.name = std::string(*name);
  RETURN_IF_ERROR(ReadSizes(keys, &config));
  RETURN_IF_ERROR(ReadHeads(keys, &config));
  Describe(*architecture, header, &config);
  RETURN_IF_ERROR(ReadAttentionKinds(header, keys, *architecture, &config));
  RETURN_IF_ERROR(CheckNoUnknownParts(header, keys, config));
  RETURN_IF_ERROR(ReadEmbedding(header, &config));
  RETURN_IF_ERROR(CheckVocabularyFits(header, config));
  const bool packed = IsPackedFile(header);
  for (int32_t layer = 0; layer < config.layer_count; ++layer) {
    RETURN_IF_ERROR(CheckLayer(header, config, layer, packed));
  }
  return config;
}

}  // namespace dogstar
