#include "model/overlay_rows.h"

#include <cstring>

#include "base/panel.h"
#include "base/status.h"

namespace dogstar {
namespace {

constexpr size_t kLaneBytes = 4;     // of one row in a code vector
constexpr size_t kVectorBytes = 64;  // a code vector

bool IsNibbles(QuantType type) { return type == QuantType::kQ4_0 || type == QuantType::kQ4_1; }
bool IsFloat(QuantType type) { return TraitsOf(type).block_weights == 1; }

// Copies `count` elements of kBytes that lie `stride` bytes apart on both sides.
template <size_t kBytes>
void CopyStrided(const std::byte* from, std::byte* to, uint64_t count, size_t stride) {
  for (uint64_t i = 0; i < count; ++i) std::memcpy(to + i * stride, from + i * stride, kBytes);
}

// One lane of a panel to a lane of another: a lane owns whole bytes in every type.
void CopyLane(QuantType type, int64_t cols, const std::byte* from, int from_lane, std::byte* to, int to_lane) {
  if (IsFloat(type)) {
    const auto bytes = static_cast<size_t>(TraitsOf(type).block_bytes);
    from += static_cast<size_t>(from_lane) * bytes;
    to += static_cast<size_t>(to_lane) * bytes;
    const auto count = static_cast<uint64_t>(cols);
    return bytes == 2 ? CopyStrided<2>(from, to, count, 2 * kPanelRows) : CopyStrided<4>(from, to, count, kVectorBytes);
  }
  const uint64_t scales = PanelScalesOffset(type, cols);
  CopyStrided<kLaneBytes>(from + static_cast<size_t>(from_lane) * kLaneBytes,
                          to + static_cast<size_t>(to_lane) * kLaneBytes, scales / kVectorBytes, kVectorBytes);
  const uint64_t scale_vectors = (RowBytes(type, cols) * kPanelRows - scales) / (2 * kPanelRows);
  CopyStrided<2>(from + scales + 2 * from_lane, to + scales + 2 * to_lane, scale_vectors, 2 * kPanelRows);
}

void CopyMatrixRow(QuantType type, int64_t cols, const std::byte* from, int32_t from_row, std::byte* to,
                   int32_t to_row) {
  const uint64_t panel_bytes = PanelBytes(type, cols);
  CopyLane(type, cols, from + static_cast<uint64_t>(from_row / kPanelRows) * panel_bytes, from_row % kPanelRows,
           to + static_cast<uint64_t>(to_row / kPanelRows) * panel_bytes, to_row % kPanelRows);
}

// from, to: panels of 16 outputs. A page pairs rows 4 apart in a byte, the overlay neighbouring rows.
void CopyDownNibbles(const std::byte* from, int32_t from_row, std::byte* to, int32_t to_row) {
  from += static_cast<size_t>(from_row / 8) * kVectorBytes + static_cast<size_t>(from_row % 4);
  to += static_cast<size_t>(to_row / 2) * kPanelRows;
  const int from_shift = from_row % 8 < 4 ? 0 : 4;
  const int to_shift = to_row % 2 == 0 ? 0 : 4;
  const std::byte keep = std::byte{0xF0} >> to_shift;
  for (size_t output = 0; output < kPanelRows; ++output) {
    const std::byte code = (from[output * kLaneBytes] >> from_shift) & std::byte{0x0F};
    to[output] = (to[output] & keep) | (code << to_shift);
  }
}

void CopyDownBytes(const std::byte* from, int32_t from_row, std::byte* to, int32_t to_row) {
  from += static_cast<size_t>(from_row / 4) * kVectorBytes + static_cast<size_t>(from_row % 4);
  to += static_cast<size_t>(to_row) * kPanelRows;
  for (size_t output = 0; output < kPanelRows; ++output) to[output] = from[output * kLaneBytes];
}

void CopyDownPanel(QuantType type, const std::byte* from, int32_t from_row, std::byte* to, int32_t to_row) {
  if (IsNibbles(type)) return CopyDownNibbles(from, from_row, to, to_row);
  if (type == QuantType::kQ8_0) return CopyDownBytes(from, from_row, to, to_row);
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

uint64_t OverlayRowsDownPanelBytes(QuantType down_type, int32_t row_capacity) {
  const auto rows = static_cast<uint64_t>(row_capacity);
  if (IsNibbles(down_type)) return rows / 2 * kPanelRows;
  return rows * kPanelRows * (IsFloat(down_type) ? static_cast<uint64_t>(TraitsOf(down_type).block_bytes) : 1);
}

}  // namespace dogstar
