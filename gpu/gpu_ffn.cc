#include "gpu/gpu_ffn.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "base/bit_planes.h"
#include "base/panel.h"

namespace dogstar {
namespace {

constexpr int32_t kNoGroup = -1;  // of no pages

SentPages SendLists(const PageLists& lists, std::byte* to, gpu::Runtime* runtime) {
  std::vector<std::byte> bytes;
  const auto append = [&](std::span<const std::byte> part) {
    const size_t at = (bytes.size() + 15) / 16 * 16;
    bytes.resize(at);
    bytes.insert(bytes.end(), part.begin(), part.end());
    return to + at;
  };
  SentPages sent;
  sent.gate = reinterpret_cast<const std::byte* const*>(append(BytesOf(lists.gate)));
  sent.up = reinterpret_cast<const std::byte* const*>(append(BytesOf(lists.up)));
  sent.blocks = reinterpret_cast<const gpu::RowBlock*>(append(BytesOf(lists.blocks)));
  sent.groups = reinterpret_cast<const uint16_t*>(append(BytesOf(lists.groups)));
  sent.cut = reinterpret_cast<const gpu::JoinPiece*>(append(BytesOf(lists.cut)));
  sent.block_count = static_cast<int32_t>(lists.blocks.size());
  CHECK(bytes.size() <= PageLists::Bytes(lists.blocks.size()));
  runtime->SendAll(bytes, to);
  return sent;
}

// Products of the job's input with the panels of a list; out: [rows][32 * block_count].
gpu::ProductTask PanelProduct(const GpuFfnJob& job, const std::byte* const* panels, int32_t block_count, float* out) {
  gpu::ProductTask product{.panels = {},
                           .w_rows = block_count * kBlockRows,
                           .x = job.x,
                           .rows = job.rows,
                           .out = out,
                           .out_stride = block_count * kBlockRows};
  product.panels.list = panels;
  return product;
}

gpu::ActivationView ValuesOfBlocks(const GpuFfnJob& job, int32_t block_count) {
  gpu::ActivationView z = job.z;
  z.cols = block_count * kBlockRows;
  return z;
}

int64_t CountUsed(const PageLists& lists) {
  int64_t count = 0;
  for (const gpu::RowBlock& block : lists.blocks) count += std::popcount(block.used);
  return count;
}

// Block `b` of a list, with these of its rows, to the end of another.
void AppendBlock(const PageLists& from, size_t b, uint32_t used, PageLists* to) {
  gpu::RowBlock& block = to->blocks.emplace_back(from.blocks[b]);
  const auto groups = from.groups.begin() + block.first_group;
  block.used = used;
  block.first_group = static_cast<int32_t>(to->groups.size());
  if (!from.groups.empty()) to->groups.insert(to->groups.end(), groups, groups + block.runs);
  for (const size_t panel : {2 * b, 2 * b + 1}) {
    to->gate.push_back(from.gate[panel]);
    to->up.push_back(from.up[panel]);
  }
}

// The rows that tokens of a call may still choose, or have chosen: of the host, and of the device.
class Choosers {
 public:
  Choosers(const PageLists& all, const RowChoice& choice, const GpuFfnJob& job, const Launcher& launcher)
      : choice_(choice), job_(job), launcher_(launcher), masks_(static_cast<size_t>(job.rows) * all.blocks.size()) {
    const SentPages sent = SendLists(all, job.choice_lists, launcher.runtime());
    view_ = {sent.blocks, sent.block_count, job.rows, job.choice_values, job.choice_masks};
    for (size_t i = 0; i < masks_.size(); ++i) masks_[i] = all.blocks[i % all.blocks.size()].used;
    launcher.runtime()->SendAll(std::as_bytes(std::span(masks_)), reinterpret_cast<std::byte*>(job.choice_masks));
  }

  const gpu::ChoiceView& view() const { return view_; }

