#include "base/quant_codes.h"

#include <cstring>

namespace dogstar {
namespace {

constexpr int kSuperWeights = 256;

// low bits, high bits, offset, weights of a scale group, scales
constexpr QuantShape kQ4_0{4, 0, 8, 32, ScaleKind::kHalf};
constexpr QuantShape kQ4_1{4, 0, 0, 32, ScaleKind::kHalfPair};
constexpr QuantShape kQ5_0{4, 1, 16, 32, ScaleKind::kHalf};
constexpr QuantShape kQ5_1{4, 1, 0, 32, ScaleKind::kHalfPair};
constexpr QuantShape kQ8_0{8, 0, 0, 32, ScaleKind::kHalf};
constexpr QuantShape kQ2_K{2, 0, 0, 16, ScaleKind::kNibblePair};
constexpr QuantShape kQ3_K{2, 1, 4, 16, ScaleKind::kByte};
constexpr QuantShape kQ4_K{4, 0, 0, 32, ScaleKind::kBytePair};
constexpr QuantShape kQ5_K{4, 1, 0, 32, ScaleKind::kBytePair};
constexpr QuantShape kQ6_K{4, 2, 32, 16, ScaleKind::kByte};
constexpr QuantShape kIQ4_NL{4, 0, 0, 32, ScaleKind::kHalf};

constexpr BlockOffsets FindOffsets(QuantType type) {
  switch (type) {
    case QuantType::kQ4_0:
    case QuantType::kQ8_0:
    case QuantType::kIQ4_NL:
      return {.low = 2};
    case QuantType::kQ4_1:
      return {.m = 2, .low = 4};
    case QuantType::kQ5_0:
      return {.low = 6, .high = 2};
    case QuantType::kQ5_1:
      return {.m = 2, .low = 8, .high = 4};
    case QuantType::kQ2_K:
      return {.d = 80, .m = 82, .scales = 0, .low = 16};
    case QuantType::kQ3_K:
      return {.d = 108, .scales = 96, .low = 32, .high = 0};
    case QuantType::kQ4_K:
      return {.m = 2, .scales = 4, .low = 16};
    case QuantType::kQ5_K:
      return {.m = 2, .scales = 4, .low = 48, .high = 16};
    case QuantType::kQ6_K:
      return {.d = 208, .scales = 192, .low = 0, .high = 128};
    default:
      return {};  // not a block format: ShapeOf refuses those
  }
}

uint16_t HalfAt(const std::byte* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof half);
  return half;
}

// Where the four low and two high bits of a six-bit scale or minimum lie among the 12 bytes of Q4_K, Q5_K and Q3_K.
struct SixBits {
  int low_byte, low_shift, low_bits;
  int high_byte, high_shift;
};
// Q4_K and Q5_K, of group 0..7: scales and minimums 0..3 are the low six bits of bytes 0..3 and 4..7; those of 4..7
// have their low nibbles in bytes 8..11 (scale below, minimum above) and their upper two bits on top of bytes 0..7.
SixBits PairPlace(int group, bool minimum) {
  const int base = minimum ? 4 : 0;
  if (group < 4) return {base + group, 0, 6, 0, 0};
  return {8 + group - 4, minimum ? 4 : 0, 4, base + group - 4, 6};
}
// Q3_K, of group 0..15: low nibbles in bytes 0..7 (groups 0..7 below, 8..15 above), upper two bits in bytes 8..11.
SixBits SignedPlace(int group) { return {group % 8, group / 8 * 4, 4, 8 + group % 4, group / 4 * 2}; }

uint8_t LoadSix(const std::byte* bytes, const SixBits& place) {
  const int low = std::to_integer<int>(bytes[place.low_byte]) >> place.low_shift & ((1 << place.low_bits) - 1);
  if (place.low_bits == 6) return static_cast<uint8_t>(low);
  return static_cast<uint8_t>(low | (std::to_integer<int>(bytes[place.high_byte]) >> place.high_shift & 3) << 4);
}
void SetField(int value, int shift, int bits, std::byte* byte) {
  const int mask = ((1 << bits) - 1) << shift;
  *byte = static_cast<std::byte>((std::to_integer<int>(*byte) & ~mask) | (value << shift & mask));
}
void StoreSix(int value, const SixBits& place, std::byte* bytes) {
  SetField(value, place.low_shift, place.low_bits, bytes + place.low_byte);
  if (place.low_bits < 6) SetField(value >> 4, place.high_shift, 2, bytes + place.high_byte);
}

constexpr int kSignedBias = 32;  // of Q3_K's six-bit scales

void LoadGroup(QuantType type, const std::byte* scales, int group, StoredScales* out) {
  switch (ShapeOf(type).scales) {
    case ScaleKind::kBytePair:
      out->group_scale = LoadSix(scales, PairPlace(group, false));
      out->group_min = LoadSix(scales, PairPlace(group, true));
      return;
    case ScaleKind::kNibblePair:
      out->group_scale = std::to_integer<uint8_t>(scales[group] & std::byte{15});
      out->group_min = std::to_integer<uint8_t>(scales[group] >> 4);
      return;
    case ScaleKind::kByte:
      out->group_scale = type == QuantType::kQ3_K
                             ? static_cast<uint8_t>(LoadSix(scales, SignedPlace(group)) - kSignedBias)
                             : std::to_integer<uint8_t>(scales[group]);
      return;
    default:
      return;
  }
}

void StoreGroup(QuantType type, const StoredScales& from, int group, std::byte* scales) {
  switch (ShapeOf(type).scales) {
    case ScaleKind::kBytePair:
      StoreSix(from.group_scale, PairPlace(group, false), scales);
      return StoreSix(from.group_min, PairPlace(group, true), scales);
    case ScaleKind::kNibblePair:
      scales[group] = static_cast<std::byte>(from.group_scale | from.group_min << 4);
      return;
    case ScaleKind::kByte:
      if (type == QuantType::kQ3_K) {
        return StoreSix(static_cast<int8_t>(from.group_scale) + kSignedBias, SignedPlace(group), scales);
      }
      scales[group] = std::byte{from.group_scale};
      return;
    default:
      return;
  }
}

// Bytes of a scale table for one block of 256 weights, or one of 32, and where its parts lie.
struct TableShape {
  int64_t groups = 1;  // of a block
  int64_t block_bytes = 0;
  int64_t group_start = 0;  // of the groups' bytes in a block
  int64_t group_bytes = 0;
};
TableShape TableOf(const QuantShape& shape, int64_t lanes) {
  const int64_t halves = 2 * lanes * (shape.has_minimum() ? 2 : 1);
  if (!shape.has_super_blocks()) return {.block_bytes = halves};
  const int64_t group_bytes = lanes * (shape.scales == ScaleKind::kBytePair ? 2 : 1);
  const int64_t groups = kSuperWeights / shape.group_weights;
  return {groups, halves + groups * group_bytes, halves, group_bytes};
}

constexpr CodePlace FindPlace(QuantType type, int weight) {
  const BlockOffsets offsets = FindOffsets(type);
  const auto place = [&](int low_byte, int low_shift, int high_byte = 0, int high_shift = 0) {
    return CodePlace{static_cast<uint16_t>(offsets.low + low_byte), static_cast<uint16_t>(offsets.high + high_byte),
                     static_cast<uint8_t>(low_shift), static_cast<uint8_t>(high_shift)};
  };
  const int in_32 = weight % 32;
  switch (type) {
    case QuantType::kQ8_0:
      return place(weight, 0);
    case QuantType::kQ4_K:  // 64 weights in 32 bytes: the first half below
      return place(weight / 64 * 32 + in_32, weight / 32 % 2 * 4);
    case QuantType::kQ5_K:  // bit b of high byte i: weight 32 * b + i
      return place(weight / 64 * 32 + in_32, weight / 32 % 2 * 4, in_32, weight / 32);
    case QuantType::kQ6_K:  // 128 weights: nibbles of 64 bytes (0..63 below), pairs of bits of 32
      return place(weight / 128 * 64 + weight % 64, weight / 64 % 2 * 4, weight / 128 * 32 + in_32,
                   weight / 32 % 4 * 2);
    case QuantType::kQ2_K:
    case QuantType::kQ3_K:  // 128 weights in pairs of bits of 32 bytes
      return place(weight / 128 * 32 + in_32, weight / 32 % 4 * 2, in_32, weight / 32);
    default:  // 32 weights: nibbles of 16 bytes, the first half below; high bits one after the other
      return place(weight % 16, weight / 16 * 4, weight / 8, weight % 8);
  }
}

// Of the weights of a block (formats with 32 weights use the first 32).
using Places = std::array<CodePlace, kSuperWeights>;
template <QuantType kType>
constexpr Places kPlaces = [] {
  Places places;
  for (int weight = 0; weight < kSuperWeights; ++weight) places[static_cast<size_t>(weight)] = FindPlace(kType, weight);
  return places;
}();
const Places& PlacesOf(QuantType type) {
  switch (type) {
    case QuantType::kQ8_0:
      return kPlaces<QuantType::kQ8_0>;
    case QuantType::kQ4_0:
    case QuantType::kIQ4_NL:
      return kPlaces<QuantType::kQ4_0>;
    case QuantType::kQ4_1:
      return kPlaces<QuantType::kQ4_1>;
    case QuantType::kQ5_0:
      return kPlaces<QuantType::kQ5_0>;
    case QuantType::kQ5_1:
      return kPlaces<QuantType::kQ5_1>;
    case QuantType::kQ2_K:
      return kPlaces<QuantType::kQ2_K>;
    case QuantType::kQ3_K:
      return kPlaces<QuantType::kQ3_K>;
    case QuantType::kQ4_K:
      return kPlaces<QuantType::kQ4_K>;
    case QuantType::kQ5_K:
      return kPlaces<QuantType::kQ5_K>;
    default:
      CHECK(type == QuantType::kQ6_K);
      return kPlaces<QuantType::kQ6_K>;
  }
}

}  // namespace

