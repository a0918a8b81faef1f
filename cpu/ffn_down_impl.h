// The FFN over pages, second half: the down part of each page, for the z that ffn_impl.h made.
#pragma once

#include "cpu/ffn_impl.h"
#include "cpu/planes_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

template <typename Format>
DOGSTAR_INLINE GroupScales DownScales(const FfnTask& task, int32_t group, int64_t panel) {
  return LoadGroupScales<Format>(Bytes(task.down_scales), group, task.dim, 16 * panel);
}

// What a run's exact sum starts with; where bits are missing they count as their mean.
template <typename Format>
DOGSTAR_INLINE int32_t StartOfRun(int32_t term, bool misses_bits) {
  const int32_t start = Format::Start(term);
  return misses_bits ? static_cast<int32_t>(PlanesOf<Format>::kStart * static_cast<float>(start)) : start;
}

template <typename Format, int kRows>
DOGSTAR_INLINE void AddMissingOfOutliers(const int32_t* outliers, uint32_t rows, Vec16i* exact) {
  for (int r = 0; r < kRows; ++r) {
    if ((rows >> r & 1) != 0) exact[r] = exact[r] + SplatInt(MissingOfOutlier<Format>(outliers[r]));
  }
}

// A block's codes of some panels of outputs, `stride` bytes from one to the next.
struct DownCodes {
  const uint8_t* codes;
  uint64_t stride;
  bool misses_bits = false;  // the low plane is not there
};

// partial[p * kRows + r] += the block's runs, in order, for the outputs of kPanels panels from `panel` on. at: of row 0
// of the rows in flight; outlier_runs: their bits, from 0 on.
template <typename Format, int kRunRows, int kRows, int kPanels>
DOGSTAR_INLINE void DownBlock(const FfnTask& task, const FfnBlock& block, const DownCodes& down, int64_t panel,
                              int64_t at, uint64_t outlier_runs, Vec16f* partial) {
  const uint8_t* codes = down.codes;
  using Dot = typename Format::Dot;
  const int8_t* z = task.z.codes + at * kBlockRows;
  Vec16f z_scales[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) z_scales[r] = Splat(task.z.scales[at + r]);
  Unroll<0, kBlockRows / kRunRows>([&]<int run>() __attribute__((always_inline)) {
    if (run >= block.runs) return;
    constexpr int kQuads = kRunRows / 4;
    const int32_t* terms = task.z.run_terms + at * kRunTerms + run;
    Dot dots[kPanels * kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kPanels * kRows; ++i) {
      dots[i] = Dot(Format::kMinimum ? 0 : StartOfRun<Format>(terms[i % kRows * kRunTerms], down.misses_bits));
    }
    AddPanelQuads<Format, run * kQuads, run * kQuads + kQuads, kRows, kPanels>(codes, down.stride, z, dots);
    const uint32_t outlier_rows = static_cast<uint32_t>(outlier_runs >> (8 * run));
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      Vec16i exact[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) exact[r] = dots[p * kRows + r].Sum();
      AddOutliers<Format, kRows>(codes + p * down.stride, task.z.outliers + at, outlier_rows, exact);
      if constexpr (!Format::kMinimum && PlanesOf<Format>::kMean > 0) {
        if (down.misses_bits) AddMissingOfOutliers<Format, kRows>(task.z.outliers + at, outlier_rows, exact);
      }
      GroupScales scales = DownScales<Format>(task, block.run_groups[run], panel + p);
      Vec16f* sums = partial + p * kRows;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r] = Fma(z_scales[r] * scales.d, ToFloat(exact[r]), sums[r]);
      if constexpr (Format::kMinimum) {
        if (down.misses_bits) scales.m = Fma(scales.d, Splat(PlanesOf<Format>::kMean), scales.m);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          sums[r] = Fma(scales.m, BitsAsFloat(SplatInt(terms[r * kRunTerms])), sums[r]);
        }
      }
    }
  });
}

// The float kernel's weights: columns [k, k + count) of 16 outputs.
template <typename Decoder>
struct FloatDown {
  template <int kRows>
  static DOGSTAR_INLINE void Block(const FfnTask& task, const FfnBlock& block, int64_t panel, const float* z,
                                   Vec16f* partial) {
    const uint8_t* weights = Bytes(block.down) + panel * task.down_panel_bytes;
    for (int n = 0; n < kBlockRows; ++n, z += task.z.rows) {
      if ((block.used >> n & 1) == 0) continue;
      Vec16f w;
      Decoder::Decode(weights, 0, block.block_in_page * kBlockRows + n, &w);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) partial[r] = Fma(w, Splat(z[r]), partial[r]);
    }
  }
};

