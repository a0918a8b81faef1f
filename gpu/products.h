// Products of weight panels and activation rows, and what makes activations of floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/arithmetic.h"
#include "gpu/formats.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// Activation rows as products read them, [rows][cols]: int8 codes (0 where an outlier is), and of each block of 32
// columns its scale, the sums of the codes of its two halves, and its outlier, code * 32 + column (0: none).
struct ActivationView {
  float* f32 = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;       // [rows][cols / 32]
  int32_t* code_sums = nullptr;  // [rows][cols / 16]
  int32_t* outliers = nullptr;   // [rows][cols / 32]
  int32_t cols = 0;
  DOGSTAR_HD int64_t blocks() const { return cols / kBlockColumns; }
};

// Four codes of row `row` from column `column` on.
DOGSTAR_HD uint32_t CodesAt(const ActivationView& x, int64_t row, int64_t column) {
  return *reinterpret_cast<const uint32_t*>(x.codes + row * x.cols + column);
}

// Block `block` of row `row` from its 32 values.
DOGSTAR_HD void QuantizeBlock(const float* values, int64_t row, int64_t block, const ActivationView& out) {
  float m1 = 0, m2 = 0;
  for (int i = 0; i < kBlockColumns; ++i) {
    const float size = Magnitude(values[i]);
    const float other = size < m1 ? size : m1;
    m2 = other > m2 ? other : m2;
    m1 = size > m1 ? size : m1;
  }
  const bool apart = m1 > 2.0f * m2 && m2 > 0 && m1 <= 4000.0f * m2 && IsFinite(127.0f / m2);
  const float most = apart ? m2 : m1, inverse = 127.0f / most;
  const bool finite = IsFinite(inverse);
  int32_t halves[2] = {0, 0}, outlier = 0;
  for (int i = 0; i < kBlockColumns; ++i) {
    int32_t code = finite ? static_cast<int32_t>(Nearest(values[i] * inverse)) : 0;
    if (apart && Magnitude(values[i]) == m1) {
      outlier = code * kBlockColumns + i;
      code = 0;
    }
    out.codes[row * out.cols + block * kBlockColumns + i] = static_cast<int8_t>(code);
    halves[i / 16] += code;
  }
  const int64_t at = row * out.blocks() + block;
  out.scales[at] = most / 127.0f;
  out.code_sums[2 * at] = halves[0];
  out.code_sums[2 * at + 1] = halves[1];
  out.outliers[at] = outlier;
}

// out = x, rows of x.
struct PrepareKernel {
  static constexpr int kThreads = kElementThreads;
  using Shared = Nothing;
  using Local = Nothing;
  const float* x = nullptr;
  int32_t rows = 0;
  ActivationView out;

  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(rows * out.blocks()); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t at = block * kThreads + thread;
    if (at >= rows * out.blocks()) return;
    const float* values = x + at * kBlockColumns;
    for (int i = 0; i < kBlockColumns; ++i) out.f32[at * kBlockColumns + i] = values[i];
    QuantizeBlock(values, at / out.blocks(), at % out.blocks(), out);
  }
};

constexpr int kTileRows = 8;  // activation rows that a block multiplies with
constexpr int kSlices = 8;    // threads that share a weight row

// Panels of a matrix: one after the other, or a list of their addresses.
struct PanelList {
  const std::byte* first = nullptr;
  uint64_t panel_bytes = 0;
  const std::byte* const* list = nullptr;
  DOGSTAR_HD const std::byte* At(int64_t panel) const {
    return list != nullptr ? list[panel] : first + static_cast<uint64_t>(panel) * panel_bytes;
  }
};

// A block of threads takes a panel and a tile of activation rows; panels of a tile are neighbours.
DOGSTAR_HD int64_t TileBlocks(int64_t panels, int32_t rows) { return panels * ((rows + kTileRows - 1) / kTileRows); }

