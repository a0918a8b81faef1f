#include "base/panel.h"

#include <cstring>

namespace dogstar {
namespace {

constexpr int kVectorBytes = 64;
constexpr int kLaneBytes = kVectorBytes / kPanelRows;  // of one row in a code vector
constexpr int kHalfBytes = 2;

bool IsNibbles(QuantType type) { return type == QuantType::kQ4_0 || type == QuantType::kQ4_1; }
bool IsFloat(QuantType type) { return TraitsOf(type).block_weights == 1; }

// Halves before the codes of a block: d, and m for Q4_1.
int ScalesPerBlock(QuantType type) { return type == QuantType::kQ4_1 ? 2 : 1; }

uint64_t CodeBytes(QuantType type, int64_t cols) {
  return static_cast<uint64_t>(cols) * kPanelRows / (IsNibbles(type) ? 2 : 1);
}

// Where block `block` keeps scale `which` (0: d, 1: m) of row `lane` in the panel's scales.
uint64_t ScaleOffset(QuantType type, int64_t block, int which, int lane) {
  return ((block * ScalesPerBlock(type) + which) * kPanelRows + lane) * kHalfBytes;
}

// The four bytes that row `lane` has in code vector `vector`.
uint64_t LaneOffset(int64_t vector, int lane) { return vector * kVectorBytes + lane * kLaneBytes; }

// A block's 32 codes as 16 bytes: the source pairs weights 16 apart, the panel weights 4 apart.
std::byte NibbleAt(const std::byte* nibbles, int weight) {
  return weight < 16 ? nibbles[weight] & std::byte{15} : nibbles[weight - 16] >> 4;
}

void PackNibbles(const std::byte* codes, int64_t block, int lane, std::byte* panel) {
  for (int v = 0; v < 4; ++v) {
    std::byte* to = panel + LaneOffset(block * 4 + v, lane);
    for (int i = 0; i < kLaneBytes; ++i) to[i] = NibbleAt(codes, 8 * v + i) | NibbleAt(codes, 8 * v + 4 + i) << 4;
  }
}

std::byte PanelNibbleAt(const std::byte* panel, int64_t block, int lane, int weight) {
  const std::byte pair = panel[LaneOffset(block * 4 + weight / 8, lane) + weight % 4];
  return weight % 8 < 4 ? pair & std::byte{15} : pair >> 4;
}

void UnpackNibbles(const std::byte* panel, int64_t block, int lane, std::byte* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = PanelNibbleAt(panel, block, lane, i) | PanelNibbleAt(panel, block, lane, i + 16) << 4;
  }
}

void PackBytes(const std::byte* codes, int64_t block, int lane, std::byte* panel) {
  for (int v = 0; v < 8; ++v) std::memcpy(panel + LaneOffset(block * 8 + v, lane), codes + v * kLaneBytes, kLaneBytes);
}

void UnpackBytes(const std::byte* panel, int64_t block, int lane, std::byte* codes) {
  for (int v = 0; v < 8; ++v) std::memcpy(codes + v * kLaneBytes, panel + LaneOffset(block * 8 + v, lane), kLaneBytes);
}

void PackQuantizedRow(QuantType type, const std::byte* row, int lane, int64_t cols, std::byte* panel) {
  const int block_bytes = TraitsOf(type).block_bytes;
  std::byte* scales = panel + PanelScalesOffset(type, cols);
  for (int64_t block = 0; block < cols / kQuantBlock; ++block, row += block_bytes) {
    const int scale_count = ScalesPerBlock(type);
    for (int which = 0; which < scale_count; ++which) {
      std::memcpy(scales + ScaleOffset(type, block, which, lane), row + which * kHalfBytes, kHalfBytes);
    }
    const std::byte* codes = row + scale_count * kHalfBytes;
    IsNibbles(type) ? PackNibbles(codes, block, lane, panel) : PackBytes(codes, block, lane, panel);
  }
}

void UnpackQuantizedRow(QuantType type, const std::byte* panel, int lane, int64_t cols, std::byte* row) {
  const int block_bytes = TraitsOf(type).block_bytes;
  const std::byte* scales = panel + PanelScalesOffset(type, cols);
  for (int64_t block = 0; block < cols / kQuantBlock; ++block, row += block_bytes) {
    const int scale_count = ScalesPerBlock(type);
    for (int which = 0; which < scale_count; ++which) {
      std::memcpy(row + which * kHalfBytes, scales + ScaleOffset(type, block, which, lane), kHalfBytes);
    }
    std::byte* codes = row + scale_count * kHalfBytes;
    IsNibbles(type) ? UnpackNibbles(panel, block, lane, codes) : UnpackBytes(panel, block, lane, codes);
  }
}

}  // namespace

uint64_t PanelBytes(QuantType type, int64_t cols) {
  const uint64_t bytes = RowBytes(type, cols) * kPanelRows;
  if (IsFloat(type)) return bytes;
  // An odd number of blocks with one scale each ends in half a vector.
  return (bytes + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
}

uint64_t PanelScalesOffset(QuantType type, int64_t cols) { return IsFloat(type) ? 0 : CodeBytes(type, cols); }

uint64_t PanelMatrixBytes(QuantType type, int64_t rows, int64_t cols) {
  CHECK(rows >= 0);
  return static_cast<uint64_t>((rows + kPanelRows - 1) / kPanelRows) * PanelBytes(type, cols);
}

void PackPanel(QuantType type, const std::array<const std::byte*, kPanelRows>& rows, int64_t cols, std::byte* panel) {
  std::memset(panel, 0, PanelBytes(type, cols));
  const int weight_bytes = TraitsOf(type).block_bytes;
  for (int lane = 0; lane < kPanelRows; ++lane) {
    if (rows[lane] == nullptr) continue;
    if (!IsFloat(type)) {
      PackQuantizedRow(type, rows[lane], lane, cols, panel);
      continue;
    }
    for (int64_t k = 0; k < cols; ++k) {
      std::memcpy(panel + (k * kPanelRows + lane) * weight_bytes, rows[lane] + k * weight_bytes, weight_bytes);
    }
  }
}

void UnpackPanelRow(QuantType type, const std::byte* panel, int lane, int64_t cols, std::byte* row) {
  CHECK(lane >= 0 && lane < kPanelRows);
  if (!IsFloat(type)) return UnpackQuantizedRow(type, panel, lane, cols, row);
  const int weight_bytes = TraitsOf(type).block_bytes;
  for (int64_t k = 0; k < cols; ++k) {
    std::memcpy(row + k * weight_bytes, panel + (k * kPanelRows + lane) * weight_bytes, weight_bytes);
  }
}

}  // namespace dogstar
