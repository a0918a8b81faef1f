// Attention of query heads that share a KV head, and the storing of keys and values.
#pragma once

#include "cpu/math_impl.h"
#include "cpu/product_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

constexpr int kMaxStride = 1024;  // NewKvStore refuses larger heads
// 16-lane vectors of values in flight for each of kAttentionHeads heads.
constexpr int kValueVectors = kRowsInFlight >= 8 ? 4 : kRowsInFlight >= 4 ? 2 : 1;

// Elements of one head of one slot: Bytes(stride) of them, and sixteen from element i (a multiple of 16) on.
struct HalfElements {
  static DOGSTAR_INLINE int64_t Bytes(int32_t stride) { return int64_t{stride} * 2; }
  static DOGSTAR_INLINE Vec16f LoadSixteen(const std::byte* head, int32_t i) { return LoadHalf(head + int64_t{i} * 2); }
  static DOGSTAR_INLINE void StoreSixteen(Vec16f a, std::byte* head, int32_t i) { StoreHalf(a, head + int64_t{i} * 2); }
};
struct FloatElements {
  static DOGSTAR_INLINE int64_t Bytes(int32_t stride) { return int64_t{stride} * 4; }
  static DOGSTAR_INLINE Vec16f LoadSixteen(const std::byte* head, int32_t i) {
    return Load(reinterpret_cast<const float*>(head) + i);
  }
  static DOGSTAR_INLINE void StoreSixteen(Vec16f a, std::byte* head, int32_t i) {
    Store(a, reinterpret_cast<float*>(head) + i);
  }
};
struct ByteElements {
  static constexpr int kBlockBytes = 34;  // half d, 32 codes
  static DOGSTAR_INLINE int64_t Bytes(int32_t stride) { return int64_t{stride} / 32 * kBlockBytes; }
  static DOGSTAR_INLINE Vec16f LoadSixteen(const std::byte* head, int32_t i) {
    const std::byte* block = head + int64_t{i} / 32 * kBlockBytes;
    return SplatHalf(block) * ToFloat(LoadS8(block + 2 + i % 32));
  }
};

inline int Left(int32_t count, int32_t i) { return count - i < 16 ? count - i < 0 ? 0 : count - i : 16; }

template <typename Elements>
inline void StoreHead(const float* from, int32_t head_dim, std::byte* to) {
  for (int32_t i = 0; i < head_dim; i += 16) Elements::StoreSixteen(LoadPartial(from + i, Left(head_dim, i)), to, i);
}

// As device/backend.h says under KvType.
inline void StoreByteHead(const float* from, int32_t head_dim, std::byte* to) {
  for (int32_t i = 0; i < head_dim; i += 32, to += ByteElements::kBlockBytes) {
    const Vec16f low = LoadPartial(from + i, Left(head_dim, i));
    const Vec16f high = LoadPartial(from + i + 16, Left(head_dim, i + 16));
    const float most = ReduceMax(Max(Abs(low), Abs(high)));
    const float inverse = 127.0f / most;
    const Vec16f factor = Splat(inverse <= __FLT_MAX__ ? inverse : 0.0f);
    uint16_t halves[16];
    StoreHalf(Splat(most / 127.0f), halves);
    __builtin_memcpy(to, halves, 2);
    StoreLow8(ToIntNearest(low * factor), to + 2);
    StoreLow8(ToIntNearest(high * factor), to + 18);
  }
}

inline void StoreKv(KvType type, const float* from, int32_t head_dim, std::byte* to) {
  switch (type) {
    case KvType::kF16:
      return StoreHead<HalfElements>(from, head_dim, to);
    case KvType::kF32:
      return StoreHead<FloatElements>(from, head_dim, to);
    case KvType::kQ8_0:
      return StoreByteHead(from, head_dim, to);
  }
}

// Dot products of up to 16 neighbouring slots with kHeads queries: dots[h], lane = slot.
template <typename Elements, int kHeads>
DOGSTAR_INLINE void SixteenDots(const std::byte* keys, int count, int32_t stride, const float* queries, Vec16f* dots) {
  Vec16f sums[kHeads][16];
  for (int j = 0; j < count; ++j) {
    Vec16f sum[kHeads];
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) sum[h] = Splat(0.0f);
    for (int32_t i = 0; i < stride; i += 16) {
      const Vec16f k = Elements::LoadSixteen(keys + j * Elements::Bytes(stride), i);
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h) sum[h] = Fma(Load(queries + h * kMaxStride + i), k, sum[h]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) sums[h][j] = sum[h];
  }
  for (int j = count; j < 16; ++j) {
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; ++h) sums[h][j] = Splat(0.0f);
  }
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) dots[h] = ReduceAdd16(sums[h]);
}

