// The FFN over pages, first half: gate and up of 32 packed rows at a time. ffn_down_impl.h has the other.
#pragma once

#include "cpu/math_impl.h"
#include "cpu/planes_impl.h"
#include "cpu/quantize_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

constexpr int kBlockRows = 32;
constexpr int kRunTerms = 8;  // places for the runs of a block

// All ones where the block's row is used.
struct RowMask {
  alignas(64) int32_t lanes[kBlockRows];
};

DOGSTAR_INLINE RowMask MaskOf(uint32_t used) {
  RowMask mask;
  for (int i = 0; i < kBlockRows; ++i) mask.lanes[i] = (used >> i & 1) != 0 ? -1 : 0;
  return mask;
}

// z of a tile: z[row][32].
struct TileZ {
  alignas(64) float z[kTileRows][kBlockRows];
};

// A block's panels of gate or up, as a product reads them.
struct BlockPanels {
  TileProduct product;
  const std::byte* panels;
  uint64_t panel_bytes;
  bool in_place;  // where they came from, not joined
};

// Of one part of a block: whole, high planes as they are, or joined in the thread's memory.
struct BlockPart {
  QuantType type;
  const std::byte *panels, *low;
  TileProduct product, high_product;
  uint64_t panel_bytes;
  PlanePanel planes;
  std::byte* joined;
};

inline BlockPanels PanelsOf(const FfnTask& task, const FfnBlock& block, const BlockPart& part) {
  if (!block.cut) return {part.product, part.panels, part.panel_bytes, true};
  if (part.planes.low == 0) return {part.product, part.panels, part.planes.high, true};
  if (block.misses_bits && part.high_product != nullptr && task.rows <= kDirectRows) {
    return {part.high_product, part.panels, part.planes.high, true};
  }
  const std::byte* joined =
      JoinPanels(part.type, part.planes, part.panel_bytes, task.dim, part.panels, part.low, block.used, part.joined);
  return {part.product, joined, part.panel_bytes, false};
}

struct GateAndUp {
  BlockPanels gate, up;
};

inline GateAndUp GateAndUpOf(const FfnTask& task, const FfnBlock& block) {
  return {PanelsOf(task, block,
                   {task.gate_type, block.gate, block.low.gate, task.gate_product, task.gate_high_product,
                    task.gate_panel_bytes, task.gate_planes, task.joined.gate}),
          PanelsOf(task, block,
                   {task.up_type, block.up, block.low.up, task.up_product, task.up_high_product, task.up_panel_bytes,
                    task.up_planes, task.joined.up})};
}

// A tile as the products of gate and up see it; they differ where bits are missing.
struct TileViews {
  TileView gate, up;
};

inline TileViews ViewsOf(const FfnTask& task, bool misses_bits, int32_t tile) {
  const TileView x = ViewOf(task.x, task.x_rows, task.dim, tile);
  TileViews views{x, x};
  if (misses_bits) {
    CountMissingBits(task.gate_type, task.dim, task.joined.sums, &views.gate);
    CountMissingBits(task.up_type, task.dim, task.joined.sums + int64_t{2} * kTileRows * (task.dim / 32), &views.up);
  }
  return views;
}

// next: the first weights that are read after the block's; null: unknown.
inline void ComputeTileZ(const FfnTask& task, const FfnBlock& block, const GateAndUp& panels, TileViews x,
                         const RowMask& mask, int32_t tile, int rows, const std::byte* next, TileZ* up_out,
                         TileZ* out) {
  const BlockPanels &gate = panels.gate, &up = panels.up;
  x.gate.fetches = tile == 0 && gate.in_place;
  x.up.fetches = tile == 0 && up.in_place;
  TileZ& up_z = *up_out;
  // Panels without a used row, which may not exist, are not read.
  const bool has_first = (block.used & 0xffff) != 0, has_second = (block.used >> 16) != 0;
  const int first = has_first ? 0 : 1, count = (has_first ? 1 : 0) + (has_second ? 1 : 0);
  x.gate.next = up.panels + first * up.panel_bytes;
  gate.product(gate.panels + first * gate.panel_bytes, gate.panel_bytes, count, task.dim, x.gate, rows,
               out->z[0] + 16 * first, kBlockRows);
  x.up.next = next;
  up.product(up.panels + first * up.panel_bytes, up.panel_bytes, count, task.dim, x.up, rows, up_z.z[0] + 16 * first,
             kBlockRows);
  for (int p = 0; p < 2; ++p) {
    const Vec16i keep = LoadBytes(mask.lanes + 16 * p);
    for (int r = 0; r < rows; ++r) {
      if (p < first || p >= first + count) {
        Store(Splat(0.0f), out->z[r] + 16 * p);
        continue;
      }
      const Vec16f z = Activate(task.activation, Load(out->z[r] + 16 * p)) * Load(up_z.z[r] + 16 * p);
      Store(And(z, keep), out->z[r] + 16 * p);
    }
  }
}

