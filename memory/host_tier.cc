#include "memory/host_tier.h"

#include <algorithm>
#include <utility>

#include "memory/plan_parts.h"

namespace dogstar {
namespace {

constexpr char kHostMatrices[] = "matrices, host memory";
constexpr char kHostPages[] = "FFN rows, host memory";
constexpr char kHostPlanes[] = "low planes, host memory";

using plan::kRounding;

class HostTier {
 public:
  HostTier(const ModelShape& model, Placement* placement) : model_(model), placement_(placement) {}

  // Rows of matrices that the device does not hold, in the order of a pass, within so many bytes. Gives what they take.
  uint64_t Matrices(uint64_t bytes) {
    PlanLine line{kHostMatrices, 0, 0, "not from the disk: over the link, for drafts too"};
    const auto keep = [&](const MatrixShape& matrix, MatrixPlacement* place) {
      const int32_t absent = matrix.rows - place->resident_rows;
      line.total_bytes += matrix.row_bytes() * static_cast<uint64_t>(absent);
      const auto fit = static_cast<int64_t>((bytes - line.resident_bytes) / matrix.row_bytes());
      place->host_rows = fit >= absent ? absent : plan::RoundDown(fit, plan::StepRows(matrix));
      line.resident_bytes += matrix.row_bytes() * static_cast<uint64_t>(place->host_rows);
    };
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      for (const auto& [matrix, place] : plan::AttentionParts(model_.layers[i], &placement_->layers[i]))
        keep(*matrix, place);
      if (model_.packed) continue;
      for (const auto& [matrix, place] : plan::PlainFfnParts(model_.layers[i], &placement_->layers[i]))
        keep(*matrix, place);
    }
    keep(model_.head, &placement_->head);
    if (line.total_bytes == 0) return 0;
    placement_->host_matrix_bytes = line.resident_bytes;
    return KeepInHost(std::move(line));
  }

  // Pages that the device does not hold, the same share of each layer, within so many bytes. Gives what they take.
  uint64_t Pages(uint64_t bytes) {
    if (!model_.packed) return 0;
    PlanLine line{kHostPages, 0, 0, "not from the disk: over the link, or computed there"};
    for (size_t i = 0; i < model_.layers.size(); ++i) line.total_bytes += AbsentPages(i) * PageBytes(i);
    if (line.total_bytes == 0) return 0;
    const double share = std::min(1.0, static_cast<double>(bytes) / static_cast<double>(line.total_bytes));
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const auto pages = static_cast<uint64_t>(share * static_cast<double>(AbsentPages(i)) + kRounding);
      placement_->layers[i].host_pages = static_cast<int32_t>(pages);
      line.resident_bytes += pages * PageBytes(i);
    }
    placement_->host_page_bytes = line.resident_bytes;
    return KeepInHost(std::move(line));
  }

  // Low planes of what the device has in part: of attention layer by layer, then of the same share of each layer's
  // pages, within so many bytes. Gives what they take.
  uint64_t Planes(uint64_t bytes) {
    PlanLine line{kHostPlanes, 0, 0, "not from the disk: over the link"};
    uint64_t of_pages = 0;
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      LayerPlacement& place = placement_->layers[i];
      of_pages += static_cast<uint64_t>(place.plane_pages) * model_.layers[i].pages.low.bytes;
      if (!place.attention_planes) continue;
      const uint64_t low = model_.layers[i].attention_low_bytes;
      line.total_bytes += low;
      place.host_attention_low = line.resident_bytes + low <= bytes;
      if (place.host_attention_low) line.resident_bytes += low;
    }
    line.total_bytes += of_pages;
    if (line.total_bytes == 0) return 0;
    const auto left = static_cast<double>(bytes - line.resident_bytes);
    const double share = of_pages == 0 ? 0 : std::min(1.0, left / static_cast<double>(of_pages));
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      LayerPlacement& place = placement_->layers[i];
      place.host_low_pages = static_cast<int32_t>(share * place.plane_pages + kRounding);
      line.resident_bytes += static_cast<uint64_t>(place.host_low_pages) * model_.layers[i].pages.low.bytes;
    }
    return KeepInHost(std::move(line));
  }

 private:
  uint64_t KeepInHost(PlanLine line) {
    const uint64_t bytes = line.resident_bytes;
    placement_->complement_bytes -= bytes;
    placement_->host_bytes += bytes;
    placement_->lines.push_back(std::move(line));
    return bytes;
  }

  uint64_t PageBytes(size_t layer) const { return model_.layers[layer].pages.page_bytes; }
  uint64_t AbsentPages(size_t layer) const {
    const LayerPlacement& place = placement_->layers[layer];
    const int32_t pages = model_.layers[layer].pages.page_count();
    return static_cast<uint64_t>(pages - place.resident_pages - place.plane_pages);
  }

  const ModelShape& model_;
  Placement* placement_;
};

}  // namespace

uint64_t FillHostTier(const ModelShape& model, uint64_t bytes, Placement* placement) {
  HostTier host(model, placement);
  uint64_t taken = host.Matrices(bytes);
  taken += host.Planes(bytes - taken);
  return taken + host.Pages(bytes - taken);
}

bool IsOfHostTier(const PlanLine& line) {
  return line.what == kHostMatrices || line.what == kHostPages || line.what == kHostPlanes;
}

}  // namespace dogstar
