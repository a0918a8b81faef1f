#include "memory/planner.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/panel.h"
#include "base/units.h"
#include "device/backend.h"
#include "fmt/format.h"
#include "memory/host_tier.h"
#include "memory/pager.h"
#include "memory/plan_parts.h"
#include "memory/staged_ranges.h"

namespace dogstar {
namespace {

using plan::AttentionParts;
using plan::kRounding;
using plan::PlainFfnParts;
using plan::RoundDown;
using plan::RoundUp;
using plan::StepRows;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kCacheLine = 64;
// Of a machine that was not measured: an NVMe disk, two cores' memory, and twice the reads in flight that kept our disk
// busy (docs/benchmarks.md, Reading: 1 MiB has full bandwidth from 4 to 8 in flight on).
constexpr StreamRates kCommonRates = {2e9, 20e9, 16 * kMiB};
// Plain reading of memory, measured with nothing beside it, over what products reach while a disk writes into the same
// memory: passes of an 8B model spent 0.18 to 0.24 s in kernels that need 0.09 s alone. Without it the ring was 7 MiB
// and passes took 0.78 s; from 10 to 31 MiB they take 0.64 to 0.70.
constexpr double kBesideReading = 3;
constexpr uint64_t kRingMin = 2 * kMiB;
constexpr uint64_t kRingMax = 256 * kMiB;
// guess: a ring of more than this share of the budget takes more from the weights than waiting costs.
constexpr uint64_t kRingShare = 24;
// But where it is small, so much is not too much: below it a disk is not kept busy (84 MiB, 3.5 against 6 MiB: 1.09 of
// the speed), above it weights are missed more.
constexpr uint64_t kRingEnough = 6 * kMiB, kRingShareAtMost = 12;
// A read of neighbouring pages or rows; a quarter of the ring at most, so that several are in flight.
constexpr uint64_t kRangeMax = kMiB;

// Calls function(matrix) for every matrix that streams or is loaded by chunks, down-scale tables included.
template <typename Function>
void ForEachMatrix(const ModelShape& model, Function function) {
  for (const LayerShape& layer : model.layers) {
    for (const MatrixShape* matrix : {&layer.query, &layer.key, &layer.value, &layer.output}) function(*matrix);
    if (!model.packed) {
      for (const MatrixShape* matrix : {&layer.gate, &layer.up, &layer.down}) function(*matrix);
    } else if (layer.down_scales.rows > 0) {
      function(layer.down_scales);
    }
  }
  function(model.head);
}

uint64_t AttentionBytes(const LayerShape& layer) {
  return layer.query.panel_bytes() + layer.key.panel_bytes() + layer.value.panel_bytes() + layer.output.panel_bytes();
}

uint64_t FfnBytes(const ModelShape& model, const LayerShape& layer) {
  if (model.packed) return layer.pages_bytes();
  return layer.gate.panel_bytes() + layer.up.panel_bytes() + layer.down.panel_bytes();
}

struct WeightBytes {
  uint64_t attention = 0, head = 0, ffn = 0;
  uint64_t total() const { return attention + head + ffn; }
};

WeightBytes WeightBytesOf(const ModelShape& model) {
  WeightBytes bytes;
  for (const LayerShape& layer : model.layers) {
    bytes.attention += AttentionBytes(layer);
    bytes.ffn += FfnBytes(model, layer);
  }
  bytes.head = model.head.panel_bytes();
  return bytes;
}

// Of the host, or of the device where one computes.
uint64_t FixedBytes(const PlanRequest& request, bool on_device) {
  uint64_t bytes = 0;
  for (const FixedCost& cost : request.fixed) {
    const bool there = request.device_bytes.has_value() && cost.on_device;
    if (there == on_device) bytes += cost.bytes;
  }
  return bytes;
}

uint64_t HighAttentionBytes(const LayerShape& layer) { return AttentionBytes(layer) - layer.attention_low_bytes; }

// Layers whose attention is there by its high planes, of `available` bytes for weights.
int32_t CutAttentionLayers(const ModelShape& model, const PlanRequest& request, uint64_t available) {
  const auto has_low = [](const LayerShape& layer) { return layer.attention_low_bytes > 0; };
  if (!std::ranges::any_of(model.layers, has_low)) return 0;
  const auto layers = static_cast<int32_t>(model.layers.size());
  if (request.attention_planes) return static_cast<int32_t>(*request.attention_planes * layers + kRounding);
  const int32_t head_rows = request.draft_head_rows > 0 ? request.draft_head_rows : model.head.rows;
  uint64_t attention = 0, low = 0, pages = 0;
  for (const LayerShape& layer : model.layers) {
    attention += AttentionBytes(layer);
    low += layer.attention_low_bytes;
    const uint64_t page_bytes = request.planes > 0 ? layer.high_bytes() : layer.pages.page_bytes;
    pages += page_bytes * static_cast<uint64_t>(layer.pages.page_count());
  }
  const uint64_t drafts = attention + model.head.PanelBytesOf(head_rows);
  if (drafts + pages <= available || drafts - low > available) return 0;
  int32_t cut = 0;
  for (uint64_t saved = 0; cut < layers && drafts + pages > available + saved; ++cut) {
    saved += model.layers[static_cast<size_t>(layers - 1 - cut)].attention_low_bytes;
  }
  return cut;
}

// What cannot be read in smaller pieces: a page, or a panel of rows.
uint64_t LongestPiece(const ModelShape& model) {
  uint64_t longest = 0;
  ForEachMatrix(model, [&](const MatrixShape& m) { longest = std::max(longest, m.row_bytes() * kPanelRows); });
  for (const LayerShape& layer : model.layers) longest = std::max(longest, layer.pages.page_bytes);
  return longest;
}

// Lists of what is read and where it goes take so much for each range, the time of loading included: two copies of a
// range and of its place while a list grows, and the pager's own copy.
constexpr uint64_t kBytesPerRange = 176;

struct Ring {
  uint64_t bytes = 0;
  uint64_t range_bytes = 0;
  uint64_t longest_bytes = 0;  // of a range
  uint64_t list_bytes = 0;     // of the ranges
  uint64_t total() const { return bytes + list_bytes; }
};

// A ring of about `wanted` bytes: whole I/O blocks, and room for the longest ranges.
Ring MakeRing(const ModelShape& model, const PlanRequest& request, uint64_t wanted) {
  const bool for_device = request.device_bytes.has_value();
  Ring ring;
  ring.range_bytes = std::max(LongestPiece(model), std::min(kRangeMax, wanted / 4));
  uint64_t longest = ring.range_bytes;
  ForEachMatrix(model, [&](const MatrixShape& m) {
    longest = std::max(longest, m.row_bytes() * static_cast<uint64_t>(m.chunk_rows));
  });
  for (const LayerShape& layer : model.layers) {
    if (request.attention_planes != 0) longest = std::max(longest, layer.attention_low_bytes);
  }
  ring.longest_bytes = longest;
  // A device's copies hold one more range than operations do.
  ring.bytes = std::max(wanted, Pager::MinRingBytes(longest) + (for_device ? longest + 2 * kIoAlignment : 0));
  ring.bytes = (ring.bytes + kIoAlignment - 1) / kIoAlignment * kIoAlignment;
  constexpr uint64_t kRangesPerLayer = 8;  // the last one of each matrix is short
  const uint64_t ranges = WeightBytesOf(model).total() / ring.range_bytes + kRangesPerLayer * model.layers.size();
  ring.list_bytes = ranges * kBytesPerRange;
  return ring;
}

Ring SmallestRing(const ModelShape& model, const PlanRequest& request) { return MakeRing(model, request, kRingMin); }

// See planner.h for the formula. `for_weights`: what is left of the budget before the ring.
Ring ChooseRing(const ModelShape& model, const PlanRequest& request, uint64_t for_weights) {
  if (request.ring_bytes > 0) return MakeRing(model, request, request.ring_bytes);
  const WeightBytes all = WeightBytesOf(model);
  const Ring smallest = SmallestRing(model, request);
  // What is read only once, to load, needs no more.
  if (for_weights >= all.total() + smallest.total() && request.budget_bytes != kNoLimit) return smallest;
  const auto known = [](auto measured, auto common) { return measured > 0 ? measured : common; };
  const double disk = known(request.rates.disk_bytes_per_second, kCommonRates.disk_bytes_per_second);
  const double memory =
      known(request.rates.memory_bytes_per_second / kBesideReading, kCommonRates.memory_bytes_per_second);
  const double share = std::min(1.0, static_cast<double>(for_weights) / static_cast<double>(all.total()));
  // The head, then the next pass's first layer up to its first streamed page.
  const double stretch =
      static_cast<double>(all.head) + (static_cast<double>(all.attention) + share * static_cast<double>(all.ffn)) /
                                          static_cast<double>(model.layers.size());
  const auto wanted = static_cast<uint64_t>(disk * stretch / memory) +
                      known(request.rates.in_flight_bytes, kCommonRates.in_flight_bytes);
  const uint64_t of_budget =
      std::max(request.budget_bytes / kRingShare, std::min(kRingEnough, request.budget_bytes / kRingShareAtMost));
  const uint64_t most = request.budget_bytes == kNoLimit ? kRingMax : std::clamp(of_budget, kRingMin, kRingMax);
  return MakeRing(model, request, std::clamp(wanted, kRingMin, most));
}

// Walks a placement in the making: takes bytes from what is left, for one part at a time.
class Filler {
 public:
  Filler(const ModelShape& model, uint64_t left_bytes) : model_(model), left_(left_bytes) {
    placement_.layers.resize(model.layers.size());
  }

