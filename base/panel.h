// Panels: the layout kernels read. A panel holds 16 rows of a matrix side by side, so that one 512-bit (or two
// 256-bit) register lane is one row, and a product needs no sum across lanes.
//
//   4-bit types   codes:  cols/8 vectors of 64 bytes; byte i of vector v holds row i/4, weights 8v + i%4 (low
//                         nibble) and 8v + 4 + i%4 (high nibble), the raw code 0..15 of the source block
//   Q8_0          codes:  cols/4 vectors of 64 bytes; byte i of vector v holds row i/4, weight 4v + i%4, as the
//                         source's signed code
//                 then scales: cols/32 groups of {16 x half d} and, for Q4_1, {16 x half m} after each d group,
//                 then zeros up to a multiple of 64 bytes (an odd number of d groups ends in half a vector)
//   F16, BF16     cols vectors of 32 bytes: weight k of the 16 rows as stored in the source
//   F32           cols vectors of 64 bytes
//
// Packing is a permutation of the source's bits: UnpackPanelRow gives them back exactly. Rows that do not exist
// (a matrix whose row count is no multiple of 16) are zero: scale, minimum and codes 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/quant.h"

namespace dogstar {

inline constexpr int kPanelRows = 16;
inline constexpr int kQuantBlock = 32;  // weights that share a scale in the block formats, and in int8 activations

// Bytes of one panel of `cols` columns; a multiple of 64 when cols is a multiple of 32.
uint64_t PanelBytes(QuantType type, int64_t cols);
// Where the scales start in a panel (its codes' bytes); 0 for the float types.
uint64_t PanelScalesOffset(QuantType type, int64_t cols);
// Bytes of a whole matrix in panels.
uint64_t PanelMatrixBytes(QuantType type, int64_t rows, int64_t cols);

// rows[i]: plain row i of the panel, or nullptr for a row that does not exist. panel: PanelBytes bytes.
void PackPanel(QuantType type, const std::array<const std::byte*, kPanelRows>& rows, int64_t cols, std::byte* panel);
// The plain bytes of one row of a panel. row: RowBytes bytes.
void UnpackPanelRow(QuantType type, const std::byte* panel, int lane, int64_t cols, std::byte* row);

}  // namespace dogstar
