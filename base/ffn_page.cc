#include "base/ffn_page.h"

#include <string>

#include "base/panel.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr uint64_t kPartAlignment = 64;
// The sizes come from files. With these limits no product below can overflow: a part has at most
// 2^24 * (2^21 + 31) weights of 4 bytes.
constexpr int64_t kMaxDim = int64_t{1} << 24;
constexpr int64_t kMaxFfnRows = int64_t{65536} * FfnPageLayout::kQuantBlockRows;  // groups are numbered in 16 bits
constexpr uint64_t kMaxPageBytes = uint64_t{1} << 30;                             // reads count bytes in 32 bits

uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

absl::Status CheckType(const char* part, QuantType type) {
  const QuantTraits* traits = FindQuantTraits(static_cast<uint32_t>(type));
  if (traits != nullptr && traits->runnable) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} weights have type {}, which does not run", part,
                  traits != nullptr ? std::string(traits->name) : fmt::format("{}", static_cast<uint32_t>(type))));
}

absl::Status CheckSize(const char* name, int64_t value, int64_t multiple, int64_t most) {
  if (value >= 1 && value <= most && value % multiple == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}; it must be a multiple of {} from {} to {}", name, value, multiple, multiple, most));
}

absl::Status CheckRunRows(int64_t run_rows) {
  if (run_rows == 4 || run_rows == 8 || run_rows == 16 || run_rows == 32) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("run rows are {}; they must be 4, 8, 16 or 32", run_rows));
}

}  // namespace

absl::StatusOr<FfnPageLayout> FfnPageLayout::Make(QuantType gate_type, QuantType up_type, QuantType down_type,
                                                  int64_t dim, int64_t ffn_rows, int64_t page_rows, int64_t run_rows) {
  RETURN_IF_ERROR(CheckType("gate", gate_type));
  RETURN_IF_ERROR(CheckType("up", up_type));
  RETURN_IF_ERROR(CheckType("down", down_type));
  // Whole blocks for float weights too: activations are quantized in blocks of the hidden size.
  RETURN_IF_ERROR(CheckSize("hidden size", dim, kQuantBlock, kMaxDim));
  RETURN_IF_ERROR(CheckSize("FFN width", ffn_rows, TraitsOf(down_type).block_weights, kMaxFfnRows));
  RETURN_IF_ERROR(CheckSize("rows of a page", page_rows, kQuantBlock, kMaxFfnRows));
  RETURN_IF_ERROR(CheckRunRows(run_rows));

  FfnPageLayout layout{.gate_type = gate_type,
                       .up_type = up_type,
                       .down_type = down_type,
                       .dim = static_cast<int32_t>(dim),
                       .ffn_rows = static_cast<int32_t>(ffn_rows),
                       .page_rows = static_cast<int32_t>(page_rows),
                       .run_rows = static_cast<int32_t>(run_rows)};
  layout.up_offset = RoundUp(PanelMatrixBytes(gate_type, page_rows, dim), kPartAlignment);
  layout.down_offset = layout.up_offset + RoundUp(PanelMatrixBytes(up_type, page_rows, dim), kPartAlignment);
  layout.down_panel_bytes = DownPanelBytes(down_type, page_rows);
  const uint64_t down_bytes = static_cast<uint64_t>((dim + kPanelRows - 1) / kPanelRows) * layout.down_panel_bytes;
  layout.page_bytes = RoundUp(layout.down_offset + down_bytes, kPageAlignment);
  if (layout.page_bytes > kMaxPageBytes) {
    return absl::InvalidArgumentError(fmt::format("a page of {} rows with hidden size {} takes {} bytes; at most {}",
                                                  page_rows, dim, layout.page_bytes, kMaxPageBytes));
  }
  return layout;
}

bool FfnPageLayout::has_down_table() const { return TraitsOf(down_type).block_weights > 1; }

bool FfnPageLayout::has_down_minimum() const { return down_type == QuantType::kQ4_1; }

uint64_t FfnPageLayout::down_group_bytes() const {
  if (!has_down_table()) return 0;
  return uint64_t{sizeof(uint16_t)} * static_cast<uint64_t>(dim) * (has_down_minimum() ? 2 : 1);
}

uint64_t DownPanelBytes(QuantType type, int64_t cols) {
  const uint64_t scales_offset = PanelScalesOffset(type, cols);
  return scales_offset != 0 ? scales_offset : PanelBytes(type, cols);
}

}  // namespace dogstar