  // cut_layers: as many, from the last on, by their high planes.
  void Attention(int32_t cut_layers) {
    PlanLine line{"attention", 0, 0, "every pass and every draft reads it"};
    if (cut_layers > 0) {
      line.reason += fmt::format("; a full pass the low planes of {} layers from the file", cut_layers);
    }
    const size_t whole_layers = model_.layers.size() - static_cast<size_t>(cut_layers);
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      if (i >= whole_layers && model_.layers[i].attention_low_bytes > 0) {
        HighAttention(i, &line);
        continue;
      }
      for (const auto& [matrix, place] : AttentionParts(model_.layers[i], &placement_.layers[i])) {
        WholeMatrix(*matrix, place, &line);
      }
    }
    Close(std::move(line));
  }

  // The head's rows that drafts use.
  void DraftHead(int32_t rows) {
    FirstRows(model_.head, std::min(RoundUp(rows, StepRows(model_.head)), model_.head.rows), &placement_.head,
              &head_line_);
  }

  // The head, or what is left of it.
  void Head() {
    WholeMatrix(model_.head, &placement_.head, &head_line_);
    Close(std::move(head_line_));
  }

  void PackedFfn(double overlay_share, double planes_share) {
    PlanLine prefix{"FFN rows, prefix", 0, 0, "most important pages of every layer; a full pass skips them"};
    PlanLine planes{"FFN rows, high planes", 0, 0, "pages behind the prefix, for drafts; a full pass reads the rest"};
    for (const LayerShape& layer : model_.layers) prefix.total_bytes += layer.pages_bytes();
    const uint64_t total = prefix.total_bytes;
    const uint64_t usable = std::min(left_, total);
    const uint64_t for_overlay =
        total <= left_ ? 0 : static_cast<uint64_t>(overlay_share * static_cast<double>(usable));
    Pages(usable - for_overlay, planes_share, &prefix, &planes);
    Close(std::move(prefix));
    if (planes.resident_bytes > 0) Close(std::move(planes));
    if (for_overlay > 0) Overlay(for_overlay / model_.layers.size());
    Density();
  }

