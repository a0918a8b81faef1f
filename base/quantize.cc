// QuantizeRow: weights to blocks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "base/quant.h"
#include "base/quant_codes.h"

namespace dogstar {
namespace {

using Values = std::span<const float>;

// The nearest code to `value`, ties up; NaN gives `low`.
int NearestCode(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  if (value >= static_cast<float>(high)) return high;
  return static_cast<int>(std::floor(value + 0.5f));
}

float InverseOrZero(float d) { return d != 0 ? 1 / d : 0; }

// With its sign.
float LargestMagnitude(Values values) {
  float largest = 0;
  for (const float value : values) {
    if (std::abs(value) > std::abs(largest)) largest = value;
  }
  return largest;
}

// Ties go away from zero, as in the reference.
int NearestByte(float value) {
  const int magnitude = NearestCode(std::abs(value), 0, 127);
  return value < 0 ? -magnitude : magnitude;
}

int NearestIq4(float value) {
  int best = 0;
  for (int code = 1; code < 16; ++code) {
    const auto distance = [&](int c) {
      return std::abs(value - static_cast<float>(kIq4Values[static_cast<size_t>(c)]));
    };
    if (distance(code) < distance(best)) best = code;
  }
  return best;
}

int NearestTo(QuantType type, float value) {
  if (type == QuantType::kQ8_0) return NearestByte(value) & 0xff;
  if (type == QuantType::kIQ4_NL) return NearestIq4(value);
  const QuantShape& shape = ShapeOf(type);
  return NearestCode(value + static_cast<float>(shape.offset), 0, (1 << shape.bits()) - 1);
}

// The scale that a group would like, before it is rounded to what the format stores. Formats without a minimum give the
// weight of largest magnitude the code of the side that has one code more.
GroupScale WantedScale(QuantType type, Values group) {
  const QuantShape& shape = ShapeOf(type);
  if (type == QuantType::kQ8_0) return {std::abs(LargestMagnitude(group)) / 127, 0};
  if (type == QuantType::kIQ4_NL) return {LargestMagnitude(group) / -127, 0};
  if (!shape.has_minimum()) return {LargestMagnitude(group) / static_cast<float>(-shape.offset), 0};
  const auto [least, most] = std::minmax_element(group.begin(), group.end());
  // Minimums of super blocks are subtracted, so they are not above zero.
  const float m = shape.has_super_blocks() ? std::min(*least, 0.0f) : *least;
  return {(*most - m) / static_cast<float>((1 << shape.bits()) - 1), m};
}

void StoreGroupCodes(QuantType type, Values group, const GroupScale& scale, uint8_t* codes) {
  const float inverse = InverseOrZero(scale.d);
  for (size_t i = 0; i < group.size(); ++i) {
    // Not one expression: (v - m) * inverse and v * inverse + offset are what the reference rounds.
    codes[i] = static_cast<uint8_t>(NearestTo(type, (group[i] - scale.m) * inverse));
  }
}

// One scale of its own for every 32 weights.
void QuantizeBlock(QuantType type, Values block, int64_t index, std::byte* row) {
  const GroupScale scale = WantedScale(type, block);
  StoreScales(type, {.d = FloatToHalf(scale.d), .m = FloatToHalf(scale.m)}, index, row);
  Codes codes;
  StoreGroupCodes(type, block, scale, codes.data());
  StoreCodes(type, codes, index, row);
}

// Largest integers of the groups' scales and minimums, and whether scales have a sign.
struct GroupRange {
  int scale_max = 63, min_max = 63;
  int scale_min = 0;
};
GroupRange RangeOf(QuantType type) {
  if (type == QuantType::kQ2_K) return {15, 15, 0};
  if (type == QuantType::kQ3_K) return {31, 0, -32};
  if (type == QuantType::kQ6_K) return {127, 0, -128};
  return {63, 63, 0};
}

// 256 weights: halves for the block, an integer scale (and minimum) a group.
void QuantizeSuperBlock(QuantType type, Values block, int64_t index, std::byte* row) {
  const auto group_weights = static_cast<size_t>(ShapeOf(type).group_weights);
  const size_t groups = block.size() / group_weights;
  const GroupRange range = RangeOf(type);
  std::array<GroupScale, 16> wanted;
  float most_d = 0, most_m = 0;
  for (size_t g = 0; g < groups; ++g) {
    wanted[g] = WantedScale(type, block.subspan(g * group_weights, group_weights));
    most_d = std::max(most_d, std::abs(wanted[g].d));
    most_m = std::max(most_m, -wanted[g].m);
  }
  StoredScales stored;
  stored.d = FloatToHalf(most_d / static_cast<float>(range.scale_max));
  stored.m = range.min_max > 0 ? FloatToHalf(most_m / static_cast<float>(range.min_max)) : uint16_t{0};
  const float inverse_d = InverseOrZero(HalfToFloat(stored.d)), inverse_m = InverseOrZero(HalfToFloat(stored.m));
  std::array<uint8_t, 256> codes;
  for (size_t g = 0; g < groups; ++g) {
    const int scale = NearestCode(wanted[g].d * inverse_d, range.scale_min, range.scale_max);
    stored.group_scale = static_cast<uint8_t>(scale & 0xff);
    stored.group_min = static_cast<uint8_t>(NearestCode(-wanted[g].m * inverse_m, 0, range.min_max));
    StoreScales(type, stored, index * static_cast<int64_t>(groups) + static_cast<int64_t>(g), row);
    StoreGroupCodes(type, block.subspan(g * group_weights, group_weights), Combine(type, stored),
                    codes.data() + g * group_weights);
  }
  for (int64_t part = 0; part < 8; ++part) {
    Codes together;
    std::copy_n(codes.begin() + part * kCodesTogether, kCodesTogether, together.begin());
    StoreCodes(type, together, index * 8 + part, row);
  }
}

}  // namespace

void QuantizeRow(QuantType type, const float* values, int64_t cols, std::byte* row) {
  const QuantTraits& traits = TraitsOf(type);
  CHECK(cols % traits.block_weights == 0);
  if (cols == 0) return;
  std::memset(row, 0, RowBytes(type, cols));
  switch (type) {
    case QuantType::kF32:
      std::memcpy(row, values, static_cast<size_t>(cols) * sizeof(float));
      return;
    case QuantType::kF16:
    case QuantType::kBF16:
      for (int64_t i = 0; i < cols; ++i) {
        const uint16_t bits = type == QuantType::kF16 ? FloatToHalf(values[i]) : FloatToBfloat16(values[i]);
        std::memcpy(row + 2 * i, &bits, 2);
      }
      return;
    default:
      break;
  }
  for (int64_t block = 0; block < cols / traits.block_weights; ++block) {
    const Values weights(values + block * traits.block_weights, static_cast<size_t>(traits.block_weights));
    if (ShapeOf(type).has_super_blocks()) {
      QuantizeSuperBlock(type, weights, block, row);
    } else {
      QuantizeBlock(type, weights, block, row);
    }
  }
}

}  // namespace dogstar