  // Scores that are given become the values.
  void SetGiven(const PageLists& all) const {
    std::vector<float> values(masks_.size() * kBlockRows);
    for (size_t at = 0; at < masks_.size(); ++at) {
      const auto token = static_cast<int64_t>(at / all.blocks.size());
      const gpu::RowBlock& block = all.blocks[at % all.blocks.size()];
      const float* const from = choice_.given + token * choice_.given_stride + block.first_row;
      for (int n = 0; n < kBlockRows; ++n) {
        values[at * kBlockRows + static_cast<size_t>(n)] = (block.used >> n & 1) != 0 && from[n] > 0 ? from[n] : 0.0F;
      }
    }
    launcher_.runtime()->SendAll(BytesOf(values), reinterpret_cast<std::byte*>(job_.choice_values));
  }

  // weight: as RowChoice has it.
  absl::Status Select(int32_t count, const float* weight) {
    gpu::SelectKernel select{.all = view_,
                             .count = count,
                             .threshold = choice_.threshold,
                             .tokens_together = choice_.shared ? view_.rows : 1};
    if (weight != nullptr) {
      const std::span<const float> weights(weight, static_cast<size_t>(job_.layout.ffn_rows));
      launcher_.runtime()->SendAll(std::as_bytes(weights), reinterpret_cast<std::byte*>(job_.choice_weights));
      select.weight = job_.choice_weights;
    }
    launcher_.Launch(select);
    return launcher_.runtime()->CopyOut(reinterpret_cast<const std::byte*>(job_.choice_masks),
                                        std::as_writable_bytes(std::span(masks_)));
  }

  // Of the blocks, those with a row that at least one token keeps.
  PageLists Kept(const PageLists& all) const {
    PageLists kept;
    for (size_t b = 0; b < all.blocks.size(); ++b) {
      uint32_t used = 0;
      for (int32_t t = 0; t < view_.rows; ++t) used |= MaskOf(t, b);
      if (used != 0) AppendBlock(all, b, used, &kept);
    }
    return kept;
  }

  // Rows kept, summed over the tokens; the sets join `chosen`, where it is not empty.
  int64_t Report(const PageLists& all, std::span<uint64_t> chosen) const {
    const size_t words = (static_cast<size_t>(job_.layout.ffn_rows) + 63) / 64;
    CHECK(chosen.empty() || chosen.size() >= words * static_cast<size_t>(view_.rows));
    int64_t count = 0;
    for (size_t b = 0; b < all.blocks.size(); ++b) {
      const auto first_row = static_cast<size_t>(all.blocks[b].first_row);  // a multiple of 32
      for (int32_t t = 0; t < view_.rows; ++t) {
        const uint64_t mask = MaskOf(t, b);
        count += std::popcount(mask);
        if (!chosen.empty()) chosen[static_cast<size_t>(t) * words + first_row / 64] |= mask << (first_row % 64);
      }
    }
    return count;
  }

 private:
  uint32_t MaskOf(int32_t token, size_t block) const {
    return masks_[static_cast<size_t>(token) * static_cast<size_t>(view_.block_count) + block];
  }

