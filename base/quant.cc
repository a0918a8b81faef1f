#include "base/quant.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "fmt/format.h"

namespace dogstar {
namespace {

// Sorted by type number. Numbers, names and sizes: the GGUF specification of ggml; 4, 5, 31 to 33 and 36 to 38 were
// withdrawn there.
constexpr std::array<QuantTraits, 34> kTraits = {{
    {"F32", 0, 1, 4, true},          {"F16", 1, 1, 2, true},          {"Q4_0", 2, 32, 18, true},
    {"Q4_1", 3, 32, 20, true},       {"Q5_0", 6, 32, 22, false},      {"Q5_1", 7, 32, 24, false},
    {"Q8_0", 8, 32, 34, true},       {"Q8_1", 9, 32, 40, false},      {"Q2_K", 10, 256, 84, false},
    {"Q3_K", 11, 256, 110, false},   {"Q4_K", 12, 256, 144, false},   {"Q5_K", 13, 256, 176, false},
    {"Q6_K", 14, 256, 210, false},   {"Q8_K", 15, 256, 292, false},   {"IQ2_XXS", 16, 256, 66, false},
    {"IQ2_XS", 17, 256, 74, false},  {"IQ3_XXS", 18, 256, 98, false}, {"IQ1_S", 19, 256, 50, false},
    {"IQ4_NL", 20, 32, 18, false},   {"IQ3_S", 21, 256, 110, false},  {"IQ2_S", 22, 256, 82, false},
    {"IQ4_XS", 23, 256, 136, false}, {"I8", 24, 1, 1, false},         {"I16", 25, 1, 2, false},
    {"I32", 26, 1, 4, false},        {"I64", 27, 1, 8, false},        {"F64", 28, 1, 8, false},
    {"IQ1_M", 29, 256, 56, false},   {"BF16", 30, 1, 2, true},        {"TQ1_0", 34, 256, 54, false},
    {"TQ2_0", 35, 256, 66, false},   {"MXFP4", 39, 32, 17, false},    {"NVFP4", 40, 64, 36, false},
    {"Q1_0", 41, 128, 18, false},
}};

constexpr int kBlockWeights = 32;  // of the three block formats that run
constexpr int kHalfBytes = 2;      // d, and m where there is one
constexpr int kNibbleBytes = kBlockWeights / 2;

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <typename T>
void Store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof(T));
}

float LoadHalf(const std::byte* from) { return HalfToFloat(Load<uint16_t>(from)); }

int NibbleAt(const std::byte* nibbles, int weight) {
  const int pair = std::to_integer<int>(nibbles[weight % kNibbleBytes]);
  return weight < kNibbleBytes ? pair & 15 : pair >> 4;
}

void DequantizeQ8_0(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < kBlockWeights; ++i) {
    out[i] = d * static_cast<float>(Load<int8_t>(block + kHalfBytes + i));
  }
}

void DequantizeQ4_0(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < kBlockWeights; ++i) {
    out[i] = d * static_cast<float>(NibbleAt(block + kHalfBytes, i) - 8);
  }
}

void DequantizeQ4_1(const std::byte* block, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + kHalfBytes);
  for (int i = 0; i < kBlockWeights; ++i) {
    out[i] = d * static_cast<float>(NibbleAt(block + 2 * kHalfBytes, i)) + m;
  }
}

// The nearest code to `value`, ties up; NaN gives `low`.
int NearestCode(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  if (value >= static_cast<float>(high)) return high;
  return static_cast<int>(std::floor(value + 0.5f));
}

float InverseOrZero(float d) { return d != 0 ? 1 / d : 0; }

void StoreNibbles(const std::array<int, kBlockWeights>& codes, std::byte* nibbles) {
  for (int i = 0; i < kNibbleBytes; ++i) {
    nibbles[i] = static_cast<std::byte>(codes[i] | codes[i + kNibbleBytes] << 4);
  }
}

float LargestMagnitude(const float* values) {
  float largest = 0;
  for (int i = 0; i < kBlockWeights; ++i) {
    if (std::abs(values[i]) > std::abs(largest)) largest = values[i];
  }
  return largest;
}

