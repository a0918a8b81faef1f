// Plain GGUF rows to panels, fast: base/panel.h has the layout, base/panel.cc the scalar truth.
#pragma once

#include "cpu/product_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

struct RowPointers {
  const uint8_t* row[16];
};

DOGSTAR_INLINE RowPointers PointersOf(const uint8_t* rows, uint64_t row_bytes) {
  RowPointers pointers;
  for (int r = 0; r < 16; ++r) pointers.row[r] = rows + r * row_bytes;
  return pointers;
}

// The halves at `offset` of the sixteen rows. Four go in one store: what reads them soon needs fewer of the stores
// to have landed.
DOGSTAR_INLINE void CopyHalves(const RowPointers& rows, int64_t offset, uint8_t* to) {
  for (int r = 0; r < 16; r += 4) {
    uint64_t four = 0;
    for (int i = 0; i < 4; ++i) {
      uint16_t half;
      __builtin_memcpy(&half, rows.row[r + i] + offset, 2);
      four |= uint64_t{half} << (16 * i);
    }
    __builtin_memcpy(to + 2 * r, &four, 8);
  }
}

// A 32-bit word of each row.
DOGSTAR_INLINE Vec16i LoadWords(const RowPointers& rows, int64_t offset) {
  alignas(64) uint32_t words[16];
  for (int r = 0; r < 16; ++r) __builtin_memcpy(words + r, rows.row[r] + offset, 4);
  return LoadBytes(words);
}

// Eight quads from 32 neighbouring bytes of each row.
DOGSTAR_INLINE void LoadBlockBytes(const RowPointers& rows, int64_t offset, Vec16i* q) {
  LoadTransposed(rows.row, offset, q);
  LoadTransposed(rows.row, offset + 16, q + 4);
}

DOGSTAR_INLINE Vec16i Field(Vec16i v, int shift, int bits) {
  return ShiftRightBy(v, shift) & SplatInt(((1 << bits) - 1) * 0x01010101);
}

// How the blocks of a type lie in a plain row (base/quant_codes.cc): bytes of a block, offsets of its parts, and the
// codes of its 32 columns `part` as quads. kColumns: of a block.
template <typename Format, int kHeader>
struct SmallBlocks {
  static constexpr int kColumns = 32;
  static constexpr int kBytes = kHeader + 4 * Format::kLowBits;
  static constexpr int kD = 0, kM = 2;
  static DOGSTAR_INLINE void Quads(const RowPointers& rows, int64_t at, int, Vec16i* q) {
    if constexpr (Format::kLowBits == 8) {
      LoadBlockBytes(rows, at + kHeader, q);
    } else {
      Vec16i bytes[4];
      LoadTransposed(rows.row, at + kHeader, bytes);
      for (int i = 0; i < 4; ++i) {
        q[i] = LowNibbles(bytes[i]);
        q[4 + i] = HighNibbles(bytes[i]);
      }
    }
    if constexpr (Format::kHighBits == 1) {
      const Vec16i word = LoadWords(rows, at + kHeader - 4);
      for (int k = 0; k < 8; ++k) {  // the product brings bit i of a nibble to bit 0 of byte i
        const Vec16i nibble = ShiftRightBy(word, 4 * k) & SplatInt(15);
        q[k] = q[k] | ShiftLeft<4>(nibble * SplatInt(0x00204081) & SplatInt(0x01010101));
      }
    }
  }
};

