// dogstar inspect: what a GGUF file holds. Says what it can about files that cannot run.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/chat_template.h"
#include "model/gguf.h"
#include "model/model_config.h"
#include "model/packed_file.h"
#include "model/tokenizer.h"
#include "tools/command.h"
#include "tools/output.h"

namespace dogstar {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kHalfBytes = 2;  // a key or value in the KV cache

// Null where the file does not say or says something else.
Json UintOrNull(const GgufHeader& header, const std::string& key) {
  const absl::StatusOr<uint64_t> value = header.GetUint(key);
  return value.ok() ? Json(*value) : Json(nullptr);
}

Json StringOrNull(const GgufHeader& header, const std::string& key) {
  const absl::StatusOr<std::string_view> value = header.GetString(key);
  return value.ok() ? Json(std::string(*value)) : Json(nullptr);
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

Json DescribeShape(const ModelConfig& config) {
  return {{"layers", config.layer_count},     {"hidden_size", config.dim},
          {"ffn_rows", config.ffn_rows},      {"heads", config.head_count},
          {"kv_heads", config.kv_head_count}, {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},  {"context_length", config.context_length}};
}

// For a model that cannot run: whatever its metadata says.
Json GuessShape(const GgufHeader& header, const std::string& architecture) {
  const auto uint = [&](const char* key) { return UintOrNull(header, fmt::format("{}.{}", architecture, key)); };
  Json vocab_size = nullptr;
  if (const GgufTensor* embedding = header.FindTensor(kEmbeddingTensor)) vocab_size = embedding->rows();
  return {{"layers", uint("block_count")},
          {"hidden_size", uint("embedding_length")},
          {"ffn_rows", uint("feed_forward_length")},
          {"heads", uint("attention.head_count")},
          {"kv_heads", uint("attention.head_count_kv")},
          {"head_dim", uint("attention.key_length")},
          {"vocab_size", vocab_size},
          {"context_length", uint("context_length")}};
}

Json KvBytesPerToken(const absl::StatusOr<ModelConfig>& config) {
  if (!config.ok()) return nullptr;
  return uint64_t{2} * static_cast<uint64_t>(config->layer_count) * static_cast<uint64_t>(config->kv_head_count) *
         static_cast<uint64_t>(config->head_dim) * kHalfBytes;
}

bool Contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

std::string_view PartOf(std::string_view tensor) {
  if (Contains(tensor, "norm")) return "norms";
  if (tensor.starts_with("token_embd")) return "embedding";
  if (tensor.starts_with("output.")) return "head";
  if (tensor.starts_with("blk.") && Contains(tensor, ".attn_")) return "attention";
  if (tensor.starts_with("blk.") && Contains(tensor, ".ffn_")) return "ffn";
  return "other";
}

Json DescribeParts(const GgufHeader& header) {
  Json parts = {{"embedding", 0u}, {"attention", 0u}, {"ffn", 0u}, {"norms", 0u}, {"head", 0u}, {"other", 0u}};
  for (const GgufTensor& tensor : header.tensors()) {
    Json& bytes = parts[std::string(PartOf(tensor.name))];
    bytes = bytes.get<uint64_t>() + tensor.bytes;
  }
  return parts;
}

// Types by the bytes they take, largest first.
Json DescribeTypes(const GgufHeader& header) {
  struct Sum {
    std::string type;
    uint64_t tensors = 0;
    uint64_t bytes = 0;
    bool runs = false;
  };
  std::map<uint32_t, Sum> by_number;
  for (const GgufTensor& tensor : header.tensors()) {
    const QuantTraits* traits = FindQuantTraits(tensor.gguf_type);  // known: the header was parsed
    Sum& sum = by_number[tensor.gguf_type];
    sum.type = traits->name;
    sum.runs = traits->runnable;
    sum.tensors += 1;
    sum.bytes += tensor.bytes;
  }
  std::vector<Sum> sums;
  for (const auto& [number, sum] : by_number) sums.push_back(sum);
  std::stable_sort(sums.begin(), sums.end(), [](const Sum& a, const Sum& b) { return a.bytes > b.bytes; });
  Json types = Json::array();
  for (const Sum& sum : sums) {
    types.push_back({{"type", sum.type}, {"tensors", sum.tensors}, {"bytes", sum.bytes}, {"runs", sum.runs}});
  }
  return types;
}

Json DescribeTokenizer(const GgufHeader& header) {
  const absl::StatusOr<const GgufArray*> tokens = header.GetArray("tokenizer.ggml.tokens", GgufValueType::kString);
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromGguf(header);
  Json description = {{"model", StringOrNull(header, "tokenizer.ggml.model")},
                      {"pre_tokenizer", StringOrNull(header, "tokenizer.ggml.pre")},
                      {"vocab_size", tokens.ok() ? Json((*tokens)->count) : Json(nullptr)},
                      {"bos", UintOrNull(header, "tokenizer.ggml.bos_token_id")},
                      {"eos", UintOrNull(header, "tokenizer.ggml.eos_token_id")},
                      {"end_tokens", Json::array()},
                      {"memory_bytes", nullptr},
                      {"problem", tokenizer.ok() ? Json(nullptr) : Json(MessageOf(tokenizer.status()))}};
  if (!tokenizer.ok()) return description;
  for (const TokenId token : (*tokenizer)->end_tokens()) {
    description["end_tokens"].push_back(
        {{"id", ToInt(token)}, {"text", (*tokenizer)->TokenBytes(token, /*special=*/true)}});
  }
  description["memory_bytes"] = (*tokenizer)->memory_bytes();
  return description;
}

Json DescribeChat(const GgufHeader& header) {
  const absl::StatusOr<std::string_view> text = header.GetString("tokenizer.chat_template");
  if (!text.ok()) return {{"format", nullptr}, {"problem", "the model has no chat template"}};
  const absl::StatusOr<ChatTemplate> recognised = ChatTemplate::Recognise(*text);
  if (!recognised.ok()) return {{"format", nullptr}, {"problem", MessageOf(recognised.status())}};
  return {{"format", ChatFormatNames()[static_cast<size_t>(recognised->format)]},
          {"default_system", recognised->default_system},
          {"problem", nullptr}};
}

uint64_t TensorBytesOf(const GgufHeader& header) {
  uint64_t total = 0;
  for (const GgufTensor& tensor : header.tensors()) total += tensor.bytes;
  return total;
}

Json Describe(const std::string& path, const GgufHeader& header) {
  const absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(header);
  const absl::StatusOr<std::string_view> architecture = header.GetString("general.architecture");
  const std::string architecture_name = architecture.ok() ? std::string(*architecture) : "";
  return {{"file", path},
          {"file_bytes", header.file_bytes()},
          {"gguf_version", header.version()},
          {"alignment", header.alignment()},
          {"packed", PackedFile::IsPacked(header)},
          {"architecture", StringOrNull(header, "general.architecture")},
          {"name", StringOrNull(header, "general.name")},
          {"can_run", config.ok()},
          {"problem", config.ok() ? Json(nullptr) : Json(MessageOf(config.status()))},
          {"shape", config.ok() ? DescribeShape(*config) : GuessShape(header, architecture_name)},
          {"tensors", header.tensors().size()},
          {"tensor_bytes", TensorBytesOf(header)},
          {"types", DescribeTypes(header)},
          {"part_bytes", DescribeParts(header)},
          {"tied_head", config.ok() ? Json(config->tied_head) : Json(nullptr)},
          {"kv_bytes_per_token", KvBytesPerToken(config)},
          {"tokenizer", DescribeTokenizer(header)},
          {"chat", DescribeChat(header)}};
}

std::string TextOf(const Json& value) {
  if (value.is_null()) return "-";
  return Printable(value.is_string() ? value.get<std::string>() : value.dump());
}

void PrintRow(std::string_view label, std::string_view value) { fmt::print("{:<18}{}\n", label, value); }
void PrintField(std::string_view label, const Json& value) { PrintRow(label, TextOf(value)); }

std::string SizeText(const Json& bytes) { return bytes.is_null() ? "-" : FormatSize(bytes.get<uint64_t>()); }

void PrintModel(const Json& report) {
  PrintRow("file", fmt::format("{} ({}, {}GGUF version {})", Printable(report["file"].get<std::string>()),
                               SizeText(report["file_bytes"]), report["packed"].get<bool>() ? "packed, " : "",
                               TextOf(report["gguf_version"])));
  PrintField("architecture", report["architecture"]);
  PrintField("name", report["name"]);
  PrintRow("runs", report["can_run"].get<bool>() ? "yes" : fmt::format("no: {}", TextOf(report["problem"])));
  const Json& shape = report["shape"];
  PrintField("layers", shape["layers"]);
  PrintField("hidden size", shape["hidden_size"]);
  PrintField("FFN rows", shape["ffn_rows"]);
  PrintRow("heads", fmt::format("{} (KV {}, {} wide)", TextOf(shape["heads"]), TextOf(shape["kv_heads"]),
                                TextOf(shape["head_dim"])));
  PrintField("vocabulary", shape["vocab_size"]);
  PrintField("context", shape["context_length"]);
  PrintRow("KV cache", report["kv_bytes_per_token"].is_null()
                           ? "-"
                           : fmt::format("{} a token (f16)", SizeText(report["kv_bytes_per_token"])));
}

void PrintSizes(const Json& report) {
  fmt::print("\n{:<16}{:>8}  {:>12}\n", "weights", "tensors", "size");
  for (const Json& type : report["types"]) {
    fmt::print("  {:<14}{:>8}  {:>12}{}\n", TextOf(type["type"]), TextOf(type["tensors"]), SizeText(type["bytes"]),
               type["runs"].get<bool>() || report["packed"].get<bool>() ? "" : "  cannot run");
  }
  fmt::print("  {:<14}{:>8}  {:>12}\n\n{:<26}{:>12}\n", "total", TextOf(report["tensors"]),
             SizeText(report["tensor_bytes"]), "part", "size");
  for (const auto& [part, bytes] : report["part_bytes"].items()) {
    const bool tied = part == "head" && report["tied_head"] == true;
    if (!tied && bytes == 0u) continue;
    fmt::print("  {:<24}{:>12}\n", part == "ffn" ? "FFN" : part, tied ? "tied" : SizeText(bytes));
  }
}

void PrintTokenizer(const Json& tokenizer, const Json& chat) {
  fmt::print("\n");
  PrintRow("tokenizer", fmt::format("{}, pre-tokenizer {}, {} tokens", TextOf(tokenizer["model"]),
                                    TextOf(tokenizer["pre_tokenizer"]), TextOf(tokenizer["vocab_size"])));
  if (!tokenizer["problem"].is_null()) PrintField("  cannot encode", tokenizer["problem"]);
  PrintRow("BOS, EOS", fmt::format("{}, {}", TextOf(tokenizer["bos"]), TextOf(tokenizer["eos"])));
  std::vector<std::string> ends;
  for (const Json& token : tokenizer["end_tokens"]) {
    ends.push_back(fmt::format("{} {}", TextOf(token["id"]), TextOf(token["text"])));
  }
  if (!ends.empty()) PrintRow("end tokens", fmt::format("{}", fmt::join(ends, ", ")));
  PrintField("chat", chat["format"].is_null() ? chat["problem"] : chat["format"]);
  if (chat.contains("default_system") && chat["default_system"] != "") {
    PrintField("  default system", chat["default_system"]);
  }
}

absl::Status RunInspect(const std::string& path, bool json) {
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(path));
  const Json report = Describe(path, header);
  if (json) {
    PrintJson(report);
    return absl::OkStatus();
  }
  PrintModel(report);
  if (!report["types"].empty()) PrintSizes(report);
  PrintTokenizer(report["tokenizer"], report["chat"]);
  return absl::OkStatus();
}

}  // namespace

void AddInspectCommand(CLI::App& app, CommandContext* context) {
  const auto path = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a GGUF or packed file holds");
  command->add_option("FILE", *path, "GGUF file; a vocabulary without weights will do")->required();
  command->add_flag("--json", context->json, "Print one JSON object");
  command->callback([path, context] { context->run = [=] { return RunInspect(*path, context->json); }; });
}

}  // namespace dogstar