inline void CaptureRow(float* capture, int64_t stride, const FfnBlock& block, uint32_t used, int32_t t,
                       const float* z) {
  float* to = capture + t * stride;
  for (int i = 0; i < kBlockRows; ++i) {
    if ((used >> i & 1) == 0) continue;
    to[block.row_index != nullptr ? block.row_index[i] : block.first_row + i] = z[i];
  }
}

// codes: the block's; those of types with a minimum hold the outlier's.
inline void StoreRunTerms(const FfnTask& task, const int32_t* codes, float scale, int32_t* terms) {
  const bool minimum = task.down_minimum;
  for (int run = 0; run * task.run_rows < kBlockRows; ++run) {
    int32_t sum = 0;
    for (int i = 0; i < task.run_rows; ++i) sum += codes[run * task.run_rows + i];
    const float product = scale * static_cast<float>(sum);
    if (minimum) {
      __builtin_memcpy(terms + run, &product, 4);
    } else {
      terms[run] = -8 * sum;
    }
  }
}

// Returns the bit of the outlier's run in FfnValues::outlier_runs for the first row, 0 without an outlier.
inline uint64_t QuantizeZ(const FfnTask& task, const float* z, int64_t at) {
  const BlockCodes block = QuantizeBlock(Load(z), Load(z + 16));
  StoreLow8(block.low, task.z.codes + at * kBlockRows);
  StoreLow8(block.high, task.z.codes + at * kBlockRows + 16);
  task.z.scales[at] = block.scale;
  alignas(64) int32_t codes[kBlockRows];
  StoreBytes(block.low, codes);
  StoreBytes(block.high, codes + 16);
  if (block.outlier_code != 0 && task.down_minimum) codes[block.column] = block.outlier_code;
  StoreRunTerms(task, codes, block.scale, task.z.run_terms + at * kRunTerms);
  if (block.outlier_code == 0) return 0;
  task.z.outliers[at] = block.outlier_code * 32 + block.column;
  return uint64_t{1} << (8 * (block.column / task.run_rows));
}

DOGSTAR_INLINE uint64_t* OutlierRuns(const FfnTask& task, int64_t z_block, int32_t tile) {
  return task.z.outlier_runs + z_block * ((task.z.rows + kTileRows - 1) / kTileRows) + tile;
}

// z of a tile as the down part reads it. used(r): the rows to capture.
template <typename Used>
DOGSTAR_INLINE void StoreTileZ(const FfnTask& task, const FfnBlock& block, int64_t z_block, int32_t tile, int rows,
                               const TileZ& tile_z, const Used& used) {
  uint64_t outlier_runs = 0;
  for (int r = 0; r < rows; ++r) {
    const int32_t t = tile * kTileRows + r;
    const float* z = tile_z.z[r];
    if (task.capture != nullptr) CaptureRow(task.capture, task.capture_stride, block, used(r), t, z);
    if (task.int8_down) {
      outlier_runs |= QuantizeZ(task, z, z_block * task.rows + t) << r;
    } else {
      for (int n = 0; n < kBlockRows; ++n) task.z.f32[(z_block * kBlockRows + n) * task.rows + t] = z[n];
    }
  }
  if (task.int8_down) *OutlierRuns(task, z_block, tile) = outlier_runs;
}

