// Attention: a block takes a tile of up to 8 queries that share keys, and one part (device/functions.h) of what they
// see after the other, or a single part of it where there are too few tiles for all multiprocessors; then
// AttentionSumKernel puts the parts together.
//
// The contexts of the parts so far are kept where the result goes. Of a part, a thread forms the scores of one slot and
// four queries, and the context of one dimension and four queries. Keys and values pass through shared memory as
// floats: keys of all slots, 64 dimensions at a time; values of 64 slots, 128 dimensions at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/arithmetic.h"
#include "gpu/kernel.h"
#include "gpu/kv.h"

namespace dogstar::gpu {

// A run of slots, and a row's runs (AttentionMask).
struct SlotRange {
  int32_t begin = 0, end = 0;
};
struct RowRuns {
  int32_t first_run = 0, run_count = 0, slots = 0;  // slots of all of them
};

constexpr int kTileQueries = 8;

// Queries of rows each of which sees what the one before it sees, and more: query j is head (first_head + j) % group of
// each KV head's group, of row first_row + (first_head + j) / group.
struct QueryTile {
  int32_t first_row = 0, first_head = 0, count = 0;
  int32_t last_row = 0;
};

// What both kernels know.
struct AttentionShape {
  int32_t heads = 0, group = 0;  // query heads, and those of a KV head
  float score_scale = 0;
  KvLayer kv;
  const SlotRange* runs = nullptr;
  const RowRuns* rows = nullptr;
  const uint64_t* head_mask = nullptr;  // null: all heads
  const float* q = nullptr;             // [rows][heads * head_dim], as out
  float* out = nullptr;
  const QueryTile* tiles = nullptr;
  int64_t tile_count = 0;
  // Parts of the longest tile, each of a block of its own; 0: a block takes all parts of its tile.
  int32_t parts = 0;
  float* partials = nullptr;  // [tiles][KV heads][parts][kTileQueries][PartialFloats]

  // Of a query and part: its context, its largest score, the sum of its exponentials.
  DOGSTAR_HD static int64_t PartialFloats(int32_t stride) { return stride + 2; }
  DOGSTAR_HD float* Partial(int64_t tile, int64_t kv_head, int64_t part, int query) const {
    const int64_t at = ((tile * kv.kv_heads + kv_head) * parts + part) * kTileQueries + query;
    return partials + at * PartialFloats(kv.stride);
  }
  DOGSTAR_HD int32_t RowOf(const QueryTile& tile, int query) const {
    return tile.first_row + (tile.first_head + query) / group;
  }
  DOGSTAR_HD int32_t HeadOf(const QueryTile& tile, int32_t kv_head, int query) const {
    return kv_head * group + (tile.first_head + query) % group;
  }
  // Of q and out.
  DOGSTAR_HD int64_t PlaceOf(const QueryTile& tile, int32_t kv_head, int query) const {
    return (int64_t{RowOf(tile, query)} * heads + HeadOf(tile, kv_head, query)) * kv.head_dim;
  }
  DOGSTAR_HD bool IsUsed(int32_t head) const {
    return head_mask == nullptr || (head_mask[head / 64] >> (head % 64) & 1) != 0;
  }
};

// How a part is taken into what there is.
struct PartFactors {
  float most = 0, old = 0, fresh = 0;
  DOGSTAR_HD static PartFactors Of(float most, float of_part) {
    const float both = most > of_part ? most : of_part;
    return {both, Exp(most - both), Exp(of_part - both)};
  }
};

struct AttentionKernel {
  static constexpr int kThreads = 256;
  static constexpr int kBlocksTogether = 2;
  static constexpr int kPart = kAttentionPart;
  static constexpr int kKeyDims = 64, kKeyStride = kKeyDims + 4;  // + 4: of neighbouring slots no two in one bank
  static constexpr int kValueSlots = 64, kValueDims = 128, kValueStride = kValueDims + 4;
  static constexpr int kTileFloats = kPart * kKeyStride;
  static constexpr int kSumLanes = 16, kPeaks = kThreads / kTileQueries;
  static_assert(kPart * kTileQueries == 4 * kThreads && kValueDims * 2 == kThreads && 2 * kValueSlots == kPart &&
                kValueSlots * kValueStride <= kTileFloats);
  struct Shared {
    alignas(16) float tile[kTileFloats];
    alignas(16) float queries[kTileQueries][kKeyDims];
    alignas(16) float scores[kPart][kTileQueries];  // then their exponentials
    float peaks[kTileQueries][kPeaks];              // of some scores each; then lanes of the sum
    int32_t slots[kPart];
    int32_t seen[kTileQueries];  // slots of the part that a query sees
    float part_most[kTileQueries], part_sum[kTileQueries];
    // Of the parts so far, and how the part is taken in.
    float most[kTileQueries], sum[kTileQueries], old[kTileQueries], fresh[kTileQueries];
  };
  struct Local {
    float scores[4][kSumLanes];
    // The part's contexts, once its scores are formed: registers are few.
    DOGSTAR_HD float& part(int query) { return scores[query][0]; }
  };
  AttentionShape of;

