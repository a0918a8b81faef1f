#include "model/packed_layer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "base/panel.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr uint64_t kSmallestPage = 60 << 10;  // below about 64 KiB a disk gives a fraction of its bandwidth
constexpr int64_t kPageRowsStretch = 4;       // how far above the smallest page the search goes
constexpr double kPaddingAllowed = 0.03;

struct PageRowsChoice {
  int64_t rows = 0;
  double padding = 0;  // padded bytes / bytes - 1, over the layer
  bool divides = false;
};

// Where the code of each packed row lies in a source row of the down matrix. Rows past the layer's width give 0.
struct SourcePlace {
  uint32_t block = 0;  // byte offset of the block
  CodePlace code;
  bool exists = false;
};

using PanelSources = std::array<const uint8_t*, kPanelRows>;

class LayerPacker {
 public:
  LayerPacker(const FfnPageLayout& layout, std::span<const NeuronIndex> row_order, const LayerMatrices& matrices,
              std::span<std::byte> pages, std::span<std::byte> down_scales)
      : layout_(layout),
        row_order_(row_order),
        matrices_(matrices),
        pages_(pages),
        down_scales_(down_scales),
        places_(PlacesOf(layout, row_order)),
        zero_row_(RowBytes(layout.down_type, layout.ffn_rows)) {
    if (!layout.has_down_table()) return;
    const QuantShape& shape = ShapeOf(layout.down_type);
    low_bits_ = shape.low_bits;
    low_mask_ = (1 << shape.low_bits) - 1;
    high_mask_ = (1 << shape.high_bits) - 1;
  }

  // Clears page `page` and fills its gate and up parts.
  void PackGateAndUp(int64_t page) {
    std::byte* const start = PageAt(page);
    std::memset(start, 0, layout_.page_bytes);
    PackMatrix(layout_.gate_type, matrices_.gate, page, start + layout_.gate_offset);
    PackMatrix(layout_.up_type, matrices_.up, page, start + layout_.up_offset);
  }

  // Fills panel `panel` of the down part of every page, and its part of the scale table. All pages at once, because
  // the 16 source rows of the panel then stay in the second-level cache while packed rows hop about in them.
  void PackDownPanel(int64_t panel) {
    const PanelSources sources = DownSources(panel);
    for (int64_t page = 0; page < layout_.page_count(); ++page) {
      std::byte* const out =
          PageAt(page) + layout_.down_offset + static_cast<uint64_t>(panel) * layout_.down_panel_bytes;
      PackDownCodes(sources, page * layout_.page_rows, out);
    }
    if (layout_.has_down_table()) PackDownScales(sources, panel);
  }

  int64_t down_panels() const { return (layout_.dim + kPanelRows - 1) / kPanelRows; }

 private:
  static std::vector<SourcePlace> PlacesOf(const FfnPageLayout& layout, std::span<const NeuronIndex> row_order) {
    std::vector<SourcePlace> places(static_cast<size_t>(layout.page_count()) * static_cast<size_t>(layout.page_rows));
    const QuantTraits& traits = TraitsOf(layout.down_type);
    for (size_t row = 0; row < row_order.size(); ++row) {
      const int32_t block = ToInt(row_order[row]) / traits.block_weights;
      places[row].block = static_cast<uint32_t>(block * traits.block_bytes);
      places[row].exists = true;
      if (layout.has_down_table()) {
        places[row].code = PlaceOf(layout.down_type, ToInt(row_order[row]) % traits.block_weights);
      }
    }
    return places;
  }

  std::byte* PageAt(int64_t page) const { return pages_.data() + static_cast<uint64_t>(page) * layout_.page_bytes; }

  void PackMatrix(QuantType type, std::span<const std::byte> matrix, int64_t page, std::byte* out) const {
    const uint64_t row_bytes = RowBytes(type, layout_.dim);
    const uint64_t panel_bytes = PanelBytes(type, layout_.dim);
    for (int64_t first = 0; first < layout_.page_rows; first += kPanelRows, out += panel_bytes) {
      std::array<const std::byte*, kPanelRows> rows{};
      for (int lane = 0; lane < kPanelRows; ++lane) {
        const auto row = static_cast<size_t>(page * layout_.page_rows + first + lane);
        if (row >= row_order_.size()) break;
        rows[static_cast<size_t>(lane)] = matrix.data() + static_cast<uint64_t>(ToInt(row_order_[row])) * row_bytes;
      }
      PackPanel(type, rows, layout_.dim, out);
    }
  }

  // Source rows of 16 neighbouring outputs; outputs past the end are a row of zeros.
  PanelSources DownSources(int64_t panel) const {
    PanelSources sources;
    for (int lane = 0; lane < kPanelRows; ++lane) {
      const int64_t output = panel * kPanelRows + lane;
      const std::byte* const row = output < layout_.dim
                                       ? matrices_.down.data() + static_cast<uint64_t>(output) * zero_row_.size()
                                       : zero_row_.data();
      sources[static_cast<size_t>(lane)] = reinterpret_cast<const uint8_t*>(row);
    }
    return sources;
  }

  void PackDownCodes(const PanelSources& sources, int64_t first_row, std::byte* out) const {
    if (!layout_.has_down_table()) {
      return TraitsOf(layout_.down_type).block_bytes == 2 ? PackFloats<2>(sources, first_row, out)
                                                          : PackFloats<4>(sources, first_row, out);
    }
    for (int lane = 0; lane < kPanelRows; ++lane) {
      for (int64_t block = 0; block < layout_.page_rows / kQuantBlock; ++block) {
        const Codes codes = CodesAt(sources[static_cast<size_t>(lane)], first_row + block * kQuantBlock);
        AddPanelCodes(layout_.down_type, codes, block, lane, out);
      }
    }
  }

