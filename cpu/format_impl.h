// Block formats as kernels see them: how codes and scales of base/quant_codes.h lie in panels, and how they get into
// registers.
#pragma once

#include "base/quant.h"
#include "cpu/vec.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

// How the scales of a format lie in a scale table, see base/quant_codes.h.
enum class Scales { kHalf, kHalfPair, kByte, kBytePair, kNibblePair };

// Block formats, as base/quant_codes.h and base/panel.h describe them. kSigned: codes are products' signed bytes as
// they are, or after a table.
template <int kLow, int kHigh, int kOffsetOfCodes, int kGroupColumns, Scales kScalesOfGroups, typename DotOfCodes>
struct CodeFormat {
  using Dot = DotOfCodes;
  static constexpr int kLowBits = kLow;
  static constexpr int kHighBits = kHigh;
  static constexpr int kOffset = kOffsetOfCodes;
  static constexpr int kGroup = kGroupColumns;
  static constexpr Scales kScales = kScalesOfGroups;
  static constexpr bool kMinimum = kScales != Scales::kHalf && kScales != Scales::kByte;
  static constexpr bool kSuperBlocks = kScales != Scales::kHalf && kScales != Scales::kHalfPair;
  static constexpr bool kSigned = false;
  static constexpr bool kTable = false;
  static constexpr bool kHighOnly = false;
  static constexpr int kCodeVectors = kLow + kHigh;  // 64-byte vectors per block of 32 columns; a vector holds 16 rows
  // Bytes of a scale table a lane: of the halves before a block's groups, of a group, of a block.
  static constexpr int kHalfBytes = kMinimum ? 4 : 2;
  static constexpr int kGroupBytes = !kSuperBlocks ? 0 : kScales == Scales::kBytePair ? 2 : 1;
  static constexpr int kGroupsPerBlock = kSuperBlocks ? 256 / kGroup : 1;
  static constexpr int kTableBytes = kHalfBytes + kGroupsPerBlock * kGroupBytes;
  // What the dot product of a group starts with: -8 * (sum of the x codes), brought to the format's offset.
  static DOGSTAR_INLINE int32_t Start(int32_t minus_8_sum) {
    return kOffset >= 8 ? minus_8_sum * (kOffset / 8) : kOffset == 4 ? minus_8_sum / 2 : 0;
  }
  static DOGSTAR_INLINE Vec16i CodeInt(Vec16i code) { return kOffset == 0 ? code : code + SplatInt(-kOffset); }
};
// Signed products are done with codes made unsigned by 128 where the instruction set wants that.
template <int kLow, bool kTableOfValues>
struct SignedFormat : CodeFormat<kLow, 0, 0, 32, Scales::kHalf, ByteDot> {
  static constexpr bool kSigned = true;
  static constexpr bool kTable = kTableOfValues;
  static DOGSTAR_INLINE int32_t Start(int32_t minus_8_sum) { return minus_8_sum * 16; }
};

using Q4_0Format = CodeFormat<4, 0, 8, 32, Scales::kHalf, NibbleDot>;
using Q4_1Format = CodeFormat<4, 0, 0, 32, Scales::kHalfPair, NibbleDot>;
using Q5_0Format = CodeFormat<4, 1, 16, 32, Scales::kHalf, WideDot>;
using Q5_1Format = CodeFormat<4, 1, 0, 32, Scales::kHalfPair, WideDot>;
using Q8_0Format = SignedFormat<8, false>;
using Q2_KFormat = CodeFormat<2, 0, 0, 16, Scales::kNibblePair, NibbleDot>;
using Q3_KFormat = CodeFormat<2, 1, 4, 16, Scales::kByte, NibbleDot>;
using Q4_KFormat = CodeFormat<4, 0, 0, 32, Scales::kBytePair, NibbleDot>;
using Q5_KFormat = CodeFormat<4, 1, 0, 32, Scales::kBytePair, WideDot>;
using Q6_KFormat = CodeFormat<4, 2, 32, 16, Scales::kByte, WideDot>;
using Iq4NlFormat = SignedFormat<4, true>;

// Panels of which the high planes are there (base/bit_planes.h), read where they are: codes as Whole has them, missing
// bits 0 (of Q8_0: 8).
template <typename Whole>
struct HighOf : Whole {
  static constexpr bool kHighOnly = true;
  static constexpr int kMissing = Whole::kCodeVectors == 4 ? 1 : Whole::kCodeVectors - 4;  // bits of a code
  static constexpr int kCodeVectors = Whole::kCodeVectors - kMissing;
};