// Precise mode: codes decoded with the scales of their run's group.
template <typename Format>
struct PreciseDown {
  template <int kRows>
  static DOGSTAR_INLINE void Block(const FfnTask& task, const FfnBlock& block, int64_t panel, const float* z,
                                   Vec16f* partial) {
    const uint8_t* codes =
        Bytes(block.down) + panel * task.down_panel_bytes + int64_t{block.block_in_page} * 64 * Format::kCodeVectors;
    Unroll<0, kBlockRows / 4>([&]<int quad>() {
      Vec16f w[4];
      QuadValues<Format, quad>(codes, w);
      for (int i = 0; i < 4; ++i) {
        const int n = 4 * quad + i;
        if ((block.used >> n & 1) == 0) continue;  // rows past the page's last have no group
        const GroupScales scales = DownScales<Format>(task, block.run_groups[n / task.run_rows], panel);
        w[i] = scales.d * w[i];
        if constexpr (Format::kMinimum) w[i] = w[i] + scales.m;
        const float* column = z + int64_t{n} * task.z.rows;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) partial[r] = Fma(w[i], Splat(column[r]), partial[r]);
      }
    });
  }
};

// Overlay rows have a group each; z stays f32: partial = fma(z * d, code, partial), then fma(z, m, partial).
template <typename Format>
struct OverlayDown {
  template <int kRows>
  static DOGSTAR_INLINE void Block(const FfnTask& task, const FfnBlock& block, int64_t panel, const float* z,
                                   Vec16f* partial) {
    const uint8_t* codes = Bytes(block.down) + panel * task.down_panel_bytes;
    for (int n = 0; n < kBlockRows; ++n, z += task.z.rows) {
      if ((block.used >> n & 1) == 0) continue;
      const Vec16f code = Code(codes, block.block_in_page * kBlockRows + n);
      const GroupScales scales = DownScales<Format>(task, block.run_groups[n], panel);
      const Vec16f d = scales.d;
      const Vec16f m = Format::kMinimum ? scales.m : Splat(0.0f);
      if (task.precise) {
        Vec16f w = d * code;
        if constexpr (Format::kMinimum) w = w + m;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) partial[r] = Fma(w, Splat(z[r]), partial[r]);
        continue;
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        partial[r] = Fma(Splat(z[r]) * d, code, partial[r]);
        if constexpr (Format::kMinimum) partial[r] = Fma(Splat(z[r]), m, partial[r]);
      }
    }
  }

  static DOGSTAR_INLINE Vec16f Code(const uint8_t* codes, int64_t row) {
    if constexpr (Format::kLowBits == 8) {
      return ToFloat(LoadS8(codes + 16 * row));
    } else if constexpr (Format::kCodeVectors > 4) {
      return ToFloat(Format::CodeInt(LoadU8(codes + 16 * row)));
    } else {
      const Vec16i pair = LoadU8(codes + 16 * (row / 2));
      const Vec16i code = row % 2 == 0 ? pair & SplatInt(15) : ShiftRight<4>(pair);
      if constexpr (Format::kTable) {
        return ToFloat(ShiftRightSigned<24>(ShiftLeft<24>(LookUp(kIq4Table, code))));
      } else {
        return ToFloat(Format::CodeInt(code));
      }
    }
  }
};

DOGSTAR_INLINE int64_t PageEnd(const FfnBlock* blocks, int64_t block_count, int64_t first) {
  int64_t end = first + 1;
  while (end < block_count && blocks[end].page == blocks[first].page) ++end;
  return end;
}

// Outputs [16 * begin, 16 * end): where a page of another group begins, the sum so far goes to y.
DOGSTAR_INLINE void CloseGroup(const FfnTask& task, const FfnBlock* blocks, int64_t block, int64_t begin, int64_t end) {
  const int32_t before = block > 0 ? blocks[block - 1].sum_group : task.sum_group;
  if (blocks[block].sum_group == before) return;
  for (int t = 0; t < task.rows; ++t) {
    for (int64_t o = 16 * begin; o < 16 * end; o += 16) {
      const int64_t at = int64_t{t} * task.dim + o;
      Store(Load(task.y + at) + Load(task.sum + at), task.y + at);
      Store(Splat(0.0f), task.sum + at);
    }
  }
}

// sum[t] += partial of one page for each panel; block(partial, kRows, i, panel, first row) adds block i.
template <typename AddBlocks>
DOGSTAR_INLINE void ForOutputs(const FfnTask& task, int64_t begin, int64_t end, const AddBlocks& add_blocks) {
  for (int64_t panel = begin; panel < end; ++panel) {
    ForRowGroups<kRowsInFlight>(task.rows, [&]<int kRows>(int first) {
      Vec16f partial[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) partial[r] = Splat(0.0f);
      add_blocks.template operator()<kRows>(panel, first, partial);
      float* sum = task.sum + int64_t{first} * task.dim + 16 * panel;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        Store(Load(sum + int64_t{r} * task.dim) + partial[r], sum + int64_t{r} * task.dim);
      }
    });
  }
}