  DOGSTAR_HD int64_t Blocks() const { return of.tile_count * of.kv.kv_heads * (of.parts > 0 ? of.parts : 1); }
  // of.tiles' last rows' most.
  int32_t most_parts = 0;
  DOGSTAR_HD int Phases() const { return (of.parts > 0 ? 1 : most_parts) * PhasesOfPart() + 1; }

  DOGSTAR_HD void Run(int phase, int64_t block, int thread, Shared* shared, Local* local) const {
    const Place place = PlaceOf(block);
    const int32_t part = of.parts > 0 ? place.part : phase / PhasesOfPart();
    const int32_t begin = part * kPart, left = of.rows[place.tile.last_row].slots - begin;
    const int32_t count = left < kPart ? left : kPart;
    if (phase + 1 == Phases()) return Finish(place, thread, *shared);
    if (count <= 0) return;
    const int step = phase % PhasesOfPart(), keys = 2 * KeyChunks();
    if (step == 0) {
      FindSlots(place, begin, count, thread, shared);
    } else if (step <= keys) {
      const int chunk = (step - 1) / 2;
      if (step % 2 == 1) return LoadKeys(place, chunk, count, thread, shared);
      FormScores(place, chunk, count, thread, shared, local);
    } else if (step == keys + 1) {
      FindPeaks(thread, shared);
      LoadValues(place, 0, count, thread, shared);
    } else if (step == keys + 2) {
      FormExponentials(thread, shared);
    } else if (step == keys + 3) {
      SumExponentials(thread, shared);
    } else {
      const int piece = (step - keys - 4) / 2;
      if ((step - keys - 4) % 2 == 1) return LoadValues(place, piece + 1, count, thread, shared);
      if (piece == 0 && thread < kTileQueries) TakeSumIn(thread, shared);
      AddValues(place, part, piece, thread, *shared, local);
    }
  }

 private:
  struct Place {
    QueryTile tile;
    int64_t tile_index = 0;
    int32_t kv_head = 0, part = 0;
  };

  DOGSTAR_HD int KeyChunks() const { return (of.kv.stride + kKeyDims - 1) / kKeyDims; }
  DOGSTAR_HD int Slabs() const { return (of.kv.stride + kValueDims - 1) / kValueDims; }  // of values
  DOGSTAR_HD int PhasesOfPart() const { return 2 * KeyChunks() + 3 + 4 * Slabs(); }

  DOGSTAR_HD Place PlaceOf(int64_t block) const {
    Place place;
    auto left = static_cast<uint32_t>(block);  // division of 64 bits is long
    const auto parts = static_cast<uint32_t>(of.parts > 0 ? of.parts : 1),
               kv_heads = static_cast<uint32_t>(of.kv.kv_heads);
    place.part = static_cast<int32_t>(left % parts);
    left /= parts;
    place.kv_head = static_cast<int32_t>(left % kv_heads);
    place.tile_index = left / kv_heads;
    place.tile = of.tiles[place.tile_index];
    return place;
  }

