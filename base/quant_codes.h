// Inside the block formats: where the code of each weight and the scales of each group of weights lie in a plain row,
// and what they mean. One description per type, from which scalar code, panels and packed pages are all made.
//
// A weight is d * value + m: value = code - offset (Q8_0: the code as a signed byte; IQ4_NL: kIq4Values[code]), d and m
// belong to its scale group of 16 or 32 neighbouring weights. All products below are exact in f32; the sum rounds once.
//   kHalf        d as stored, no minimum                            Q4_0, Q5_0, Q8_0, IQ4_NL
//   kHalfPair    d and m as stored                                  Q4_1, Q5_1
//   kByte        block d * signed scale of the group                Q3_K, Q6_K
//   kBytePair    block d * scale, m = -(block dmin * minimum)       Q4_K, Q5_K   (6 bits each in the file)
//   kNibblePair  the same with 4 bits each                          Q2_K
#pragma once

#include <array>
#include <cstdint>

#include "base/quant.h"

namespace dogstar {

enum class ScaleKind : uint8_t { kHalf, kHalfPair, kByte, kBytePair, kNibblePair };

struct QuantShape {
  int32_t low_bits = 0;   // 2, 4 or 8
  int32_t high_bits = 0;  // 0, 1 or 2, stored apart from the low ones
  int32_t offset = 0;
  int32_t group_weights = 0;  // 16 or 32
  ScaleKind scales = ScaleKind::kHalf;

  int32_t bits() const { return low_bits + high_bits; }
  bool has_minimum() const { return scales != ScaleKind::kHalf && scales != ScaleKind::kByte; }
  // Scales in two steps: halves for 256 weights, small integers for each group.
  bool has_super_blocks() const { return scales > ScaleKind::kHalfPair; }
};

// REQUIRES: a block format (block_weights > 1).
const QuantShape& ShapeOf(QuantType type);
inline bool IsFloatType(QuantType type) { return TraitsOf(type).block_weights == 1; }

// Published with the format (ggml, IQ4_NL).
inline constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};

// The number that a code stands for, before its scale.
int CodeValue(QuantType type, int code);

// Byte offsets inside a block, as the GGUF specification of ggml lays the structs out.
struct BlockOffsets {
  uint8_t d = 0, m = 0;       // halves
  uint8_t scales = 0;         // of the groups
  uint8_t low = 0, high = 0;  // codes
};
BlockOffsets OffsetsOf(QuantType type);

// Where a weight of a block keeps its code: (low | high << low_bits), each a field of one byte.
struct CodePlace {
  uint16_t low_byte = 0, high_byte = 0;  // from the block's start
  uint8_t low_shift = 0, high_shift = 0;
};
// weight: [0, block_weights)
CodePlace PlaceOf(QuantType type, int weight);

inline constexpr int kCodesTogether = 32;
using Codes = std::array<uint8_t, kCodesTogether>;
// Codes of weights [32 * index, 32 * index + 32) of a plain row; storing expects a row of zeros there.
Codes LoadCodes(QuantType type, const std::byte* row, int64_t index);
void StoreCodes(QuantType type, const Codes& codes, int64_t index, std::byte* row);

// The fields of a group's scales as the file has them.
struct StoredScales {
  uint16_t d = 0, m = 0;                   // halves of the group's block
  uint8_t group_scale = 0, group_min = 0;  // integers of the group; kByte: a signed byte
};
StoredScales LoadScales(QuantType type, const std::byte* row, int64_t group);
void StoreScales(QuantType type, const StoredScales& scales, int64_t group, std::byte* row);

struct GroupScale {
  float d = 0, m = 0;
};
GroupScale Combine(QuantType type, const StoredScales& stored);

// Scale tables: the scales of many rows ("lanes") side by side, so that kernels load sixteen at a time. Formats without
// super blocks: per group {lanes x half d} {lanes x half m, if there is a minimum}. With them, per 256 weights: {lanes
// x half d} {lanes x half dmin, if there is a minimum}, then per group {lanes x scale byte} {kBytePair: lanes x minimum
// byte}; kNibblePair has both in one byte, the minimum above.
uint64_t ScaleTableBytes(QuantType type, int64_t groups, int64_t lanes);
StoredScales TableScales(QuantType type, const std::byte* table, int64_t group, int64_t lanes, int64_t lane);
void SetTableScales(QuantType type, const StoredScales& scales, int64_t group, int64_t lanes, int64_t lane,
                    std::byte* table);

}  // namespace dogstar
