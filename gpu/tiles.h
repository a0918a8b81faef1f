// Products of 16 weight rows and tiles of 8 activation rows by a GPU's tensor cores, for prompts and large verify
// batches. Their int8 products are exact sums of 16 or 32 columns, which is a scale group: the bits are those of the
// kernels for few rows.
//
// mma.sync .m16n8k32 and .m16n8k16 of .s8 (PTX ISA, matrix fragments of mma): D[16][8] = A[16][k] B[k][8]. What thread
// 4 g + q of a warp holds, four neighbouring columns k a register:
//   A: rows g and g + 8, columns 4 q .. 4 q + 3; k32: then the same rows, columns 16 + 4 q ..
//   B: activation row g, columns 4 q ..; k32: then 16 + 4 q ..
//   D: (row, activation row) = (g, 2 q), (g, 2 q + 1), (g + 8, 2 q), (g + 8, 2 q + 1)
// The host, which runs one thread after the other, makes the thread's D from what all threads hold.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/arithmetic.h"
#include "gpu/ffn.h"
#include "gpu/formats.h"
#include "gpu/kernel.h"
#include "gpu/products.h"

namespace dogstar::gpu {

constexpr int kWarpThreads = 32;
constexpr int kWarps = 4;    // of a block; each has a panel of its own
constexpr int kMmaRows = 8;  // activation rows of a tile
constexpr int kOutputs = 4;  // of a thread and tile
// Registers for so few blocks of a multiprocessor: left to itself ptxas spills some for one more.
constexpr int kTiledTogether = 3;
constexpr int kTiledFromRows = 9;  // with fewer a tile is mostly empty

// A thread's place in its warp.
struct WarpPlace {
  int g = 0, q = 0;
  DOGSTAR_HD static WarpPlace Of(int thread) { return {thread % kWarpThreads / 4, thread % 4}; }
  // Of its registers of A and B: quad and lane of the panel, quad of activation row g.
  DOGSTAR_HD int QuadOfA(int reg) const { return q + 4 * (reg / 2); }
  DOGSTAR_HD int LaneOfA(int reg) const { return g + 8 * (reg % 2); }
  DOGSTAR_HD int QuadOfB(int reg) const { return q + 4 * reg; }
  // Of its outputs: lane of the panel, activation row of the tile.
  DOGSTAR_HD int Lane(int output) const { return g + 8 * (output / 2); }
  DOGSTAR_HD int Row(int output) const { return 2 * q + output % 2; }
};

// Which quads (of four columns) of a block of 32 take part: neighbours within a half, or all.
struct QuadRange {
  int first = 0, count = kQuads;
  DOGSTAR_HD bool Has(int quad) const { return quad >= first && quad < first + count; }
  DOGSTAR_HD bool IsWhole() const { return count == kQuads; }
  DOGSTAR_HD int Half() const { return first / (kQuads / 2); }
};

#if defined(__CUDA_ARCH__)

// Registers of A: quads q and q + 4 of lanes g and g + 8.
struct WeightTile {
  uint32_t quads[4];

  template <typename Format>
  __device__ static WeightTile Load(const std::byte* block, const WarpPlace& at) {
    WeightTile tile;
    DOGSTAR_UNROLL
    for (int i = 0; i < 4; ++i) tile.quads[i] = LoadQuad<Format>(block, at.QuadOfA(i), at.LaneOfA(i));
    return tile;
  }
  // Products with it are sums of codes.
  __device__ static WeightTile Ones() { return {{0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u}}; }
};

// Registers of B: activation row first_row + g, nothing where it does not exist.
struct CodeTile {
  uint32_t quads[2];

