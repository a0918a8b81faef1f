#include "base/panel.h"

#include <algorithm>
#include <cstring>

namespace dogstar {
namespace {

constexpr int kVectorBytes = 64;
constexpr int kLaneBytes = kVectorBytes / kPanelRows;  // of one row in a code vector

uint64_t CodeBytes(QuantType type, int64_t cols) {
  return static_cast<uint64_t>(cols / kQuantBlock) * static_cast<uint64_t>(ShapeOf(type).bits()) * kVectorBytes;
}

int64_t GroupsOf(QuantType type, int64_t cols) { return cols / ShapeOf(type).group_weights; }

// Where `bits` bits of quad `quad` lie in a block's vectors of that width: 8 / bits quads share a vector.
struct Field {
  int vector = 0, shift = 0;
};
Field FieldOf(int bits, int quad) { return {quad * bits / 8, quad * bits % 8}; }

std::byte* LaneOf(std::byte* block, int vector, int lane) { return block + vector * kVectorBytes + lane * kLaneBytes; }

uint64_t BlockBytes(const QuantShape& shape) { return static_cast<uint64_t>(shape.bits()) * kVectorBytes; }

void CopyStrided(const std::byte* from, std::byte* to, uint64_t count, size_t bytes, size_t stride) {
  for (uint64_t i = 0; i < count; ++i) std::memcpy(to + i * stride, from + i * stride, bytes);
}

void PackFloatRow(int weight_bytes, const std::byte* row, int lane, int64_t cols, std::byte* panel) {
  for (int64_t k = 0; k < cols; ++k) {
    std::memcpy(panel + (k * kPanelRows + lane) * weight_bytes, row + k * weight_bytes, weight_bytes);
  }
}

void PackQuantizedRow(QuantType type, const std::byte* row, int lane, int64_t cols, std::byte* panel) {
  for (int64_t block = 0; block < cols / kQuantBlock; ++block) {
    AddPanelCodes(type, LoadCodes(type, row, block), block, lane, panel);
  }
  std::byte* table = panel + PanelScalesOffset(type, cols);
  for (int64_t group = 0; group < GroupsOf(type, cols); ++group) {
    SetTableScales(type, LoadScales(type, row, group), group, kPanelRows, lane, table);
  }
}

void UnpackQuantizedRow(QuantType type, const std::byte* panel, int lane, int64_t cols, std::byte* row) {
  std::memset(row, 0, RowBytes(type, cols));
  for (int64_t block = 0; block < cols / kQuantBlock; ++block) {
    Codes codes;
    for (int i = 0; i < kQuantBlock; ++i) {
      codes[static_cast<size_t>(i)] = static_cast<uint8_t>(PanelCode(type, panel, lane, block * kQuantBlock + i));
    }
    StoreCodes(type, codes, block, row);
  }
  const std::byte* table = panel + PanelScalesOffset(type, cols);
  for (int64_t group = 0; group < GroupsOf(type, cols); ++group) {
    StoreScales(type, TableScales(type, table, group, kPanelRows, lane), group, row);
  }
}

}  // namespace

int PanelCode(QuantType type, const std::byte* codes, int lane, int64_t column) {
  const QuantShape& shape = ShapeOf(type);
  const std::byte* block = codes + static_cast<uint64_t>(column / kQuantBlock) * BlockBytes(shape);
  const int quad = static_cast<int>(column % kQuantBlock) / kLaneBytes;
  const int at = lane * kLaneBytes + static_cast<int>(column % kLaneBytes);
  const auto read = [&](const std::byte* vectors, int bits) {
    const Field field = FieldOf(bits, quad);
    return std::to_integer<int>(vectors[field.vector * kVectorBytes + at]) >> field.shift & ((1 << bits) - 1);
  };
  const int low = read(block, shape.low_bits);
  if (shape.high_bits == 0) return low;
  return low | read(block + shape.low_bits * kVectorBytes, shape.high_bits) << shape.low_bits;
}

void AddPanelCodes(QuantType type, const Codes& block_codes, int64_t block, int lane, std::byte* codes) {
  const QuantShape& shape = ShapeOf(type);
  std::byte* low_vectors = codes + static_cast<uint64_t>(block) * BlockBytes(shape);
  std::byte* high_vectors = low_vectors + shape.low_bits * kVectorBytes;
  const int low_mask = (1 << shape.low_bits) - 1;
  for (int quad = 0; quad < kQuantBlock / kLaneBytes; ++quad) {
    const uint8_t* four = block_codes.data() + quad * kLaneBytes;
    const Field low = FieldOf(shape.low_bits, quad);
    std::byte* to = LaneOf(low_vectors, low.vector, lane);
    for (int i = 0; i < kLaneBytes; ++i) to[i] |= static_cast<std::byte>((four[i] & low_mask) << low.shift);
    if (shape.high_bits == 0) continue;
    const Field high = FieldOf(shape.high_bits, quad);
    to = LaneOf(high_vectors, high.vector, lane);
    for (int i = 0; i < kLaneBytes; ++i) to[i] |= static_cast<std::byte>(four[i] >> shape.low_bits << high.shift);
  }
}

void AddPanelColumn(QuantType type, const std::byte* from, int64_t from_column, std::byte* to, int64_t to_column) {
  if (IsFloatType(type)) {
    const auto bytes = static_cast<size_t>(TraitsOf(type).block_bytes) * kPanelRows;
    std::memcpy(to + static_cast<size_t>(to_column) * bytes, from + static_cast<size_t>(from_column) * bytes, bytes);
    return;
  }
  const QuantShape& shape = ShapeOf(type);
  from += static_cast<uint64_t>(from_column / kQuantBlock) * BlockBytes(shape);
  to += static_cast<uint64_t>(to_column / kQuantBlock) * BlockBytes(shape);
  const auto copy = [&](int first_vector, int bits) {
    const Field in = FieldOf(bits, static_cast<int>(from_column % kQuantBlock) / kLaneBytes);
    const Field out = FieldOf(bits, static_cast<int>(to_column % kQuantBlock) / kLaneBytes);
    const std::byte* source = from + (first_vector + in.vector) * kVectorBytes + from_column % kLaneBytes;
    std::byte* target = to + (first_vector + out.vector) * kVectorBytes + to_column % kLaneBytes;
    const auto mask = static_cast<std::byte>((1 << bits) - 1);
    for (int at = 0; at < kVectorBytes; at += kLaneBytes) target[at] |= (source[at] >> in.shift & mask) << out.shift;
  };
  copy(0, shape.low_bits);
  if (shape.high_bits > 0) copy(shape.low_bits, shape.high_bits);
}

void CopyPanelRow(QuantType type, int64_t cols, const std::byte* from, int from_lane, std::byte* to, int to_lane) {
  if (IsFloatType(type)) {
    const auto bytes = static_cast<size_t>(TraitsOf(type).block_bytes);
    return CopyStrided(from + static_cast<size_t>(from_lane) * bytes, to + static_cast<size_t>(to_lane) * bytes,
                       static_cast<uint64_t>(cols), bytes, bytes * kPanelRows);
  }
  const uint64_t scales = PanelScalesOffset(type, cols);
  CopyStrided(from + from_lane * kLaneBytes, to + to_lane * kLaneBytes, scales / kVectorBytes, kLaneBytes,
              kVectorBytes);
  for (int64_t group = 0; group < GroupsOf(type, cols); ++group) {
    SetTableScales(type, TableScales(type, from + scales, group, kPanelRows, from_lane), group, kPanelRows, to_lane,
                   to + scales);
  }
}

uint64_t PanelBytes(QuantType type, int64_t cols) {
  if (IsFloatType(type)) return RowBytes(type, cols) * kPanelRows;
  const uint64_t bytes = CodeBytes(type, cols) + ScaleTableBytes(type, GroupsOf(type, cols), kPanelRows);
  return (bytes + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
}

uint64_t PanelScalesOffset(QuantType type, int64_t cols) { return IsFloatType(type) ? 0 : CodeBytes(type, cols); }

uint64_t PanelMatrixBytes(QuantType type, int64_t rows, int64_t cols) {
  CHECK(rows >= 0);
  return static_cast<uint64_t>((rows + kPanelRows - 1) / kPanelRows) * PanelBytes(type, cols);
}

void PackPanel(QuantType type, const std::array<const std::byte*, kPanelRows>& rows, int64_t cols, std::byte* panel) {
  std::memset(panel, 0, PanelBytes(type, cols));
  for (int lane = 0; lane < kPanelRows; ++lane) {
    const std::byte* row = rows[static_cast<size_t>(lane)];
    if (row == nullptr) continue;
    if (IsFloatType(type)) {
      PackFloatRow(TraitsOf(type).block_bytes, row, lane, cols, panel);
    } else {
      PackQuantizedRow(type, row, lane, cols, panel);
    }
  }
}

void PackPanels(QuantType type, int64_t rows, int64_t cols, const std::byte* plain, std::byte* panels) {
  const uint64_t row_bytes = RowBytes(type, cols), panel_bytes = PanelBytes(type, cols);
  for (int64_t first = 0; first < rows; first += kPanelRows, panels += panel_bytes) {
    std::array<const std::byte*, kPanelRows> of_panel = {};
    for (int64_t i = 0; i < std::min<int64_t>(kPanelRows, rows - first); ++i) {
      of_panel[static_cast<size_t>(i)] = plain + static_cast<uint64_t>(first + i) * row_bytes;
    }
    PackPanel(type, of_panel, cols, panels);
  }
}

void UnpackPanelRow(QuantType type, const std::byte* panel, int lane, int64_t cols, std::byte* row) {
  CHECK(lane >= 0 && lane < kPanelRows);
  if (!IsFloatType(type)) return UnpackQuantizedRow(type, panel, lane, cols, row);
  const int weight_bytes = TraitsOf(type).block_bytes;
  for (int64_t k = 0; k < cols; ++k) {
    std::memcpy(row + k * weight_bytes, panel + (k * kPanelRows + lane) * weight_bytes, weight_bytes);
  }
}

}  // namespace dogstar
