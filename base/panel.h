// Panels: the layout kernels read. A panel holds 16 rows of a matrix side by side, so that one 512-bit (or two
// 256-bit) register lane is one row, and a product needs no sum across lanes.
//
// Block formats: codes, block after block of 32 columns, each block `bits` vectors of 64 bytes; byte i of a vector
// belongs to row i/4. Columns 4k .. 4k+3 of a block are its quad k; byte i of a quad is column 4k + i%4.
//   low bits   8   vector k is quad k (the code's byte)
//              4   vector v: quad 2v in the low nibbles, 2v + 1 in the high ones
//              2   vector v: quad 4v + f in bits 2f, 2f + 1
//   high bits  1   one more vector: bit k of a byte is the highest bit of quad k's code
//   (follow)   2   two more: bits 2f, 2f + 1 of vector v are the highest bits of quad 4v + f
// then the panel's scale table (base/quant_codes.h) with 16 lanes, then zeros up to a multiple of 64 bytes. Codes are
// the source's; a row that is not there has codes and scales 0.
// Float types:
//   F16, BF16     cols vectors of 32 bytes: weight k of the 16 rows as stored in the source
//   F32           cols vectors of 64 bytes
//
// Packing loses nothing: UnpackPanelRow gives the source's bits back exactly. Rows that do not exist
// (a matrix whose row count is no multiple of 16) are zero: scale, minimum and codes 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/quant.h"
#include "base/quant_codes.h"

namespace dogstar {

inline constexpr int kPanelRows = 16;
inline constexpr int kQuantBlock = 32;  // columns of a block of codes in panels, and of int8 activations

// Bytes of one panel of `cols` columns; a multiple of 64 when cols is a multiple of 32.
uint64_t PanelBytes(QuantType type, int64_t cols);
// Where the scales start in a panel (its codes' bytes); 0 for the float types.
uint64_t PanelScalesOffset(QuantType type, int64_t cols);
// Bytes of a whole matrix in panels.
uint64_t PanelMatrixBytes(QuantType type, int64_t rows, int64_t cols);

// rows[i]: plain row i of the panel, or nullptr for a row that does not exist. panel: PanelBytes bytes.
void PackPanel(QuantType type, const std::array<const std::byte*, kPanelRows>& rows, int64_t cols, std::byte* panel);
// A matrix of plain rows, one after the other, as panels.
void PackPanels(QuantType type, int64_t rows, int64_t cols, const std::byte* plain, std::byte* panels);
// The plain bytes of one row of a panel. row: RowBytes bytes.
void UnpackPanelRow(QuantType type, const std::byte* panel, int lane, int64_t cols, std::byte* row);

// The raw code of one weight; `codes`: the codes of a panel, or of a page's down part.
int PanelCode(QuantType type, const std::byte* codes, int lane, int64_t column);
// ORs 32 codes of row `lane` into block `block` of the codes of a panel.
void AddPanelCodes(QuantType type, const Codes& block_codes, int64_t block, int lane, std::byte* codes);
// ORs the 16 codes of a column of one panel into a column of another; of float types: copies them.
void AddPanelColumn(QuantType type, const std::byte* from, int64_t from_column, std::byte* to, int64_t to_column);
// Row from_lane of one panel becomes row to_lane of another.
void CopyPanelRow(QuantType type, int64_t cols, const std::byte* from, int from_lane, std::byte* to, int to_lane);

}  // namespace dogstar