  DOGSTAR_HD void FindSlots(const Place& place, int32_t begin, int32_t count, int thread, Shared* shared) const {
    const RowRuns& row = of.rows[place.tile.last_row];
    if (thread < count) {
      int32_t at = begin + thread, run = row.first_run;
      for (; at >= of.runs[run].end - of.runs[run].begin; ++run) at -= of.runs[run].end - of.runs[run].begin;
      shared->slots[thread] = of.runs[run].begin + at;
    }
    const int query = thread - kPart;
    if (query < 0 || query >= kTileQueries) return;
    int32_t seen = query < place.tile.count ? of.rows[of.RowOf(place.tile, query)].slots - begin : 0;
    seen = seen < count ? seen : count;
    shared->seen[query] = seen > 0 ? seen : 0;
    if (begin > 0 && of.parts == 0) return;
    shared->most[query] = -FloatOfBits(0x7f800000u);
    shared->sum[query] = 0;
  }

  // Dimensions [first_dim, first_dim + dims) of slots [first, first + count) of the part, `stride` floats apart.
  DOGSTAR_HD void LoadTile(const std::byte* heads, int32_t first, int32_t count, int32_t first_dim, int32_t dims,
                           int32_t stride, int thread, Shared* shared) const {
    const int32_t eights = dims / 8;
    int32_t slot = thread / eights, eight = thread % eights;
    // More of them under way spill registers on sm_120.
    DOGSTAR_UNROLL_TWICE
    while (slot < count) {
      LoadEight(of.kv.type, heads + int64_t{shared->slots[first + slot]} * of.kv.head_bytes, first_dim + 8 * eight,
                shared->tile + slot * stride + 8 * eight);
      slot += kThreads / eights;
      eight += kThreads % eights;
      if (eight < eights) continue;
      eight -= eights;
      ++slot;
    }
  }
  DOGSTAR_HD int32_t KeyDims(int chunk) const {
    const int32_t left = of.kv.stride - chunk * kKeyDims;
    return left < kKeyDims ? left : kKeyDims;
  }
  DOGSTAR_HD void LoadKeys(const Place& place, int chunk, int32_t count, int thread, Shared* shared) const {
    LoadTile(of.kv.keys + of.kv.Offset(place.kv_head, 0), 0, count, chunk * kKeyDims, KeyDims(chunk), kKeyStride,
             thread, shared);
    for (int i = thread; i < kTileQueries * kKeyDims; i += kThreads) {
      const int query = i / kKeyDims;
      const int32_t dim = chunk * kKeyDims + i % kKeyDims;
      const bool is_there = query < place.tile.count && dim < of.kv.head_dim;
      shared->queries[query][i % kKeyDims] = is_there ? of.q[of.PlaceOf(place.tile, place.kv_head, query) + dim] : 0;
    }
  }
  // Piece: half of the part's slots, of one slab after the other.
  DOGSTAR_HD void LoadValues(const Place& place, int piece, int32_t count, int thread, Shared* shared) const {
    const int32_t first = piece % 2 * kValueSlots, first_dim = piece / 2 * kValueDims;
    const int32_t slots = count - first < kValueSlots ? count - first : kValueSlots;
    const int32_t dims = of.kv.stride - first_dim < kValueDims ? of.kv.stride - first_dim : kValueDims;
    if (slots <= 0) return;
    LoadTile(of.kv.values + of.kv.Offset(place.kv_head, 0), first, slots, first_dim, dims, kValueStride, thread,
             shared);
  }

  DOGSTAR_HD void FormScores(const Place& place, int chunk, int32_t count, int thread, Shared* shared,
                             Local* local) const {
    const int slot = thread % kPart, first = thread / kPart * 4;
    if (slot >= count || first >= place.tile.count) return;
    if (chunk == 0) {
      DOGSTAR_UNROLL
      for (int query = 0; query < 4; ++query) {
        DOGSTAR_UNROLL
        for (int lane = 0; lane < kSumLanes; ++lane) local->scores[query][lane] = 0;
      }
    }
    const float* key = shared->tile + slot * kKeyStride;
    for (int32_t dim = 0; dim < KeyDims(chunk); dim += kSumLanes) {
      DOGSTAR_UNROLL
      for (int lane = 0; lane < kSumLanes; lane += 4) {
        const Quad k = *reinterpret_cast<const Quad*>(key + dim + lane);
        DOGSTAR_UNROLL
        for (int query = 0; query < 4; ++query) {
          const Quad q = *reinterpret_cast<const Quad*>(shared->queries[first + query] + dim + lane);
          DOGSTAR_UNROLL
          for (int i = 0; i < 4; ++i) {
            local->scores[query][lane + i] = Fma(q.v[i], k.v[i], local->scores[query][lane + i]);
          }
        }
      }
    }
    if (chunk + 1 < KeyChunks()) return;
    Quad scores;
    DOGSTAR_UNROLL
    for (int query = 0; query < 4; ++query) scores.v[query] = of.score_scale * SumSixteen(local->scores[query]);
    *reinterpret_cast<Quad*>(shared->scores[slot] + first) = scores;
  }

