#include "memory/planner.h"

#include <algorithm>

#include "base/panel.h"
#include "base/units.h"
#include "device/backend.h"
#include "fmt/format.h"
#include "memory/pager.h"
#include "model/packed_format.h"

namespace dogstar {
namespace {

constexpr uint64_t kMiB = 1 << 20;
// Ring: deep enough to cover the gaps in which nothing is released (attention, head, a draft step), small enough to
// leave the budget to weights. 1/32 of the budget within these bounds; at 2 GB/s 2 MiB is a millisecond.
constexpr uint64_t kRingMin = 2 * kMiB;
constexpr uint64_t kRingMax = 128 * kMiB;
// A read of neighbouring pages or rows; a quarter of the ring at most, so that several are in flight.
constexpr uint64_t kRangeMax = kMiB;

int32_t RoundDown(int64_t value, int32_t step) { return static_cast<int32_t>(value / step * step); }

// Walks a placement in the making: takes bytes from what is left, for one part at a time.
class Filler {
 public:
  Filler(const ModelFile& model, uint64_t left_bytes) : model_(model), left_(left_bytes) {
    placement_.layers.resize(model.layers().size());
  }

  // A whole matrix, or nothing of it.
  bool Whole(const MatrixSource& matrix, MatrixPlacement* place) {
    const uint64_t bytes = ResidentMatrixBytes(matrix, matrix.rows);
    if (bytes > left_) return false;
    left_ -= bytes;
    place->resident_rows = matrix.rows;
    return true;
  }

  void Attention() {
    PlanLine line{"attention", 0, 0, "every pass and every draft reads it"};
    for (size_t i = 0; i < model_.layers().size(); ++i) {
      const LayerSource& layer = model_.layers()[i];
      LayerPlacement& place = placement_.layers[i];
      const std::pair<const MatrixSource*, MatrixPlacement*> parts[] = {{&layer.query, &place.query},
                                                                        {&layer.key, &place.key},
                                                                        {&layer.value, &place.value},
                                                                        {&layer.output, &place.output}};
      for (const auto& [matrix, where] : parts) Add(*matrix, Whole(*matrix, where), &line);
    }
    placement_.lines.push_back(std::move(line));
  }

  void Head() {
    PlanLine line{model_.config().tied_head ? "head (and embedding)" : "head", 0, 0, "every token reads it"};
    Add(model_.head(), Whole(model_.head(), &placement_.head), &line);
    placement_.lines.push_back(std::move(line));
  }

  void PackedFfn(double overlay_share) {
    const std::vector<PackedLayer>& layers = model_.packed()->layers();
    uint64_t total = 0;
    for (const PackedLayer& layer : layers) total += PagesBytes(layer);
    PlanLine prefix{"FFN rows, prefix", 0, total, "most important pages of every layer; a full pass skips them"};
    PlanLine overlay{"FFN rows, overlay", 0, 0, "single rows chosen by the prompt, for drafts"};
    const bool all_fit = total <= left_;
    const uint64_t for_overlay =
        all_fit ? 0 : static_cast<uint64_t>(overlay_share * static_cast<double>(std::min(left_, total)));
    const uint64_t for_prefix = left_ - for_overlay;

    // The same share of each layer; what rounding leaves goes to the first layers, a page each.
    const double share = std::min(1.0, static_cast<double>(for_prefix) / static_cast<double>(total));
    uint64_t used = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const int32_t pages = static_cast<int32_t>(share * layers[i].layout.page_count());
      placement_.layers[i].resident_pages = pages;
      used += static_cast<uint64_t>(pages) * layers[i].layout.page_bytes;
    }
    for (size_t i = 0; i < layers.size(); ++i) {
      LayerPlacement& place = placement_.layers[i];
      if (place.resident_pages == layers[i].layout.page_count()) continue;
      if (used + layers[i].layout.page_bytes > for_prefix) break;
      used += layers[i].layout.page_bytes;
      ++place.resident_pages;
    }
    left_ -= used;
    prefix.resident_bytes = used;
    if (for_overlay > 0) Overlay(layers, for_overlay / layers.size(), &overlay);
    Density(layers);
    placement_.lines.push_back(std::move(prefix));
    if (overlay.resident_bytes > 0) placement_.lines.push_back(std::move(overlay));
  }

