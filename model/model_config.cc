#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <iterator>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

constexpr std::string_view kSupportedArchitectures[] = {"llama"};
constexpr char kPackedVersionKey[] = "dogstar.packed.version";
constexpr int64_t kBlockWeights = 32;  // kernels read whole blocks of this many columns

// Sanity limits, far above any real model; they keep every product of sizes inside 64 bits.
constexpr int64_t kLayersMax = 10000;
constexpr int64_t kWidthMax = 1 << 22;
constexpr int64_t kHeadsMax = 1 << 16;
constexpr int64_t kVocabMax = 1 << 24;
constexpr int64_t kContextMax = 1 << 30;
constexpr double kDefaultRopeBase = 10000;

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

absl::StatusOr<std::string> ReadArchitecture(const GgufHeader& header) {
  ASSIGN_OR_RETURN(const std::string_view architecture, header.GetString("general.architecture"));
  for (const std::string_view supported : kSupportedArchitectures) {
    if (architecture == supported) return std::string(architecture);
  }
  return absl::UnimplementedError(fmt::format("architecture {} cannot run; supported: {}", Quoted(architecture),
                                              fmt::join(kSupportedArchitectures, ", ")));
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

absl::Status ReadRope(const ArchitectureKeys& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->rotary_dims, keys.IntOr("rope.dimension_count", config->head_dim, config->head_dim));
  RETURN_IF_ERROR(CheckMultiple(keys.Name("rope.dimension_count"), config->rotary_dims, 2, "pairs"));
  ASSIGN_OR_RETURN(const double base, keys.PositiveFloatOr("rope.freq_base", kDefaultRopeBase));
  ASSIGN_OR_RETURN(const double scale, ReadRopeScale(keys));
  for (int32_t i = 0; i < config->rotary_dims; i += 2) {
    config->rope_frequencies.push_back(
        static_cast<float>(std::pow(base, -static_cast<double>(i) / config->rotary_dims) / scale));
  }
  return absl::OkStatus();
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
bool IsKnownLayerTensor(std::string_view name) {
  static constexpr std::string_view kParts[] = {
      ".attn_norm.weight",     ".attn_q.weight",   ".attn_k.weight", ".attn_v.weight",   ".attn_output.weight",
      ".ffn_norm.weight",      ".ffn_gate.weight", ".ffn_up.weight", ".ffn_down.weight",
      ".attn_rot_embd.weight",  // frequencies of old files, which follow from the metadata
  };
  const size_t dot = name.find('.', std::string_view("blk.").size());
  if (dot == std::string_view::npos) return false;
  return std::find(std::begin(kParts), std::end(kParts), name.substr(dot)) != std::end(kParts);
}

// What the forward pass would have to do and does not: silence here would be a wrong answer there.
absl::Status CheckNoUnknownParts(const GgufHeader& header, const ArchitectureKeys& keys) {
  if (keys.Has("expert_count")) {
    ASSIGN_OR_RETURN(const uint64_t experts, header.GetUint(keys.Name("expert_count")));
    if (experts > 0) {
      return absl::UnimplementedError(
          fmt::format("{} is {}: mixtures of experts cannot run", keys.Name("expert_count"), experts));
    }
  }
  const bool packed = IsPackedFile(header);
  for (const GgufTensor& tensor : header.tensors()) {
    if (!packed && tensor.name.starts_with("blk.") && !tensor.name.ends_with(".bias") &&
        !IsKnownLayerTensor(tensor.name)) {
      return absl::UnimplementedError(fmt::format("tensor {}: a layer with this part cannot run", Quoted(tensor.name)));
    }
    if (tensor.name.ends_with(".bias")) {
      return absl::UnimplementedError(fmt::format("tensor {}: biases cannot run", Quoted(tensor.name)));
    }
    if (tensor.name.starts_with("rope_")) {
      return absl::UnimplementedError(fmt::format(
          "tensor {}: rotary frequencies scaled by a tensor (Llama 3.1 and later) cannot run", Quoted(tensor.name)));
    }
  }
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
  const auto check = [&](const char* part, std::initializer_list<uint64_t> shape) {
    return CheckTensor(header, LayerTensorName(layer, part), shape);
  };
  RETURN_IF_ERROR(check("attn_norm", {dim}));
  RETURN_IF_ERROR(check("attn_q", {dim, q_dim}));
  RETURN_IF_ERROR(check("attn_k", {dim, kv_dim}));
  RETURN_IF_ERROR(check("attn_v", {dim, kv_dim}));
  RETURN_IF_ERROR(check("attn_output", {q_dim, dim}));
  RETURN_IF_ERROR(check("ffn_norm", {dim}));
  if (packed) return absl::OkStatus();  // its FFN is pages, which PackedFile checks
  RETURN_IF_ERROR(check("ffn_gate", {dim, ffn}));
  RETURN_IF_ERROR(check("ffn_up", {dim, ffn}));
  return check("ffn_down", {ffn, dim});
}

// vocab_size and the three tensors outside the layers.
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

absl::StatusOr<ModelConfig> ModelConfig::FromGguf(const GgufHeader& header) {
  ModelConfig config;
  ASSIGN_OR_RETURN(config.architecture, ReadArchitecture(header));
  const ArchitectureKeys keys(header, config.architecture);
  const absl::StatusOr<std::string_view> name = header.GetString("general.name");
  if (name.ok()) config.name = std::string(*name);
  RETURN_IF_ERROR(ReadSizes(keys, &config));
  RETURN_IF_ERROR(ReadHeads(keys, &config));
  RETURN_IF_ERROR(ReadRope(keys, &config));
  RETURN_IF_ERROR(CheckNoUnknownParts(header, keys));
  RETURN_IF_ERROR(ReadEmbedding(header, &config));
  RETURN_IF_ERROR(CheckVocabularyFits(header, config));
  const bool packed = IsPackedFile(header);
  for (int32_t layer = 0; layer < config.layer_count; ++layer) {
    RETURN_IF_ERROR(CheckLayer(header, config, layer, packed));
  }
  return config;
}

}  // namespace dogstar