struct TilePlace {
  int64_t panel = 0;
  int32_t first_row = 0;   // of the tile
  int lane = 0, part = 0;  // of the thread: weight row of the panel; slice, or row of the tile
  DOGSTAR_HD int32_t row() const { return first_row + part; }
};
DOGSTAR_HD TilePlace PlaceOf(int64_t block, int thread, int64_t panels) {
  return {block % panels, static_cast<int32_t>(block / panels) * kTileRows, thread % kLanes, thread / kLanes};
}

struct ProductTask {
  PanelList panels;
  int32_t w_rows = 0;  // 16 a panel, the last may have fewer
  ActivationView x;
  int32_t rows = 0;
  float* out = nullptr;  // out[t * out_stride + r]
  int64_t out_stride = 0;
  bool misses_bits = false;  // the panels were made without their low planes

  DOGSTAR_HD int64_t panel_count() const { return (int64_t{w_rows} + kLanes - 1) / kLanes; }
  DOGSTAR_HD int64_t Blocks() const { return TileBlocks(panel_count(), rows); }
};

// An outlier that lies in quads [first, first + count) of its block; 0: none does.
DOGSTAR_HD int32_t OutlierWithin(int32_t outlier, int first, int count) {
  const int quad = (outlier & (kBlockColumns - 1)) / 4;
  return quad >= first && quad < first + count ? outlier : 0;
}

// The exact sum of columns from what it starts with and the products of their codes; outlier: 0 where the columns have
// none.
template <typename Format>
DOGSTAR_HD int32_t ExactSum(int32_t start, int32_t products, int32_t outlier, const std::byte* codes, int lane) {
  if (outlier == 0) return start + products;
  return start + products + ValueAt<Format>(codes, outlier & (kBlockColumns - 1), lane) * (outlier >> 5);
}

// What the missing bits of an outlier's weight are worth, in its product.
template <typename Format>
DOGSTAR_HD int32_t MissingOfOutlier(int32_t outlier) {
  return static_cast<int32_t>(MissingOf<Format>::kMean * static_cast<float>(outlier >> 5));
}

// The scales of codes that may miss bits: their mean goes to the minimum where there is one, else to where sums start.
template <typename Format>
DOGSTAR_HD GroupScale WithMissingBits(GroupScale scale, bool misses_bits) {
  if constexpr (Format::kMinimum) {
    if (misses_bits) scale.m = Fma(scale.d, MissingOf<Format>::kMean, scale.m);
  }
  return scale;
}

// acc with a scale group's exact sum; d: of x; code_sum: of the group's codes of x, an outlier's included.
template <typename Format>
DOGSTAR_HD float AddGroup(const GroupScale& scale, float d, int32_t sum, int32_t code_sum, float acc) {
  acc = Fma(scale.d * d, static_cast<float>(sum), acc);
  if constexpr (Format::kMinimum) acc = Fma(scale.m, d * static_cast<float>(code_sum), acc);
  return acc;
}

// The exact sum of quads [first, first + count) of a block, `quads` its codes; code_sum: of their int8 codes of x.
template <typename Format>
DOGSTAR_HD int32_t QuadSum(const uint32_t* quads, const ActivationView& x, int64_t row, int64_t block, int first,
                           int count, int32_t start, int32_t outlier, const std::byte* codes, int lane) {
  int32_t sum = 0;
  for (int k = first; k < first + count; ++k) sum = Dot4(quads[k], CodesAt(x, row, block * kBlockColumns + 4 * k), sum);
  return ExactSum<Format>(start, sum, outlier, codes, lane);
}

// Sum of the int8 codes of x of a block's group, whose first half is `half`.
template <typename Format>
DOGSTAR_HD int32_t CodeSumOf(const ActivationView& x, int64_t at, int half) {
  const int32_t sum = x.code_sums[2 * at + half];
  return Format::kGroupsPerBlock == 1 ? sum + x.code_sums[2 * at + half + 1] : sum;
}

