// Kernels around products: norms, rotary positions, sums of tensors, keys and values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/activation.h"
#include "device/backend.h"
#include "gpu/arithmetic.h"
#include "gpu/digit_search.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// One element a thread: function(i) for i < count.
#define DOGSTAR_ELEMENT_KERNEL_PARTS                                           \
  static constexpr int kThreads = kElementThreads;                             \
  using Shared = Nothing;                                                      \
  using Local = Nothing;                                                       \
  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(count); }                \
  DOGSTAR_HD int Phases() const { return 1; }                                  \
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const { \
    const int64_t i = block * kThreads + thread;                               \
    if (i < count) Element(i);                                                 \
  }

// x = x + y
struct AddKernel {
  const float* y = nullptr;
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = x[i] + y[i]; }
};

// x[t] = x[t] + bias
struct AddBiasKernel {
  const float* bias = nullptr;
  int32_t cols = 0;
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = x[i] + bias[i % cols]; }
};

struct ScaleKernel {
  float factor = 1;
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = x[i] * factor; }
};

struct ClearKernel {
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = 0; }
};

struct GatedKernel {
  FfnActivation activation = FfnActivation::kSilu;
  const float* gate = nullptr;
  const float* up = nullptr;
  float* z = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { z[i] = Activate(activation, gate[i]) * up[i]; }
};

// Pairs of the heads of all rows, in place. table: of each row rotary_dims / 2 cosines, then as many sines.
struct RopeKernel {
  RopePairing pairing = RopePairing::kAdjacent;
  int32_t head_dim = 0, rotary_dims = 0, cols = 0;
  const float* table = nullptr;
  float* x = nullptr;
  int64_t count = 0;  // rows * heads * rotary_dims / 2
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const {
    const int32_t pairs = rotary_dims / 2, heads = cols / head_dim;
    const int64_t pair = i % pairs, head = i / pairs % heads, row = i / pairs / heads;
    const float cosine = table[row * 2 * pairs + pair], sine = table[row * 2 * pairs + pairs + pair];
    const bool adjacent = pairing == RopePairing::kAdjacent;
    float* of_head = x + row * cols + head * head_dim;
    float* first = of_head + (adjacent ? 2 * pair : pair);
    float* second = of_head + (adjacent ? 2 * pair + 1 : pair + pairs);
    const float a = *first, b = *second;
    *first = a * cosine - b * sine;
    *second = a * sine + b * cosine;
  }
};

// Rows of `width` values, `stride` apart from one row to the next of x and out; a row is normed a block.
struct RmsNormKernel {
  static constexpr int kThreads = 128;
  static constexpr int kSumLanes = 16;
  struct Shared {
    float lanes[kSumLanes];
    float scale;
  };
  using Local = Nothing;
  const float* x = nullptr;
  const float* weight = nullptr;
  float epsilon = 0;
  int32_t width = 0;
  int64_t rows = 0;
  float* out = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return rows; }
  DOGSTAR_HD int Phases() const { return 3; }
  DOGSTAR_HD void Run(int phase, int64_t row, int thread, Shared* shared, Local*) const {
    const float* in = x + row * width;
    if (phase == 0) {
      if (thread >= kSumLanes) return;
      float sum = 0;
      for (int32_t i = thread; i < width; i += kSumLanes) sum = Fma(in[i], in[i], sum);
      shared->lanes[thread] = sum;
    } else if (phase == 1) {
      if (thread > 0) return;
      const float mean = SumLanes(shared->lanes) / static_cast<float>(width);
      shared->scale = 1.0f / sqrtf(mean + epsilon);
    } else {
      for (int32_t i = thread; i < width; i += kThreads) out[row * width + i] = (in[i] * shared->scale) * weight[i];
    }
  }
};