struct Q4_KBlocks {
  static constexpr int kColumns = 256, kBytes = 144, kD = 0, kM = 2, kScales = 4;
  static DOGSTAR_INLINE void Quads(const RowPointers& rows, int64_t at, int part, Vec16i* q) {
    LoadBlockBytes(rows, at + 16 + part / 2 * 32, q);
    for (int k = 0; k < 8; ++k) q[k] = Field(q[k], part % 2 * 4, 4);
  }
};
struct Q5_KBlocks {
  static constexpr int kColumns = 256, kBytes = 176, kD = 0, kM = 2, kScales = 4;
  static DOGSTAR_INLINE void Quads(const RowPointers& rows, int64_t at, int part, Vec16i* q) {
    Vec16i high[8];
    LoadBlockBytes(rows, at + 48 + part / 2 * 32, q);
    LoadBlockBytes(rows, at + 16, high);
    for (int k = 0; k < 8; ++k) q[k] = Field(q[k], part % 2 * 4, 4) | ShiftLeft<4>(Field(high[k], part, 1));
  }
};
struct Q6_KBlocks {
  static constexpr int kColumns = 256, kBytes = 210, kD = 208, kM = 0, kScales = 192;
  static DOGSTAR_INLINE void Quads(const RowPointers& rows, int64_t at, int part, Vec16i* q) {
    Vec16i high[8];
    LoadBlockBytes(rows, at + part / 4 * 64 + part % 2 * 32, q);
    LoadBlockBytes(rows, at + 128 + part / 4 * 32, high);
    for (int k = 0; k < 8; ++k) {
      q[k] = Field(q[k], part / 2 % 2 * 4, 4) | ShiftLeft<4>(Field(high[k], part % 4 * 2, 2));
    }
  }
};
struct Q2_KBlocks {
  static constexpr int kColumns = 256, kBytes = 84, kD = 80, kM = 82, kScales = 0;
  static DOGSTAR_INLINE void Quads(const RowPointers& rows, int64_t at, int part, Vec16i* q) {
    LoadBlockBytes(rows, at + 16 + part / 4 * 32, q);
    for (int k = 0; k < 8; ++k) q[k] = Field(q[k], part % 4 * 2, 2);
  }
};
struct Q3_KBlocks {
  static constexpr int kColumns = 256, kBytes = 110, kD = 108, kM = 0, kScales = 96;
  static DOGSTAR_INLINE void Quads(const RowPointers& rows, int64_t at, int part, Vec16i* q) {
    Vec16i high[8];
    LoadBlockBytes(rows, at + 32 + part / 4 * 32, q);
    LoadBlockBytes(rows, at, high);
    for (int k = 0; k < 8; ++k) q[k] = Field(q[k], part % 4 * 2, 2) | ShiftLeft<2>(Field(high[k], part, 1));
  }
};

// Eight quads of codes as a panel's vectors of one block.
template <typename Format>
DOGSTAR_INLINE void StoreQuads(const Vec16i* q, uint8_t* codes) {
  if constexpr (Format::kLowBits == 8) {
    for (int k = 0; k < 8; ++k) StoreBytes(q[k], codes + 64 * k);
  } else if constexpr (Format::kLowBits == 4) {
    for (int v = 0; v < 4; ++v) {
      StoreBytes(LowNibbles(q[2 * v]) | ShiftLeft<4>(LowNibbles(q[2 * v + 1])), codes + 64 * v);
    }
  } else {
    for (int v = 0; v < 2; ++v) {
      Vec16i four = Field(q[4 * v], 0, 2);
      for (int f = 1; f < 4; ++f) four = four | ShiftLeftBy(Field(q[4 * v + f], 0, 2), 2 * f);
      StoreBytes(four, codes + 64 * v);
    }
  }
  if constexpr (Format::kHighBits > 0) {
    constexpr int kFields = 8 / Format::kHighBits;  // of a vector
    for (int v = 0; v < Format::kHighBits; ++v) {
      Vec16i high = SplatInt(0);
      for (int f = 0; f < kFields; ++f) {
        const Vec16i bits = Field(q[kFields * v + f], Format::kLowBits, Format::kHighBits);
        high = high | ShiftLeftBy(bits, Format::kHighBits * f);
      }
      StoreBytes(high, codes + 64 * (Format::kLowBits + v));
    }
  }
}