// kIq4Values of base/quant_codes.h; kernels use nothing of shared headers but constants.
alignas(16) constexpr int8_t kIq4Table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Calls work.template operator()<i>() for i in [kBegin, kEnd).
template <int kBegin, int kEnd, typename Work>
DOGSTAR_INLINE void Unroll(const Work& work) {
  if constexpr (kBegin < kEnd) {
    work.template operator()<kBegin>();
    Unroll<kBegin + 1, kEnd>(work);
  }
}

template <int kBits>
DOGSTAR_INLINE Vec16i ShiftedRight(Vec16i v) {
  if constexpr (kBits == 0) {
    return v;
  } else if constexpr (kBits < 0) {
    return ShiftLeft<-kBits>(v);
  } else {
    return ShiftRight<kBits>(v);
  }
}

// LoadQuad of HighOf.
template <typename Format, int k>
DOGSTAR_INLINE Vec16i LoadHighQuad(const uint8_t* codes) {
  constexpr int kVector = k / 2, kNibble = k % 2 * 4;
  const auto field = [codes]<int kOf, int kShift, int kMask>() __attribute__((always_inline)) {
    return ShiftedRight<kShift>(LoadBytes(codes + 64 * kOf)) & SplatInt(kMask * 0x01010101);
  };
  if constexpr (Format::kLowBits == 8) {
    constexpr int kUpper = static_cast<int>(0xF0F0F0F0U), kMiddle = 0x08080808;
    const Vec16i two = LoadBytes(codes + 64 * kVector);
    return ((k % 2 == 0 ? two : ShiftLeft<4>(two)) & SplatInt(kUpper)) | SplatInt(kMiddle);
  } else if constexpr (Format::kMissing == 2) {
    const Vec16i low = field.template operator()<kVector / 2, kNibble - kVector % 2 * 2, 0x0C>();
    const Vec16i high = LoadBytes(codes + 64 * (2 + k * 2 / 8));
    return OrMasked(low, ShiftedRight<k * 2 % 8 - 4>(high), SplatInt(0x30 * 0x01010101));
  } else {
    Vec16i low;
    if constexpr (kVector < 3) {
      low = field.template operator()<kVector, kNibble, 0x0E>();
    } else {
      low = field.template operator()<0, kNibble - 1, 0x02>() | field.template operator()<1, kNibble - 2, 0x04>() |
            field.template operator()<2, kNibble - 3, 0x08>();
    }
    if constexpr (Format::kHighBits == 0) {
      return low;
    } else {
      const Vec16i high = LoadBytes(codes + 64 * 3);
      return OrMasked(low, ShiftedRight<k - 4>(high), SplatInt(0x10 * 0x01010101));
    }
  }
}

// The codes of quad k (columns 4k .. 4k + 3 of a block) of 16 rows, a byte each; signed formats: their numbers.
template <typename Format, int k>
DOGSTAR_INLINE Vec16i LoadQuad(const uint8_t* codes) {
  if constexpr (Format::kHighOnly) return LoadHighQuad<Format, k>(codes);
  constexpr int kLow = Format::kLowBits;
  const Vec16i raw = LoadBytes(codes + 64 * (k * kLow / 8));
  if constexpr (kLow == 8) {
    return raw;
  } else {
    constexpr int kMask = ((1 << kLow) - 1) * 0x01010101;
    const Vec16i low = ShiftedRight<k * kLow % 8>(raw) & SplatInt(kMask);
    if constexpr (Format::kTable) {
      return LookUp(kIq4Table, low);
    } else if constexpr (Format::kHighBits > 0) {
      constexpr int kHigh = Format::kHighBits;
      constexpr int kHighMask = (((1 << kHigh) - 1) << kLow) * 0x01010101;
      const Vec16i high = LoadBytes(codes + 64 * (kLow + k * kHigh / 8));
      return OrMasked(low, ShiftedRight<k * kHigh % 8 - kLow>(high), SplatInt(kHighMask));
    } else {
      return low;
    }
  }
}

// The numbers of quad k, column by column, before their scales.
template <typename Format, int k>
DOGSTAR_INLINE void QuadValues(const uint8_t* codes, Vec16f* values) {
  const Vec16i quad = LoadQuad<Format, k>(codes);
  if constexpr (Format::kSigned) {
    values[0] = ToFloat(ShiftRightSigned<24>(ShiftLeft<24>(quad)));
    values[1] = ToFloat(ShiftRightSigned<24>(ShiftLeft<16>(quad)));
    values[2] = ToFloat(ShiftRightSigned<24>(ShiftLeft<8>(quad)));
    values[3] = ToFloat(ShiftRightSigned<24>(quad));
  } else {
    const Vec16i mask = SplatInt(255);
    values[0] = ToFloat(Format::CodeInt(quad & mask));
    values[1] = ToFloat(Format::CodeInt(ShiftRight<8>(quad) & mask));
    values[2] = ToFloat(Format::CodeInt(ShiftRight<16>(quad) & mask));
    values[3] = ToFloat(Format::CodeInt(ShiftRight<24>(quad)));
  }
}

