// The FFN over pages of packed rows: z of blocks of 32 rows from the products of their panels, then the down part.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/activation.h"
#include "gpu/arithmetic.h"
#include "gpu/formats.h"
#include "gpu/kernel.h"
#include "gpu/products.h"

namespace dogstar::gpu {

// 32 packed rows of a page with at least one in use.
struct RowBlock {
  const std::byte* down = nullptr;  // the page's down part
  int32_t first_row = 0;            // RowIndex of row 0
  int32_t page = 0;                 // blocks of a page are neighbours
  int32_t sum_group = 0;            // of its page
  int32_t block_in_page = 0;
  int32_t first_group = 0;   // of its runs, in the call's list of groups
  int32_t runs = 0;          // that exist
  int32_t choice_block = 0;  // where tokens choose: its place among all blocks of the call
  uint32_t used = 0;         // bit i: row i is used
};

// z of block `b` of row `row` from its 32 values, those of the rows in `used` to `capture` (may be null) as well.
DOGSTAR_HD void StoreValues(const float* values, uint32_t used, int64_t row, int64_t b, const ActivationView& z,
                            float* capture) {
  for (int i = 0; i < kBlockColumns; ++i) {
    z.f32[row * z.cols + b * kBlockColumns + i] = values[i];
    if (capture != nullptr && (used >> i & 1) != 0) capture[i] = values[i];
  }
  QuantizeBlock(values, row, b, z);
}

// z of a call's blocks: [rows][32 * blocks], quantized as activations are.
struct ValuesKernel {
  static constexpr int kThreads = 64;
  static constexpr int kBlocksTogether = 8;  // registers for the block's values
  using Shared = Nothing;
  using Local = Nothing;
  FfnActivation activation = FfnActivation::kSilu;
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0, rows = 0;
  const float* gate = nullptr;  // [rows][z.cols]
  const float* up = nullptr;
  ActivationView z;
  float* capture = nullptr;  // may be null; [rows][capture_stride], by RowIndex
  float* capture_up = nullptr;
  int64_t capture_stride = 0;

  DOGSTAR_HD int64_t Blocks() const { return (int64_t{rows} * block_count + kThreads - 1) / kThreads; }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t at = block * kThreads + thread;
    if (at >= int64_t{rows} * block_count) return;
    const int64_t row = at / block_count, b = at % block_count;
    const RowBlock& of = blocks[b];
    const int64_t first = row * z.cols + b * kBlockColumns;
    float values[kBlockColumns];
    for (int i = 0; i < kBlockColumns; ++i) {
      const bool used = (of.used >> i & 1) != 0;
      values[i] = used ? Activate(activation, gate[first + i]) * up[first + i] : 0;
      if (used && capture_up != nullptr) capture_up[row * capture_stride + of.first_row + i] = up[first + i];
    }
    StoreValues(values, of.used, row, b, z,
                capture == nullptr ? nullptr : capture + row * capture_stride + of.first_row);
  }
};

struct DownTask {
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0;
  const uint16_t* groups = nullptr;
  int32_t run_rows = 0;
  uint64_t panel_bytes = 0;           // of 16 outputs of a page
  const std::byte* scales = nullptr;  // the layer's down-scale table; null for float types
  ActivationView z;
  int32_t rows = 0, dim = 0;
  float* sum = nullptr;      // [rows][dim], of the pages of sum_group so far
  int32_t sum_group = 0;     // of the last page before this call
  float* y = nullptr;        // [rows][dim], of the groups before it
  bool misses_bits = false;  // the pages were made without their low planes

  DOGSTAR_HD int64_t panels() const { return (int64_t{dim} + kLanes - 1) / kLanes; }
  DOGSTAR_HD int64_t Blocks() const { return TileBlocks(panels(), rows); }
};

// What the exact sum of a run starts with; code_sum: of its int8 codes of z; outlier: the run's.
template <typename Format>
DOGSTAR_HD int32_t StartOfRun(int32_t code_sum, int32_t outlier, bool misses_bits) {
  const int32_t start = -Format::kOffset * code_sum;
  if constexpr (MissingOf<Format>::kMean > 0 && Format::kOffset > 0) {
    if (misses_bits) {
      return static_cast<int32_t>(MissingOf<Format>::kStart * static_cast<float>(start)) +
             MissingOfOutlier<Format>(outlier);
    }
  }
  return start;
}