  // Plain files: the first rows of each matrix, the same share everywhere; what rounding leaves goes to the first
  // matrices, a panel each.
  void PlainFfn() {
    PlanLine line{"FFN", 0, 0, "the same share of every matrix"};
    for (const LayerShape& layer : model_.layers) line.total_bytes += FfnBytes(model_, layer);
    const double share = std::min(1.0, static_cast<double>(left_) / static_cast<double>(line.total_bytes));
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      for (const auto& [matrix, place] : PlainFfnParts(model_.layers[i], &placement_.layers[i])) {
        const int32_t rows = RoundDown(static_cast<int64_t>(share * matrix->rows), StepRows(*matrix));
        Give(*matrix, share >= 1 ? matrix->rows : rows, place, &line);
      }
    }
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      for (const auto& [matrix, place] : PlainFfnParts(model_.layers[i], &placement_.layers[i])) {
        const int32_t step = std::min(StepRows(*matrix), matrix->rows - place->resident_rows);
        if (step > 0 && matrix->PanelBytesOf(step) <= left_) Give(*matrix, step, place, &line);
        placement_.complement_bytes += matrix->row_bytes() * static_cast<uint64_t>(matrix->rows - place->resident_rows);
      }
    }
    placement_.resident_density = static_cast<double>(line.resident_bytes) / static_cast<double>(line.total_bytes);
    Close(std::move(line));
  }

  Placement Take() { return std::move(placement_); }
  uint64_t left() const { return left_; }

 private:
  // `rows` more rows of the matrix stay.
  void Give(const MatrixShape& matrix, int32_t rows, MatrixPlacement* place, PlanLine* line) {
    const uint64_t before = matrix.PanelBytesOf(place->resident_rows);
    place->resident_rows += rows;
    const uint64_t bytes = matrix.PanelBytesOf(place->resident_rows) - before;
    left_ -= std::min(left_, bytes);
    line->resident_bytes += bytes;
  }

  // The first rows of the matrix, or as many of them as fit, in all.
  void FirstRows(const MatrixShape& matrix, int32_t rows, MatrixPlacement* place, PlanLine* line) {
    const int32_t step = StepRows(matrix), more = rows - place->resident_rows;
    if (more <= 0) return;
    const bool fits = matrix.PanelBytesOf(rows) - matrix.PanelBytesOf(place->resident_rows) <= left_;
    const auto steps = static_cast<int64_t>(left_ / matrix.PanelBytesOf(step));
    Give(matrix, fits ? more : RoundDown(std::min<int64_t>(steps * step, more - 1), step), place, line);
  }

  void WholeMatrix(const MatrixShape& matrix, MatrixPlacement* place, PlanLine* line) {
    FirstRows(matrix, matrix.rows, place, line);
    line->total_bytes += matrix.panel_bytes();
    if (place->resident_rows < matrix.rows) line->reason = "does not fit whole: the rest comes anew in every pass";
    placement_.complement_bytes += matrix.row_bytes() * static_cast<uint64_t>(matrix.rows - place->resident_rows);
  }

  void HighAttention(size_t layer, PlanLine* line) {
    const LayerShape& shape = model_.layers[layer];
    LayerPlacement& place = placement_.layers[layer];
    place.attention_planes = true;
    for (const auto& [matrix, rows] : AttentionParts(shape, &place)) rows->resident_rows = matrix->rows;
    left_ -= std::min(left_, HighAttentionBytes(shape));
    line->resident_bytes += HighAttentionBytes(shape);
    line->total_bytes += AttentionBytes(shape);
    placement_.complement_bytes += shape.attention_low_bytes;
  }

  void Close(PlanLine line) {
    placement_.resident_bytes += line.resident_bytes;
    placement_.draft_bytes += line.resident_bytes;
    placement_.lines.push_back(std::move(line));
  }

  // Shares of the FFN's pages that are whole and that keep their high planes, of `bytes` bytes.
  struct PageShares {
    double whole = 0, planes = 0;
  };
  PageShares SharesOf(uint64_t bytes, double planes_share) const {
    double whole = 0, high = 0;  // bytes of all pages, either way
    for (const LayerShape& layer : model_.layers) {
      whole += static_cast<double>(layer.pages_bytes());
      high += static_cast<double>(layer.high_bytes()) * layer.pages.page_count();
    }
    const auto have = static_cast<double>(bytes);
    const double planes = whole > high ? std::min(planes_share, have / high) : 0;
    const double left = (have - planes * high) / whole;
    if (left + planes <= 1) return {left, planes};
    if (whole == high) return {1, 0};
    const double kept = std::min(1.0, (have - high) / (whole - high));  // together they are all pages
    return {kept, 1 - kept};
  }

  // The same share of each layer; what rounding leaves goes to the first layers, a page each.
  void Pages(uint64_t bytes, double planes_share, PlanLine* prefix, PlanLine* planes) {
    const PageShares shares = SharesOf(bytes, planes_share);
    const auto used = [&] { return prefix->resident_bytes + planes->resident_bytes; };
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const LayerShape& layer = model_.layers[i];
      LayerPlacement& place = placement_.layers[i];
      const int32_t pages = layer.pages.page_count();
      place.resident_pages = static_cast<int32_t>(shares.whole * pages);
      prefix->resident_bytes += static_cast<uint64_t>(place.resident_pages) * layer.pages.page_bytes;
      if (!layer.low_planes) continue;
      const auto both = static_cast<int32_t>((shares.whole + shares.planes) * pages + kRounding);
      place.plane_pages = std::min(both, pages) - place.resident_pages;
      planes->resident_bytes += static_cast<uint64_t>(place.plane_pages) * layer.high_bytes();
    }
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const LayerShape& layer = model_.layers[i];
      LayerPlacement& place = placement_.layers[i];
      const bool covered = place.resident_pages + place.plane_pages == layer.pages.page_count();
      if (covered && place.plane_pages == 0) continue;
      // A page more, or one that was there in part.
      const uint64_t before = covered ? layer.high_bytes() : 0;
      if (used() - before + layer.pages.page_bytes > bytes) continue;
      ++place.resident_pages;
      prefix->resident_bytes += layer.pages.page_bytes;
      if (!covered) continue;
      --place.plane_pages;
      planes->resident_bytes -= layer.high_bytes();
    }
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      planes->total_bytes +=
          static_cast<uint64_t>(placement_.layers[i].plane_pages) * model_.layers[i].pages.page_bytes;
    }
    left_ -= std::min(left_, used());
  }

  void Overlay(uint64_t layer_bytes) {
    PlanLine line{"FFN rows, overlay", 0, 0, "single rows chosen by the text, for drafts"};
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const FfnPageLayout& pages = model_.layers[i].pages;
      const LayerPlacement& place = placement_.layers[i];
      const int32_t absent = pages.ffn_rows - (place.resident_pages + place.plane_pages) * pages.page_rows;
      const auto panels = static_cast<int64_t>(layer_bytes / OverlaySizesOf(pages, kPanelRows).total());
      const int32_t rows = RoundDown(std::min<int64_t>(panels * kPanelRows, std::max(absent, 0)), kPanelRows);
      placement_.layers[i].overlay_rows = rows;
      if (rows > 0) line.resident_bytes += OverlaySizesOf(pages, rows).total();
    }
    line.total_bytes = line.resident_bytes;
    left_ -= std::min(left_, line.resident_bytes);
    placement_.draft_bytes += line.resident_bytes;
    if (line.resident_bytes > 0) placement_.lines.push_back(std::move(line));
  }

  void Density() {
    double have = 0, planes = 0, all = 0;
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const LayerPlacement& place = placement_.layers[i];
      const FfnPageLayout& pages = model_.layers[i].pages;
      const int32_t whole = std::min(pages.ffn_rows, place.resident_pages * pages.page_rows);
      const int32_t both = std::min(pages.ffn_rows, (place.resident_pages + place.plane_pages) * pages.page_rows);
      have += std::min(pages.ffn_rows, both + place.overlay_rows);
      planes += both - whole;
      all += pages.ffn_rows;
      const int32_t absent = pages.page_count() - place.resident_pages - place.plane_pages;
      placement_.complement_bytes +=
          static_cast<uint64_t>(absent) * pages.page_bytes + static_cast<uint64_t>(place.plane_pages) * pages.low.bytes;
    }
    placement_.resident_density = have / all;
    placement_.plane_density = planes / all;
  }

  const ModelShape& model_;
  uint64_t left_;
  Placement placement_;
  PlanLine head_line_{model_.tied_head ? "head (and embedding)" : "head", 0, 0, "every token reads it"};
};

