// Keys and values in device memory, and the kernels that write and move them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/backend.h"
#include "gpu/arithmetic.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// Keys and values of a layer: [kv head][slot][head_bytes].
struct KvLayer {
  KvType type = KvType::kF16;
  int32_t head_dim = 0, kv_heads = 0, slots = 0;
  int32_t stride = 0;  // KvHeadStride
  int64_t head_bytes = 0;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  DOGSTAR_HD int64_t Offset(int64_t kv_head, int64_t slot) const { return (kv_head * slots + slot) * head_bytes; }
};

constexpr int kKvBlock = 32;           // q8_0: elements of a block
constexpr int kKvBlockBytes = 2 + 32;  // half d, codes

// Eight elements of a head, from element i (a multiple of 8) on; to: 16-aligned.
DOGSTAR_HD void LoadEight(KvType type, const std::byte* head, int32_t i, float* to) {
  struct alignas(16) Halves {
    uint16_t half[8];
  };
  Quad low, high;  // stored at once each: single floats of a warp's threads would meet in a few banks
  if (type == KvType::kF32) {
    low = LoadAs<Quad>(head + 4 * i);
    high = LoadAs<Quad>(head + 4 * i + 16);
  } else if (type == KvType::kF16) {
    const Halves halves = LoadAs<Halves>(head + 2 * i);
    DOGSTAR_UNROLL
    for (int j = 0; j < 4; ++j) low.v[j] = FromHalf(halves.half[j]), high.v[j] = FromHalf(halves.half[4 + j]);
  } else {
    const std::byte* block = head + i / kKvBlock * kKvBlockBytes;
    const std::byte* codes = block + 2 + i % kKvBlock;
    const float d = FromHalf(LoadAs<uint16_t>(block));
    DOGSTAR_UNROLL
    for (int j = 0; j < 4; ++j) {
      low.v[j] = d * static_cast<float>(static_cast<int8_t>(codes[j]));
      high.v[j] = d * static_cast<float>(static_cast<int8_t>(codes[4 + j]));
    }
  }
  *reinterpret_cast<Quad*>(to) = low;
  *reinterpret_cast<Quad*>(to + 4) = high;
}

// A head is written in pieces: a thread has one.
DOGSTAR_HD int32_t KvPiece(KvType type) { return type == KvType::kQ8_0 ? kKvBlock : 16; }

// Elements [begin, begin + KvPiece) of the head; zeros from head_dim on.
DOGSTAR_HD void StoreKvPiece(KvType type, const float* from, int32_t begin, int32_t head_dim, std::byte* head) {
  const auto element = [&](int32_t i) { return begin + i < head_dim ? from[begin + i] : 0.0f; };
  if (type != KvType::kQ8_0) {
    for (int32_t i = 0; i < 16; ++i) {
      if (type == KvType::kF32) {
        *reinterpret_cast<float*>(head + 4 * (begin + i)) = element(i);
      } else {
        *reinterpret_cast<uint16_t*>(head + 2 * (begin + i)) = ToHalf(element(i));
      }
    }
    return;
  }
  float most = 0;
  for (int32_t i = 0; i < kKvBlock; ++i) most = Magnitude(element(i)) > most ? Magnitude(element(i)) : most;
  const float inverse = 127.0f / most, factor = IsFinite(inverse) ? inverse : 0.0f;
  std::byte* block = head + begin / kKvBlock * kKvBlockBytes;
  *reinterpret_cast<uint16_t*>(block) = ToHalf(most / 127.0f);
  for (int32_t i = 0; i < kKvBlock; ++i) {
    block[2 + i] = static_cast<std::byte>(static_cast<int8_t>(Nearest(element(i) * factor)));
  }
}

// Keys and values of rows.
struct WriteKvKernel {
  const float* k = nullptr;
  const float* v = nullptr;
  const int32_t* slots = nullptr;  // [rows]
  KvLayer kv;
  int32_t rows = 0;
  int64_t count = 0;  // Pieces()
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD int64_t Pieces() const { return int64_t{2} * rows * kv.kv_heads * (kv.stride / KvPiece(kv.type)); }
  DOGSTAR_HD void Element(int64_t i) const {
    const int64_t pieces = kv.stride / KvPiece(kv.type), of_heads = i / pieces;
    const int64_t head = of_heads % kv.kv_heads, row = of_heads / kv.kv_heads % rows;
    const bool is_key = of_heads < int64_t{rows} * kv.kv_heads;
    const float* from = (is_key ? k : v) + (row * kv.kv_heads + head) * kv.head_dim;
    std::byte* to = (is_key ? kv.keys : kv.values) + kv.Offset(head, slots[row]);
    StoreKvPiece(kv.type, from, static_cast<int32_t>(i % pieces) * KvPiece(kv.type), kv.head_dim, to);
  }
};

// A slot's heads of all layers, keys and values, one after the other `stride` bytes apart.
struct CopyKvKernel {
  std::byte* first = nullptr;  // of slot 0
  int64_t head_bytes = 0, stride = 0;
  int32_t from = 0, to = 0;
  int64_t count = 0;  // bytes of a head * heads
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const {
    std::byte* head = first + i / head_bytes * stride + i % head_bytes;
    head[to * head_bytes] = head[from * head_bytes];
  }
};

}  // namespace dogstar::gpu
