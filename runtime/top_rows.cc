#include "runtime/top_rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace dogstar {
namespace {

// A float's magnitude without its last bits: exponent and two leading bits of the fraction.
constexpr int kDroppedBits = 21;
constexpr size_t kBuckets = size_t{1} << (31 - kDroppedBits);
constexpr size_t kLanes = 4;  // neighbours often share a bucket: counted apart, they do not wait for one another

uint32_t Magnitude(float value) { return std::bit_cast<uint32_t>(value) & 0x7FFFFFFFU; }

constexpr float kSteps = 12;  // of an octave

}  // namespace

TopRowsFinder::TopRowsFinder(int32_t ffn_rows) : counts_(kBuckets * kLanes) {
  border_.reserve(static_cast<size_t>(ffn_rows));
}

uint64_t TopRowsFinder::Bytes(int32_t ffn_rows) {
  return kBuckets * kLanes * sizeof(int32_t) + static_cast<uint64_t>(ffn_rows) * sizeof(Border);
}

void TopRowsFinder::Find(std::span<const float> values, int32_t k, std::span<uint64_t> mask) {
  std::fill(counts_.begin(), counts_.end(), 0);
  for (size_t i = 0; i < values.size(); ++i) ++counts_[(Magnitude(values[i]) >> kDroppedBits) * kLanes + i % kLanes];
  const auto count_of = [&](size_t bucket) {
    int32_t count = 0;
    for (size_t lane = 0; lane < kLanes; ++lane) count += counts_[bucket * kLanes + lane];
    return count;
  };
  // Buckets above the border are in as a whole.
  int32_t left = std::min(k, static_cast<int32_t>(values.size()));
  size_t bucket = kBuckets;
  for (; bucket > 0 && count_of(bucket - 1) <= left; --bucket) left -= count_of(bucket - 1);
  const uint32_t above = static_cast<uint32_t>(bucket) << kDroppedBits;
  for (size_t word = 0; word < mask.size(); ++word) {
    const auto values_here = values.subspan(word * 64, std::min<size_t>(64, values.size() - word * 64));
    uint64_t bits = 0;
    for (size_t i = 0; i < values_here.size(); ++i) {
      bits |= static_cast<uint64_t>(Magnitude(values_here[i]) >= above) << i;
    }
    mask[word] = bits;
  }
  if (left > 0) AddBorder(values, bucket - 1, left, mask);
}

// The `left` largest values of one bucket.
void TopRowsFinder::AddBorder(std::span<const float> values, size_t bucket, int32_t left, std::span<uint64_t> mask) {
  border_.clear();
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t magnitude = Magnitude(values[i]);
    if (magnitude >> kDroppedBits == bucket) border_.push_back({magnitude, static_cast<int32_t>(i)});
  }
  std::nth_element(border_.begin(), border_.begin() + left, border_.end(), [](const Border& a, const Border& b) {
    return a.magnitude != b.magnitude ? a.magnitude > b.magnitude : a.index < b.index;
  });
  for (int32_t i = 0; i < left; ++i) {
    const size_t index = static_cast<size_t>(border_[static_cast<size_t>(i)].index);
    mask[index / 64] |= uint64_t{1} << (index % 64);
  }
}

uint8_t EncodeShare(float share) {
  // log2 by the float's own exponent and a line over its fraction: within 0.09 octaves, about a step.
  const float exponent = static_cast<float>(std::bit_cast<int32_t>(share)) * 0x1p-23F - 127;
  return static_cast<uint8_t>(std::clamp(255.5F + exponent * kSteps, 0.0F, 255.0F));
}

float DecodeShare(uint8_t code) {
  static const std::array<float, 256> table = [] {  // immutable
    std::array<float, 256> shares{};
    for (size_t i = 0; i < shares.size(); ++i) {
      const float exponent = (static_cast<float>(i) - 255) / kSteps;
      // The inverse of that line.
      const float whole = std::floor(exponent);
      shares[i] = std::ldexp(1 + exponent - whole, static_cast<int>(whole));
    }
    return shares;
  }();
  return table[code];
}

}  // namespace dogstar
