// Bit planes: the codes of a panel cut in two, so that a row's upper bits can stay in memory alone (drafts make do with
// them) and its lower ones are read when the full model wants the whole row. Nothing is lost or kept twice: the planes
// together are the panel.
//
//   bits of a code   4 (Q4_0, Q4_1, Q4_K, IQ4_NL)   5 (Q5_0, Q5_1, Q5_K)   6 (Q6_K)   8 (Q8_0)
//   low plane        1                              1                      2          4
// Types of 2 and 3 bits and float types are not cut: all of a panel is its high plane.
//
// A block of 32 columns has code vectors V of 64 bytes (base/panel.h). Its part of the planes, on each byte:
//   nibbles, 1 low bit    low  L0 = V0 & 11 | (V1 & 11) << 1 | (V2 & 11) << 2 | (V3 & 11) << 3          (masks in hex)
//                         high Hv = Vv & EE | V3 >> (v + 1) & 11   for v = 0, 1, 2
//   nibbles, 2 low bits   low  Lj = V2j & 33 | (V2j+1 & 33) << 2;   high Hj = V2j & CC | V2j+1 >> 2 & 33   j = 0, 1
//   bytes, 4 low bits     low  Lj = V2j & 0F | (V2j+1 & 0F) << 4;   high Hj = V2j & F0 | V2j+1 >> 4 & 0F   j = 0 .. 3
// The vectors of highest bits (codes of 5 and 6 bits) follow in the high plane as they are. A panel's high plane is its
// blocks' high vectors, then its scale table and padding; its low plane the blocks' low vectors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/ffn_page.h"
#include "base/quant.h"

namespace dogstar {

// Bits of a code in the low plane; 0: the type is not cut.
int32_t LowPlaneBits(QuantType type);

// Bytes of the low plane of 16 rows of `cols` columns, a panel or the part of one that a page's down part has.
uint64_t LowPanelBytes(QuantType type, int64_t cols);
// Bytes of a panel's planes; low 0: the type is not cut, and high is all of it.
struct PlanePanel {
  uint64_t high = 0, low = 0;
};
PlanePanel PanelPlanes(QuantType type, int64_t cols);
// Of a whole matrix in panels: its low planes.
uint64_t LowPlanesBytes(QuantType type, int64_t rows, int64_t cols);

// Cuts the code vectors of `blocks` blocks. high or low may be null. REQUIRES: LowPlaneBits(type) > 0.
void SplitCodes(QuantType type, const std::byte* codes, int64_t blocks, std::byte* high, std::byte* low);

// Cuts neighbouring panels of a matrix of `cols` columns into planes one after the other; high or low may be null.
void SplitPanels(QuantType type, int64_t cols, int64_t count, const std::byte* panels, std::byte* high, std::byte* low);

// Cuts a page of FFN rows into layout.high and layout.low; either may be null. All of both is written, padding
// included.
void SplitPage(const FfnPageLayout& layout, const std::byte* page, std::byte* high, std::byte* low);

}  // namespace dogstar