// Rows of a streamed chunk: as the checksums cut it, or as many as a range takes.
void SetChunkRows(const MatrixShape& matrix, uint64_t range_bytes, MatrixPlacement* place) {
  const auto rows = static_cast<int64_t>(range_bytes / matrix.row_bytes());
  place->chunk_rows = matrix.chunk_rows > 0 ? matrix.chunk_rows : std::max(kPanelRows, RoundDown(rows, kPanelRows));
}

void SetChunks(const ModelShape& model, Placement* placement) {
  const uint64_t range_bytes = placement->range_bytes;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    for (const auto& [matrix, place] : AttentionParts(model.layers[i], &placement->layers[i])) {
      SetChunkRows(*matrix, range_bytes, place);
    }
    if (model.packed) continue;
    for (const auto& [matrix, place] : PlainFfnParts(model.layers[i], &placement->layers[i])) {
      SetChunkRows(*matrix, range_bytes, place);
    }
  }
  SetChunkRows(model.head, range_bytes, &placement->head);
}

bool DraftsNeedNoDisk(const ModelShape& model, const PlanRequest& request, const Placement& placement) {
  const int32_t head_rows = request.draft_head_rows > 0 ? request.draft_head_rows : model.head.rows;
  const int32_t held = request.draft_head_rows > 0 ? placement.head.resident_rows : placement.head.held_rows();
  if (!model.packed || held < head_rows) return false;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    LayerPlacement place = placement.layers[i];
    for (const auto& [matrix, where] : AttentionParts(model.layers[i], &place)) {
      if (where->held_rows() != matrix->rows) return false;
    }
  }
  return true;
}