// Outputs on their way through pages: partial sums of a page, of a group of pages, of all groups before it.
template <int kCount>
struct OutputSums {
  float partial[kCount], sum[kCount], y[kCount];
  int32_t page, group;  // of partial, of sum

  // places: of the outputs in task.sum and task.y; < 0: it does not exist.
  DOGSTAR_HD void Load(const DownTask& task, const int64_t (&places)[kCount]) {
    DOGSTAR_UNROLL
    for (int i = 0; i < kCount; ++i) {
      partial[i] = 0;
      sum[i] = places[i] < 0 ? 0 : task.sum[places[i]];
      y[i] = places[i] < 0 ? 0 : task.y[places[i]];
    }
    page = task.blocks[0].page;
    group = task.sum_group;
    EnterGroup(task.blocks[0].sum_group);
  }
  DOGSTAR_HD void Enter(const RowBlock& block) {
    if (block.page == page) return;
    DOGSTAR_UNROLL
    for (int i = 0; i < kCount; ++i) {
      sum[i] = sum[i] + partial[i];
      partial[i] = 0;
    }
    page = block.page;
    EnterGroup(block.sum_group);
  }
  DOGSTAR_HD void EnterGroup(int32_t next) {
    if (next == group) return;
    DOGSTAR_UNROLL
    for (int i = 0; i < kCount; ++i) {
      y[i] = y[i] + sum[i];
      sum[i] = 0;
    }
    group = next;
  }
  DOGSTAR_HD void Store(const DownTask& task, const int64_t (&places)[kCount]) const {
    DOGSTAR_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if (places[i] < 0) continue;
      task.sum[places[i]] = sum[i] + partial[i];
      task.y[places[i]] = y[i];
    }
  }
};

// 16 outputs of eight rows a block: exact sums of runs, then one thread a row and output adds up runs and pages in
// order.
template <QuantType kType>
struct DownKernel {
  using Format = FormatOf<kType>;
  static constexpr int kThreads = kLanes * kSlices;
  static constexpr int kChunk = kSlices;  // blocks of rows between two meetings
  static constexpr int kMostRuns = 8;     // of a block
  struct Shared {
    int32_t sums[kTileRows][kChunk][kMostRuns][kLanes];
  };
  using Local = OutputSums<1>;
  DownTask task;

  DOGSTAR_HD int64_t Blocks() const { return task.Blocks(); }
  DOGSTAR_HD int Phases() const { return 2 * ((task.block_count + kChunk - 1) / kChunk); }

  DOGSTAR_HD void Run(int phase, int64_t block, int thread, Shared* shared, Local* local) const {
    const TilePlace at = PlaceOf(block, thread, task.panels());
    const int32_t begin = phase / 2 * kChunk, left = task.block_count - begin;
    const int count = left < kChunk ? left : kChunk;
    if (phase % 2 == 0) {
      if (at.part < count) Sums(begin + at.part, at, shared);
      return;
    }
    const int64_t output = at.panel * kLanes + at.lane;
    if (at.row() >= task.rows || output >= task.dim) return;
    const int64_t place[1] = {int64_t{at.row()} * task.dim + output};
    if (phase == 1) local->Load(task, place);
    for (int b = 0; b < count; ++b) AddBlock(begin + b, shared->sums[at.part][b], at, output, local);
    if (phase + 1 == Phases()) local->Store(task, place);
  }