// RowPeak of a row a block.
struct PeakKernel {
  static constexpr int kThreads = kPeakLanes;
  struct Shared {
    float values[kThreads];
    int32_t cols[kThreads];
    float weights[kThreads];
  };
  using Local = Nothing;
  const float* x = nullptr;  // the first row
  int64_t stride = 0;
  int32_t cols = 0, rows = 0;
  float scale = 1;
  RowPeak* peaks = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return rows; }
  DOGSTAR_HD int Phases() const { return 4; }
  DOGSTAR_HD void Run(int phase, int64_t row, int thread, Shared* shared, Local*) const {
    const float* in = x + row * stride;
    const float lowest = -FloatOfBits(0x7f800000u);
    if (phase == 0) {
      float most = lowest;
      int32_t at = cols;
      for (int32_t i = thread; i < cols; i += kThreads) {
        if (!(in[i] > most)) continue;
        most = in[i];
        at = i;
      }
      shared->values[thread] = most;
      shared->cols[thread] = at;
    } else if (phase == 1) {
      if (thread > 0) return;
      for (int i = 1; i < kThreads; ++i) {
        const bool larger = shared->values[i] > shared->values[0];
        const bool equal_before = shared->values[i] == shared->values[0] && shared->cols[i] < shared->cols[0];
        if (!larger && !equal_before) continue;
        shared->values[0] = shared->values[i];
        shared->cols[0] = shared->cols[i];
      }
    } else if (phase == 2) {
      const float value = shared->values[0];
      float sum = 0;
      for (int32_t i = thread; i < cols; i += kThreads) {
        if (in[i] > lowest) sum = sum + Exp((in[i] - value) * scale);
      }
      shared->weights[thread] = sum;
    } else if (thread == 0) {
      for (int apart = kThreads / 2; apart >= 1; apart /= 2) {
        for (int i = 0; i < apart; ++i) shared->weights[i] = shared->weights[i] + shared->weights[i + apart];
      }
      const bool found = shared->values[0] > lowest;
      peaks[row] = {found ? shared->cols[0] : 0, shared->values[0], found ? shared->weights[0] : 1.0f};
    }
  }
};

// The first entries of a row, in any order: the larger ones, and the first of those that equal the last.
struct TopKernel {
  static constexpr int kThreads = DigitSearch::kThreads;
  struct Shared {
    DigitSearch search;
    int32_t larger[kThreads], equal[kThreads];  // of a thread's part; then of the parts before it
  };
  using Local = Nothing;
  const float* x = nullptr;
  int32_t cols = 0, count = 0;
  RowEntry* top = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return 1; }
  DOGSTAR_HD int Phases() const { return DigitSearch::kPhases + 3; }
  DOGSTAR_HD void Run(int phase, int64_t, int thread, Shared* shared, Local*) const {
    DigitSearch& search = shared->search;
    if (phase < DigitSearch::kPhases) {
      search.Run(phase, thread, count, [&](const auto& add) {
        for (int32_t i = thread; i < cols; i += kThreads) add(KeyOf(x[i]));
      });
    } else if (phase == DigitSearch::kPhases) {
      int32_t larger = 0, equal = 0;
      for (int32_t i = BeginOf(thread); i < BeginOf(thread + 1); ++i) {
        larger += KeyOf(x[i]) > search.last ? 1 : 0;
        equal += KeyOf(x[i]) == search.last ? 1 : 0;
      }
      shared->larger[thread] = larger;
      shared->equal[thread] = equal;
    } else if (phase == DigitSearch::kPhases + 1) {
      if (thread < 2) DigitSearch::SumBefore(thread == 0 ? shared->larger : shared->equal);
    } else {
      int32_t larger = shared->larger[thread], equal = shared->equal[thread];
      for (int32_t i = BeginOf(thread); i < BeginOf(thread + 1); ++i) {
        const uint32_t key = KeyOf(x[i]);
        if (key > search.last) Store(i, larger++);
        if (key == search.last && equal < search.left) Store(i, count - search.left + equal++);
      }
    }
  }

 private:
  DOGSTAR_HD int32_t BeginOf(int thread) const { return static_cast<int32_t>(int64_t{cols} * thread / kThreads); }
  // Ordered as values are; what is no number as -infinity, both zeros as one.
  DOGSTAR_HD static uint32_t KeyOf(float value) {
    const uint32_t bits = BitsOfFloat(value == value ? value + 0.0f : -FloatOfBits(0x7f800000u));
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  }
  DOGSTAR_HD void Store(int32_t col, int32_t place) const {
    const float value = x[col];
    top[place].value = value == value ? value : -FloatOfBits(0x7f800000u);
    top[place].col = col;
  }
};