// scores[h * score_stride + j] for the slots of the runs in order; returns their number. Writes up to 15 past it.
template <typename Elements, int kHeads>
inline int64_t Scores(const AttentionTask& task, const SlotRun* runs, int32_t run_count, const std::byte* keys,
                      const float* queries, float* scores, int64_t score_stride) {
  int64_t at = 0;
  for (int32_t run = 0; run < run_count; ++run) {
    for (int32_t slot = runs[run].begin; slot < runs[run].end; slot += 16) {
      const int count = runs[run].end - slot < 16 ? runs[run].end - slot : 16;
      Vec16f dots[kHeads];
      SixteenDots<Elements, kHeads>(keys + slot * Elements::Bytes(task.stride), count, task.stride, queries, dots);
      for (int h = 0; h < kHeads; ++h) Store(Splat(task.score_scale) * dots[h], scores + h * score_stride + at);
      at += count;
    }
  }
  return at;
}

// Scores to exponentials; returns their sum.
inline float Exponentials(float* scores, int64_t count) {
  const int64_t padded = (count + 15) / 16 * 16;
  for (int64_t j = count; j < padded; ++j) scores[j] = -__builtin_inff();
  Vec16f most = Load(scores);
  for (int64_t j = 16; j < padded; j += 16) most = Max(most, Load(scores + j));
  const Vec16f top = Splat(ReduceMax(most));
  for (int64_t j = 0; j < padded; j += 16) Store(Exp(Load(scores + j) - top), scores + j);
  float sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += scores[j];
  return sum;
}

// out columns [i, i + 16 * kVectors) of each head.
template <typename Elements, int kHeads, int kVectors>
DOGSTAR_INLINE void ValueColumns(const AttentionTask& task, const SlotRun* runs, int32_t run_count,
                                 const std::byte* values, const float* weights, int64_t weight_stride,
                                 const float* weight_sums, int32_t i, float* out) {
  Vec16f sums[kHeads][kVectors];
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[h][v] = Splat(0.0f);
  }
  int64_t at = 0;
  for (int32_t run = 0; run < run_count; ++run) {
    const std::byte* row = values + runs[run].begin * Elements::Bytes(task.stride);
    for (int32_t slot = runs[run].begin; slot < runs[run].end; ++slot, ++at) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec16f value = Elements::LoadSixteen(row, i + 16 * v);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) {
          sums[h][v] = Fma(Splat(weights[h * weight_stride + at]), value, sums[h][v]);
        }
      }
      row += Elements::Bytes(task.stride);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVectors; ++v) {
      StorePartial(sums[h][v] / Splat(weight_sums[h]), Left(task.head_dim, i + 16 * v),
                   out + h * task.head_dim + i + 16 * v);
    }
  }
}

template <typename Elements, int kHeads>
inline void Heads(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, const float* q,
                  float* out, float* scores, int64_t score_stride) {
  const int64_t head_bytes = task.slots * Elements::Bytes(task.stride);
  alignas(64) float queries[kHeads * kMaxStride];
  for (int h = 0; h < kHeads; ++h) {
    for (int32_t i = 0; i < task.stride; i += 16) {
      Store(LoadPartial(q + h * task.head_dim + i, Left(task.head_dim, i)), queries + h * kMaxStride + i);
    }
  }
  const int64_t count =
      Scores<Elements, kHeads>(task, runs, run_count, task.keys + kv_head * head_bytes, queries, scores, score_stride);
  float sums[kHeads];
  for (int h = 0; h < kHeads; ++h) sums[h] = Exponentials(scores + h * score_stride, count);
  const std::byte* values = task.values + kv_head * head_bytes;
  int32_t i = 0;
  for (; i + 16 * kValueVectors <= task.stride; i += 16 * kValueVectors) {
    ValueColumns<Elements, kHeads, kValueVectors>(task, runs, run_count, values, scores, score_stride, sums, i, out);
  }
  for (; i < task.stride; i += 16) {
    ValueColumns<Elements, kHeads, 1>(task, runs, run_count, values, scores, score_stride, sums, i, out);
  }
}

template <typename Elements>
inline void AnyHeads(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, int32_t heads,
                     const float* q, float* out, float* scores, int64_t score_stride) {
  switch (heads) {
    case 1:
      return Heads<Elements, 1>(task, runs, run_count, kv_head, q, out, scores, score_stride);
    case 2:
      return Heads<Elements, 2>(task, runs, run_count, kv_head, q, out, scores, score_stride);
    case 3:
      return Heads<Elements, 3>(task, runs, run_count, kv_head, q, out, scores, score_stride);
    default:
      return Heads<Elements, 4>(task, runs, run_count, kv_head, q, out, scores, score_stride);
  }
}

inline void Attention(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, int32_t heads,
                      const float* q, float* out, float* scores, int64_t score_stride) {
  switch (task.type) {
    case KvType::kF16:
      return AnyHeads<HalfElements>(task, runs, run_count, kv_head, heads, q, out, scores, score_stride);
    case KvType::kF32:
      return AnyHeads<FloatElements>(task, runs, run_count, kv_head, heads, q, out, scores, score_stride);
    case KvType::kQ8_0:
      return AnyHeads<ByteElements>(task, runs, run_count, kv_head, heads, q, out, scores, score_stride);
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