const QuantShape& ShapeOf(QuantType type) {
  switch (type) {
    case QuantType::kQ4_0:
      return kQ4_0;
    case QuantType::kQ4_1:
      return kQ4_1;
    case QuantType::kQ5_0:
      return kQ5_0;
    case QuantType::kQ5_1:
      return kQ5_1;
    case QuantType::kQ8_0:
      return kQ8_0;
    case QuantType::kQ2_K:
      return kQ2_K;
    case QuantType::kQ3_K:
      return kQ3_K;
    case QuantType::kQ4_K:
      return kQ4_K;
    case QuantType::kQ5_K:
      return kQ5_K;
    case QuantType::kQ6_K:
      return kQ6_K;
    case QuantType::kIQ4_NL:
      return kIQ4_NL;
    case QuantType::kF32:
    case QuantType::kF16:
    case QuantType::kBF16:
      break;
  }
  CHECK(false);  // not a block format
  return kQ8_0;
}

int CodeValue(QuantType type, int code) {
  if (type == QuantType::kQ8_0) return static_cast<int8_t>(code);
  if (type == QuantType::kIQ4_NL) return kIq4Values[static_cast<size_t>(code)];
  return code - ShapeOf(type).offset;
}

BlockOffsets OffsetsOf(QuantType type) { return FindOffsets(type); }