// Keys and values of a layer: [kv head][slot][head_bytes].
struct KvLayer {
  KvType type = KvType::kF16;
  int32_t head_dim = 0, kv_heads = 0, slots = 0;
  int64_t head_bytes = 0;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  DOGSTAR_HD int64_t Offset(int64_t kv_head, int64_t slot) const { return (kv_head * slots + slot) * head_bytes; }
};

constexpr int kKvBlock = 32;           // q8_0: elements of a block
constexpr int kKvBlockBytes = 2 + 32;  // half d, codes

DOGSTAR_HD float KvElement(KvType type, const std::byte* head, int32_t i) {
  if (type == KvType::kF32) return LoadAs<float>(head + 4 * i);
  if (type == KvType::kF16) return FromHalf(LoadAs<uint16_t>(head + 2 * i));
  const std::byte* block = head + i / kKvBlock * kKvBlockBytes;
  return FromHalf(LoadAs<uint16_t>(block)) * static_cast<float>(static_cast<int8_t>(block[2 + i % kKvBlock]));
}

DOGSTAR_HD void StoreKvHead(KvType type, const float* from, int32_t head_dim, int64_t head_bytes, std::byte* to) {
  if (type != KvType::kQ8_0) {
    const int32_t elements = static_cast<int32_t>(head_bytes / (type == KvType::kF32 ? 4 : 2));
    for (int32_t i = 0; i < elements; ++i) {
      const float value = i < head_dim ? from[i] : 0;
      if (type == KvType::kF32) {
        *reinterpret_cast<float*>(to + 4 * i) = value;
      } else {
        *reinterpret_cast<uint16_t*>(to + 2 * i) = ToHalf(value);
      }
    }
    return;
  }
  for (int32_t begin = 0; begin < head_dim; begin += kKvBlock, to += kKvBlockBytes) {
    float most = 0;
    for (int32_t i = begin; i < begin + kKvBlock && i < head_dim; ++i) {
      most = Magnitude(from[i]) > most ? Magnitude(from[i]) : most;
    }
    const float inverse = 127.0f / most, factor = IsFinite(inverse) ? inverse : 0.0f;
    *reinterpret_cast<uint16_t*>(to) = ToHalf(most / 127.0f);
    for (int32_t i = 0; i < kKvBlock; ++i) {
      const float value = begin + i < head_dim ? from[begin + i] : 0;
      to[2 + i] = static_cast<std::byte>(static_cast<int8_t>(Nearest(value * factor)));
    }
  }
}

