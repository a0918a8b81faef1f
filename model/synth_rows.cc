#include "model/synth_rows.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "base/quant_codes.h"
#include "model/packed_file.h"

namespace dogstar {
namespace {

constexpr double kGain = 0.6;              // guess: keeps activations near 1 through many layers
constexpr double kNibbleDeviation = 4.61;  // of 16 equally likely codes
constexpr double kByteDeviation = 73.6;    // of 255 equally likely codes

// Types whose blocks are a few scales and random codes; blocks of the others are drawn from ready ones.
bool HasSimpleBlocks(QuantType type) {
  return type == QuantType::kQ4_0 || type == QuantType::kQ4_1 || type == QuantType::kQ8_0;
}

uint64_t KeyOf(uint64_t seed, std::string_view tensor) {
  const uint64_t name = ChecksumOf(std::as_bytes(std::span(tensor)));
  return SplitMix64(seed ^ name).Next();
}

double NormalValue(SplitMix64* random) {  // Box and Muller
  const double radius = std::sqrt(-2 * std::log(1 - random->Uniform()));
  return radius * std::cos(2 * std::numbers::pi * random->Uniform());
}

void PutFloat(QuantType type, float value, std::byte* out) {
  if (type == QuantType::kF32) {
    std::memcpy(out, &value, 4);
    return;
  }
  const uint16_t bits = type == QuantType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
  std::memcpy(out, &bits, 2);
}

}  // namespace

SynthRows::SynthRows(QuantType type, int64_t cols, uint64_t seed, std::string_view tensor)
    : type_(type), cols_(cols), key_(KeyOf(seed, tensor)), deviation_(kGain / std::sqrt(static_cast<double>(cols))) {
  if (IsFloatType(type)) {
    MakeSamples(seed);
  } else if (HasSimpleBlocks(type)) {
    MakeScales();
  } else {
    MakeSampleBlocks(seed);
  }
}

// Scales of 0.7 to 1.3 times the mean. Both signs where the codes are not symmetric (Q4_0: -8 to 7), so that the
// weights' mean is zero.
void SynthRows::MakeScales() {
  const double mean = deviation_ / (type_ == QuantType::kQ8_0 ? kByteDeviation : kNibbleDeviation);
  for (size_t i = 0; i < kScales; ++i) {
    const double factor = 0.7 + 0.6 * static_cast<double>(i / 2) / (kScales / 2 - 1);
    const double sign = type_ == QuantType::kQ4_0 && i % 2 == 1 ? -1 : 1;
    const auto scale = static_cast<float>(sign * factor * mean);
    scales_[i] = {FloatToHalf(scale), FloatToHalf(-7.5f * scale)};
  }
}

void SynthRows::MakeSamples(uint64_t seed) {
  const auto bytes = static_cast<size_t>(TraitsOf(type_).block_bytes);
  samples_.resize(kSamples * bytes);
  SplitMix64 random(seed);
  for (size_t i = 0; i < kSamples; ++i) {
    PutFloat(type_, static_cast<float>(deviation_ * NormalValue(&random)), samples_.data() + i * bytes);
  }
}

void SynthRows::MakeSampleBlocks(uint64_t seed) {
  const QuantTraits& traits = TraitsOf(type_);
  samples_.resize(kSampleBlocks * static_cast<size_t>(traits.block_bytes));
  std::vector<float> values(static_cast<size_t>(traits.block_weights));
  SplitMix64 random(seed);
  for (size_t i = 0; i < kSampleBlocks; ++i) {
    for (float& value : values) value = static_cast<float>(deviation_ * NormalValue(&random));
    QuantizeRow(type_, values.data(), traits.block_weights,
                samples_.data() + i * static_cast<size_t>(traits.block_bytes));
  }
}

void SynthRows::FillRow(int64_t row, std::byte* out) const {
  // A step of the generator between key and state: states that differ by small numbers would give streams that overlap.
  SplitMix64 random(SplitMix64(key_ + static_cast<uint64_t>(row)).Next());
  if (!IsFloatType(type_)) {
    return HasSimpleBlocks(type_) ? FillBlocks(&random, out) : FillSampleBlocks(&random, out);
  }
  type_ == QuantType::kF32 ? FillFloats<4>(&random, out) : FillFloats<2>(&random, out);
}

void SynthRows::FillBlocks(SplitMix64* random, std::byte* out) const {
  const QuantTraits& traits = TraitsOf(type_);
  const size_t scale_bytes = type_ == QuantType::kQ4_1 ? 4 : 2;
  const auto block_bytes = static_cast<size_t>(traits.block_bytes);
  const int64_t blocks = cols_ / traits.block_weights;
  uint64_t picks = 0;
  for (int64_t block = 0; block < blocks; ++block, out += block_bytes) {
    picks = block % 8 == 0 ? random->Next() : picks >> 8;
    std::memcpy(out, scales_[picks % kScales].data(), scale_bytes);
    for (size_t i = scale_bytes; i < block_bytes; i += 8) {
      const uint64_t codes = random->Next();
      std::memcpy(out + i, &codes, 8);
    }
    if (type_ != QuantType::kQ8_0) continue;
    // No quantizer writes the code -128.
    for (size_t i = scale_bytes; i < block_bytes; ++i) {
      if (out[i] == std::byte{0x80}) out[i] = std::byte{0x81};
    }
  }
}

void SynthRows::FillSampleBlocks(SplitMix64* random, std::byte* out) const {
  const auto block_bytes = static_cast<size_t>(TraitsOf(type_).block_bytes);
  for (int64_t block = 0; block < cols_ / TraitsOf(type_).block_weights; ++block, out += block_bytes) {
    std::memcpy(out, samples_.data() + random->Next() % kSampleBlocks * block_bytes, block_bytes);
  }
}

template <size_t kBytes>
void SynthRows::FillFloats(SplitMix64* random, std::byte* out) const {
  constexpr int kPicksPerDraw = 5;  // of 12 bits
  for (int64_t column = 0; column < cols_;) {
    uint64_t picks = random->Next();
    for (int i = 0; i < kPicksPerDraw && column < cols_; ++i, ++column, picks >>= 12) {
      std::memcpy(out + static_cast<size_t>(column) * kBytes, samples_.data() + picks % kSamples * kBytes, kBytes);
    }
  }
}

}  // namespace dogstar
