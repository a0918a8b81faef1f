// Single rows taken out of pages for the overlay of drafts. The layouts are those of FfnPageRef and FfnOverlayRef in
// device/backend.h.
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

// Bytes of the down part's panel of 16 outputs; equals OverlayDownPanelBytes of device/backend.h.
uint64_t OverlayRowsDownPanelBytes(QuantType down_type, int32_t row_capacity);

}  // namespace dogstar
