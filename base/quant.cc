#include "base/quant.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "base/quant_codes.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace dogstar {
namespace {

// Sorted by type number. Numbers, names and sizes: the GGUF specification of ggml; 4, 5, 31 to 33 and 36 to 38 were
// withdrawn there.
constexpr std::array<QuantTraits, 34> kTraits = {{
    {"F32", 0, 1, 4, true},          {"F16", 1, 1, 2, true},          {"Q4_0", 2, 32, 18, true},
    {"Q4_1", 3, 32, 20, true},       {"Q5_0", 6, 32, 22, true},       {"Q5_1", 7, 32, 24, true},
    {"Q8_0", 8, 32, 34, true},       {"Q8_1", 9, 32, 40, false},      {"Q2_K", 10, 256, 84, true},
    {"Q3_K", 11, 256, 110, true},    {"Q4_K", 12, 256, 144, true},    {"Q5_K", 13, 256, 176, true},
    {"Q6_K", 14, 256, 210, true},    {"Q8_K", 15, 256, 292, false},   {"IQ2_XXS", 16, 256, 66, false},
    {"IQ2_XS", 17, 256, 74, false},  {"IQ3_XXS", 18, 256, 98, false}, {"IQ1_S", 19, 256, 50, false},
    {"IQ4_NL", 20, 32, 18, true},    {"IQ3_S", 21, 256, 110, false},  {"IQ2_S", 22, 256, 82, false},
    {"IQ4_XS", 23, 256, 136, false}, {"I8", 24, 1, 1, false},         {"I16", 25, 1, 2, false},
    {"I32", 26, 1, 4, false},        {"I64", 27, 1, 8, false},        {"F64", 28, 1, 8, false},
    {"IQ1_M", 29, 256, 56, false},   {"BF16", 30, 1, 2, true},        {"TQ1_0", 34, 256, 54, false},
    {"TQ2_0", 35, 256, 66, false},   {"MXFP4", 39, 32, 17, false},    {"NVFP4", 40, 64, 36, false},
    {"Q1_0", 41, 128, 18, false},
}};

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// 32 weights of a block format.
void DequantizeCodes(QuantType type, const std::byte* row, int64_t index, float* out) {
  const Codes codes = LoadCodes(type, row, index);
  const int group_weights = ShapeOf(type).group_weights;
  const bool minimum = ShapeOf(type).has_minimum();
  GroupScale scale;
  for (int i = 0; i < kCodesTogether; ++i) {
    if (i % group_weights == 0) {
      scale = Combine(type, LoadScales(type, row, (index * kCodesTogether + i) / group_weights));
    }
    const float value = scale.d * static_cast<float>(CodeValue(type, codes[static_cast<size_t>(i)]));
    out[i] = minimum ? value + scale.m : value;
  }
}

}  // namespace

const QuantTraits* FindQuantTraits(uint32_t gguf_type) {
  const auto found = std::lower_bound(kTraits.begin(), kTraits.end(), gguf_type,
                                      [](const QuantTraits& traits, uint32_t type) { return traits.gguf_type < type; });
  return found != kTraits.end() && found->gguf_type == gguf_type ? &*found : nullptr;
}

const QuantTraits& TraitsOf(QuantType type) {
  const QuantTraits* traits = FindQuantTraits(static_cast<uint32_t>(type));
  CHECK(traits != nullptr && traits->runnable);
  return *traits;
}

std::vector<std::string> RunnableQuantTypes() {
  std::vector<std::string> names;
  for (const QuantTraits& traits : kTraits) {
    if (traits.runnable) names.emplace_back(traits.name);
  }
  return names;
}

absl::StatusOr<QuantType> ParseQuantType(std::string_view name) {
  for (const QuantTraits& traits : kTraits) {
    if (traits.runnable && traits.name == name) return static_cast<QuantType>(traits.gguf_type);
  }
  return absl::InvalidArgumentError(
      fmt::format("weight type \"{}\" is none of {}", name, fmt::join(RunnableQuantTypes(), ", ")));
}

uint64_t RowBytes(QuantType type, int64_t cols) {
  const QuantTraits& traits = TraitsOf(type);
  CHECK(cols >= 0 && cols % traits.block_weights == 0);
  return static_cast<uint64_t>(cols / traits.block_weights) * traits.block_bytes;
}

void DequantizeRow(QuantType type, const std::byte* row, int64_t cols, float* out) {
  const QuantTraits& traits = TraitsOf(type);
  CHECK(cols % traits.block_weights == 0);
  switch (type) {
    case QuantType::kF32:
      if (cols > 0) std::memcpy(out, row, static_cast<size_t>(cols) * sizeof(float));
      return;
    case QuantType::kF16:
      for (int64_t i = 0; i < cols; ++i) out[i] = HalfToFloat(Load<uint16_t>(row + 2 * i));
      return;
    case QuantType::kBF16:
      for (int64_t i = 0; i < cols; ++i) out[i] = Bfloat16ToFloat(Load<uint16_t>(row + 2 * i));
      return;
    default:
      for (int64_t i = 0; i < cols / kCodesTogether; ++i) DequantizeCodes(type, row, i, out + i * kCodesTogether);
  }
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) {  // infinity; NaNs become quiet, as the processor's own conversion does it
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | mantissa << 13);
  }
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, which a float holds exactly
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14, halves are multiples of 2^-24, which is also the spacing of floats at 0.5: the sum rounds for us.
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(0.5f)));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  const uint32_t rounded = (magnitude + 0xfffu + odd) >> 13;  // a carry moves into the exponent, as it should
  return static_cast<uint16_t>(sign | (rounded - ((127u - 15u) << 10)));
}

float Bfloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // rounding could lose NaN
  const uint32_t odd = bits >> 16 & 1u;
  return static_cast<uint16_t>((bits + 0x7fffu + odd) >> 16);
}

}  // namespace dogstar