  DOGSTAR_HD static float SumSixteen(float* lanes) {
    DOGSTAR_UNROLL
    for (int i = 0; i < 8; ++i) lanes[i] = lanes[i] + lanes[i + 8];
    DOGSTAR_UNROLL
    for (int i = 0; i < 4; ++i) lanes[i] = lanes[i] + lanes[i + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  }

  DOGSTAR_HD void FindPeaks(int thread, Shared* shared) const {
    const int query = thread / kPeaks, first = thread % kPeaks;
    float most = -FloatOfBits(0x7f800000u);
    for (int slot = first; slot < shared->seen[query]; slot += kPeaks) {
      most = shared->scores[slot][query] > most ? shared->scores[slot][query] : most;
    }
    shared->peaks[query][first] = most;
  }
  // What a query does not see weighs nothing.
  DOGSTAR_HD void FormExponentials(int thread, Shared* shared) const {
    const int query = thread / kPeaks, first = thread % kPeaks;
    float most = shared->peaks[query][0];
    for (int i = 1; i < kPeaks; ++i) most = shared->peaks[query][i] > most ? shared->peaks[query][i] : most;
    if (first == 0) shared->part_most[query] = most;
    for (int slot = first; slot < kPart; slot += kPeaks) {
      float* score = &shared->scores[slot][query];
      *score = slot < shared->seen[query] ? Exp(*score - most) : 0;
    }
  }
  DOGSTAR_HD void SumExponentials(int thread, Shared* shared) const {
    if (thread < kTileQueries * kSumLanes) {
      const int query = thread / kSumLanes, lane = thread % kSumLanes;
      float sum = 0;
      for (int slot = lane; slot < kPart; slot += kSumLanes) sum = sum + shared->scores[slot][query];
      shared->peaks[query][lane] = sum;
    } else if (const int query = thread - kTileQueries * kSumLanes; query < kTileQueries) {
      const PartFactors factors = PartFactors::Of(shared->most[query], shared->part_most[query]);
      shared->old[query] = factors.old;
      shared->fresh[query] = factors.fresh;
      if (shared->seen[query] > 0) shared->most[query] = factors.most;
    }
  }
  DOGSTAR_HD void TakeSumIn(int query, Shared* shared) const {
    if (shared->seen[query] == 0) return;
    shared->part_sum[query] = SumLanes(shared->peaks[query]);
    shared->sum[query] = Fma(shared->part_sum[query], shared->fresh[query], shared->sum[query] * shared->old[query]);
  }

  DOGSTAR_HD void AddValues(const Place& place, int32_t part, int piece, int thread, const Shared& shared,
                            Local* local) const {
    const int first = thread / kValueDims * 4, half = piece % 2;
    const int32_t dim = piece / 2 * kValueDims + thread % kValueDims;
    if (first >= place.tile.count || dim >= of.kv.head_dim) return;
    if (half == 0) {
      DOGSTAR_UNROLL
      for (int query = 0; query < 4; ++query) local->part(query) = 0;
    }
    int least = kPart, most = 0;
    DOGSTAR_UNROLL
    for (int query = 0; query < 4; ++query) {
      const int seen = shared.seen[first + query];
      if (first + query < place.tile.count) least = seen < least ? seen : least;
      most = seen > most ? seen : most;
    }
    const float* values = shared.tile + thread % kValueDims;
    const int begin = half * kValueSlots, end = begin + kValueSlots;
    int slot = begin;
    for (; slot < end && slot < least; ++slot)
      AddValue(values[(slot - begin) * kValueStride], slot, first, shared, local);
    for (; slot < end && slot < most; ++slot) {
      const float value = values[(slot - begin) * kValueStride];
      DOGSTAR_UNROLL
      for (int query = 0; query < 4; ++query) {
        if (slot >= shared.seen[first + query]) continue;
        local->part(query) = Fma(shared.scores[slot][first + query], value, local->part(query));
      }
    }
    if (half == 0) return;
    DOGSTAR_UNROLL
    for (int query = 0; query < 4; ++query) {
      if (shared.seen[first + query] == 0) continue;
      if (of.parts > 0) {
        of.Partial(place.tile_index, place.kv_head, part, first + query)[dim] = local->part(query);
        continue;
      }
      float* context = of.out + of.PlaceOf(place.tile, place.kv_head, first + query) + dim;
      const float old = (part > 0 ? *context : 0.0f) * shared.old[first + query];
      *context = Fma(local->part(query), shared.fresh[first + query], old);
    }
  }
  // Queries that are not there weigh nothing.
  DOGSTAR_HD static void AddValue(float value, int slot, int first, const Shared& shared, Local* local) {
    const Quad weights = *reinterpret_cast<const Quad*>(shared.scores[slot] + first);
    DOGSTAR_UNROLL
    for (int query = 0; query < 4; ++query) local->part(query) = Fma(weights.v[query], value, local->part(query));
  }

  DOGSTAR_HD void Finish(const Place& place, int thread, const Shared& shared) const {
    if (of.parts > 0) {
      if (thread >= place.tile.count) return;
      if (place.part * kPart >= of.rows[of.RowOf(place.tile, thread)].slots) return;
      float* partial = of.Partial(place.tile_index, place.kv_head, place.part, thread);
      partial[of.kv.stride] = shared.part_most[thread];
      partial[of.kv.stride + 1] = shared.part_sum[thread];
      return;
    }
    for (int query = thread / kValueDims; query < place.tile.count; query += 2) {
      float* out = of.out + of.PlaceOf(place.tile, place.kv_head, query);
      const bool used = of.IsUsed(of.HeadOf(place.tile, place.kv_head, query));
      for (int32_t dim = thread % kValueDims; dim < of.kv.head_dim; dim += kValueDims) {
        out[dim] = used ? out[dim] / shared.sum[query] : 0;
      }
    }
  }
};

// Puts parts together that blocks of their own have formed: a dimension of a query a thread.
struct AttentionSumKernel {
  AttentionShape of;
  int64_t count = 0;  // Elements()
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD int64_t Elements() const { return of.tile_count * of.kv.kv_heads * kTileQueries * of.kv.head_dim; }
  DOGSTAR_HD void Element(int64_t i) const {
    const int32_t dim = static_cast<int32_t>(i % of.kv.head_dim);
    const int64_t flat = i / of.kv.head_dim, of_heads = flat / kTileQueries, tile_index = of_heads / of.kv.kv_heads;
    const int query = static_cast<int>(flat % kTileQueries);
    const auto kv_head = static_cast<int32_t>(of_heads % of.kv.kv_heads);
    const QueryTile& tile = of.tiles[tile_index];
    if (query >= tile.count) return;
    float* out = of.out + of.PlaceOf(tile, kv_head, query) + dim;
    if (!of.IsUsed(of.HeadOf(tile, kv_head, query))) {
      *out = 0;
      return;
    }
    const int32_t parts = (of.rows[of.RowOf(tile, query)].slots + kAttentionPart - 1) / kAttentionPart;
    float most = -FloatOfBits(0x7f800000u), sum = 0, context = 0;
    for (int32_t part = 0; part < parts; ++part) {
      const float* partial = of.Partial(tile_index, kv_head, part, query);
      const PartFactors factors = PartFactors::Of(most, partial[of.kv.stride]);
      sum = Fma(partial[of.kv.stride + 1], factors.fresh, sum * factors.old);
      context = Fma(partial[dim], factors.fresh, context * factors.old);
      most = factors.most;
    }
    *out = context / sum;
  }
};

}  // namespace dogstar::gpu
