#include "tests/support/tiny_model.h"

#include <cstdint>
#include <fstream>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"
#include "model/gguf.h"
#include "model/model_config.h"
#include "model/synth_fields.h"

namespace dogstar::testing_support {
namespace {

constexpr uint64_t kAlignment = 32;

// FNV-1a.
uint64_t HashOf(const std::string& name) {
  uint64_t value = 0xCBF29CE484222325;
  for (const char c : name) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return value;
}

// Multiples of 2^-20 in [-0.25, 0.25), and norms around 1.
std::vector<float> WeightsOf(const std::string& name, uint64_t count) {
  SplitMix64 random(HashOf(name));
  const float middle = name.ends_with("norm.weight") ? 1 : 0;
  std::vector<float> values(count);
  for (float& value : values) {
    const auto step = static_cast<float>(static_cast<int64_t>(random.Next() >> 45) - (1 << 18));
    value = middle + step / (1 << 20);
  }
  return values;
}

void AddFields(const nlohmann::json& entry, GgufWriter* writer) {
  writer->AddString("general.architecture", entry["architecture"]);
  std::vector<GgufField> tokenizer = SynthTokenizerFields({}).value();
  for (GgufField& field : tokenizer) writer->AddField(std::move(field));
  for (const auto& [key, value] : entry["fields"].items()) {
    if (value.is_string()) {
      writer->AddString(key, value);
    } else if (value.is_number_float()) {
      writer->AddFloat32(key, value);
    } else {
      writer->AddUint32(key, value);
    }
  }
}

void WriteTensor(const std::vector<float>& values, GgufWriter* writer) {
  CHECK(writer->WriteData(std::as_bytes(std::span(values))).ok());
  CHECK(writer->EndTensor().ok());
}

}  // namespace

nlohmann::json ReadTinyModels() {
  std::ifstream file(DOGSTAR_SOURCE_DIR "/tests/golden/tiny_models.json");
  return nlohmann::json::parse(file)["models"];
}

void WriteTinyGguf(const nlohmann::json& entry, const std::string& path) {
  constexpr auto kF32 = static_cast<uint32_t>(QuantType::kF32);
  GgufWriter writer = *GgufWriter::Create(path, kAlignment);
  AddFields(entry, &writer);
  std::vector<float> factors;
  if (entry.contains("rope_factors")) entry["rope_factors"].get_to(factors);
  for (const auto& [name, shape] : entry["tensors"].items()) CHECK(writer.AddTensor(name, kF32, shape).ok());
  if (!factors.empty()) CHECK(writer.AddTensor(kRopeFactorsTensor, kF32, {factors.size()}).ok());
  CHECK(writer.BeginData().ok());
  for (const auto& [name, shape] : entry["tensors"].items()) {
    uint64_t count = 1;
    for (const uint64_t size : shape) count *= size;
    WriteTensor(WeightsOf(name, count), &writer);
  }
  if (!factors.empty()) WriteTensor(factors, &writer);
  CHECK(writer.Finish().ok());
}

}  // namespace dogstar::testing_support
