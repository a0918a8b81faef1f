// Single rows taken out of pages for drafts: into the overlay, or into pages of their own. The layouts are those of
// FfnPageRef and FfnOverlayRef in device/backend.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/ffn_page.h"

namespace dogstar {

// Memory of one layer's overlay, as FfnOverlayRef names it.
struct OverlayBuffers {
  std::byte* gate = nullptr;  // panels of 16 rows
  std::byte* up = nullptr;
  std::byte* down = nullptr;  // panels of 16 outputs with row_capacity rows each
  int32_t row_capacity = 0;   // multiple of 16
};

// Writes row `row_in_page` of a page as row `overlay_index` of the overlay, over what was there. Only that row's bits
// are written. REQUIRES: 0 <= row_in_page < page_rows, 0 <= overlay_index < row_capacity.
void GatherOverlayRow(const FfnPageLayout& layout, const std::byte* page, int32_t row_in_page, int32_t overlay_index,
                      const OverlayBuffers& out);

// Writes row `from_row` of a page as row `to_row` of another one of the same types and dim (page_rows and run_rows may
// differ). REQUIRES: the target's row is zero.
void CopyPageRow(const FfnPageLayout& from_layout, const std::byte* from, int32_t from_row,
                 const FfnPageLayout& to_layout, std::byte* to, int32_t to_row);

// Bytes of the down part's panel of 16 outputs; equals OverlayDownPanelBytes of device/backend.h.
uint64_t OverlayRowsDownPanelBytes(QuantType down_type, int32_t row_capacity);

}  // namespace dogstar