  __device__ static CodeTile Load(const ActivationView& x, int64_t first_row, int64_t block, int32_t rows,
                                  const WarpPlace& at) {
    const int64_t row = first_row + at.g;
    if (row >= rows) return {{0, 0}};
    const int64_t column = block * kBlockColumns;
    return {{CodesAt(x, row, column + 4 * at.QuadOfB(0)), CodesAt(x, row, column + 4 * at.QuadOfB(1))}};
  }
};

__device__ inline void Multiply(const WeightTile& w, const CodeTile& x, const QuadRange& range, const WarpPlace& at,
                                int32_t (&d)[kOutputs]) {
  if (range.IsWhole()) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(w.quads[0]), "r"(w.quads[1]), "r"(w.quads[2]), "r"(w.quads[3]), "r"(x.quads[0]), "r"(x.quads[1]), "r"(0));
    return;
  }
  // Choices, not indices: registers have none.
  const bool is_first_half = range.Half() == 0, takes_part = range.Has(4 * range.Half() + at.q);
  const uint32_t of_first = is_first_half ? w.quads[0] : w.quads[2],
                 of_second = is_first_half ? w.quads[1] : w.quads[3];
  const uint32_t first = takes_part ? of_first : 0, second = takes_part ? of_second : 0;
  const uint32_t codes = is_first_half ? x.quads[0] : x.quads[1];
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(first), "r"(second), "r"(codes), "r"(0));
}

#else

// All quads of the thread's two lanes.
struct WeightTile {
  uint32_t quads[2][kQuads];

  template <typename Format>
  static WeightTile Load(const std::byte* block, const WarpPlace& at) {
    WeightTile tile;
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < kQuads; ++k) tile.quads[i][k] = LoadQuad<Format>(block, k, at.g + 8 * i);
    }
    return tile;
  }
  static WeightTile Ones() {
    WeightTile tile;
    for (auto& lane : tile.quads) {
      for (uint32_t& quad : lane) quad = 0x01010101u;
    }
    return tile;
  }
};

// All quads of the thread's two activation rows.
struct CodeTile {
  uint32_t quads[2][kQuads];

  static CodeTile Load(const ActivationView& x, int64_t first_row, int64_t block, int32_t rows, const WarpPlace& at) {
    CodeTile tile;
    for (int i = 0; i < 2; ++i) {
      const int64_t row = first_row + at.Row(i);
      for (int k = 0; k < kQuads; ++k) {
        tile.quads[i][k] = row < rows ? CodesAt(x, row, block * kBlockColumns + 4 * k) : 0;
      }
    }
    return tile;
  }
};

inline void Multiply(const WeightTile& w, const CodeTile& x, const QuadRange& range, const WarpPlace&,
                     int32_t (&d)[kOutputs]) {
  DOGSTAR_UNROLL
  for (int i = 0; i < kOutputs; ++i) {
    d[i] = 0;
    for (int k = range.first; k < range.first + range.count; ++k) {
      d[i] = Dot4(w.quads[i / 2][k], x.quads[i % 2][k], d[i]);
    }
  }
}

#endif

// A warp takes a panel and kTiles tiles of activation rows; panels of a block are neighbours.
template <int kTiles>
struct TiledPlace {
  static constexpr int kRows = kTiles * kMmaRows;
  int64_t panel = 0, first_row = 0;
  WarpPlace at;

  DOGSTAR_HD static int64_t Blocks(int64_t panels, int32_t rows) {
    return (panels + kWarps - 1) / kWarps * ((rows + kRows - 1) / kRows);
  }
  DOGSTAR_HD static TiledPlace Of(int64_t block, int thread, int64_t panels) {
    const int64_t together = (panels + kWarps - 1) / kWarps;
    return {block % together * kWarps + thread / kWarpThreads, block / together * kRows, WarpPlace::Of(thread)};
  }
};

// ProductKernel of many activation rows.
template <QuantType kType>
struct TiledProductKernel {
  using Format = FormatOf<kType>;
  static constexpr int kThreads = kWarps * kWarpThreads;
  static constexpr int kBlocksTogether = kTiledTogether;
  static constexpr int kTiles = 4;
  static constexpr int kGroups = Format::kGroupsPerBlock, kGroupQuads = kQuads / kGroups;
  using Place = TiledPlace<kTiles>;
  using Shared = Nothing;
  using Local = Nothing;
  ProductTask task;