void QuantizeQ8_0(const float* values, std::byte* block) {
  const float d = std::abs(LargestMagnitude(values)) / 127;
  const float inverse = InverseOrZero(d);
  Store(FloatToHalf(d), block);
  for (int i = 0; i < kBlockWeights; ++i) {
    // Ties go away from zero, as in the reference.
    const float scaled = values[i] * inverse;
    const int magnitude = NearestCode(std::abs(scaled), 0, 127);
    Store(static_cast<int8_t>(scaled < 0 ? -magnitude : magnitude), block + kHalfBytes + i);
  }
}

// The weight of largest magnitude gets code 0, that is -8: the side of the range with one code more.
void QuantizeQ4_0(const float* values, std::byte* block) {
  const float d = LargestMagnitude(values) / -8;
  const float inverse = InverseOrZero(d);
  Store(FloatToHalf(d), block);
  std::array<int, kBlockWeights> codes;
  for (int i = 0; i < kBlockWeights; ++i) codes[i] = NearestCode(values[i] * inverse + 8, 0, 15);
  StoreNibbles(codes, block + kHalfBytes);
}

void QuantizeQ4_1(const float* values, std::byte* block) {
  const auto [least, most] = std::minmax_element(values, values + kBlockWeights);
  const float m = *least;
  const float d = (*most - m) / 15;
  const float inverse = InverseOrZero(d);
  Store(FloatToHalf(d), block);
  Store(FloatToHalf(m), block + kHalfBytes);
  std::array<int, kBlockWeights> codes;
  for (int i = 0; i < kBlockWeights; ++i) codes[i] = NearestCode((values[i] - m) * inverse, 0, 15);
  StoreNibbles(codes, block + 2 * kHalfBytes);
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

absl::StatusOr<QuantType> ParseQuantType(std::string_view name) {
  std::string runnable;
  for (const QuantTraits& traits : kTraits) {
    if (!traits.runnable) continue;
    if (traits.name == name) return static_cast<QuantType>(traits.gguf_type);
    runnable += fmt::format("{}{}", runnable.empty() ? "" : ", ", traits.name);
  }
  return absl::InvalidArgumentError(fmt::format("weight type \"{}\" is none of {}", name, runnable));
}

uint64_t RowBytes(QuantType type, int64_t cols) {
  const QuantTraits& traits = TraitsOf(type);
  CHECK(cols >= 0 && cols % traits.block_weights == 0);
  return static_cast<uint64_t>(cols / traits.block_weights) * traits.block_bytes;
}

void DequantizeRow(QuantType type, const std::byte* row, int64_t cols, float* out) {
  const QuantTraits& traits = TraitsOf(type);
  CHECK(cols % traits.block_weights == 0);
  for (int64_t i = 0; i < cols; i += traits.block_weights, row += traits.block_bytes) {
    switch (type) {
      case QuantType::kF32:
        out[i] = Load<float>(row);
        break;
      case QuantType::kF16:
        out[i] = LoadHalf(row);
        break;
      case QuantType::kBF16:
        out[i] = Bfloat16ToFloat(Load<uint16_t>(row));
        break;
      case QuantType::kQ8_0:
        DequantizeQ8_0(row, out + i);
        break;
      case QuantType::kQ4_0:
        DequantizeQ4_0(row, out + i);
        break;
      case QuantType::kQ4_1:
        DequantizeQ4_1(row, out + i);
        break;
    }
  }
}

void QuantizeRow(QuantType type, const float* values, int64_t cols, std::byte* row) {
  const QuantTraits& traits = TraitsOf(type);
  CHECK(cols % traits.block_weights == 0);
  for (int64_t i = 0; i < cols; i += traits.block_weights, row += traits.block_bytes) {
    switch (type) {
      case QuantType::kF32:
        Store(values[i], row);
        break;
      case QuantType::kF16:
        Store(FloatToHalf(values[i]), row);
        break;
      case QuantType::kBF16:
        Store(FloatToBfloat16(values[i]), row);
        break;
      case QuantType::kQ8_0:
        QuantizeQ8_0(values + i, row);
        break;
      case QuantType::kQ4_0:
        QuantizeQ4_0(values + i, row);
        break;
      case QuantType::kQ4_1:
        QuantizeQ4_1(values + i, row);
        break;
    }
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