// d and m of a scale group, 16 lanes from `lane` on; m undefined without a minimum. Scales of super blocks are made
// here: the products are exact.
struct GroupScales {
  Vec16f d, m;
};
template <typename Format>
DOGSTAR_INLINE GroupScales LoadGroupScales(const uint8_t* table, int64_t group, int64_t lanes, int64_t lane) {
  const uint8_t* block = table + group / Format::kGroupsPerBlock * Format::kTableBytes * lanes;
  GroupScales scales;
  scales.d = LoadHalf(block + 2 * lane);
  if constexpr (Format::kMinimum) scales.m = LoadHalf(block + 2 * (lanes + lane));
  if constexpr (Format::kSuperBlocks) {
    const uint8_t* bytes =
        block + (Format::kHalfBytes + group % Format::kGroupsPerBlock * Format::kGroupBytes) * lanes + lane;
    if constexpr (Format::kScales == Scales::kByte) {
      scales.d = scales.d * ToFloat(LoadS8(bytes));
    } else if constexpr (Format::kScales == Scales::kBytePair) {
      scales.d = scales.d * ToFloat(LoadU8(bytes));
      scales.m = -(scales.m * ToFloat(LoadU8(bytes + lanes)));
    } else {
      const Vec16i both = LoadU8(bytes);
      scales.d = scales.d * ToFloat(both & SplatInt(15));
      scales.m = -(scales.m * ToFloat(ShiftRight<4>(both)));
    }
  }
  return scales;
}

// The code of one column of a block as a number.
template <typename Format>
DOGSTAR_INLINE Vec16i ColumnValue(const uint8_t* codes, int column) {
  const int quad = column / 4, byte = 8 * (column % 4);
  if constexpr (Format::kHighOnly) {
    Vec16i codes_of_quad = SplatInt(0);
    Unroll<0, 8>([&]<int k>() __attribute__((always_inline)) {
      if (quad == k) codes_of_quad = LoadQuad<Format, k>(codes);
    });
    if constexpr (Format::kSigned) return ShiftRightSigned<24>(ShiftLeftBy(codes_of_quad, 24 - byte));
    return Format::CodeInt(ShiftRightBy(codes_of_quad, byte) & SplatInt(255));
  }
  const auto field = [&](const uint8_t* vectors, int bits) __attribute__((always_inline)) {
    const Vec16i raw = LoadBytes(vectors + 64 * (quad * bits / 8));
    return ShiftRightBy(raw, byte + quad * bits % 8) & SplatInt((1 << bits) - 1);
  };
  if constexpr (Format::kLowBits == 8) {
    return ShiftRightSigned<24>(ShiftLeftBy(LoadBytes(codes + 64 * quad), 24 - byte));
  } else if constexpr (Format::kTable) {
    return ShiftRightSigned<24>(ShiftLeft<24>(LookUp(kIq4Table, field(codes, 4))));
  } else {
    Vec16i code = field(codes, Format::kLowBits);
    if constexpr (Format::kHighBits > 0) {
      const Vec16i high = field(codes + 64 * Format::kLowBits, Format::kHighBits);
      code = code | ShiftLeft<Format::kLowBits>(high);
    }
    return Format::CodeInt(code);
  }
}

// work.template operator()<Format>() for the format of a block type; false for other types.
template <typename Work>
inline bool WithFormat(QuantType type, const Work& work) {
  switch (type) {
    case QuantType::kQ4_0:
      return work.template operator()<Q4_0Format>(), true;
    case QuantType::kQ4_1:
      return work.template operator()<Q4_1Format>(), true;
    case QuantType::kQ5_0:
      return work.template operator()<Q5_0Format>(), true;
    case QuantType::kQ5_1:
      return work.template operator()<Q5_1Format>(), true;
    case QuantType::kQ8_0:
      return work.template operator()<Q8_0Format>(), true;
    case QuantType::kQ2_K:
      return work.template operator()<Q2_KFormat>(), true;
    case QuantType::kQ3_K:
      return work.template operator()<Q3_KFormat>(), true;
    case QuantType::kQ4_K:
      return work.template operator()<Q4_KFormat>(), true;
    case QuantType::kQ5_K:
      return work.template operator()<Q5_KFormat>(), true;
    case QuantType::kQ6_K:
      return work.template operator()<Q6_KFormat>(), true;
    case QuantType::kIQ4_NL:
      return work.template operator()<Iq4NlFormat>(), true;
    case QuantType::kF32:
    case QuantType::kF16:
    case QuantType::kBF16:
      break;
  }
  return false;
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