// What the exact sum of a block's group starts with; outlier: the group's. Where bits are missing the sums of the first
// half and of both are rounded, so that it is what the CPU's tables of them give.
template <typename Format>
DOGSTAR_HD int32_t StartOfGroup(const ActivationView& x, int64_t at, int half, int32_t outlier, bool misses_bits) {
  if constexpr (MissingOf<Format>::kMean > 0 && Format::kOffset > 0) {
    if (misses_bits) {
      constexpr int32_t kEighths = Format::kOffset / 8;
      const auto start = [](int32_t code_sum) {
        return static_cast<int32_t>(MissingOf<Format>::kStart * static_cast<float>(-8 * code_sum)) * kEighths;
      };
      const int32_t first = x.code_sums[2 * at], both = start(first + x.code_sums[2 * at + 1]);
      const int32_t of_group = Format::kGroupsPerBlock == 1 ? both : half == 0 ? start(first) : both - start(first);
      return of_group + MissingOfOutlier<Format>(outlier) / kEighths * kEighths;
    }
  }
  return -Format::kOffset * CodeSumOf<Format>(x, at, half);
}

// A panel times eight rows a block of threads. Threads of a row's slices make exact sums of scale groups, then one
// thread a row and lane adds them up with their scales, in order.
template <QuantType kType>
struct ProductKernel {
  using Format = FormatOf<kType>;
  static constexpr int kThreads = kLanes * kSlices;
  static constexpr int kBlocksTogether = 5;  // registers for no more: ptxas spills some for six on sm_90
  static_assert(kThreads == kLanes * kTileRows);
  static constexpr int kChunk = 32;  // blocks of columns between two meetings
  static constexpr int kGroups = Format::kGroupsPerBlock, kGroupQuads = kQuads / kGroups;
  struct Shared {
    int32_t sums[kTileRows][kChunk * kGroups][kLanes];
  };
  struct Local {
    float acc;
  };
  ProductTask task;

  DOGSTAR_HD int64_t Blocks() const { return task.Blocks(); }
  DOGSTAR_HD int Phases() const { return 2 * static_cast<int>((task.x.blocks() + kChunk - 1) / kChunk); }

  DOGSTAR_HD void Run(int phase, int64_t block, int thread, Shared* shared, Local* local) const {
    const TilePlace at = PlaceOf(block, thread, task.panel_count());
    const std::byte* codes = task.panels.At(at.panel);
    const int64_t begin = int64_t{phase / 2} * kChunk, left = task.x.blocks() - begin;
    const int count = static_cast<int>(left < kChunk ? left : kChunk);
    if (phase % 2 == 0) {
      Sums(codes, begin, count, at, shared);
      return;
    }
    if (at.row() >= task.rows) return;
    Add(codes + task.x.blocks() * Format::kBlockBytes, begin, count, at, *shared, &local->acc);
    const int64_t weight_row = at.panel * kLanes + at.lane;
    if (phase + 1 == Phases() && weight_row < task.w_rows) {
      task.out[at.row() * task.out_stride + weight_row] = local->acc;
    }
  }

 private:
  DOGSTAR_HD void Sums(const std::byte* codes, int64_t begin, int count, const TilePlace& at, Shared* shared) const {
    for (int b = at.part; b < count; b += kSlices) {
      const std::byte* block = codes + (begin + b) * Format::kBlockBytes;
      uint32_t quads[kQuads];
      for (int k = 0; k < kQuads; ++k) quads[k] = LoadQuad<Format>(block, k, at.lane);
      for (int r = 0; r < kTileRows && at.first_row + r < task.rows; ++r) {
        const int64_t row = at.first_row + r, of_x = row * task.x.blocks() + begin + b;
        for (int g = 0; g < kGroups; ++g) {
          const int32_t outlier = OutlierWithin(task.x.outliers[of_x], g * kGroupQuads, kGroupQuads);
          const int32_t start = StartOfGroup<Format>(task.x, of_x, g, outlier, task.misses_bits);
          shared->sums[r][b * kGroups + g][at.lane] = QuadSum<Format>(quads, task.x, row, begin + b, g * kGroupQuads,
                                                                      kGroupQuads, start, outlier, block, at.lane);
        }
      }
    }
  }