  // Plain files: the first rows of each matrix, the same share everywhere, in multiples of a panel.
  void PlainFfn() {
    uint64_t total = 0;
    for (const LayerSource& layer : model_.layers()) {
      for (const MatrixSource* matrix : {&*layer.gate, &*layer.up, &*layer.down}) {
        total += ResidentMatrixBytes(*matrix, matrix->rows);
      }
    }
    PlanLine line{"FFN", 0, total, "the same share of every matrix"};
    const double share = std::min(1.0, static_cast<double>(left_) / static_cast<double>(total));
    for (size_t i = 0; i < model_.layers().size(); ++i) {
      const LayerSource& layer = model_.layers()[i];
      LayerPlacement& place = placement_.layers[i];
      const std::pair<const MatrixSource*, MatrixPlacement*> parts[] = {
          {&*layer.gate, &place.gate}, {&*layer.up, &place.up}, {&*layer.down, &place.down}};
      for (const auto& [matrix, where] : parts) {
        where->resident_rows =
            share >= 1 ? matrix->rows : RoundDown(static_cast<int64_t>(share * matrix->rows), kPanelRows);
        const uint64_t bytes = ResidentMatrixBytes(*matrix, where->resident_rows);
        left_ -= std::min(left_, bytes);
        line.resident_bytes += bytes;
        AddComplement(*matrix, where);
      }
    }
    placement_.resident_density = static_cast<double>(line.resident_bytes) / static_cast<double>(total);
    placement_.lines.push_back(std::move(line));
  }

  Placement Take() { return std::move(placement_); }
  uint64_t left() const { return left_; }

 private:
  static uint64_t PagesBytes(const PackedLayer& layer) {
    return static_cast<uint64_t>(layer.layout.page_count()) * layer.layout.page_bytes;
  }

  void Add(const MatrixSource& matrix, bool resident, PlanLine* line) {
    const uint64_t bytes = ResidentMatrixBytes(matrix, matrix.rows);
    line->total_bytes += bytes;
    if (resident) {
      line->resident_bytes += bytes;
    } else {
      placement_.complement_bytes += matrix.bytes();
      line->reason = "does not fit whole: the rest streams in every pass";
    }
  }

  void AddComplement(const MatrixSource& matrix, const MatrixPlacement* where) {
    placement_.complement_bytes += matrix.row_bytes() * static_cast<uint64_t>(matrix.rows - where->resident_rows);
  }

  void Overlay(const std::vector<PackedLayer>& layers, uint64_t layer_bytes, PlanLine* line) {
    for (size_t i = 0; i < layers.size(); ++i) {
      const FfnPageLayout& layout = layers[i].layout;
      const int32_t absent = layout.ffn_rows - placement_.layers[i].resident_pages * layout.page_rows;
      int32_t rows =
          RoundDown(static_cast<int64_t>(layer_bytes / OverlayBytes(layout, kPanelRows)) * kPanelRows, kPanelRows);
      rows = std::min(rows, RoundDown(std::max(absent, 0), kPanelRows));
      placement_.layers[i].overlay_rows = rows;
      const uint64_t bytes = OverlayBytes(layout, rows);
      line->resident_bytes += bytes;
      left_ -= std::min(left_, bytes);
    }
    line->total_bytes = line->resident_bytes;
  }

  void Density(const std::vector<PackedLayer>& layers) {
    double have = 0, all = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const LayerPlacement& place = placement_.layers[i];
      const FfnPageLayout& layout = layers[i].layout;
      have += std::min(layout.ffn_rows, place.resident_pages * layout.page_rows + place.overlay_rows);
      all += layout.ffn_rows;
      placement_.complement_bytes +=
          static_cast<uint64_t>(layout.page_count() - place.resident_pages) * layout.page_bytes;
    }
    placement_.resident_density = have / all;
  }

  const ModelFile& model_;
  uint64_t left_;
  Placement placement_;
};

uint64_t LongestPiece(const ModelFile& model) {
  uint64_t longest = 0;
  const auto matrix = [&](const MatrixSource& m) { longest = std::max(longest, m.row_bytes() * kPanelRows); };
  for (const LayerSource& layer : model.layers()) {
    for (const MatrixSource* m : {&layer.query, &layer.key, &layer.value, &layer.output}) matrix(*m);
    if (layer.gate) {
      for (const MatrixSource* m : {&*layer.gate, &*layer.up, &*layer.down}) matrix(*m);
    }
  }
  matrix(model.head());
  if (model.packed() != nullptr) {
    // Checked chunks of plain tensors are read whole.
    for (const PackedLayer& layer : model.packed()->layers()) longest = std::max(longest, layer.layout.page_bytes);
  }
  return longest;
}

// Rows of a streamed chunk: as the checksums cut it, or as many as a range takes.
void SetChunkRows(const MatrixSource& matrix, uint64_t range_bytes, MatrixPlacement* place) {
  if (matrix.checksums != nullptr) {
    place->chunk_rows = matrix.checksums->chunk_rows;
    return;
  }
  place->chunk_rows =
      std::max(kPanelRows, RoundDown(static_cast<int64_t>(range_bytes / matrix.row_bytes()), kPanelRows));
}