// What a device has beside weights, and for them.
struct DeviceRoom {
  uint64_t fixed = 0, staging = 0, for_weights = 0;
};

absl::StatusOr<DeviceRoom> RoomOfDevice(const ModelShape& model, const PlanRequest& request, const Ring& ring) {
  if (!request.device_bytes) return DeviceRoom{};
  DeviceRoom room{.fixed = FixedBytes(request, true), .staging = StagedRanges::StagingBytes(ring.longest_bytes)};
  const uint64_t needed = room.fixed + room.staging;
  if (needed > *request.device_bytes) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} of device memory are too few for {}: the smallest that works is {} (KV cache, activations and tables {}; "
        "staging {})",
        FormatSize(*request.device_bytes), model.name, FormatSize(needed + kMiB - 1), FormatSize(room.fixed),
        FormatSize(room.staging)));
  }
  room.for_weights = *request.device_bytes - needed;
  return room;
}

// Fixed costs first, weights in device memory where there is one.
void AddFixedLines(const PlanRequest& request, const Ring& ring, Placement* placement) {
  const bool device = request.device_bytes.has_value();
  for (PlanLine& line : placement->lines) {
    line.on_device = device && !IsOfHostTier(line);
  }
  std::vector<PlanLine> lines;
  for (const FixedCost& cost : request.fixed) {
    lines.push_back({cost.what, cost.bytes, cost.bytes, "needed by every pass", device && cost.on_device});
  }
  if (device) {
    lines.push_back({"staging", placement->staging_bytes, placement->staging_bytes, "what comes over the link", true});
  }
  lines.push_back({"ring", ring.bytes, ring.bytes, "reads in flight while earlier pages compute"});
  lines.push_back({"lists of reads", ring.list_bytes, ring.list_bytes, "what is read when, and where it goes"});
  placement->lines.insert(placement->lines.begin(), lines.begin(), lines.end());
}