  DOGSTAR_HD int64_t Blocks() const { return Place::Blocks(task.panel_count(), task.rows); }
  DOGSTAR_HD int Phases() const { return 1; }

  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const Place place = Place::Of(block, thread, task.panel_count());
    if (place.panel >= task.panel_count()) return;  // a whole warp
    const std::byte* codes = task.panels.At(place.panel);
    const std::byte* scales = codes + task.x.blocks() * Format::kBlockBytes;
    float acc[kTiles][kOutputs] = {};
    for (int64_t b = 0; b < task.x.blocks(); ++b, codes += Format::kBlockBytes) {
      const WeightTile weights = WeightTile::Load<Format>(codes, place.at);
      GroupScale of_lanes[kGroups][2];
      DOGSTAR_UNROLL
      for (int i = 0; i < 2 * kGroups; ++i) {
        of_lanes[i / 2][i % 2] = WithMissingBits<Format>(
            ScaleOf<Format>(scales, b * kGroups + i / 2, kLanes, place.at.Lane(2 * (i % 2))), task.misses_bits);
      }
      DOGSTAR_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        AddBlock(weights, of_lanes, codes, b, place.first_row + tile * kMmaRows, place.at, acc[tile]);
      }
    }
    DOGSTAR_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      DOGSTAR_UNROLL
      for (int i = 0; i < kOutputs; ++i) {
        const int64_t row = place.first_row + tile * kMmaRows + place.at.Row(i);
        const int64_t weight_row = place.panel * kLanes + place.at.Lane(i);
        if (row < task.rows && weight_row < task.w_rows) task.out[row * task.out_stride + weight_row] = acc[tile][i];
      }
    }
  }

 private:
  DOGSTAR_HD void AddBlock(const WeightTile& weights, const GroupScale (&of_lanes)[kGroups][2], const std::byte* codes,
                           int64_t b, int64_t first_row, const WarpPlace& at, float (&acc)[kOutputs]) const {
    const CodeTile x = CodeTile::Load(task.x, first_row, b, task.rows, at);
    DOGSTAR_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      int32_t products[kOutputs];
      Multiply(weights, x, {group * kGroupQuads, kGroupQuads}, at, products);
      DOGSTAR_UNROLL
      for (int i = 0; i < kOutputs; ++i) {
        const int64_t row = first_row + at.Row(i);
        if (row >= task.rows) continue;
        const int64_t of_x = row * task.x.blocks() + b;
        const int32_t code_sum = CodeSumOf<Format>(task.x, of_x, group);
        const int32_t outlier = OutlierWithin(task.x.outliers[of_x], group * kGroupQuads, kGroupQuads);
        const int32_t start = StartOfGroup<Format>(task.x, of_x, group, outlier, task.misses_bits);
        const int32_t sum = ExactSum<Format>(start, products[i], outlier, codes, at.Lane(i));
        const GroupScale& scale = of_lanes[group][i / 2];
        const float d = task.x.scales[of_x];
        acc[i] = AddGroup<Format>(scale, d, sum, code_sum + (outlier >> 5), acc[i]);
      }
    }
  }
};

// DownKernel of many activation rows.
template <QuantType kType>
struct TiledDownKernel {
  using Format = FormatOf<kType>;
  static constexpr int kThreads = kWarps * kWarpThreads;
  static constexpr int kBlocksTogether = kTiledTogether;
  static constexpr int kTiles = 2;
  using Place = TiledPlace<kTiles>;
  using Sums = OutputSums<kTiles * kOutputs>;
  using Shared = Nothing;
  using Local = Nothing;
  DownTask task;

