// Block formats as kernels read them from panels (base/panel.h, base/quant_codes.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/quant.h"
#include "gpu/arithmetic.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

constexpr int kLanes = 16;         // rows of a panel
constexpr int kBlockColumns = 32;  // of a block of codes
constexpr int kQuads = kBlockColumns / 4;
constexpr int kVectorBytes = 64;

enum class Scales { kHalf, kHalfPair, kByte, kBytePair, kNibblePair };

// kSigned: codes are values, as signed bytes (Q8_0), or places in IQ4_NL's table of them.
template <int kLow, int kHigh, int kOffsetOfCodes, int kGroupColumns, Scales kScalesOfGroups,
          bool kSignedValues = false>
struct CodeFormat {
  static constexpr int kLowBits = kLow, kHighBits = kHigh, kOffset = kOffsetOfCodes, kGroup = kGroupColumns;
  static constexpr Scales kScales = kScalesOfGroups;
  static constexpr bool kSigned = kSignedValues;
  static constexpr bool kMinimum = kScales != Scales::kHalf && kScales != Scales::kByte;
  static constexpr bool kSuperBlocks = kScales != Scales::kHalf && kScales != Scales::kHalfPair;
  static constexpr int kBlockBytes = (kLow + kHigh) * kVectorBytes;
  static constexpr int kGroupsPerBlock = kBlockColumns / kGroup;
  // Of a scale table, bytes a lane: of halves, of a group, of what belongs together.
  static constexpr int kHalfBytes = kMinimum ? 4 : 2;
  static constexpr int kGroupBytes = !kSuperBlocks ? 0 : kScales == Scales::kBytePair ? 2 : 1;
  static constexpr int kGroupsTogether = kSuperBlocks ? 256 / kGroup : 1;
  static constexpr int kTableBytes = kHalfBytes + kGroupsTogether * kGroupBytes;
};

template <QuantType>
struct FormatOf;
template <>
struct FormatOf<QuantType::kQ4_0> : CodeFormat<4, 0, 8, 32, Scales::kHalf> {};
template <>
struct FormatOf<QuantType::kQ4_1> : CodeFormat<4, 0, 0, 32, Scales::kHalfPair> {};
template <>
struct FormatOf<QuantType::kQ5_0> : CodeFormat<4, 1, 16, 32, Scales::kHalf> {};
template <>
struct FormatOf<QuantType::kQ5_1> : CodeFormat<4, 1, 0, 32, Scales::kHalfPair> {};
template <>
struct FormatOf<QuantType::kQ8_0> : CodeFormat<8, 0, 0, 32, Scales::kHalf, true> {};
template <>
struct FormatOf<QuantType::kQ2_K> : CodeFormat<2, 0, 0, 16, Scales::kNibblePair> {};
template <>
struct FormatOf<QuantType::kQ3_K> : CodeFormat<2, 1, 4, 16, Scales::kByte> {};
template <>
struct FormatOf<QuantType::kQ4_K> : CodeFormat<4, 0, 0, 32, Scales::kBytePair> {};
template <>
struct FormatOf<QuantType::kQ5_K> : CodeFormat<4, 1, 0, 32, Scales::kBytePair> {};
template <>
struct FormatOf<QuantType::kQ6_K> : CodeFormat<4, 2, 32, 16, Scales::kByte> {};
template <>
struct FormatOf<QuantType::kIQ4_NL> : CodeFormat<4, 0, 0, 32, Scales::kHalf, true> {};

// IQ4_NL's values (kIq4Values of base/quant_codes.h), four to a word; the lowest byte first.
DOGSTAR_HD uint32_t Iq4Value(uint32_t code) {
  constexpr auto pack = [](int a, int b, int c, int d) {
    return static_cast<uint32_t>(a & 255) | static_cast<uint32_t>(b & 255) << 8 | static_cast<uint32_t>(c & 255) << 16 |
           static_cast<uint32_t>(d & 255) << 24;
  };
  constexpr uint32_t kFirst = pack(-127, -104, -83, -65), kSecond = pack(-49, -35, -22, -10),
                     kThird = pack(1, 13, 25, 38), kFourth = pack(53, 69, 89, 113);
  const uint32_t four = code < 8 ? (code < 4 ? kFirst : kSecond) : (code < 12 ? kThird : kFourth);
  return four >> (8 * (code & 3)) & 255;
}