absl::Status TooSmall(const ModelShape& model, const PlanRequest& request, uint64_t fixed, const Ring& ring) {
  const auto largest = std::ranges::max_element(request.fixed, {}, &FixedCost::bytes);
  const std::string most = largest != request.fixed.end()
                               ? fmt::format(", the largest of them {} {}", largest->what, FormatSize(largest->bytes))
                               : "";
  return absl::ResourceExhaustedError(
      fmt::format("a budget of {} is too small for {}: the smallest that works is {} (fixed costs {}{}; ring {})",
                  FormatSize(request.budget_bytes), model.name, FormatSize(fixed + ring.total() + kMiB - 1),
                  FormatSize(fixed), most, FormatSize(ring.total())));
}

}  // namespace

OverlaySizes OverlaySizesOf(const FfnPageLayout& layout, int32_t rows) {
  const auto panels = [](int32_t n) { return static_cast<uint64_t>((n + kPanelRows - 1) / kPanelRows); };
  const auto lines = [](uint64_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; };
  return {lines(panels(rows) * PanelBytes(layout.gate_type, layout.dim)),
          lines(panels(rows) * PanelBytes(layout.up_type, layout.dim)),
          lines(panels(layout.dim) * OverlayDownPanelBytes(layout.down_type, rows))};
}

