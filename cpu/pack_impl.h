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

DOGSTAR_INLINE void CopyHalf(const uint8_t* from, uint8_t* to) { __builtin_memcpy(to, from, 2); }

// The low nibbles of four bytes of `a` and of `b`, b's above a's; and the high ones.
DOGSTAR_INLINE Vec16i JoinLow(Vec16i a, Vec16i b) { return LowNibbles(a) | ShiftLeft<4>(LowNibbles(b)); }
DOGSTAR_INLINE Vec16i JoinHigh(Vec16i a, Vec16i b) {
  return HighNibbles(a) | (b & SplatInt(static_cast<int>(0xf0f0f0f0)));
}

template <typename Format>
DOGSTAR_INLINE void PackBlock(const RowPointers& rows, int64_t block, uint8_t* codes, uint8_t* scales) {
  constexpr int kHeader = Format::kMinimum ? 4 : 2;
  constexpr int kBlockBytes = kHeader + 4 * Format::kCodeVectors;
  const int64_t at = block * kBlockBytes;
  for (int r = 0; r < 16; ++r) {
    CopyHalf(rows.row[r] + at, scales + 2 * r);
    if constexpr (Format::kMinimum) CopyHalf(rows.row[r] + at + 2, scales + 32 + 2 * r);
  }
  Vec16i q[4];
  LoadTransposed(rows.row, at + kHeader, q);
  if constexpr (Format::kNibbles) {
    StoreBytes(JoinLow(q[0], q[1]), codes);
    StoreBytes(JoinLow(q[2], q[3]), codes + 64);
    StoreBytes(JoinHigh(q[0], q[1]), codes + 128);
    StoreBytes(JoinHigh(q[2], q[3]), codes + 192);
  } else {
    for (int i = 0; i < 4; ++i) StoreBytes(q[i], codes + 64 * i);
    LoadTransposed(rows.row, at + kHeader + 16, q);
    for (int i = 0; i < 4; ++i) StoreBytes(q[i], codes + 256 + 64 * i);
  }
}

template <typename Format>
inline void PackQuant(const RowPointers& rows, uint64_t row_bytes, int32_t cols, uint8_t* panel) {
  constexpr int64_t kCodeBytes = 64 * Format::kCodeVectors;
  const int64_t blocks = cols / 32;
  // An odd number of blocks with one scale each ends in half a vector: the rest of it is zero.
  const int64_t scale_bytes = blocks * Format::kScaleBytes;
  __builtin_memset(panel + blocks * kCodeBytes + scale_bytes, 0, scale_bytes % 64);
  // The next panel's rows follow these: asking for them in the order of memory suits the prefetchers better than
  // sixteen short streams do.
  const uint8_t* ahead = rows.row[0] + 16 * row_bytes;
  const int64_t block_bytes = static_cast<int64_t>(row_bytes) / blocks;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < 16 * block_bytes; i += 64) Prefetch(ahead + b * 16 * block_bytes + i);
    PackBlock<Format>(rows, b, panel + b * kCodeBytes, panel + blocks * kCodeBytes + b * Format::kScaleBytes);
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
    case QuantType::kQ4_0:
      return PackQuant<Q4_0Format>(pointers, row_bytes, cols, out);
    case QuantType::kQ4_1:
      return PackQuant<Q4_1Format>(pointers, row_bytes, cols, out);
    case QuantType::kQ8_0:
      return PackQuant<Q8_0Format>(pointers, row_bytes, cols, out);
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