 private:
  DOGSTAR_HD void Sums(int32_t b, const TilePlace& at, Shared* shared) const {
    const RowBlock& block = task.blocks[b];
    const std::byte* codes = block.down + static_cast<uint64_t>(at.panel) * task.panel_bytes +
                             int64_t{block.block_in_page} * Format::kBlockBytes;
    uint32_t quads[kQuads];
    for (int k = 0; k < kQuads; ++k) quads[k] = LoadQuad<Format>(codes, k, at.lane);
    const int quads_of_run = task.run_rows / 4;
    for (int r = 0; r < kTileRows && at.first_row + r < task.rows; ++r) {
      const int64_t row = at.first_row + r;
      for (int run = 0; run < block.runs; ++run) {
        const int32_t outlier =
            OutlierWithin(task.z.outliers[row * task.z.blocks() + b], run * quads_of_run, quads_of_run);
        const int32_t start = StartOfRun<Format>(CodeSumOfRun(row, b, run), outlier, task.misses_bits);
        shared->sums[r][at.part][run][at.lane] =
            QuadSum<Format>(quads, task.z, row, b, run * quads_of_run, quads_of_run, start, outlier, codes, at.lane);
      }
    }
  }

  // Of the int8 codes of z.
  DOGSTAR_HD int32_t CodeSumOfRun(int64_t row, int64_t block, int run) const {
    const int first = run * task.run_rows / 4, count = task.run_rows / 4;
    int32_t sum = 0;
    for (int k = first; k < first + count; ++k) {
      sum = Dot4(0x01010101u, CodesAt(task.z, row, block * kBlockColumns + 4 * k), sum);
    }
    return sum;
  }

  DOGSTAR_HD void AddBlock(int32_t b, const int32_t (*sums)[kLanes], const TilePlace& place, int64_t output,
                           Local* local) const {
    const RowBlock& block = task.blocks[b];
    local->Enter(block);
    const int64_t at = place.row() * task.z.blocks() + b;
    const float d = task.z.scales[at];
    for (int run = 0; run < block.runs; ++run) {
      const GroupScale scale = WithMissingBits<Format>(
          gpu::ScaleOf<Format>(task.scales, task.groups[block.first_group + run], task.dim, output), task.misses_bits);
      local->partial[0] = Fma(d * scale.d, static_cast<float>(sums[run][place.lane]), local->partial[0]);
      if constexpr (Format::kMinimum) {
        const int quads_of_run = task.run_rows / 4;
        const int32_t outlier = OutlierWithin(task.z.outliers[at], run * quads_of_run, quads_of_run) >> 5;
        const int32_t sum = CodeSumOfRun(place.row(), b, run) + outlier;
        local->partial[0] = Fma(scale.m, d * static_cast<float>(sum), local->partial[0]);
      }
    }
  }
};

// The same of float types: z as it is, row by row, those in use.
template <QuantType kType>
struct FloatDownKernel {
  static constexpr int kThreads = kLanes * kTileRows;
  using Shared = Nothing;
  using Local = Nothing;
  DownTask task;

  DOGSTAR_HD int64_t Blocks() const { return task.Blocks(); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const TilePlace at = PlaceOf(block, thread, task.panels());
    const int64_t row = at.row(), output = at.panel * kLanes + at.lane;
    if (row >= task.rows || output >= task.dim) return;
    const int64_t place[1] = {row * task.dim + output};
    OutputSums<1> sum;
    sum.Load(task, place);
    for (int32_t b = 0; b < task.block_count; ++b) {
      const RowBlock& of = task.blocks[b];
      sum.Enter(of);
      const std::byte* weights = of.down + static_cast<uint64_t>(at.panel) * task.panel_bytes;
      for (int i = 0; i < kBlockColumns; ++i) {
        if ((of.used >> i & 1) == 0) continue;
        const int64_t column = int64_t{of.block_in_page} * kBlockColumns + i;
        const float w = FloatWeight<kType>(weights, column * kLanes + at.lane);
        sum.partial[0] = Fma(w, task.z.f32[row * task.z.cols + int64_t{b} * kBlockColumns + i], sum.partial[0]);
      }
    }
    sum.Store(task, place);
  }
};

template <QuantType kType, bool kPlainNumbers>
struct DownOf {
  using Kernel = DownKernel<kType>;
};
template <QuantType kType>
struct DownOf<kType, true> {
  using Kernel = FloatDownKernel<kType>;
};
template <QuantType kType>
using Down = typename DownOf<kType, kIsFloat<kType>>::Kernel;

}  // namespace dogstar::gpu