  DOGSTAR_HD int64_t Blocks() const { return Place::Blocks(task.panels(), task.rows); }
  DOGSTAR_HD int Phases() const { return 1; }

  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const Place place = Place::Of(block, thread, task.panels());
    if (place.panel >= task.panels()) return;  // a whole warp
    int64_t places[kTiles * kOutputs];         // of the outputs in sum and y; -1: it does not exist
    DOGSTAR_UNROLL
    for (int i = 0; i < kTiles * kOutputs; ++i) {
      const int64_t row = RowOf(place, i), output = place.panel * kLanes + place.at.Lane(i % kOutputs);
      places[i] = row < task.rows && output < task.dim ? row * task.dim + output : -1;
    }
    Sums sums;
    sums.Load(task, places);
    for (int32_t b = 0; b < task.block_count; ++b) {
      sums.Enter(task.blocks[b]);
      AddBlock(place, b, places, &sums);
    }
    sums.Store(task, places);
  }

 private:
  DOGSTAR_HD static int64_t RowOf(const Place& place, int output) {
    return place.first_row + output / kOutputs * kMmaRows + place.at.Row(output % kOutputs);
  }

  DOGSTAR_HD void AddBlock(const Place& place, int32_t b, const int64_t (&places)[kTiles * kOutputs],
                           Sums* sums) const {
    const RowBlock& block = task.blocks[b];
    const std::byte* codes = block.down + static_cast<uint64_t>(place.panel) * task.panel_bytes +
                             int64_t{block.block_in_page} * Format::kBlockBytes;
    const WeightTile weights = WeightTile::Load<Format>(codes, place.at);
    CodeTile z[kTiles];
    DOGSTAR_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      z[tile] = CodeTile::Load(task.z, place.first_row + tile * kMmaRows, b, task.rows, place.at);
    }
    const int run_quads = task.run_rows / 4;
    for (int run = 0; run < block.runs; ++run) {
      const QuadRange range{run * run_quads, run_quads};
      GroupScale of_lanes[2];
      DOGSTAR_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int64_t output = place.panel * kLanes + place.at.Lane(2 * i);
        if (output >= task.dim) continue;  // it does not exist, nor its scales
        of_lanes[i] = WithMissingBits<Format>(
            ScaleOf<Format>(task.scales, task.groups[block.first_group + run], task.dim, output), task.misses_bits);
      }
      DOGSTAR_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        int32_t products[kOutputs], code_sums[kOutputs];
        Multiply(weights, z[tile], range, place.at, products);
        Multiply(WeightTile::Ones(), z[tile], range, place.at, code_sums);
        DOGSTAR_UNROLL
        for (int i = 0; i < kOutputs; ++i) {
          const int output = tile * kOutputs + i;
          if (places[output] < 0) continue;
          const int64_t of_z = RowOf(place, output) * task.z.blocks() + b;
          const int32_t outlier = OutlierWithin(task.z.outliers[of_z], range.first, range.count);
          const int32_t start = StartOfRun<Format>(code_sums[i], outlier, task.misses_bits);
          const int32_t sum = ExactSum<Format>(start, products[i], outlier, codes, place.at.Lane(i));
          const GroupScale& scale = of_lanes[i / 2];
          const float d = task.z.scales[of_z];
          sums->partial[output] = AddGroup<Format>(scale, d, sum, code_sums[i] + (outlier >> 5), sums->partial[output]);
        }
      }
    }
  }
};

// Float types have one kernel for all numbers of rows: their sums have an order that no tile keeps.
template <QuantType kType, bool kPlainNumbers>
struct TiledOf {
  using ProductKernel = TiledProductKernel<kType>;
  using DownKernel = TiledDownKernel<kType>;
};
template <QuantType kType>
struct TiledOf<kType, true> {
  using ProductKernel = FloatProductKernel<kType>;
  using DownKernel = FloatDownKernel<kType>;
};
template <QuantType kType>
using TiledProduct = typename TiledOf<kType, kIsFloat<kType>>::ProductKernel;
template <QuantType kType>
using TiledDown = typename TiledOf<kType, kIsFloat<kType>>::DownKernel;

}  // namespace dogstar::gpu