CodePlace PlaceOf(QuantType type, int weight) { return PlacesOf(type)[static_cast<size_t>(weight)]; }

Codes LoadCodes(QuantType type, const std::byte* row, int64_t index) {
  const QuantTraits& traits = TraitsOf(type);
  const QuantShape& shape = ShapeOf(type);
  const int64_t per_block = traits.block_weights / kCodesTogether;
  row += index / per_block * traits.block_bytes;
  const int first = static_cast<int>(index % per_block) * kCodesTogether;
  const int low_mask = (1 << shape.low_bits) - 1, high_mask = (1 << shape.high_bits) - 1;
  const CodePlace* places = PlacesOf(type).data() + first;
  Codes codes;
  for (int i = 0; i < kCodesTogether; ++i) {
    const CodePlace& place = places[i];
    const int low = std::to_integer<int>(row[place.low_byte]) >> place.low_shift & low_mask;
    const int high = std::to_integer<int>(row[place.high_byte]) >> place.high_shift & high_mask;
    codes[static_cast<size_t>(i)] = static_cast<uint8_t>(low | high << shape.low_bits);
  }
  return codes;
}

void StoreCodes(QuantType type, const Codes& codes, int64_t index, std::byte* row) {
  const QuantTraits& traits = TraitsOf(type);
  const QuantShape& shape = ShapeOf(type);
  const int64_t per_block = traits.block_weights / kCodesTogether;
  row += index / per_block * traits.block_bytes;
  const int first = static_cast<int>(index % per_block) * kCodesTogether;
  for (int i = 0; i < kCodesTogether; ++i) {
    const CodePlace place = PlaceOf(type, first + i);
    const int code = codes[static_cast<size_t>(i)];
    row[place.low_byte] |= static_cast<std::byte>((code & ((1 << shape.low_bits) - 1)) << place.low_shift);
    if (shape.high_bits > 0) row[place.high_byte] |= static_cast<std::byte>(code >> shape.low_bits << place.high_shift);
  }
}

