#include "cpu/cpu_ffn.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/panel.h"
#include "cpu/row_choice.h"

namespace dogstar {
namespace {

constexpr int32_t kBlockRows = kQuantBlock;
constexpr int32_t kNoGroup = -1, kOverlayGroup = -2;  // of no pages

int32_t BlocksOf(int32_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// Bit i: row 32 * block + i exists and is used.
uint32_t UsedRows(const uint64_t* row_mask, int32_t row_count, int32_t block) {
  const int32_t left = row_count - block * kBlockRows;
  const uint32_t existing = left >= kBlockRows ? ~0u : (1u << left) - 1;
  if (row_mask == nullptr) return existing;
  return existing & static_cast<uint32_t>(row_mask[block / 2] >> (block % 2 * kBlockRows));
}

void MakeRoom(int32_t blocks, CpuFfnJob* job) {
  if (blocks <= job->block_capacity()) return;
  CHECK(job->Grow(blocks).ok());
  job->task.z = job->Values(job->task.rows);
}

// Where the first of a page's blocks has its parts, and how far it is to the next block's.
struct PageParts {
  const std::byte *gate, *up, *down;
  uint64_t gate_step, up_step;
};

PageParts PartsOf(const FfnPageLayout& layout, const FfnTask& task, const FfnPageRef& page) {
  if (page.planes == PlaneState::kWhole) {
    return {page.data + layout.gate_offset, page.data + layout.up_offset, page.data + layout.down_offset,
            2 * task.gate_panel_bytes, 2 * task.up_panel_bytes};
  }
  const FfnPlane& high = layout.high;
  return {page.data + high.gate_offset, page.data + high.up_offset, page.data + high.down_offset, 2 * high.gate_panel,
          2 * high.up_panel};
}

// Of a block of a page with both planes.
LowPlanes LowPlanesOf(const FfnPlane& low, const std::byte* page, int32_t block) {
  return {page + low.gate_offset + 2 * block * low.gate_panel, page + low.up_offset + 2 * block * low.up_panel,
          page + low.down_offset};
}

void AddPageBlocks(const FfnPageLayout& layout, const FfnTask& task, const FfnPageRef& page, int32_t page_number,
                   std::vector<FfnBlock>* blocks) {
  const PageParts parts = PartsOf(layout, task, page);
  const int32_t runs = (page.row_count + layout.run_rows - 1) / layout.run_rows;
  const int32_t runs_per_block = kBlockRows / layout.run_rows;
  for (int32_t b = 0; b < BlocksOf(page.row_count); ++b) {
    FfnBlock block;
    block.used = UsedRows(page.row_mask, page.row_count, b);
    if (block.used == 0) continue;
    block.gate = parts.gate + b * parts.gate_step;
    block.up = parts.up + b * parts.up_step;
    block.down = parts.down;
    block.cut = page.planes != PlaneState::kWhole;
    block.misses_bits = page.planes == PlaneState::kHigh;
    if (page.planes == PlaneState::kBoth) block.low = LowPlanesOf(layout.low, page.low, b);
    if (page.run_groups != nullptr) block.run_groups = page.run_groups + b * runs_per_block;
    block.first_row = page.first_row + b * kBlockRows;
    if (page.row_index != nullptr) block.row_index = page.row_index + b * kBlockRows;
    block.page = page_number;
    block.sum_group = layout.SumGroupOf(page.first_row);
    block.block_in_page = b;
    block.runs = std::min(runs - b * runs_per_block, runs_per_block);
    blocks->push_back(block);
  }
}

void AddOverlayBlocks(const FfnOverlayRef& overlay, const FfnTask& task, std::vector<FfnBlock>* blocks) {
  for (int32_t b = 0; b < BlocksOf(overlay.row_count); ++b) {
    FfnBlock block;
    block.used = UsedRows(overlay.row_mask, overlay.row_count, b);
    if (block.used == 0) continue;
    block.gate = overlay.gate + 2 * b * task.gate_panel_bytes;
    block.up = overlay.up + 2 * b * task.up_panel_bytes;
    block.down = overlay.down;
    if (overlay.groups != nullptr) block.run_groups = overlay.groups + b * kBlockRows;
    block.row_index = overlay.row_index + b * kBlockRows;
    block.block_in_page = b;
    block.sum_group = kOverlayGroup;
    blocks->push_back(block);
  }
}

int64_t CountUsed(std::span<const FfnBlock> blocks) {
  int64_t count = 0;
  for (const FfnBlock& block : blocks) count += std::popcount(block.used);
  return count;
}

// Rows kept, summed over the tokens; the sets go to `chosen`, where it is not empty.
int64_t ReportChosen(const FfnTask& task, std::span<const FfnBlock> blocks, int32_t ffn_rows,
                     std::span<uint64_t> chosen) {
  const size_t words = (static_cast<size_t>(ffn_rows) + 63) / 64;
  CHECK(chosen.empty() || chosen.size() >= words * static_cast<size_t>(task.rows));
  std::fill(chosen.begin(), chosen.end(), 0);
  int64_t count = 0;
  for (const FfnBlock& block : blocks) {
    for (int32_t t = 0; t < task.rows; ++t) {
      const uint64_t mask = task.choice.masks[int64_t{block.choice_block} * task.rows + t];
      count += std::popcount(mask);
      if (chosen.empty()) continue;  // a block of 32 rows never crosses a word: pages begin at multiples of 32
      chosen[static_cast<size_t>(t) * words + static_cast<size_t>(block.first_row) / 64] |= mask
                                                                                            << (block.first_row % 64);
    }
  }
  return count;
}

}  // namespace

void CpuFfn::Begin(const FfnParams& params, const CpuActivations& x, int32_t rows, CpuFfnJob* job) const {
  const FfnPageLayout& layout = params.layout;
  CHECK(rows <= job->capacity() && rows <= x.prepared_rows());
  CHECK(layout.dim == job->dim() && layout.dim == x.cols());
  const ProductKind kind = precise_ ? ProductKind::kFloat : ProductKind::kInt8;
  FfnTask task;
  task.gate_type = layout.gate_type;
  task.up_type = layout.up_type;
  task.gate_planes = {layout.high.gate_panel, layout.low.gate_panel};
  task.up_planes = {layout.high.up_panel, layout.low.up_panel};
  task.down_planes = {layout.high.down_panel, layout.low.down_panel};
  task.gate_high_product = kernels_.find_high_product(layout.gate_type);
  task.up_high_product = kernels_.find_high_product(layout.up_type);
  task.gate_product = kernels_.find_product(layout.gate_type, kind);
  task.up_product = kernels_.find_product(layout.up_type, kind);
  task.gate_panel_bytes = PanelBytes(layout.gate_type, layout.dim);
  task.up_panel_bytes = PanelBytes(layout.up_type, layout.dim);
  task.down_type = layout.down_type;
  task.down_minimum = layout.has_down_minimum();
  task.int8_down = !precise_ && layout.has_down_table();
  task.precise = precise_;
  task.dim = layout.dim;
  task.run_rows = layout.run_rows;
  task.down_panel_bytes = layout.down_panel_bytes;
  task.down_scales = params.down_scales;
  task.activation = params.activation;
  task.x = x.buffers();
  task.x_rows = x.prepared_rows();
  task.rows = rows;
  task.z = job->Values(rows);
  task.sum = job->sum();
  task.sum_group = kNoGroup;
  task.y = job->y();
  if (params.capture != nullptr) {
    const auto& capture = static_cast<const CpuTensor&>(*params.capture);
    task.capture = capture.values();
    task.capture_stride = capture.cols();
  }
  if (params.capture_up != nullptr) {
    const auto& capture = static_cast<const CpuTensor&>(*params.capture_up);
    CHECK(params.capture == nullptr || capture.cols() == task.capture_stride);
    task.capture_up = capture.values();
    task.capture_stride = capture.cols();
  }
  job->task = task;
  job->layout = layout;
  std::memset(job->sum(), 0, sizeof(float) * rows * job->dim());
  std::memset(job->y(), 0, sizeof(float) * rows * job->dim());
}

// Two panels of gate and of up, and four times a tile's code sums.
void CpuFfn::MakeRoomForPlanes(const FfnTask& task) const {
  const uint64_t sums = 4 * kTileRows * sizeof(int32_t) * static_cast<uint64_t>(task.dim / kQuantBlock);
  const uint64_t bytes = 2 * (task.gate_panel_bytes + task.up_panel_bytes) + sums;
  for (AlignedBuffer& buffer : scratch_) {
    if (buffer.size() >= bytes) continue;
    absl::StatusOr<AlignedBuffer> larger = AlignedBuffer::Create(bytes);
    CHECK(larger.ok());
    buffer = *std::move(larger);
  }
}

JoinedMemory CpuFfn::JoinedMemoryOf(const FfnTask& task, int thread) const {
  std::byte* const memory = scratch_[static_cast<size_t>(thread)].data();
  std::byte* const up = memory + 2 * task.gate_panel_bytes;
  return {memory, up, reinterpret_cast<int32_t*>(up + 2 * task.up_panel_bytes)};
}

void CpuFfn::ComputeValues(const FfnTask& task, const CpuFfnJob& job) const {
  const int64_t count = static_cast<int64_t>(job.blocks.size());
  const bool cut = std::ranges::any_of(job.blocks, &FfnBlock::cut);
  if (cut) MakeRoomForPlanes(task);
  pool_.Run([&](int thread) {
    const Range part = PartOf(count, 1, thread, pool_.size());
    FfnTask own = task;
    if (cut) own.joined = JoinedMemoryOf(task, thread);
    kernels_.ffn_values(own, job.blocks.data(), part.begin, part.end);
  });
}

template <typename Kernel>
void CpuFfn::Down(Kernel kernel, const FfnTask& task, std::span<const FfnBlock> blocks, CpuFfnJob* job) const {
  pool_.Run([&](int thread) {
    const Range part = PartOf(task.dim / kPanelRows, 1, thread, pool_.size());
    kernel(task, blocks.data(), static_cast<int64_t>(blocks.size()), part.begin, part.end);
  });
  job->task.sum_group = blocks.back().sum_group;
}

void CpuFfn::RunPages(CpuFfnJob* job) const {
  if (job->blocks.empty()) return;
  ComputeValues(job->task, *job);
  Down(kernels_.ffn_down, job->task, job->blocks, job);
  job->blocks.clear();
}

void CpuFfn::AccumulatePages(std::span<const FfnPageRef> pages, CpuFfnJob* job) const {
  int32_t number = 0;
  for (const FfnPageRef& page : pages) {
    CHECK(page.planes == PlaneState::kWhole || !precise_);
    const int32_t blocks = BlocksOf(page.row_count);
    MakeRoom(blocks, job);
    if (static_cast<int64_t>(job->blocks.size()) + blocks > job->block_capacity()) RunPages(job);
    AddPageBlocks(job->layout, job->task, page, number++, &job->blocks);
  }
  RunPages(job);
}

template <typename Kernel>
void CpuFfn::ForBlocks(Kernel kernel, const FfnTask& task, std::span<const FfnBlock> blocks) const {
  pool_.Run([&](int thread) {
    const Range part = PartOf(static_cast<int64_t>(blocks.size()), 1, thread, pool_.size());
    kernel(task, blocks.data(), part.begin, part.end);
  });
}

void CpuFfn::RunKept(FfnTask task, std::span<const FfnBlock> blocks, CpuFfnJob* job) const {
  const auto capacity = static_cast<size_t>(job->block_capacity());
  for (size_t first = 0; first < blocks.size();) {
    // Whole pages, as far as z has room.
    size_t end = std::min(blocks.size(), first + capacity);
    while (end < blocks.size() && blocks[end].page == blocks[end - 1].page) --end;
    const std::span<const FfnBlock> part = blocks.subspan(first, end - first);
    ForBlocks(kernels_.ffn_keep, task, part);
    task.sum_group = job->task.sum_group;
    Down(kernels_.ffn_down, task, part, job);
    first = end;
  }
}

FfnUse CpuFfn::AccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice, std::span<uint64_t> chosen,
                                CpuFfnJob* job) const {
  FfnTask task = job->task;
  CHECK(task.rows <= job->choice_rows());
  std::vector<FfnBlock>& blocks = job->choice_blocks_list;
  blocks.clear();
  int32_t number = 0;
  for (const FfnPageRef& page : pages) {
    CHECK(page.planes == PlaneState::kWhole);
    MakeRoom(BlocksOf(page.row_count), job);
    AddPageBlocks(job->layout, job->task, page, number++, &blocks);
  }
  CHECK(static_cast<int32_t>(blocks.size()) <= job->choice_blocks());
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i].choice_block = static_cast<int32_t>(i);
  task.z = job->task.z;
  task.choice = job->Choice(task.rows);
  ChoiceStage stage{blocks, task.choice, task.rows, choice.weight, choice.count, choice.threshold, choice.shared};
  FfnUse use;
  use.gate_rows = CountUsed(blocks);
  KeepUsedRows(stage);
  if (choice.score == RowScore::kGiven) {
    SetValues(stage, choice.given, choice.given_stride);
    KeepBestRows(stage, job->ChoiceKeys());
    UseKeptRows(task.choice, task.rows, blocks);
    use.gate_rows = CountUsed(blocks);
  }
  ForBlocks(kernels_.ffn_gates, task, blocks);
  if (choice.score == RowScore::kGate) {
    KeepBestRows(stage, job->ChoiceKeys());
    UseKeptRows(task.choice, task.rows, blocks);
  }
  use.up_rows = CountUsed(blocks);
  ForBlocks(kernels_.ffn_ups, task, blocks);
  if (choice.score == RowScore::kValue) {
    KeepBestRows(stage, job->ChoiceKeys());
  } else if (choice.value_count >= 0) {
    stage.weight = choice.value_weight;
    stage.count = choice.value_count;
    KeepBestRows(stage, job->ChoiceKeys());
  }
  UseKeptRows(task.choice, task.rows, blocks);
  use.down_rows = CountUsed(blocks);
  use.used = ReportChosen(task, blocks, job->layout.ffn_rows, chosen);
  std::erase_if(blocks, [](const FfnBlock& block) { return block.used == 0; });
  RunKept(task, blocks, job);
  return use;
}

void CpuFfn::AccumulateOverlay(const FfnOverlayRef& overlay, CpuFfnJob* job) const {
  MakeRoom(BlocksOf(overlay.row_count), job);
  FfnTask task = job->task;
  task.int8_down = false;
  task.down_panel_bytes = OverlayDownPanelBytes(task.down_type, overlay.row_capacity);
  AddOverlayBlocks(overlay, task, &job->blocks);
  if (job->blocks.empty()) return;
  ComputeValues(task, *job);
  Down(kernels_.overlay_down, task, job->blocks, job);
  job->blocks.clear();
}

void CpuFfn::AccumulateSum(const CpuTensor& sum, CpuFfnJob* job) {
  CHECK(sum.cols() == job->dim() && sum.rows() >= job->task.rows);
  for (int64_t i = 0; i < int64_t{job->task.rows} * job->dim(); ++i) {
    job->y()[i] = job->y()[i] + job->sum()[i];  // of the group before it
    job->y()[i] = job->y()[i] + sum.values()[i];
    job->sum()[i] = 0;
  }
  job->task.sum_group = kNoGroup;
}

}  // namespace dogstar
