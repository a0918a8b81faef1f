#include "base/ffn_page.h"

#include <algorithm>
#include <string>

#include "base/bit_planes.h"
#include "base/panel.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr uint64_t kPartAlignment = 64;
// The sizes come from files. With these limits no product below can overflow: a part has at most
// 2^24 * (2^21 + 31) weights of 4 bytes.
constexpr int64_t kMaxDim = int64_t{1} << 24;
constexpr int64_t kMaxGroups = 65536;  // they are numbered in 16 bits
constexpr int64_t kMaxFfnRows = kMaxGroups * 32;
constexpr uint64_t kMaxPageBytes = uint64_t{1} << 30;  // reads count bytes in 32 bits

uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Panels of gate and up, and of down.
struct PanelCounts {
  uint64_t rows = 0, outputs = 0;
};

void PlaceParts(const PanelCounts& panels, FfnPlane* plane) {
  plane->up_offset = RoundUp(panels.rows * plane->gate_panel, kPartAlignment);
  plane->down_offset = plane->up_offset + RoundUp(panels.rows * plane->up_panel, kPartAlignment);
  plane->bytes = RoundUp(plane->down_offset + panels.outputs * plane->down_panel, kPartAlignment);
}

// What is cut off of each panel, and what is left.
void MakePlanes(FfnPageLayout* layout) {
  FfnPlane &low = layout->low, &high = layout->high;
  low.gate_panel = LowPanelBytes(layout->gate_type, layout->dim);
  low.up_panel = LowPanelBytes(layout->up_type, layout->dim);
  low.down_panel = LowPanelBytes(layout->down_type, layout->page_rows);
  high.gate_panel = PanelBytes(layout->gate_type, layout->dim) - low.gate_panel;
  high.up_panel = PanelBytes(layout->up_type, layout->dim) - low.up_panel;
  high.down_panel = layout->down_panel_bytes - low.down_panel;
  const PanelCounts panels{static_cast<uint64_t>(layout->page_rows / kPanelRows),
                           static_cast<uint64_t>((layout->dim + kPanelRows - 1) / kPanelRows)};
  PlaceParts(panels, &high);
  PlaceParts(panels, &low);
}

absl::Status CheckType(const char* part, QuantType type) {
  const QuantTraits* traits = FindQuantTraits(static_cast<uint32_t>(type));
  if (traits != nullptr && traits->runnable) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} weights have type {}, which does not run", part,
                  traits != nullptr ? std::string(traits->name) : fmt::format("{}", static_cast<uint32_t>(type))));
}

absl::Status CheckSize(const char* name, int64_t value, int64_t multiple, int64_t most) {
  if (value >= 1 && value <= most && value % multiple == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}; it must be a multiple of {} from {} to {}", name, value, multiple, multiple, most));
}

absl::Status CheckRunRows(int64_t run_rows, QuantType down_type) {
  if (run_rows != 4 && run_rows != 8 && run_rows != 16 && run_rows != 32) {
    return absl::InvalidArgumentError(fmt::format("run rows are {}; they must be 4, 8, 16 or 32", run_rows));
  }
  if (IsFloatType(down_type) || run_rows <= ShapeOf(down_type).group_weights) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("run rows are {}; at most {} weights share a scale in {}", run_rows,
                                                ShapeOf(down_type).group_weights, TraitsOf(down_type).name));
}

}  // namespace

absl::StatusOr<FfnPageLayout> FfnPageLayout::Make(QuantType gate_type, QuantType up_type, QuantType down_type,
                                                  int64_t dim, int64_t ffn_rows, int64_t page_rows, int64_t run_rows) {
  RETURN_IF_ERROR(CheckType("gate", gate_type));
  RETURN_IF_ERROR(CheckType("up", up_type));
  RETURN_IF_ERROR(CheckType("down", down_type));
  // Whole blocks for float weights too: activations are quantized in blocks of the hidden size.
  const int64_t block = std::max({kQuantBlock, TraitsOf(gate_type).block_weights, TraitsOf(up_type).block_weights});
  RETURN_IF_ERROR(CheckSize("hidden size", dim, block, kMaxDim));
  const int64_t most_rows = IsFloatType(down_type) ? kMaxFfnRows : kMaxGroups * ShapeOf(down_type).group_weights;
  RETURN_IF_ERROR(CheckSize("FFN width", ffn_rows, TraitsOf(down_type).block_weights, most_rows));
  RETURN_IF_ERROR(CheckSize("rows of a page", page_rows, kQuantBlock, kMaxFfnRows));
  RETURN_IF_ERROR(CheckRunRows(run_rows, down_type));

  FfnPageLayout layout{.gate_type = gate_type,
                       .up_type = up_type,
                       .down_type = down_type,
                       .dim = static_cast<int32_t>(dim),
                       .ffn_rows = static_cast<int32_t>(ffn_rows),
                       .page_rows = static_cast<int32_t>(page_rows),
                       .run_rows = static_cast<int32_t>(run_rows)};
  layout.up_offset = RoundUp(PanelMatrixBytes(gate_type, page_rows, dim), kPartAlignment);
  layout.down_offset = layout.up_offset + RoundUp(PanelMatrixBytes(up_type, page_rows, dim), kPartAlignment);
  layout.down_panel_bytes = DownPanelBytes(down_type, page_rows);
  const uint64_t down_bytes = static_cast<uint64_t>((dim + kPanelRows - 1) / kPanelRows) * layout.down_panel_bytes;
  layout.page_bytes = RoundUp(layout.down_offset + down_bytes, kPageAlignment);
  if (layout.page_bytes > kMaxPageBytes) {
    return absl::InvalidArgumentError(fmt::format("a page of {} rows with hidden size {} takes {} bytes; at most {}",
                                                  page_rows, dim, layout.page_bytes, kMaxPageBytes));
  }
  MakePlanes(&layout);
  return layout;
}

bool FfnPageLayout::has_down_table() const { return !IsFloatType(down_type); }

bool FfnPageLayout::has_down_minimum() const { return has_down_table() && ShapeOf(down_type).has_minimum(); }

int32_t FfnPageLayout::group_rows() const { return has_down_table() ? ShapeOf(down_type).group_weights : 0; }

int32_t FfnPageLayout::group_count() const { return has_down_table() ? ffn_rows / group_rows() : 0; }

uint64_t FfnPageLayout::down_table_bytes() const {
  return has_down_table() ? ScaleTableBytes(down_type, group_count(), dim) : 0;
}

uint64_t DownPanelBytes(QuantType type, int64_t cols) {
  if (IsFloatType(type)) return PanelBytes(type, cols);
  return static_cast<uint64_t>(cols) * static_cast<uint64_t>(ShapeOf(type).bits()) * kPanelRows / 8;
}

}  // namespace dogstar