  // Of 32 packed rows.
  Codes CodesAt(const uint8_t* source, int64_t first_row) const {
    Codes codes{};
    for (size_t i = 0; i < codes.size(); ++i) {
      const SourcePlace& place = places_[static_cast<size_t>(first_row) + i];
      if (!place.exists) break;
      const uint8_t* block = source + place.block;
      const int low = block[place.code.low_byte] >> place.code.low_shift & low_mask_;
      const int high = block[place.code.high_byte] >> place.code.high_shift & high_mask_;
      codes[i] = static_cast<uint8_t>(low | high << low_bits_);
    }
    return codes;
  }

  template <size_t kBytes>
  void PackFloats(const PanelSources& sources, int64_t first_row, std::byte* out) const {
    // Rows past the end stay zero: the page was cleared.
    const auto end = std::min(static_cast<size_t>(first_row + layout_.page_rows), row_order_.size());
    for (auto row = static_cast<size_t>(first_row); row < end; ++row) {
      for (const uint8_t* source : sources) {
        std::memcpy(out, source + places_[row].block, kBytes);
        out += kBytes;
      }
    }
  }

  void PackDownScales(const PanelSources& sources, int64_t panel) const {
    const int64_t first = panel * kPanelRows;
    const int64_t outputs = std::min<int64_t>(kPanelRows, layout_.dim - first);
    for (int64_t i = 0; i < outputs; ++i) {
      const auto* row = reinterpret_cast<const std::byte*>(sources[static_cast<size_t>(i)]);
      for (int64_t group = 0; group < layout_.group_count(); ++group) {
        SetTableScales(layout_.down_type, LoadScales(layout_.down_type, row, group), group, layout_.dim, first + i,
                       down_scales_.data());
      }
    }
  }

  const FfnPageLayout& layout_;
  const std::span<const NeuronIndex> row_order_;
  const LayerMatrices matrices_;
  const std::span<std::byte> pages_;
  const std::span<std::byte> down_scales_;
  const std::vector<SourcePlace> places_;
  const std::vector<std::byte> zero_row_;  // of the down matrix
  int low_bits_ = 0, low_mask_ = 0, high_mask_ = 0;
};

bool BetterPageRows(const PageRowsChoice& a, const PageRowsChoice& b) {
  const bool a_fits = a.padding <= kPaddingAllowed;
  const bool b_fits = b.padding <= kPaddingAllowed;
  if (a_fits != b_fits) return a_fits;
  if (!a_fits) return a.padding < b.padding;
  if (a.divides != b.divides) return a.divides;
  return a.rows < b.rows;
}

}  // namespace

void PackFfnLayer(const FfnPageLayout& layout, std::span<const NeuronIndex> row_order, const LayerMatrices& matrices,
                  ThreadPool* pool, std::span<std::byte> pages, std::span<std::byte> down_scales) {
  LayerPacker packer(layout, row_order, matrices, pages, down_scales);
  pool->Run([&](int thread) {
    const Range part = PartOf(layout.page_count(), 1, thread, pool->size());
    for (int64_t page = part.begin; page < part.end; ++page) packer.PackGateAndUp(page);
  });
  pool->Run([&](int thread) {
    const Range part = PartOf(packer.down_panels(), 1, thread, pool->size());
    for (int64_t panel = part.begin; panel < part.end; ++panel) packer.PackDownPanel(panel);
  });
}

absl::StatusOr<int32_t> ChoosePageRows(QuantType gate_type, QuantType up_type, QuantType down_type, int64_t dim,
                                       int64_t ffn_rows, int64_t run_rows) {
  const int64_t rows_max = (ffn_rows + kQuantBlock - 1) / kQuantBlock * kQuantBlock;
  const uint64_t row_bytes =
      (PanelBytes(gate_type, dim) + PanelBytes(up_type, dim)) / kPanelRows +
      DownPanelBytes(down_type, kQuantBlock) / kQuantBlock * static_cast<uint64_t>((dim + kPanelRows - 1) / kPanelRows);
  std::optional<PageRowsChoice> best;
  int64_t rows_limit = rows_max;
  for (int64_t rows = kQuantBlock; rows <= rows_limit; rows += kQuantBlock) {
    ASSIGN_OR_RETURN(const FfnPageLayout layout,
                     FfnPageLayout::Make(gate_type, up_type, down_type, dim, ffn_rows, rows, run_rows));
    if (layout.page_bytes < kSmallestPage && rows < rows_max) continue;
    const double bytes = static_cast<double>(layout.page_bytes) * layout.page_count();
    const PageRowsChoice choice{.rows = rows,
                                .padding = bytes / (static_cast<double>(row_bytes) * static_cast<double>(ffn_rows)) - 1,
                                .divides = ffn_rows % rows == 0};
    if (!best) rows_limit = std::min(rows_max, rows * kPageRowsStretch);
    if (!best || BetterPageRows(choice, *best)) best = choice;
  }
  if (!best) return absl::InvalidArgumentError(fmt::format("an FFN of {} rows cannot be packed", ffn_rows));
  return static_cast<int32_t>(best->rows);
}

}  // namespace dogstar
