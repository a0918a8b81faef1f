// GGUF files made in memory, right and wrong ones, for tests and fuzzing.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/byte_alphabet.h"
#include "model/chat_template.h"
#include "model/gguf.h"
#include "model/gguf_format.h"
#include "model/model_config.h"
#include "model/tokenizer.h"

namespace dogstar {

// Builds a file without checking anything, so that wrong files can be made too.
class GgufBytes {
 public:
  template <typename T>
  static std::string Raw(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static std::string RawString(std::string_view text) { return Raw<uint64_t>(text.size()) + std::string(text); }

  GgufBytes& Field(std::string_view key, GgufValueType type, std::string_view raw_value) {
    fields_.emplace_back(key, Raw(static_cast<uint32_t>(type)) + std::string(raw_value));
    return *this;
  }
  GgufBytes& Uint32(std::string_view key, uint32_t value) { return Field(key, GgufValueType::kUint32, Raw(value)); }
  GgufBytes& Float32(std::string_view key, float value) { return Field(key, GgufValueType::kFloat32, Raw(value)); }
  GgufBytes& Bool(std::string_view key, bool value) {
    return Field(key, GgufValueType::kBool, Raw<uint8_t>(value ? 1 : 0));
  }
  GgufBytes& String(std::string_view key, std::string_view value) {
    return Field(key, GgufValueType::kString, RawString(value));
  }
  GgufBytes& Strings(std::string_view key, const std::vector<std::string>& values) {
    std::string raw = Raw(static_cast<uint32_t>(GgufValueType::kString)) + Raw<uint64_t>(values.size());
    for (const std::string& value : values) raw += RawString(value);
    return Field(key, GgufValueType::kArray, raw);
  }
  GgufBytes& Int32s(std::string_view key, const std::vector<int32_t>& values) {
    std::string raw = Raw(static_cast<uint32_t>(GgufValueType::kInt32)) + Raw<uint64_t>(values.size());
    for (const int32_t value : values) raw += Raw(value);
    return Field(key, GgufValueType::kArray, raw);
  }
  // Removes every field of that key.
  GgufBytes& Float32s(std::string_view key, const std::vector<float>& values) {
    std::string raw = Raw(static_cast<uint32_t>(GgufValueType::kFloat32)) + Raw<uint64_t>(values.size());
    for (const float value : values) raw += Raw(value);
    return Field(key, GgufValueType::kArray, raw);
  }
  // Removes every field of that key.
  GgufBytes& Drop(std::string_view key) {
    std::erase_if(fields_, [&](const auto& field) { return field.first == key; });
    return *this;
  }
  GgufBytes& DropTensor(std::string_view name) {
    std::erase_if(tensors_, [&](const TensorEntry& tensor) { return tensor.name == name; });
    return *this;
  }
  // Placed after the tensors before it.
  GgufBytes& Tensor(std::string_view name, uint32_t type, const std::vector<uint64_t>& shape) {
    const uint64_t bytes = TensorBytes(type, shape).value_or(0);
    TensorAt(name, type, shape, AlignUp(data_bytes_, alignment_));
    data_bytes_ = AlignUp(data_bytes_, alignment_) + bytes;
    return *this;
  }
  GgufBytes& TensorAt(std::string_view name, uint32_t type, const std::vector<uint64_t>& shape, uint64_t offset) {
    tensors_.push_back({std::string(name), type, shape, offset});
    return *this;
  }
  GgufBytes& Alignment(uint32_t alignment) {
    alignment_ = alignment;
    return Uint32("general.alignment", alignment);
  }
  GgufBytes& Version(uint32_t version) {
    version_ = version;
    return *this;
  }

  std::string Header() const {
    std::string out = "GGUF" + Raw(version_) + Raw<uint64_t>(tensors_.size()) + Raw<uint64_t>(fields_.size());
    for (const auto& [key, raw] : fields_) out += RawString(key) + raw;
    for (const TensorEntry& tensor : tensors_) {
      out += RawString(tensor.name) + Raw(static_cast<uint32_t>(tensor.shape.size()));
      for (const uint64_t dimension : tensor.shape) out += Raw(dimension);
      out += Raw(tensor.type) + Raw(tensor.offset);
    }
    return out;
  }
  // With zeros as data.
  std::string File() const {
    std::string out = Header();
    if (!tensors_.empty()) out.resize(AlignUp(out.size(), alignment_) + data_bytes_, '\0');
    return out;
  }

 private:
  struct TensorEntry {
    std::string name;
    uint32_t type;
    std::vector<uint64_t> shape;
    uint64_t offset;
  };
  uint32_t version_ = 3;
  uint64_t alignment_ = 32;
  std::vector<std::pair<std::string, std::string>> fields_;
  std::vector<TensorEntry> tensors_;
  uint64_t data_bytes_ = 0;
};

inline absl::StatusOr<GgufHeader> ParseBytes(std::string_view bytes) {
  return GgufHeader::Parse(std::as_bytes(std::span(bytes)), bytes.size());
}

// A byte-level vocabulary: ids 0 to 255 are the bytes, then merges of "hello world", then special tokens.
inline GgufBytes& AddTinyTokenizer(GgufBytes& file) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteAlphabetChar(static_cast<unsigned char>(byte)));
  const std::vector<std::string> merges = {"h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld"};
  for (const std::string& merge : merges) {
    tokens.push_back(merge.substr(0, merge.find(' ')) + merge.substr(merge.find(' ') + 1));
  }
  std::vector<int32_t> types(tokens.size(), 1);
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(special);
    types.push_back(3);
  }
  for (const char* added : {"<|im_", "    "}) {
    tokens.emplace_back(added);
    types.push_back(4);
  }
  return file.String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", "smollm")
      .Strings("tokenizer.ggml.tokens", tokens)
      .Int32s("tokenizer.ggml.token_type", types)
      .Strings("tokenizer.ggml.merges", merges)
      .Uint32("tokenizer.ggml.bos_token_id", 266)
      .Uint32("tokenizer.ggml.eos_token_id", 267)
      .Bool("tokenizer.ggml.add_bos_token", false)
      .String("tokenizer.chat_template", "<|im_start|>{{ x }}<|im_end|>");
}
inline constexpr int32_t kTinyHello = 259;
inline constexpr int32_t kTinyWorld = 264;
inline constexpr int32_t kTinyEndOfText = 265;
inline constexpr int32_t kTinyImStart = 266;
inline constexpr int32_t kTinyImEnd = 267;
inline constexpr int32_t kTinyUserDefined = 268;  // "<|im_", a prefix of two control tokens
inline constexpr int32_t kTinyFourSpaces = 269;
inline constexpr uint64_t kTinyVocab = 270;