// The blocks of one page.
struct PageBlocks {
  const FfnBlock* blocks;
  int64_t begin, end;        // of the call's blocks, which number z
  const uint8_t* next_down;  // the down part that is read after this one; null: none
};

// Rows in flight, and panels of outputs that are taken together with them: their sums do not wait for each other.
// Q4_0, one row, from the L2 cache: 33 GB/s with one panel, 52 with four (runs of 8, Zen 5).
constexpr int kDownRows = kRowsInFlight < 4 ? kRowsInFlight : 4;
template <int kRows>
constexpr int kDownPanels = kRowsInFlight == 1 ? 1
                            : kRows == 4       ? kPanelsInFlight
                                               : 2 * kPanelsInFlight;
constexpr int kMostDownPanels = kDownPanels<1>;

template <typename Format>
constexpr int kBlockCodeBytes = 64 * Format::kCodeVectors;

// The block's codes of kPanels panels from `panel` on, put together in `joined`; a part that is not cut stays where it
// is.
template <typename Format, int kPanels>
DOGSTAR_INLINE DownCodes JoinDown(const FfnTask& task, const FfnBlock& block, int64_t panel, uint8_t* joined) {
  using Planes = PlanesOf<Format>;
  const uint8_t* high = Bytes(block.down) + panel * task.down_planes.high;
  if constexpr (Planes::kLowBits == 0) {
    return {high + int64_t{block.block_in_page} * kBlockCodeBytes<Format>, task.down_planes.high};
  } else {
    constexpr int kLowBytes = 64 * Planes::kLowBits, kHighBytes = kBlockCodeBytes<Format> - kLowBytes;
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* low = block.misses_bits ? nullptr
                                             : Bytes(block.low.down) + (panel + p) * task.down_planes.low +
                                                   int64_t{block.block_in_page} * kLowBytes;
      JoinBlock<Format>(high + p * task.down_planes.high + int64_t{block.block_in_page} * kHighBytes,
                        LowPlaneAt<Format>(low), joined + p * kBlockCodeBytes<Format>);
    }
    return {joined, kBlockCodeBytes<Format>, block.misses_bits && !Planes::kFilled};
  }
}

// The same of high planes as they are.
template <typename Format>
DOGSTAR_INLINE DownCodes HighDown(const FfnTask& task, const FfnBlock& block, int64_t panel) {
  constexpr int64_t kHighBytes = int64_t{64} * HighOf<Format>::kCodeVectors;
  return {Bytes(block.down) + panel * task.down_planes.high + block.block_in_page * kHighBytes, task.down_planes.high,
          !PlanesOf<Format>::kFilled};
}

// sum[t] += partial of one page for kPanels panels.
template <typename Format, int kRunRows, int kRows, int kPanels>
DOGSTAR_INLINE void DownPanels(const FfnTask& task, const PageBlocks& page, int64_t panel, int first,
                               const uint8_t* ahead) {
  Vec16f partial[kPanels * kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kPanels * kRows; ++i) partial[i] = Splat(0.0f);
  alignas(64) uint8_t joined[kPanels * kBlockCodeBytes<Format>];
  const uint8_t* codes = Bytes(page.blocks[page.begin].down) + panel * task.down_panel_bytes;
  for (int64_t i = page.begin; i < page.end; ++i) {
    const FfnBlock& block = page.blocks[i];
    const int64_t offset = int64_t{block.block_in_page} * kBlockCodeBytes<Format>;
    if (ahead != nullptr) {
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
        for (int v = 0; v < Format::kCodeVectors; ++v) Prefetch(ahead + p * task.down_panel_bytes + offset + 64 * v);
      }
    }
    const uint64_t outlier_runs = *OutlierRuns(task, i, first / kTileRows) >> (first % kTileRows);
    const int64_t at = i * task.z.rows + first;
    if constexpr (PlanesOf<Format>::kDirect && kRunRows == 8 && kRows == 1) {
      if (block.misses_bits) {
        DownBlock<HighOf<Format>, kRunRows, kRows, kPanels>(task, block, HighDown<Format>(task, block, panel), panel,
                                                            at, outlier_runs, partial);
        continue;
      }
    }
    DownCodes down{codes + offset, task.down_panel_bytes};
    if (block.cut) down = JoinDown<Format, kPanels>(task, block, panel, joined);
    DownBlock<Format, kRunRows, kRows, kPanels>(task, block, down, panel, at, outlier_runs, partial);
  }
  float* sum = task.sum + int64_t{first} * task.dim + 16 * panel;
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float* to = sum + int64_t{r} * task.dim + 16 * p;
      Store(Load(to) + partial[p * kRows + r], to);
    }
  }
}