// The six-bit scales and minimums of Q4_K and Q5_K: those of groups 0..3 in the low bits of bytes 0..7, of 4..7 in the
// nibbles of bytes 8..11 and the upper bits of 0..7. words: those twelve bytes of each row.
DOGSTAR_INLINE void StorePairs(const Vec16i* words, uint8_t* to) {
  for (int g = 0; g < 4; ++g) {
    StoreLow8(ShiftRightBy(words[0], 8 * g) & SplatInt(63), to + 32 * g);
    StoreLow8(ShiftRightBy(words[1], 8 * g) & SplatInt(63), to + 32 * g + 16);
    const auto joined = [&](Vec16i upper, int shift) __attribute__((always_inline)) {
      return (ShiftRightBy(words[2], 8 * g + shift) & SplatInt(15)) | (ShiftRightBy(upper, 8 * g + 2) & SplatInt(48));
    };
    StoreLow8(joined(words[0], 0), to + 128 + 32 * g);
    StoreLow8(joined(words[1], 4), to + 128 + 32 * g + 16);
  }
}
// Sixteen bytes of each row, a byte a group.
DOGSTAR_INLINE void StoreBytesOfGroups(const Vec16i* words, uint8_t* to) {
  for (int g = 0; g < 16; ++g) StoreLow8(ShiftRightBy(words[g / 4], 8 * (g % 4)), to + 16 * g);
}
// Q3_K's sixteen: nibbles in bytes 0..7, upper bits in 8..11, 32 too large.
DOGSTAR_INLINE void StoreSigned(const RowPointers& rows, int64_t offset, uint8_t* to) {
  for (int r = 0; r < 16; ++r) {
    const uint8_t* packed = rows.row[r] + offset;
    for (int g = 0; g < 16; ++g) {
      const int low = packed[g % 8] >> (g / 8 * 4) & 15, high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
      to[16 * g + r] = static_cast<uint8_t>((low | high << 4) - 32);
    }
  }
}

// The scales of one block of all rows to its part of the panel's table.
template <typename Format, typename Blocks>
DOGSTAR_INLINE void PackScales(const RowPointers& rows, int64_t at, uint8_t* table) {
  uint8_t* groups = table + 16 * Format::kHalfBytes;
  Vec16i words[4];
  if constexpr (Format::kSuperBlocks && Format::kScales == Scales::kBytePair) {
    static_assert(Blocks::kD == 0 && Blocks::kM == 2 && Blocks::kScales == 4);
    LoadTransposed(rows.row, at, words);
    StoreLow16(words[0], table);
    StoreLow16(ShiftRight<16>(words[0]), table + 32);
    StorePairs(words + 1, groups);
    return;
  }
  CopyHalves(rows, at + Blocks::kD, table);
  if constexpr (Format::kMinimum) CopyHalves(rows, at + Blocks::kM, table + 32);
  if constexpr (Format::kSuperBlocks && Format::kLowBits == 2 && Format::kHighBits == 1) {
    StoreSigned(rows, at + Blocks::kScales, groups);
  } else if constexpr (Format::kSuperBlocks) {
    LoadTransposed(rows.row, at + Blocks::kScales, words);
    StoreBytesOfGroups(words, groups);
  }
}

