#include "device/backend.h"

#include "base/panel.h"

namespace dogstar {
namespace {

constexpr uint64_t kAlignment = 4096;

uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

int32_t KvHeadStride(KvType type, int32_t head_dim) {
  const int32_t multiple = type == KvType::kQ8_0 ? 32 : 16;
  return (head_dim + multiple - 1) / multiple * multiple;
}

int64_t KvHeadBytes(KvType type, int32_t head_dim) {
  const int64_t stride = KvHeadStride(type, head_dim);
  if (type == KvType::kQ8_0) return stride / 32 * 34;
  return stride * (type == KvType::kF16 ? 2 : 4);
}

uint64_t KvDataBytes(const KvShape& shape) {
  const uint64_t head_bytes = static_cast<uint64_t>(KvHeadBytes(shape.type, shape.head_dim));
  const uint64_t slot_bytes = uint64_t{2} * shape.kv_head_count * head_bytes;
  return RoundUp(slot_bytes * shape.layers * shape.slots, kAlignment);
}

uint64_t OverlayDownPanelBytes(QuantType down_type, int32_t row_capacity) {
  if (IsFloatType(down_type)) return PanelBytes(down_type, row_capacity);
  return (ShapeOf(down_type).bits() <= 4 ? uint64_t{8} : uint64_t{16}) * row_capacity;
}

}  // namespace dogstar
