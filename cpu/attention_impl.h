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

// A part of the slots that a row sees: pieces of its runs.
struct AttentionPart {
  SlotRun pieces[kAttentionPart];
  int piece_count = 0;
  int count = 0;  // slots of all of them
};

// Runs from the slot on where the last part ended.
struct RunCursor {
  const SlotRun* run;
  const SlotRun* end;
  int32_t done = 0;  // slots of *run

  DOGSTAR_INLINE bool Next(AttentionPart* part) {
    part->piece_count = part->count = 0;
    while (run != end && part->count < kAttentionPart) {
      const int32_t begin = run->begin + done, left = run->end - begin, room = kAttentionPart - part->count;
      const int32_t taken = left < room ? left : room;
      if (taken > 0) part->pieces[part->piece_count++] = {begin, begin + taken};
      part->count += taken;
      done += taken;
      if (taken == left) ++run, done = 0;
    }
    return part->count > 0;
  }
};

constexpr int kScoreStride = kAttentionPart + 16;  // scores are stored sixteen at a time at any place

// What kHeads query heads keep of the parts so far.
template <int kHeads>
struct OnlineSoftmax {
  alignas(64) float queries[kHeads][kMaxStride];
  alignas(64) float contexts[kHeads][kMaxStride];
  alignas(64) float scores[kHeads][kScoreStride];  // of a part; then their exponentials
  float most[kHeads], sums[kHeads];
  Vec16f old[kHeads], fresh[kHeads];  // factors of what there is and of the part
};

// Scores of the part's slots.
template <typename Elements, int kHeads>
inline void Scores(const AttentionTask& task, const AttentionPart& part, const std::byte* keys,
                   OnlineSoftmax<kHeads>* state) {
  int at = 0;
  for (int p = 0; p < part.piece_count; ++p) {
    for (int32_t slot = part.pieces[p].begin; slot < part.pieces[p].end; slot += 16) {
      const int count = part.pieces[p].end - slot < 16 ? part.pieces[p].end - slot : 16;
      Vec16f dots[kHeads];
      SixteenDots<Elements, kHeads>(keys + slot * Elements::Bytes(task.stride), count, task.stride, state->queries[0],
                                    dots);
      for (int h = 0; h < kHeads; ++h) Store(Splat(task.score_scale) * dots[h], state->scores[h] + at);
      at += count;
    }
  }
}

// Scores to exponentials; the part's sum is taken in, and factors are ready for its context.
template <int kHeads>
inline void Exponentials(int count, int h, OnlineSoftmax<kHeads>* state) {
  float* scores = state->scores[h];
  const int padded = (count + 15) / 16 * 16;
  for (int j = count; j < padded; ++j) scores[j] = -__builtin_inff();
  Vec16f most = Load(scores);
  for (int j = 16; j < padded; j += 16) most = Max(most, Load(scores + j));
  const float top = ReduceMax(most);
  Vec16f sum = Splat(0.0f);
  for (int j = 0; j < padded; j += 16) {
    const Vec16f e = Exp(Load(scores + j) - Splat(top));
    Store(e, scores + j);
    sum = sum + e;
  }
  const float both = state->most[h] > top ? state->most[h] : top;
  state->old[h] = Exp(Splat(state->most[h] - both));
  state->fresh[h] = Exp(Splat(top - both));
  const float of_part = ReduceAdd(sum);
  alignas(64) float next[16];
  Store(Fma(Splat(of_part), state->fresh[h], Splat(state->sums[h]) * state->old[h]), next);
  state->sums[h] = next[0];
  state->most[h] = both;
}

// Context columns [i, i + 16 * kVectors) of each head, with those of the part.
template <typename Elements, int kHeads, int kVectors>
DOGSTAR_INLINE void ValueColumns(const AttentionTask& task, const AttentionPart& part, const std::byte* values,
                                 int32_t i, OnlineSoftmax<kHeads>* state) {
  Vec16f sums[kHeads][kVectors];
#pragma GCC unroll 4
  for (int h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[h][v] = Splat(0.0f);
  }
  int at = 0;
  for (int p = 0; p < part.piece_count; ++p) {
    const std::byte* row = values + part.pieces[p].begin * Elements::Bytes(task.stride);
    for (int32_t slot = part.pieces[p].begin; slot < part.pieces[p].end; ++slot, ++at) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec16f value = Elements::LoadSixteen(row, i + 16 * v);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h) sums[h][v] = Fma(Splat(state->scores[h][at]), value, sums[h][v]);
      }
      row += Elements::Bytes(task.stride);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVectors; ++v) {
      float* context = state->contexts[h] + i + 16 * v;
      Store(Fma(sums[h][v], state->fresh[h], Load(context) * state->old[h]), context);
    }
  }
}

template <typename Elements, int kHeads>
inline void Heads(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, const float* q,
                  float* out) {
  OnlineSoftmax<kHeads> state;
  for (int h = 0; h < kHeads; ++h) {
    state.most[h] = -__builtin_inff();
    state.sums[h] = 0;
    for (int32_t i = 0; i < task.stride; i += 16) {
      Store(LoadPartial(q + h * task.head_dim + i, Left(task.head_dim, i)), state.queries[h] + i);
      Store(Splat(0.0f), state.contexts[h] + i);
    }
  }
  const int64_t of_head = kv_head * task.slots * Elements::Bytes(task.stride);
  AttentionPart part;
  for (RunCursor cursor{runs, runs + run_count}; cursor.Next(&part);) {
    Scores<Elements, kHeads>(task, part, task.keys + of_head, &state);
    for (int h = 0; h < kHeads; ++h) Exponentials(part.count, h, &state);
    int32_t i = 0;
    for (; i + 16 * kValueVectors <= task.stride; i += 16 * kValueVectors) {
      ValueColumns<Elements, kHeads, kValueVectors>(task, part, task.values + of_head, i, &state);
    }
    for (; i < task.stride; i += 16) {
      ValueColumns<Elements, kHeads, 1>(task, part, task.values + of_head, i, &state);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int32_t i = 0; i < task.stride; i += 16) {
      StorePartial(Load(state.contexts[h] + i) / Splat(state.sums[h]), Left(task.head_dim, i),
                   out + h * task.head_dim + i);
    }
  }
}

template <typename Elements>
inline void AnyHeads(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, int32_t heads,
                     const float* q, float* out) {
  switch (heads) {
    case 1:
      return Heads<Elements, 1>(task, runs, run_count, kv_head, q, out);
    case 2:
      return Heads<Elements, 2>(task, runs, run_count, kv_head, q, out);
    case 3:
      return Heads<Elements, 3>(task, runs, run_count, kv_head, q, out);
    default:
      return Heads<Elements, 4>(task, runs, run_count, kv_head, q, out);
  }
}

inline void Attention(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, int32_t heads,
                      const float* q, float* out) {
  switch (task.type) {
    case KvType::kF16:
      return AnyHeads<HalfElements>(task, runs, run_count, kv_head, heads, q, out);
    case KvType::kF32:
      return AnyHeads<FloatElements>(task, runs, run_count, kv_head, heads, q, out);
    case KvType::kQ8_0:
      return AnyHeads<ByteElements>(task, runs, run_count, kv_head, heads, q, out);
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