template <typename Format, typename Blocks>
inline void PackQuant(const RowPointers& rows, uint64_t row_bytes, int32_t cols, uint8_t* panel) {
  constexpr int kParts = Blocks::kColumns / 32;
  constexpr int64_t kCodeBytes = 64 * Format::kCodeVectors;
  const int64_t blocks = cols / Blocks::kColumns;
  uint8_t* table = panel + cols / 32 * kCodeBytes;
  // A table may end in the middle of a vector: the rest of it is zero.
  const int64_t table_bytes = blocks * Format::kTableBytes * 16;
  __builtin_memset(table + table_bytes, 0, (64 - table_bytes % 64) % 64);
  // The next panel's rows follow these: asking for them in the order of memory suits the prefetchers better than
  // sixteen short streams do.
  const uint8_t* ahead = rows.row[0] + 16 * row_bytes;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < 16 * Blocks::kBytes; i += 64) Prefetch(ahead + b * 16 * Blocks::kBytes + i);
    PackScales<Format, Blocks>(rows, b * Blocks::kBytes, table + b * Format::kTableBytes * 16);
    for (int part = 0; part < kParts; ++part) {
      Vec16i q[8];
      Blocks::Quads(rows, b * Blocks::kBytes, part, q);
      StoreQuads<Format>(q, panel + (b * kParts + part) * kCodeBytes);
    }
  }
}

// work.template operator()<Format, Blocks>() for a block type.
template <typename Work>
inline void WithBlocks(QuantType type, const Work& work) {
  switch (type) {
    case QuantType::kQ4_0:
      return work.template operator()<Q4_0Format, SmallBlocks<Q4_0Format, 2>>();
    case QuantType::kQ4_1:
      return work.template operator()<Q4_1Format, SmallBlocks<Q4_1Format, 4>>();
    case QuantType::kQ5_0:
      return work.template operator()<Q5_0Format, SmallBlocks<Q5_0Format, 6>>();
    case QuantType::kQ5_1:
      return work.template operator()<Q5_1Format, SmallBlocks<Q5_1Format, 8>>();
    case QuantType::kQ8_0:
      return work.template operator()<Q8_0Format, SmallBlocks<Q8_0Format, 2>>();
    case QuantType::kIQ4_NL:
      return work.template operator()<Iq4NlFormat, SmallBlocks<Iq4NlFormat, 2>>();
    case QuantType::kQ2_K:
      return work.template operator()<Q2_KFormat, Q2_KBlocks>();
    case QuantType::kQ3_K:
      return work.template operator()<Q3_KFormat, Q3_KBlocks>();
    case QuantType::kQ4_K:
      return work.template operator()<Q4_KFormat, Q4_KBlocks>();
    case QuantType::kQ5_K:
      return work.template operator()<Q5_KFormat, Q5_KBlocks>();
    case QuantType::kQ6_K:
      return work.template operator()<Q6_KFormat, Q6_KBlocks>();
    case QuantType::kF32:
    case QuantType::kF16:
    case QuantType::kBF16:
      return;
  }
}

inline void PackF32(const RowPointers& rows, int32_t cols, uint8_t* panel) {
  for (int64_t k = 0; k < cols; k += 4) {
    Vec16i q[4];
    LoadTransposed(rows.row, 4 * k, q);
    for (int i = 0; i < 4; ++i) StoreBytes(q[i], panel + 64 * (k + i));
  }
}

inline void PackHalves(const RowPointers& rows, int32_t cols, uint8_t* panel) {
  for (int64_t k = 0; k < cols; k += 8) {
    Vec16i q[4];
    LoadTransposed(rows.row, 2 * k, q);
    for (int i = 0; i < 4; ++i) {
      StoreLow16(q[i], panel + 32 * (k + 2 * i));
      StoreLow16(ShiftRight<16>(q[i]), panel + 32 * (k + 2 * i + 1));
    }
  }
}

inline void PackPanelRows(QuantType type, const std::byte* rows, uint64_t row_bytes, int32_t cols, std::byte* panel) {
  const RowPointers pointers = PointersOf(Bytes(rows), row_bytes);
  uint8_t* out = reinterpret_cast<uint8_t*>(panel);
  switch (type) {
    case QuantType::kF32:
      return PackF32(pointers, cols, out);
    case QuantType::kF16:
    case QuantType::kBF16:
      return PackHalves(pointers, cols, out);
    default:
      WithBlocks(
          type, [&]<typename Format, typename Blocks>() { PackQuant<Format, Blocks>(pointers, row_bytes, cols, out); });
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