inline constexpr uint32_t kTinyWeightType = 8;  // Q8_0

// The smallest llama that runs: one layer.
inline GgufBytes TinyModel() {
  GgufBytes file;
  file.String("general.architecture", "llama")
      .String("general.name", "tiny")
      .Uint32("llama.block_count", 1)
      .Uint32("llama.context_length", 64)
      .Uint32("llama.embedding_length", 32)
      .Uint32("llama.feed_forward_length", 64)
      .Uint32("llama.attention.head_count", 2)
      .Uint32("llama.attention.head_count_kv", 1)
      .Uint32("llama.rope.dimension_count", 16)
      .Float32("llama.rope.freq_base", 10000)
      .Float32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  AddTinyTokenizer(file);
  return file.Tensor("token_embd.weight", kTinyWeightType, {32, kTinyVocab})
      .Tensor("blk.0.attn_norm.weight", 0, {32})
      .Tensor("blk.0.attn_q.weight", kTinyWeightType, {32, 32})
      .Tensor("blk.0.attn_k.weight", kTinyWeightType, {32, 16})
      .Tensor("blk.0.attn_v.weight", kTinyWeightType, {32, 16})
      .Tensor("blk.0.attn_output.weight", kTinyWeightType, {32, 32})
      .Tensor("blk.0.ffn_norm.weight", 0, {32})
      .Tensor("blk.0.ffn_gate.weight", kTinyWeightType, {32, 64})
      .Tensor("blk.0.ffn_up.weight", kTinyWeightType, {32, 64})
      .Tensor("blk.0.ffn_down.weight", kTinyWeightType, {64, 32})
      .Tensor("output_norm.weight", 0, {32});
}

// What must hold for any bytes: an error with a message, or a header, a description and a tokenizer that are right.
inline void CheckAnyBytes(std::string_view bytes) {
  const absl::StatusOr<GgufHeader> header = ParseBytes(bytes);
  CHECK(header.ok() || !header.status().message().empty());
  CHECK(!absl::IsOutOfRange(header.status()));  // the bytes are the whole file
  if (!header.ok()) return;
  for (const GgufTensor& tensor : header->tensors()) {
    CHECK(header->FindTensor(tensor.name) == &tensor);
    CHECK(tensor.offset >= header->data_offset() && tensor.offset + tensor.bytes <= bytes.size());
    CHECK((tensor.offset - header->data_offset()) % header->alignment() == 0);
  }
  const absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(*header);
  if (config.ok()) {
    CHECK(config->layer_count > 0 && config->dim > 0 && config->head_dim > 0 && config->vocab_size > 0);
    CHECK(config->kind_of_layer.size() == static_cast<size_t>(config->layer_count));
    for (int32_t i = 0; i < config->layer_count; ++i) {
      const AttentionKind& attention = config->attention(LayerIndex{i});
      CHECK(attention.rope_frequencies.size() == static_cast<size_t>(config->rotary_dims / 2));
    }
  }
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromGguf(*header);
  if (!tokenizer.ok()) return;
  constexpr std::string_view kText = "hello world <|im_end|>\n12 \xff";
  for (const TokenId token : (*tokenizer)->Encode(kText, {.parse_special = true})) {
    CHECK(ToInt(token) >= 0 && ToInt(token) < (*tokenizer)->vocab_size());
    (*tokenizer)->TokenBytes(token, /*special=*/true);
  }
  ChatTemplate::Recognise((*tokenizer)->chat_template()).IgnoreError();
}

}  // namespace dogstar