// Panels [begin, end) of one page. The part of a page that a thread reads is short, so it asks for what comes 16 KiB
// later in its own order, at most for the same panel of the next page: the processor's prefetchers do not see where
// that begins. Q4_0 at 14336x4096, one row, runs of 8: 18 GB/s without, 27 with 4 KiB, 31 with 8 or 16 (Zen 5).
template <typename Format, int kRunRows>
DOGSTAR_INLINE void Int8DownPage(const FfnTask& task, const PageBlocks& page, int64_t begin, int64_t end) {
  const int64_t fit = (16 << 10) / static_cast<int64_t>(task.down_panel_bytes) / kMostDownPanels * kMostDownPanels;
  const int64_t least = fit < kMostDownPanels ? kMostDownPanels : fit;
  const int64_t ahead = least < end - begin ? least : end - begin;
  const uint8_t* down = Bytes(page.blocks[page.begin].down);
  for (int64_t panel = begin; panel < end; panel += kMostDownPanels) {
    const int64_t panels = end - panel < kMostDownPanels ? end - panel : kMostDownPanels;
    const bool same_page = panel + ahead < end;
    const uint8_t* later = page.blocks[page.begin].cut ? nullptr : same_page ? down : page.next_down;
    if (later != nullptr) later += (panel + ahead - (same_page ? 0 : end - begin)) * task.down_panel_bytes;
    ForRowGroups<kDownRows>(task.rows, [&]<int kRows>(int first) {
      constexpr int kPanels = kDownPanels<kRows>;
      if (first > 0) later = nullptr;
      int64_t p = 0;
      for (; p + kPanels <= panels; p += kPanels) {
        const uint8_t* fetch = later == nullptr ? nullptr : later + p * task.down_panel_bytes;
        DownPanels<Format, kRunRows, kRows, kPanels>(task, page, panel + p, first, fetch);
      }
      for (; p < panels; ++p) DownPanels<Format, kRunRows, kRows, 1>(task, page, panel + p, first, nullptr);
    });
  }
}

template <typename Format, int kRunRows>
void Int8DownPages(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin, int64_t end) {
  for (int64_t first_block = 0; first_block < block_count;) {
    const int64_t page_end = PageEnd(blocks, block_count, first_block);
    const uint8_t* next = page_end < block_count ? Bytes(blocks[page_end].down) : nullptr;
    CloseGroup(task, blocks, first_block, begin, end);
    Int8DownPage<Format, kRunRows>(task, {blocks, first_block, page_end, next}, begin, end);
    first_block = page_end;
  }
}

template <typename Down>
void FloatDownPages(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin, int64_t end) {
  for (int64_t first_block = 0; first_block < block_count;) {
    const int64_t page_end = PageEnd(blocks, block_count, first_block);
    CloseGroup(task, blocks, first_block, begin, end);
    ForOutputs(task, begin, end, [&]<int kRows>(int64_t panel, int first, Vec16f* partial) {
      for (int64_t i = first_block; i < page_end; ++i) {
        const float* z = task.z.f32 + i * kBlockRows * task.z.rows + first;
        Down::template Block<kRows>(task, blocks[i], panel, z, partial);
      }
    });
    first_block = page_end;
  }
}

template <typename Format>
inline void QuantDown(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin, int64_t end) {
  if (!task.int8_down) return FloatDownPages<PreciseDown<Format>>(task, blocks, block_count, begin, end);
  switch (task.run_rows) {
    case 4:
      return Int8DownPages<Format, 4>(task, blocks, block_count, begin, end);
    case 8:
      return Int8DownPages<Format, 8>(task, blocks, block_count, begin, end);
    case 16:
      return Int8DownPages<Format, 16>(task, blocks, block_count, begin, end);
    default:
      return Int8DownPages<Format, 32>(task, blocks, block_count, begin, end);
  }
}

inline void FfnDown(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin, int64_t end) {
  switch (task.down_type) {
    case QuantType::kF32:
      return FloatDownPages<FloatDown<F32Decoder>>(task, blocks, block_count, begin, end);
    case QuantType::kF16:
      return FloatDownPages<FloatDown<F16Decoder>>(task, blocks, block_count, begin, end);
    case QuantType::kBF16:
      return FloatDownPages<FloatDown<Bf16Decoder>>(task, blocks, block_count, begin, end);
    default:
      break;
  }
  WithFormat(task.down_type, [&]<typename Format>() { QuantDown<Format>(task, blocks, block_count, begin, end); });
}

inline void OverlayDownRows(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin,
                            int64_t end) {
  const bool quantized = WithFormat(task.down_type, [&]<typename Format>() {
    FloatDownPages<OverlayDown<Format>>(task, blocks, block_count, begin, end);
  });
  if (!quantized) FfnDown(task, blocks, block_count, begin, end);
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