// first_tile: of blocks like this one.
inline void FfnBlockValues(const FfnTask& task, const FfnBlock& block, const TileViews& first_tile, int64_t z_block,
                           const std::byte* next) {
  const RowMask mask = MaskOf(block.used);
  const GateAndUp panels = GateAndUpOf(task, block);
  TileZ tile_z, tile_up;
  for (int32_t tile = 0; tile * kTileRows < task.rows; ++tile) {
    const int rows = TileRowCount(task.rows, tile);
    // Of several tiles the code sums share one place: each is made anew.
    const bool again = tile > 0 || (block.misses_bits && task.rows > kTileRows);
    const TileViews x = again ? ViewsOf(task, block.misses_bits, tile) : first_tile;
    ComputeTileZ(task, block, panels, x, mask, tile, rows, next, &tile_up, &tile_z);
    if (task.capture_up != nullptr) {
      for (int r = 0; r < rows; ++r) {
        CaptureRow(task.capture_up, task.capture_stride, block, block.used, tile * kTileRows + r, tile_up.z[r]);
      }
    }
    StoreTileZ(task, block, z_block, tile, rows, tile_z, [&](int) { return block.used; });
  }
}

inline void ValuesOfBlocks(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end) {
  if (begin == end) return;
  const TileViews whole = ViewsOf(task, false, 0);
  TileViews missing = whole;
  bool counted = false;
  for (int64_t i = begin; i < end; ++i) {
    if (blocks[i].misses_bits && !counted) {
      missing = ViewsOf(task, true, 0);
      counted = true;
    }
    FfnBlockValues(task, blocks[i], blocks[i].misses_bits ? missing : whole, i,
                   i + 1 < end ? blocks[i + 1].gate : nullptr);
  }
}

// Products of the block's two panels with a tile, those without a used row left out: function(r, p, values of panel p).
template <typename Function>
DOGSTAR_INLINE void ForPanelProducts(const FfnTask& task, TileProduct product, const std::byte* panels,
                                     uint64_t panel_bytes, const FfnBlock& block, int32_t tile, int rows,
                                     const Function& function) {
  TileView x = ViewOf(task.x, task.x_rows, task.dim, tile);
  x.fetches = tile == 0;
  TileZ out;
  const bool has_first = (block.used & 0xffff) != 0, has_second = (block.used >> 16) != 0;
  const int first = has_first ? 0 : 1, count = (has_first ? 1 : 0) + (has_second ? 1 : 0);
  if (count == 0) return;
  product(panels + first * panel_bytes, panel_bytes, count, task.dim, x, rows, out.z[0] + 16 * first, kBlockRows);
  for (int r = 0; r < rows; ++r) {
    for (int p = first; p < first + count; ++p) function(r, p, Load(out.z[r] + 16 * p));
  }
}

DOGSTAR_INLINE float* ChoiceValues(const FfnTask& task, const FfnBlock& block, int32_t t) {
  return task.choice.values + (int64_t{block.choice_block} * task.rows + t) * kBlockRows;
}

inline void GatesOfBlocks(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    for (int32_t tile = 0; tile * kTileRows < task.rows; ++tile) {
      ForPanelProducts(task, task.gate_product, blocks[i].gate, task.gate_panel_bytes, blocks[i], tile,
                       TileRowCount(task.rows, tile), [&](int r, int p, Vec16f gate) {
                         Store(Activate(task.activation, gate),
                               ChoiceValues(task, blocks[i], tile * kTileRows + r) + 16 * p);
                       });
    }
  }
}

inline void UpsOfBlocks(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    for (int32_t tile = 0; tile * kTileRows < task.rows; ++tile) {
      ForPanelProducts(task, task.up_product, blocks[i].up, task.up_panel_bytes, blocks[i], tile,
                       TileRowCount(task.rows, tile), [&](int r, int p, Vec16f up) {
                         float* values = ChoiceValues(task, blocks[i], tile * kTileRows + r) + 16 * p;
                         Store(Load(values) * up, values);
                       });
    }
  }
}

inline void KeepOfBlocks(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const FfnBlock& block = blocks[i];
    for (int32_t tile = 0; tile * kTileRows < task.rows; ++tile) {
      const int rows = TileRowCount(task.rows, tile);
      const uint32_t* masks = task.choice.masks + int64_t{block.choice_block} * task.rows + int64_t{tile} * kTileRows;
      TileZ tile_z;
      for (int r = 0; r < rows; ++r) {
        const RowMask mask = MaskOf(masks[r]);
        const float* values = ChoiceValues(task, block, tile * kTileRows + r);
        for (int p = 0; p < 2; ++p)
          Store(And(Load(values + 16 * p), LoadBytes(mask.lanes + 16 * p)), tile_z.z[r] + 16 * p);
      }
      StoreTileZ(task, block, i, tile, rows, tile_z, [&](int r) { return masks[r]; });
    }
  }
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