void SetChunks(const ModelFile& model, Placement* placement) {
  for (size_t i = 0; i < model.layers().size(); ++i) {
    const LayerSource& layer = model.layers()[i];
    LayerPlacement& place = placement->layers[i];
    SetChunkRows(layer.query, placement->range_bytes, &place.query);
    SetChunkRows(layer.key, placement->range_bytes, &place.key);
    SetChunkRows(layer.value, placement->range_bytes, &place.value);
    SetChunkRows(layer.output, placement->range_bytes, &place.output);
    if (!layer.gate) continue;
    SetChunkRows(*layer.gate, placement->range_bytes, &place.gate);
    SetChunkRows(*layer.up, placement->range_bytes, &place.up);
    SetChunkRows(*layer.down, placement->range_bytes, &place.down);
  }
  SetChunkRows(model.head(), placement->range_bytes, &placement->head);
}

uint64_t LongestChunk(const ModelFile& model, uint64_t range_bytes) {
  uint64_t longest = std::max(LongestPiece(model), range_bytes);
  if (model.packed() != nullptr) {
    const auto chunk = [&](const MatrixSource& m) {
      if (m.checksums != nullptr)
        longest = std::max(longest, m.row_bytes() * static_cast<uint64_t>(m.checksums->chunk_rows));
    };
    for (const LayerSource& layer : model.layers()) {
      for (const MatrixSource* m : {&layer.query, &layer.key, &layer.value, &layer.output}) chunk(*m);
    }
    chunk(model.head());
    for (size_t i = 0; i < model.packed()->layers().size(); ++i) {
      if (model.packed()->layers()[i].down_scales_bytes > 0)
        chunk(DownScaleTable(*model.packed(), static_cast<int32_t>(i)));
    }
  }
  return longest;
}

}  // namespace

uint64_t ResidentMatrixBytes(const MatrixSource& matrix, int32_t rows) {
  return PanelMatrixBytes(matrix.type, rows, matrix.cols);
}

MatrixSource DownScaleTable(const PackedFile& packed, int32_t index) {
  const PackedLayer& layer = packed.layers()[static_cast<size_t>(index)];
  MatrixSource table;
  table.tensor = packed::LayerTensor(static_cast<size_t>(index), packed::kDownScalesPart);
  table.type = QuantType::kF16;
  table.cols = layer.layout.dim;
  table.rows = static_cast<int32_t>(layer.down_scales_bytes / table.row_bytes());
  table.offset = layer.down_scales_offset;
  table.checksums = packed.FindChecksums(table.tensor);
  return table;
}

uint64_t OverlayBytes(const FfnPageLayout& layout, int32_t rows) {
  if (rows == 0) return 0;
  const uint64_t panels = static_cast<uint64_t>((rows + kPanelRows - 1) / kPanelRows);
  const uint64_t outputs = static_cast<uint64_t>((layout.dim + kPanelRows - 1) / kPanelRows);
  return panels * (PanelBytes(layout.gate_type, layout.dim) + PanelBytes(layout.up_type, layout.dim)) +
         outputs * OverlayDownPanelBytes(layout.down_type, static_cast<int32_t>(panels) * kPanelRows);
}

absl::StatusOr<Placement> PlanPlacement(const ModelFile& model, const PlanRequest& request) {
  uint64_t fixed = 0;
  for (const FixedCost& cost : request.fixed) fixed += cost.bytes;
  const bool limited = request.budget_bytes != kNoLimit;
  const uint64_t wanted_ring = limited ? std::clamp(request.budget_bytes / 32, kRingMin, kRingMax) : kRingMax / 2;
  const uint64_t range = std::max(LongestPiece(model), std::min(kRangeMax, wanted_ring / 4));
  const uint64_t longest = LongestChunk(model, range);
  // Loading goes through the ring too, so there is one even when everything fits.
  uint64_t ring = std::max(wanted_ring, Pager::MinRingBytes(longest));
  ring = (ring + kIoAlignment - 1) / kIoAlignment * kIoAlignment;

  const uint64_t smallest = fixed + ring;
  if (limited && request.budget_bytes < smallest) {
    return absl::ResourceExhaustedError(
        fmt::format("a budget of {} is too small for {}: the smallest that works is {} (fixed costs {}, ring {})",
                    FormatSize(request.budget_bytes), model.path(), FormatSize(smallest + kMiB - 1), FormatSize(fixed),
                    FormatSize(ring)));
  }
  Filler filler(model, limited ? request.budget_bytes - smallest : kNoLimit / 2);
  const uint64_t available = filler.left();
  filler.Attention();
  filler.Head();
  if (model.packed() != nullptr) {
    filler.PackedFfn(request.overlay_share);
  } else {
    filler.PlainFfn();
  }
  const uint64_t used = available - filler.left();
  Placement placement = filler.Take();
  placement.range_bytes = range;
  placement.ring_bytes = ring;
  placement.planned_bytes = smallest + used;
  placement.smallest_budget_bytes = smallest;
  SetChunks(model, &placement);
  for (const FixedCost& cost : request.fixed) {
    placement.lines.push_back({cost.what, cost.bytes, cost.bytes, "needed by every pass"});
  }
  placement.lines.push_back({"ring", ring, ring, "reads in flight while earlier pages compute"});
  return placement;
}

}  // namespace dogstar