absl::StatusOr<Placement> PlanPlacement(const ModelShape& model, const PlanRequest& request) {
  const bool limited = request.budget_bytes != kNoLimit;
  const uint64_t fixed = FixedBytes(request, false);
  const uint64_t for_weights = limited ? request.budget_bytes - std::min(request.budget_bytes, fixed) : kNoLimit / 2;
  Ring ring = ChooseRing(model, request, for_weights);
  if (ring.total() > for_weights) ring = SmallestRing(model, request);
  if (ring.total() > for_weights) return TooSmall(model, request, fixed, ring);

  uint64_t host = for_weights - ring.total();
  ASSIGN_OR_RETURN(const DeviceRoom device, RoomOfDevice(model, request, ring));
  const uint64_t available = request.device_bytes ? device.for_weights : host;
  Filler filler(model, available);
  filler.Attention(CutAttentionLayers(model, request, available));
  if (request.draft_head_rows > 0) {
    filler.DraftHead(request.draft_head_rows);
  } else {
    filler.Head();
  }
  if (model.packed) {
    filler.PackedFfn(request.overlay_share, request.planes);
  } else {
    filler.PlainFfn();
  }
  if (request.draft_head_rows > 0) filler.Head();
  const uint64_t taken = available - filler.left();
  Placement placement = filler.Take();
  if (request.device_bytes) {
    const uint64_t pinned = request.pinned_bytes - std::min(request.pinned_bytes, ring.bytes);
    host -= FillHostTier(model, std::min(host, pinned), &placement);
  } else {
    host -= taken;
  }
  placement.planned_bytes = fixed + for_weights - host;
  if (request.device_bytes) placement.device_planned_bytes = device.fixed + device.staging + taken;
  placement.staging_bytes = device.staging;
  placement.host_tables = request.host_tables && placement.host_page_bytes > 0;
  placement.range_bytes = ring.range_bytes;
  placement.ring_bytes = ring.bytes;
  placement.drafts_need_no_disk = DraftsNeedNoDisk(model, request, placement);
  SetChunks(model, &placement);
  AddFixedLines(request, ring, &placement);
  return placement;
}

BudgetMarks MarkBudgets(const ModelShape& model, const PlanRequest& request) {
  const uint64_t fixed = FixedBytes(request, false);
  const WeightBytes weights = WeightBytesOf(model);
  // The ring that a budget holding these weights would choose, which depends on the budget: found in two steps.
  const auto with_ring = [&](uint64_t resident) {
    PlanRequest at = request;
    at.budget_bytes = fixed + resident + SmallestRing(model, request).total();
    at.budget_bytes = fixed + resident + ChooseRing(model, at, at.budget_bytes - fixed).total();
    return fixed + resident + ChooseRing(model, at, at.budget_bytes - fixed).total();
  };
  BudgetMarks marks;
  marks.smallest = fixed + SmallestRing(model, request).total();
  marks.drafts = with_ring(weights.attention + weights.head);
  marks.sensible = with_ring(weights.attention + weights.head +
                             static_cast<uint64_t>(kSensibleDensity * static_cast<double>(weights.ffn)));
  marks.everything = fixed + weights.total() + SmallestRing(model, request).total();
  return marks;
}

}  // namespace dogstar