// Codes of quad k (columns 4k .. 4k + 3 of a block) of row `lane`, a byte each; signed formats: their values.
template <typename Format>
DOGSTAR_HD uint32_t LoadQuad(const std::byte* block, int k, int lane) {
  constexpr int kLow = Format::kLowBits, kHigh = Format::kHighBits;
  const auto vector = [&](int index) { return LoadAs<uint32_t>(block + index * kVectorBytes + lane * 4); };
  const uint32_t raw = vector(k * kLow / 8);
  if constexpr (kLow == 8) {
    return raw;
  } else {
    uint32_t codes = raw >> (k * kLow % 8) & (((1u << kLow) - 1) * 0x01010101u);
    if constexpr (Format::kSigned) {
      const uint32_t places = codes;
      codes = 0;
      for (int i = 0; i < 32; i += 8) codes |= Iq4Value(places >> i & 15) << i;
    } else if constexpr (kHigh > 0) {
      const uint32_t high = vector(kLow + k * kHigh / 8) >> (k * kHigh % 8) & (((1u << kHigh) - 1) * 0x01010101u);
      codes |= high << kLow;
    }
    return codes;
  }
}

// The number that column `column` of a block stands for, before its scale.
template <typename Format>
DOGSTAR_HD int32_t ValueAt(const std::byte* block, int column, int lane) {
  const uint32_t code = LoadQuad<Format>(block, column / 4, lane) >> (8 * (column % 4)) & 255;
  return Format::kSigned ? int32_t{static_cast<int8_t>(code)} : static_cast<int32_t>(code) - Format::kOffset;
}

struct GroupScale {
  float d = 0, m = 0;
};

// Codes without the bits of their low plane (base/bit_planes.h), which count as their mean. Of signed formats they are
// filled instead.
template <typename Format>
struct MissingOf {
  static constexpr int kBits = Format::kLowBits + Format::kHighBits;
  static constexpr int kLowBits = kBits < 4 ? 0 : kBits == 4 ? 1 : kBits - 4;
  static constexpr float kMean = Format::kSigned ? 0.0f : static_cast<float>((1 << kLowBits) - 1) / 2;
  // What exact sums start with, over that of whole codes.
  static constexpr float kStart = Format::kOffset == 0 ? 1.0f : 1.0f - kMean / static_cast<float>(Format::kOffset);
};

// Of a scale table with `lanes` lanes.
template <typename Format>
DOGSTAR_HD GroupScale ScaleOf(const std::byte* table, int64_t group, int64_t lanes, int64_t lane) {
  const std::byte* together = table + group / Format::kGroupsTogether * Format::kTableBytes * lanes;
  GroupScale scale;
  scale.d = FromHalf(LoadAs<uint16_t>(together + 2 * lane));
  if constexpr (Format::kMinimum) scale.m = FromHalf(LoadAs<uint16_t>(together + 2 * (lanes + lane)));
  if constexpr (Format::kSuperBlocks) {
    const int64_t before = Format::kHalfBytes + group % Format::kGroupsTogether * Format::kGroupBytes;
    const std::byte* bytes = together + before * lanes + lane;
    const auto first = static_cast<uint8_t>(*bytes);
    if constexpr (Format::kScales == Scales::kByte) {
      scale.d = scale.d * static_cast<float>(static_cast<int8_t>(first));
    } else if constexpr (Format::kScales == Scales::kBytePair) {
      scale.d = scale.d * static_cast<float>(first);
      scale.m = -(scale.m * static_cast<float>(static_cast<uint8_t>(bytes[lanes])));
    } else {
      scale.d = scale.d * static_cast<float>(first & 15);
      scale.m = -(scale.m * static_cast<float>(first >> 4));
    }
  }
  return scale;
}

// Weight of a float type.
template <QuantType kType>
DOGSTAR_HD float FloatWeight(const std::byte* weights, int64_t index) {
  if constexpr (kType == QuantType::kF32) {
    return LoadAs<float>(weights + 4 * index);
  } else if constexpr (kType == QuantType::kF16) {
    return FromHalf(LoadAs<uint16_t>(weights + 2 * index));
  } else {
    return FloatOfBits(uint32_t{LoadAs<uint16_t>(weights + 2 * index)} << 16);
  }
}

template <QuantType kType>
constexpr bool kIsFloat = kType == QuantType::kF32 || kType == QuantType::kF16 || kType == QuantType::kBF16;

}  // namespace dogstar::gpu