StoredScales LoadScales(QuantType type, const std::byte* row, int64_t group) {
  const QuantTraits& traits = TraitsOf(type);
  const QuantShape& shape = ShapeOf(type);
  const BlockOffsets offsets = FindOffsets(type);
  const int64_t groups = traits.block_weights / shape.group_weights;
  row += group / groups * traits.block_bytes;
  StoredScales stored;
  stored.d = HalfAt(row + offsets.d);
  if (shape.has_minimum()) stored.m = HalfAt(row + offsets.m);
  LoadGroup(type, row + offsets.scales, static_cast<int>(group % groups), &stored);
  return stored;
}

void StoreScales(QuantType type, const StoredScales& scales, int64_t group, std::byte* row) {
  const QuantTraits& traits = TraitsOf(type);
  const QuantShape& shape = ShapeOf(type);
  const BlockOffsets offsets = FindOffsets(type);
  const int64_t groups = traits.block_weights / shape.group_weights;
  row += group / groups * traits.block_bytes;
  std::memcpy(row + offsets.d, &scales.d, sizeof scales.d);
  if (shape.has_minimum()) std::memcpy(row + offsets.m, &scales.m, sizeof scales.m);
  StoreGroup(type, scales, static_cast<int>(group % groups), row + offsets.scales);
}

GroupScale Combine(QuantType type, const StoredScales& stored) {
  const float d = HalfToFloat(stored.d), m = HalfToFloat(stored.m);
  switch (ShapeOf(type).scales) {
    case ScaleKind::kHalf:
      return {d, 0};
    case ScaleKind::kHalfPair:
      return {d, m};
    case ScaleKind::kByte:
      return {d * static_cast<float>(static_cast<int8_t>(stored.group_scale)), 0};
    case ScaleKind::kBytePair:
    case ScaleKind::kNibblePair:
      break;
  }
  return {d * static_cast<float>(stored.group_scale), -(m * static_cast<float>(stored.group_min))};
}

uint64_t ScaleTableBytes(QuantType type, int64_t groups, int64_t lanes) {
  const TableShape table = TableOf(ShapeOf(type), lanes);
  CHECK(groups % table.groups == 0);
  return static_cast<uint64_t>(groups / table.groups * table.block_bytes);
}

StoredScales TableScales(QuantType type, const std::byte* table, int64_t group, int64_t lanes, int64_t lane) {
  const QuantShape& shape = ShapeOf(type);
  const TableShape layout = TableOf(shape, lanes);
  const std::byte* block = table + group / layout.groups * layout.block_bytes;
  StoredScales stored;
  stored.d = HalfAt(block + 2 * lane);
  if (shape.has_minimum()) stored.m = HalfAt(block + 2 * (lanes + lane));
  if (!shape.has_super_blocks()) return stored;
  const std::byte* bytes = block + layout.group_start + group % layout.groups * layout.group_bytes + lane;
  stored.group_scale = std::to_integer<uint8_t>(*bytes);
  if (shape.scales == ScaleKind::kBytePair) stored.group_min = std::to_integer<uint8_t>(bytes[lanes]);
  if (shape.scales == ScaleKind::kNibblePair) {
    stored.group_min = stored.group_scale >> 4;
    stored.group_scale &= 15;
  }
  return stored;
}

void SetTableScales(QuantType type, const StoredScales& scales, int64_t group, int64_t lanes, int64_t lane,
                    std::byte* table) {
  const QuantShape& shape = ShapeOf(type);
  const TableShape layout = TableOf(shape, lanes);
  std::byte* block = table + group / layout.groups * layout.block_bytes;
  std::memcpy(block + 2 * lane, &scales.d, sizeof scales.d);
  if (shape.has_minimum()) std::memcpy(block + 2 * (lanes + lane), &scales.m, sizeof scales.m);
  if (!shape.has_super_blocks()) return;
  std::byte* bytes = block + layout.group_start + group % layout.groups * layout.group_bytes + lane;
  const bool nibbles = shape.scales == ScaleKind::kNibblePair;
  *bytes = static_cast<std::byte>(scales.group_scale | (nibbles ? scales.group_min << 4 : 0));
  if (shape.scales == ScaleKind::kBytePair) bytes[lanes] = std::byte{scales.group_min};
}

}  // namespace dogstar