  DOGSTAR_HD void Add(const std::byte* scales, int64_t begin, int count, const TilePlace& place, const Shared& shared,
                      float* acc) const {
    for (int g = 0; g < count * kGroups; ++g) {
      const int64_t block = begin + g / kGroups, at = place.row() * task.x.blocks() + block;
      const GroupScale scale =
          WithMissingBits<Format>(ScaleOf<Format>(scales, begin * kGroups + g, kLanes, place.lane), task.misses_bits);
      const float d = task.x.scales[at];
      *acc = Fma(scale.d * d, static_cast<float>(shared.sums[place.part][g][place.lane]), *acc);
      if constexpr (Format::kMinimum) {
        const int group = g % kGroups;
        const int32_t outlier = OutlierWithin(task.x.outliers[at], group * kGroupQuads, kGroupQuads) >> 5;
        *acc = Fma(scale.m, d * static_cast<float>(CodeSumOf<Format>(task.x, at, group) + outlier), *acc);
      }
    }
  }
};

// The same of float types: one thread a weight row and activation row.
template <QuantType kType>
struct FloatProductKernel {
  static constexpr int kThreads = kLanes * kTileRows;
  using Shared = Nothing;
  using Local = Nothing;
  ProductTask task;

  DOGSTAR_HD int64_t Blocks() const { return task.Blocks(); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const TilePlace at = PlaceOf(block, thread, task.panel_count());
    const int64_t row = at.row(), weight_row = at.panel * kLanes + at.lane;
    if (row >= task.rows || weight_row >= task.w_rows) return;
    const std::byte* weights = task.panels.At(at.panel);
    const float* x = task.x.f32 + row * task.x.cols;
    float acc = 0;
    for (int32_t k = 0; k < task.x.cols; ++k) {
      acc = Fma(FloatWeight<kType>(weights, int64_t{k} * kLanes + at.lane), x[k], acc);
    }
    task.out[row * task.out_stride + weight_row] = acc;
  }
};

template <QuantType kType, bool kPlainNumbers>
struct ProductOf {
  using Kernel = ProductKernel<kType>;
};
template <QuantType kType>
struct ProductOf<kType, true> {
  using Kernel = FloatProductKernel<kType>;
};
template <QuantType kType>
using Product = typename ProductOf<kType, kIsFloat<kType>>::Kernel;

// Rows of a table in panels, decoded: out row i = table row index[i].
template <QuantType kType>
struct GatherKernel {
  static constexpr int kThreads = kElementThreads;
  using Shared = Nothing;
  using Local = Nothing;
  const std::byte* panels = nullptr;
  uint64_t panel_bytes = 0;
  const int32_t* index = nullptr;
  int32_t rows = 0, cols = 0;
  float* out = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(int64_t{rows} * cols); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t at = block * kThreads + thread;
    if (at >= int64_t{rows} * cols) return;
    const int32_t row = index[at / cols], lane = row % kLanes;
    const int64_t column = at % cols;
    const std::byte* panel = panels + static_cast<uint64_t>(row / kLanes) * panel_bytes;
    if constexpr (kIsFloat<kType>) {
      out[at] = FloatWeight<kType>(panel, column * kLanes + lane);
    } else {
      using Format = FormatOf<kType>;
      const std::byte* codes = panel + column / kBlockColumns * Format::kBlockBytes;
      const std::byte* scales = panel + int64_t{cols} / kBlockColumns * Format::kBlockBytes;
      const GroupScale scale = ScaleOf<Format>(scales, column / Format::kGroup, kLanes, lane);
      const float value = static_cast<float>(ValueAt<Format>(codes, static_cast<int>(column % kBlockColumns), lane));
      const float weight = scale.d * value;
      out[at] = Format::kMinimum ? weight + scale.m : weight;
    }
  }
};

}  // namespace dogstar::gpu
