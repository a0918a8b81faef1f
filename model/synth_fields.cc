#include "model/synth_fields.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "fmt/format.h"
#include "model/byte_alphabet.h"

namespace dogstar {
namespace {

constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr uint32_t kContextLength = 8192;
constexpr float kRopeBase = 500000;
constexpr float kNormEpsilon = 1e-5f;
constexpr int32_t kNormalToken = 1;   // GGUF's numbers
constexpr int32_t kControlToken = 3;  // for tokenizer.ggml.token_type
constexpr std::array<const char*, 3> kSpecials = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
// Enough for the merging to be exercised.
constexpr std::array<std::pair<const char*, const char*>, 6> kMerges = {
    {{"t", "h"}, {"th", "e"}, {"\xC4\xA0", "the"}, {"i", "n"}, {"a", "n"}, {"an", "d"}}};

GgufField StringField(const char* key, std::string value) {
  return {.key = key, .type = GgufValueType::kString, .value = std::move(value)};
}

GgufField Uint32Field(std::string key, uint64_t value) {
  return {.key = std::move(key), .type = GgufValueType::kUint32, .value = value};
}

GgufField FloatField(std::string key, double value) {
  return {.key = std::move(key), .type = GgufValueType::kFloat32, .value = value};
}

GgufField StringsField(const char* key, std::vector<std::string> values) {
  GgufArray array{.element_type = GgufValueType::kString, .count = values.size()};
  array.strings = std::move(values);
  return {.key = key, .type = GgufValueType::kArray, .value = std::move(array)};
}

GgufField Int32sField(const char* key, const std::vector<int32_t>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  GgufArray array{.element_type = GgufValueType::kInt32, .count = values.size(), .fixed = {bytes.begin(), bytes.end()}};
  return {.key = key, .type = GgufValueType::kArray, .value = std::move(array)};
}

std::vector<GgufField> ByteTokenizerFields() {
  std::vector<std::string> tokens(kSpecials.begin(), kSpecials.end());
  std::vector<int32_t> types(kSpecials.size(), kControlToken);
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteAlphabetChar(static_cast<unsigned char>(byte)));
  std::vector<std::string> merges;
  for (const auto& [left, right] : kMerges) {
    tokens.push_back(fmt::format("{}{}", left, right));
    merges.push_back(fmt::format("{} {}", left, right));
  }
  types.resize(tokens.size(), kNormalToken);

  std::vector<GgufField> fields;
  fields.push_back(StringField("tokenizer.ggml.model", "gpt2"));
  fields.push_back(StringField("tokenizer.ggml.pre", "smollm"));
  fields.push_back(StringsField(kTokensKey, std::move(tokens)));
  fields.push_back(Int32sField("tokenizer.ggml.token_type", types));
  fields.push_back(StringsField("tokenizer.ggml.merges", std::move(merges)));
  fields.push_back(Uint32Field("tokenizer.ggml.bos_token_id", 0));
  fields.push_back(Uint32Field("tokenizer.ggml.eos_token_id", 0));
  fields.push_back({.key = "tokenizer.ggml.add_bos_token", .type = GgufValueType::kBool, .value = false});
  return fields;
}

// llama.cpp's numbers of file types.
uint64_t FileTypeOf(QuantType type) {
  switch (type) {
    case QuantType::kF32:
      return 0;
    case QuantType::kF16:
      return 1;
    case QuantType::kQ4_0:
      return 2;
    case QuantType::kQ4_1:
      return 3;
    case QuantType::kQ8_0:
      return 7;
    case QuantType::kQ5_0:
      return 8;
    case QuantType::kQ5_1:
      return 9;
    case QuantType::kQ2_K:
      return 10;
    case QuantType::kQ3_K:
      return 12;
    case QuantType::kQ4_K:
      return 15;
    case QuantType::kQ5_K:
      return 17;
    case QuantType::kQ6_K:
      return 18;
    case QuantType::kIQ4_NL:
      return 25;
    case QuantType::kBF16:
      return 32;
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::vector<GgufField>> SynthTokenizerFields(const SynthOptions& options) {
  if (!options.like) return ByteTokenizerFields();
  ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(*options.like));
  std::vector<GgufField> fields = header.TakeFields();
  std::erase_if(fields, [](const GgufField& field) { return !field.key.starts_with("tokenizer."); });
  if (SynthVocabSize(fields) == 0) {
    return absl::InvalidArgumentError(fmt::format("{} has no vocabulary ({})", *options.like, kTokensKey));
  }
  return fields;
}

uint64_t SynthVocabSize(const std::vector<GgufField>& tokenizer_fields) {
  for (const GgufField& field : tokenizer_fields) {
    const auto* const array = std::get_if<GgufArray>(&field.value);
    if (field.key == kTokensKey && array != nullptr) return array->count;
  }
  return 0;
}

std::vector<GgufField> SynthModelFields(const SynthOptions& options, uint64_t vocab_size) {
  const SynthShape& shape = options.shape;
  const auto size = [](int32_t value) { return static_cast<uint64_t>(value); };
  std::vector<GgufField> fields;
  fields.push_back(StringField("general.architecture", "llama"));
  fields.push_back(StringField("general.name", fmt::format("synthetic-{}", options.name)));
  fields.push_back(Uint32Field("general.file_type", FileTypeOf(options.type)));
  fields.push_back(Uint32Field("general.quantization_version", 2));
  fields.push_back(Uint32Field("llama.context_length", kContextLength));
  fields.push_back(Uint32Field("llama.embedding_length", size(shape.dim)));
  fields.push_back(Uint32Field("llama.block_count", size(shape.layers)));
  fields.push_back(Uint32Field("llama.feed_forward_length", size(shape.ffn_rows)));
  fields.push_back(Uint32Field("llama.attention.head_count", size(shape.head_count)));
  fields.push_back(Uint32Field("llama.attention.head_count_kv", size(shape.kv_head_count)));
  fields.push_back(FloatField("llama.attention.layer_norm_rms_epsilon", kNormEpsilon));
  fields.push_back(Uint32Field("llama.rope.dimension_count", size(shape.dim / shape.head_count)));
  fields.push_back(FloatField("llama.rope.freq_base", kRopeBase));
  fields.push_back(Uint32Field("llama.vocab_size", vocab_size));
  return fields;
}

}  // namespace dogstar
