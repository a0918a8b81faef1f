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

// Where the code of each packed row lies in a source row of the down matrix, and which of its bits count. Rows past
// the layer's width have mask 0 and give code 0.
struct CodePlaces {
  std::vector<uint32_t> offset;
  std::vector<uint8_t> shift;
  std::vector<uint8_t> mask;
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
        zero_row_(RowBytes(layout.down_type, layout.ffn_rows)) {}

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
      PackDownCodes(sources, page * layout_.page_rows, reinterpret_cast<uint8_t*>(out));
    }
    if (layout_.has_down_table()) PackDownScales(sources, panel);
  }

  int64_t down_panels() const { return (layout_.dim + kPanelRows - 1) / kPanelRows; }

 private:
  static CodePlaces PlacesOf(const FfnPageLayout& layout, std::span<const NeuronIndex> row_order) {
    const auto rows = static_cast<size_t>(layout.page_count()) * static_cast<size_t>(layout.page_rows);
    CodePlaces places{std::vector<uint32_t>(rows), std::vector<uint8_t>(rows), std::vector<uint8_t>(rows)};
    const QuantTraits& traits = TraitsOf(layout.down_type);
    const bool nibbles = layout.down_type == QuantType::kQ4_0 || layout.down_type == QuantType::kQ4_1;
    const int32_t code_bytes = nibbles ? 16 : traits.block_weights == 1 ? traits.block_bytes : traits.block_weights;
    for (size_t row = 0; row < row_order.size(); ++row) {
      const int32_t block = ToInt(row_order[row]) / traits.block_weights;
      const int32_t weight = ToInt(row_order[row]) % traits.block_weights;
      const int32_t code = traits.block_bytes - code_bytes + (nibbles ? weight % 16 : weight);
      places.offset[row] = static_cast<uint32_t>(block * traits.block_bytes + code);
      places.shift[row] = nibbles && weight >= 16 ? 4 : 0;
      places.mask[row] = nibbles ? 0x0F : 0xFF;
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

  void PackDownCodes(const PanelSources& sources, int64_t first_row, uint8_t* out) const {
    switch (layout_.down_type) {
      case QuantType::kQ4_0:
      case QuantType::kQ4_1:
        return PackNibbles(sources, first_row, out);
      case QuantType::kQ8_0:
        return PackBytes(sources, first_row, out);
      case QuantType::kF16:
      case QuantType::kBF16:
        return PackFloats<2>(sources, first_row, out);
      case QuantType::kF32:
        return PackFloats<4>(sources, first_row, out);
    }
  }

  uint8_t CodeAt(const uint8_t* source, size_t row) const {
    return static_cast<uint8_t>((source[places_.offset[row]] >> places_.shift[row]) & places_.mask[row]);
  }

  void PackNibbles(const PanelSources& sources, int64_t first_row, uint8_t* out) const {
    for (int64_t row = first_row; row < first_row + layout_.page_rows; row += 8) {
      for (const uint8_t* source : sources) {
        for (size_t i = 0; i < 4; ++i) {
          const auto low = static_cast<size_t>(row) + i;
          *out++ = static_cast<uint8_t>(CodeAt(source, low) | CodeAt(source, low + 4) << 4);
        }
      }
    }
  }

  void PackBytes(const PanelSources& sources, int64_t first_row, uint8_t* out) const {
    for (int64_t row = first_row; row < first_row + layout_.page_rows; row += 4) {
      for (const uint8_t* source : sources) {
        for (size_t i = 0; i < 4; ++i) *out++ = CodeAt(source, static_cast<size_t>(row) + i);
      }
    }
  }

  template <size_t kBytes>
  void PackFloats(const PanelSources& sources, int64_t first_row, uint8_t* out) const {
    // Rows past the end stay zero: the page was cleared.
    const auto end = std::min(static_cast<size_t>(first_row + layout_.page_rows), row_order_.size());
    for (auto row = static_cast<size_t>(first_row); row < end; ++row) {
      for (const uint8_t* source : sources) {
        std::memcpy(out, source + places_.offset[row], kBytes);
        out += kBytes;
      }
    }
  }

  void PackDownScales(const PanelSources& sources, int64_t panel) const {
    const auto block_bytes = static_cast<size_t>(TraitsOf(layout_.down_type).block_bytes);
    const auto dim = static_cast<size_t>(layout_.dim);
    const size_t planes = layout_.has_down_minimum() ? 2 : 1;
    const size_t first = static_cast<size_t>(panel) * kPanelRows;
    const size_t outputs = std::min<size_t>(kPanelRows, dim - first);
    for (size_t group = 0; group < static_cast<size_t>(layout_.group_count()); ++group) {
      for (size_t plane = 0; plane < planes; ++plane) {
        std::byte* const out = down_scales_.data() + ((group * planes + plane) * dim + first) * 2;
        for (size_t i = 0; i < outputs; ++i) std::memcpy(out + 2 * i, sources[i] + group * block_bytes + 2 * plane, 2);
      }
    }
  }

  const FfnPageLayout& layout_;
  const std::span<const NeuronIndex> row_order_;
  const LayerMatrices matrices_;
  const std::span<std::byte> pages_;
  const std::span<std::byte> down_scales_;
  const CodePlaces places_;
  const std::vector<std::byte> zero_row_;  // of the down matrix
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
      RowBytes(gate_type, dim) + RowBytes(up_type, dim) +
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
