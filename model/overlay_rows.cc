#include "model/overlay_rows.h"

#include <cstring>

#include "base/panel.h"
#include "base/status.h"

namespace dogstar {
namespace {

// Codes of up to four bits are kept in nibbles, larger ones in bytes: rows come one at a time, so neighbours cannot
// share the vectors that the other widths need.
bool IsNibbles(QuantType type) { return !IsFloatType(type) && ShapeOf(type).bits() <= 4; }

void CopyMatrixRow(QuantType type, int64_t cols, const std::byte* from, int32_t from_row, std::byte* to,
                   int32_t to_row) {
  const uint64_t panel_bytes = PanelBytes(type, cols);
  CopyPanelRow(type, cols, from + static_cast<uint64_t>(from_row / kPanelRows) * panel_bytes, from_row % kPanelRows,
               to + static_cast<uint64_t>(to_row / kPanelRows) * panel_bytes, to_row % kPanelRows);
}

// from, to: panels of 16 outputs. The overlay pairs neighbouring rows in a byte.
void CopyDownCodes(QuantType type, const std::byte* from, int32_t from_row, std::byte* to, int32_t to_row) {
  const bool nibbles = IsNibbles(type);
  to += static_cast<size_t>(nibbles ? to_row / 2 : to_row) * kPanelRows;
  const int shift = nibbles && to_row % 2 == 1 ? 4 : 0;
  const std::byte keep = nibbles ? std::byte{0xF0} >> shift : std::byte{0};
  for (int output = 0; output < kPanelRows; ++output) {
    const auto code = static_cast<std::byte>(PanelCode(type, from, output, from_row));
    to[output] = (to[output] & keep) | code << shift;
  }
}

void CopyDownPanel(QuantType type, const std::byte* from, int32_t from_row, std::byte* to, int32_t to_row) {
  if (!IsFloatType(type)) return CopyDownCodes(type, from, from_row, to, to_row);
  const auto column_bytes = static_cast<size_t>(TraitsOf(type).block_bytes) * kPanelRows;
  std::memcpy(to + static_cast<size_t>(to_row) * column_bytes, from + static_cast<size_t>(from_row) * column_bytes,
              column_bytes);
}

}  // namespace

void GatherOverlayRow(const FfnPageLayout& layout, const std::byte* page, int32_t row_in_page, int32_t overlay_index,
                      const OverlayBuffers& out) {
  DCHECK(row_in_page >= 0 && row_in_page < layout.page_rows);
  DCHECK(overlay_index >= 0 && overlay_index < out.row_capacity);
  CopyMatrixRow(layout.gate_type, layout.dim, page + layout.gate_offset, row_in_page, out.gate, overlay_index);
  CopyMatrixRow(layout.up_type, layout.dim, page + layout.up_offset, row_in_page, out.up, overlay_index);
  const uint64_t out_panel_bytes = OverlayRowsDownPanelBytes(layout.down_type, out.row_capacity);
  const auto panels = static_cast<uint64_t>((layout.dim + kPanelRows - 1) / kPanelRows);
  for (uint64_t panel = 0; panel < panels; ++panel) {
    CopyDownPanel(layout.down_type, page + layout.down_offset + panel * layout.down_panel_bytes, row_in_page,
                  out.down + panel * out_panel_bytes, overlay_index);
  }
}

void CopyPageRow(const FfnPageLayout& from_layout, const std::byte* from, int32_t from_row,
                 const FfnPageLayout& to_layout, std::byte* to, int32_t to_row) {
  DCHECK(from_row >= 0 && from_row < from_layout.page_rows && to_row >= 0 && to_row < to_layout.page_rows);
  CopyMatrixRow(from_layout.gate_type, from_layout.dim, from + from_layout.gate_offset, from_row,
                to + to_layout.gate_offset, to_row);
  CopyMatrixRow(from_layout.up_type, from_layout.dim, from + from_layout.up_offset, from_row, to + to_layout.up_offset,
                to_row);
  const auto panels = static_cast<uint64_t>((from_layout.dim + kPanelRows - 1) / kPanelRows);
  for (uint64_t panel = 0; panel < panels; ++panel) {
    AddPanelColumn(from_layout.down_type, from + from_layout.down_offset + panel * from_layout.down_panel_bytes,
                   from_row, to + to_layout.down_offset + panel * to_layout.down_panel_bytes, to_row);
  }
}

uint64_t OverlayRowsDownPanelBytes(QuantType down_type, int32_t row_capacity) {
  const auto rows = static_cast<uint64_t>(row_capacity);
  if (IsNibbles(down_type)) return rows / 2 * kPanelRows;
  return rows * kPanelRows * (IsFloatType(down_type) ? static_cast<uint64_t>(TraitsOf(down_type).block_bytes) : 1);
}

}  // namespace dogstar