// A head of a row a thread, of keys and values.
struct WriteKvKernel {
  const float* k = nullptr;
  const float* v = nullptr;
  const int32_t* slots = nullptr;  // [rows]
  KvLayer kv;
  int64_t count = 0;  // 2 * rows * kv_heads
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const {
    const int64_t head = i % kv.kv_heads, row = i / kv.kv_heads % (count / 2 / kv.kv_heads);
    const bool is_key = i < count / 2;
    const float* from = (is_key ? k : v) + (row * kv.kv_heads + head) * kv.head_dim;
    std::byte* to = (is_key ? kv.keys : kv.values) + kv.Offset(head, slots[row]);
    StoreKvHead(kv.type, from, kv.head_dim, kv.head_bytes, to);
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

#undef DOGSTAR_ELEMENT_KERNEL_PARTS

// A run of slots, and a row's runs (AttentionMask).
struct SlotRange {
  int32_t begin = 0, end = 0;
};
struct RowRuns {
  int32_t first_run = 0, run_count = 0, slots = 0;  // slots of all of them
};

// A query head of a row a block. Scores are kept in global memory: a row of them a block.
struct AttentionKernel {
  static constexpr int kThreads = 128;
  struct Shared {
    float most[kThreads];
  };
  using Local = Nothing;
  int32_t heads = 0, group = 0;  // query heads, and those of a KV head
  float score_scale = 0;
  KvLayer kv;
  const SlotRange* runs = nullptr;
  const RowRuns* rows = nullptr;
  const uint64_t* head_mask = nullptr;  // null: all heads
  const float* q = nullptr;             // [rows][heads * head_dim], as out
  float* out = nullptr;
  float* scores = nullptr;  // [blocks of a launch][score_stride]
  int64_t score_stride = 0;
  int64_t first_pair = 0, pairs = 0;  // row * heads + head

  DOGSTAR_HD int64_t Blocks() const { return pairs; }
  DOGSTAR_HD int Phases() const { return 4; }

  DOGSTAR_HD void Run(int phase, int64_t block, int thread, Shared* shared, Local*) const {
    const int64_t pair = first_pair + block, row = pair / heads;
    const int32_t head = static_cast<int32_t>(pair % heads), kv_head = head / group;
    float* own = scores + block * score_stride;
    const int32_t count = rows[row].slots;
    if (head_mask != nullptr && (head_mask[head / 64] >> (head % 64) & 1) == 0) {
      for (int32_t i = thread; phase == 3 && i < kv.head_dim; i += kThreads) out[pair * kv.head_dim + i] = 0;
      return;
    }
    if (phase == 0) {
      Scores(rows[row], kv_head, q + pair * kv.head_dim, thread, own);
    } else if (phase == 1) {
      float most = own[thread < count ? thread : 0];
      for (int32_t j = thread; j < count; j += kThreads) most = own[j] > most ? own[j] : most;
      shared->most[thread] = most;
    } else if (phase == 2) {
      float most = shared->most[0];
      for (int i = 1; i < kThreads; ++i) most = shared->most[i] > most ? shared->most[i] : most;
      for (int32_t j = thread; j < count; j += kThreads) own[j] = Exp(own[j] - most);
    } else {
      for (int32_t i = thread; i < kv.head_dim; i += kThreads) {
        out[pair * kv.head_dim + i] = Value(rows[row], kv_head, i, own);
      }
    }
  }

 private:
  DOGSTAR_HD void Scores(const RowRuns& of_row, int32_t kv_head, const float* query, int thread, float* own) const {
    int32_t at = 0;
    for (int32_t r = 0; r < of_row.run_count; ++r) {
      const SlotRange run = runs[of_row.first_run + r];
      // Position at + s is this thread's where its remainder is.
      const int32_t first = (thread - at % kThreads + kThreads) % kThreads;
      for (int32_t s = first; s < run.end - run.begin; s += kThreads) {
        own[at + s] = score_scale * Dot(query, kv.keys + kv.Offset(kv_head, run.begin + s));
      }
      at += run.end - run.begin;
    }
  }

  DOGSTAR_HD float Dot(const float* query, const std::byte* key) const {
    float lanes[16];
    for (int lane = 0; lane < 16; ++lane) {
      float sum = 0;
      for (int32_t i = lane; i < kv.head_dim; i += 16) sum = Fma(query[i], KvElement(kv.type, key, i), sum);
      lanes[lane] = sum;
    }
    return SumLanes(lanes);
  }

  // Element i of the head's context, and the sum of the exponentials beside it, both in the mask's order.
  DOGSTAR_HD float Value(const RowRuns& of_row, int32_t kv_head, int32_t i, const float* own) const {
    float acc = 0, sum = 0;
    int32_t at = 0;
    for (int32_t r = 0; r < of_row.run_count; ++r) {
      const SlotRange run = runs[of_row.first_run + r];
      for (int32_t slot = run.begin; slot < run.end; ++slot, ++at) {
        sum = sum + own[at];
        acc = Fma(own[at], KvElement(kv.type, kv.values + kv.Offset(kv_head, slot), i), acc);
      }
    }
    return acc / sum;
  }
};

}  // namespace dogstar::gpu