  const RowChoice& choice_;
  const GpuFfnJob& job_;
  const Launcher& launcher_;
  gpu::ChoiceView view_;
  std::vector<uint32_t> masks_;  // [rows][blocks]
};

// Calls function(part) for parts of a list of whole pages, of at most `most` blocks.
template <typename Function>
void ForParts(const PageLists& lists, size_t most, Function function) {
  for (size_t first = 0; first < lists.blocks.size();) {
    size_t end = std::min(lists.blocks.size(), first + most);
    while (end < lists.blocks.size() && lists.blocks[end].page == lists.blocks[end - 1].page) --end;
    PageLists part;
    for (; first < end; ++first) AppendBlock(lists, first, lists.blocks[first].used, &part);
    function(part);
  }
}

}  // namespace

void GpuFfn::Begin(const FfnParams& params, const GpuActivations& x, int32_t rows, GpuFfnJob* job) const {
  CHECK(rows <= job->shape().rows && params.layout.dim == job->shape().dim);
  job->layout = params.layout;
  job->activation = params.activation;
  job->down_scales = params.down_scales;
  job->x = x.view();
  job->rows = rows;
  job->capture = job->capture_up = nullptr;
  if (params.capture != nullptr) {
    job->capture = ValuesOf(params.capture);
    job->capture_stride = params.capture->cols();
  }
  if (params.capture_up != nullptr) {
    job->capture_up = ValuesOf(params.capture_up);
    job->capture_stride = params.capture_up->cols();
  }
  job->sum_group = kNoGroup;
  launcher_.Launch(gpu::ClearKernel{job->sum, int64_t{rows} * job->shape().dim});
  launcher_.Launch(gpu::ClearKernel{job->y, int64_t{rows} * job->shape().dim});
}

bool GpuFfn::HasRoomFor(const FfnPageRef& page, const GpuFfnJob& job) const {
  const PageLists& lists = job.pages;
  if (lists.blocks.empty()) return true;
  const auto blocks = static_cast<size_t>((page.row_count + kBlockRows - 1) / kBlockRows);
  if (lists.blocks.size() + blocks > static_cast<size_t>(job.rows_together() / kBlockRows)) return false;
  if (lists.misses_bits != (page.planes == PlaneState::kHigh)) return false;
  return page.planes == PlaneState::kWhole || (lists.cut.size() + 1) * job.layout.page_bytes <= join_room_.size();
}

GpuFfn::PagePlace GpuFfn::PlaceOf(const FfnPageRef& page, GpuFfnJob* job) const {
  const FfnPageLayout& layout = job->layout;
  if (page.planes == PlaneState::kWhole) {
    return {page.data + layout.gate_offset, page.data + layout.up_offset, page.data + layout.down_offset};
  }
  const std::span<std::byte> left = join_room_.subspan(job->pages.cut.size() * layout.page_bytes);
  CHECK(left.size() >= layout.page_bytes);
  job->pages.cut.push_back({page.data, page.planes == PlaneState::kBoth ? page.low : nullptr, left.data()});
  // Parts that are not cut are read where they are.
  const auto part = [&](uint64_t low_panel, uint64_t offset, uint64_t high_offset) {
    return low_panel > 0 ? left.data() + offset : page.data + high_offset;
  };
  return {part(layout.low.gate_panel, layout.gate_offset, layout.high.gate_offset),
          part(layout.low.up_panel, layout.up_offset, layout.high.up_offset),
          part(layout.low.down_panel, layout.down_offset, layout.high.down_offset)};
}

void GpuFfn::AddPage(const FfnPageRef& page, int32_t number, GpuFfnJob* job) const {
  const FfnPageLayout& layout = job->layout;
  const uint64_t gate_bytes = PanelBytes(layout.gate_type, layout.dim),
                 up_bytes = PanelBytes(layout.up_type, layout.dim);
  const int32_t runs = (page.row_count + layout.run_rows - 1) / layout.run_rows;
  const int32_t runs_per_block = kBlockRows / layout.run_rows;
  std::optional<PagePlace> place;  // of a page that is used
  PageLists& lists = job->pages;
  for (int32_t b = 0; b * kBlockRows < page.row_count; ++b) {
    const int32_t left = page.row_count - b * kBlockRows;
    gpu::RowBlock block;
    block.used = left >= kBlockRows ? ~0U : (1U << left) - 1;
    if (page.row_mask != nullptr) block.used &= static_cast<uint32_t>(page.row_mask[b / 2] >> (b % 2 * kBlockRows));
    if (block.used == 0) continue;
    if (!place) place = PlaceOf(page, job);
    block.down = place->down;
    block.first_row = page.first_row + b * kBlockRows;
    block.page = number;
    block.sum_group = layout.SumGroupOf(page.first_row);
    block.block_in_page = b;
    block.runs = std::min(runs - b * runs_per_block, runs_per_block);
    block.choice_block = static_cast<int32_t>(lists.blocks.size());
    block.first_group = static_cast<int32_t>(lists.groups.size());
    for (int32_t run = 0; page.run_groups != nullptr && run < block.runs; ++run) {
      lists.groups.push_back(page.run_groups[b * runs_per_block + run]);
    }
    for (int32_t panel = 2 * b; panel < 2 * b + 2; ++panel) {
      lists.gate.push_back(place->gate + static_cast<uint64_t>(panel) * gate_bytes);
      lists.up.push_back(place->up + static_cast<uint64_t>(panel) * up_bytes);
    }
    lists.blocks.push_back(block);
  }
}

void GpuFfn::AccumulatePages(std::span<const FfnPageRef> pages, GpuFfnJob* job) const {
  int32_t number = 0;
  for (const FfnPageRef& page : pages) {
    CHECK(page.row_index == nullptr && page.row_count <= job->rows_together());
    if (!HasRoomFor(page, *job)) RunPages(job);
    if (job->pages.blocks.empty()) job->pages.misses_bits = page.planes == PlaneState::kHigh;
    AddPage(page, number++, job);
  }
  RunPages(job);
}

void GpuFfn::JoinPages(const FfnPageLayout& layout, const gpu::JoinPiece* pieces, int32_t count) const {
  const FfnPlane &high = layout.high, &low = layout.low;
  const auto join = [&](QuantType type, int32_t rows, int32_t cols, uint64_t offset, uint64_t panel_bytes,
                        uint64_t FfnPlane::*offset_of, uint64_t FfnPlane::*panel_of) {
    if (count == 0 || low.*panel_of == 0) return;
    launcher_.Launch(gpu::JoinKernel{.cut = gpu::PlaneCut::Of(type),
                                     .pieces = pieces,
                                     .piece = {},
                                     .piece_count = count,
                                     .high_offset = high.*offset_of,
                                     .low_offset = low.*offset_of,
                                     .out_offset = offset,
                                     .high_panel = high.*panel_of,
                                     .low_panel = low.*panel_of,
                                     .out_panel = panel_bytes,
                                     .panels = static_cast<uint32_t>((rows + kPanelRows - 1) / kPanelRows),
                                     .blocks = static_cast<uint32_t>(cols / kQuantBlock)});
  };
  join(layout.gate_type, layout.page_rows, layout.dim, layout.gate_offset, PanelBytes(layout.gate_type, layout.dim),
       &FfnPlane::gate_offset, &FfnPlane::gate_panel);
  join(layout.up_type, layout.page_rows, layout.dim, layout.up_offset, PanelBytes(layout.up_type, layout.dim),
       &FfnPlane::up_offset, &FfnPlane::up_panel);
  join(layout.down_type, layout.dim, layout.page_rows, layout.down_offset, layout.down_panel_bytes,
       &FfnPlane::down_offset, &FfnPlane::down_panel);
}

void GpuFfn::RunPages(GpuFfnJob* job) const {
  PageLists& lists = job->pages;
  if (lists.blocks.empty()) return;
  const SentPages sent = SendLists(lists, job->lists, launcher_.runtime());
  JoinPages(job->layout, sent.cut, static_cast<int32_t>(lists.cut.size()));
  gpu::ProductTask gate = PanelProduct(*job, sent.gate, sent.block_count, job->gate);
  gpu::ProductTask up = PanelProduct(*job, sent.up, sent.block_count, job->up);
  gate.misses_bits = up.misses_bits = lists.misses_bits;
  launcher_.Multiply(job->layout.gate_type, gate);
  launcher_.Multiply(job->layout.up_type, up);
  launcher_.Launch(gpu::ValuesKernel{job->activation, sent.blocks, sent.block_count, job->rows, job->gate, job->up,
                                     ValuesOfBlocks(*job, sent.block_count), job->capture, job->capture_up,
                                     job->capture_stride});
  Down(lists, sent, job);
  lists.Clear();
}

void GpuFfn::Down(const PageLists& lists, const SentPages& sent, GpuFfnJob* job) const {
  const gpu::DownTask down = {.blocks = sent.blocks,
                              .block_count = sent.block_count,
                              .groups = sent.groups,
                              .run_rows = job->layout.run_rows,
                              .panel_bytes = job->layout.down_panel_bytes,
                              .scales = job->down_scales,
                              .z = ValuesOfBlocks(*job, sent.block_count),
                              .rows = job->rows,
                              .dim = job->layout.dim,
                              .sum = job->sum,
                              .sum_group = job->sum_group,
                              .y = job->y,
                              .misses_bits = lists.misses_bits};
  if (job->rows >= gpu::kTiledFromRows) {
    launcher_.LaunchOfType<gpu::TiledDown>(job->layout.down_type, down);
  } else {
    launcher_.LaunchOfType<gpu::Down>(job->layout.down_type, down);
  }
  job->sum_group = lists.blocks.back().sum_group;
}

// Gates of all rows, or of those that given scores choose; up of those that gates choose; down of those that are left.
absl::StatusOr<FfnUse> GpuFfn::AccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice,
                                                std::span<uint64_t> chosen, GpuFfnJob* job) const {
  CHECK(job->rows <= job->shape().choice_rows);
  PageLists all;
  int32_t number = 0;
  for (const FfnPageRef& page : pages) {
    CHECK(page.planes == PlaneState::kWhole && page.row_index == nullptr && page.row_count <= job->rows_together());
    AddPage(page, number++, job);
  }
  std::swap(all, job->pages);
  CHECK(all.blocks.size() <= static_cast<size_t>(job->choice_blocks()));
  std::ranges::fill(chosen, 0);
  FfnUse use;
  if (all.blocks.empty()) return use;

  Choosers choosers(all, choice, *job, launcher_);
  const gpu::ChoiceView& view = choosers.view();
  const auto together = static_cast<size_t>(job->rows_together() / kBlockRows);
  PageLists kept = all;
  if (choice.score == RowScore::kGiven) {
    choosers.SetGiven(all);
    RETURN_IF_ERROR(choosers.Select(choice.count, choice.weight));
    kept = choosers.Kept(all);
  }
  const auto multiply = [&](bool is_up) {
    ForParts(kept, together, [&](const PageLists& part) {
      const SentPages sent = SendLists(part, job->lists, launcher_.runtime());
      float* const products = is_up ? job->up : job->gate;
      launcher_.Multiply(is_up ? job->layout.up_type : job->layout.gate_type,
                         PanelProduct(*job, is_up ? sent.up : sent.gate, sent.block_count, products));
      launcher_.Launch(gpu::ChoiceValuesKernel{view, sent.blocks, sent.block_count, job->activation, is_up, products});
    });
  };
  use.gate_rows = CountUsed(kept);
  multiply(false);
  if (choice.score == RowScore::kGate) {
    RETURN_IF_ERROR(choosers.Select(choice.count, choice.weight));
    kept = choosers.Kept(all);
  }
  use.up_rows = CountUsed(kept);
  multiply(true);
  if (choice.score == RowScore::kValue) {
    RETURN_IF_ERROR(choosers.Select(choice.count, choice.weight));
  } else if (choice.value_count >= 0) {
    RETURN_IF_ERROR(choosers.Select(choice.value_count, choice.value_weight));
  }
  kept = choosers.Kept(all);
  use.down_rows = CountUsed(kept);
  use.used = choosers.Report(all, chosen);
  ForParts(kept, together, [&](const PageLists& part) {
    const SentPages sent = SendLists(part, job->lists, launcher_.runtime());
    launcher_.Launch(gpu::KeepKernel{view, sent.blocks, sent.block_count, ValuesOfBlocks(*job, sent.block_count),
                                     job->capture, job->capture_stride});
    Down(part, sent, job);
  });
  return use;
}

void GpuFfn::AccumulateSum(const GpuTensor& sum, GpuFfnJob* job) const {
  CHECK(sum.cols() == job->shape().dim && sum.rows() >= job->rows);
  CloseGroup(job);
  launcher_.Launch(gpu::AddKernel{sum.values(), job->y, int64_t{job->rows} * job->shape().dim});
}

void GpuFfn::CloseGroup(GpuFfnJob* job) const {
  const int64_t count = int64_t{job->rows} * job->shape().dim;
  launcher_.Launch(gpu::AddKernel{job->sum, job->y, count});
  launcher_.Launch(gpu::ClearKernel{job->sum, count});
  job->sum_group = kNoGroup;
}

}  // namespace dogstar
