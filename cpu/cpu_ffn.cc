#include "cpu/cpu_ffn.h"

#include <algorithm>
#include <cstring>

#include "base/panel.h"

namespace dogstar {
namespace {

constexpr int32_t kBlockRows = kQuantBlock;

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

void AddPageBlocks(const FfnPageLayout& layout, const FfnTask& task, const FfnPageRef& page, int32_t page_number,
                   std::vector<FfnBlock>* blocks) {
  const int32_t runs = (page.row_count + layout.run_rows - 1) / layout.run_rows;
  const int32_t runs_per_block = kBlockRows / layout.run_rows;
  for (int32_t b = 0; b < BlocksOf(page.row_count); ++b) {
    FfnBlock block;
    block.used = UsedRows(page.row_mask, page.row_count, b);
    if (block.used == 0) continue;
    block.gate = page.data + layout.gate_offset + 2 * b * task.gate_panel_bytes;
    block.up = page.data + layout.up_offset + 2 * b * task.up_panel_bytes;
    block.down = page.data + layout.down_offset;
    if (page.run_groups != nullptr) block.run_groups = page.run_groups + b * runs_per_block;
    block.first_row = page.first_row + b * kBlockRows;
    block.page = page_number;
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
    blocks->push_back(block);
  }
}

}  // namespace

void CpuFfn::Begin(const FfnParams& params, const CpuActivations& x, int32_t rows, CpuFfnJob* job) const {
  const FfnPageLayout& layout = params.layout;
  CHECK(rows <= job->capacity() && rows <= x.prepared_rows());
  CHECK(layout.dim == job->dim() && layout.dim == x.cols());
  const ProductKind kind = precise_ ? ProductKind::kFloat : ProductKind::kInt8;
  FfnTask task;
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
  task.y = job->y();
  if (params.capture != nullptr) {
    const auto& capture = static_cast<const CpuTensor&>(*params.capture);
    task.capture = capture.values();
    task.capture_stride = capture.cols();
  }
  job->task = task;
  job->layout = layout;
  std::memset(job->y(), 0, sizeof(float) * rows * job->dim());
}

void CpuFfn::ComputeValues(const FfnTask& task, const CpuFfnJob& job) const {
  const int64_t count = static_cast<int64_t>(job.blocks.size());
  pool_.Run([&](int thread) {
    const Range part = PartOf(count, 1, thread, pool_.size());
    kernels_.ffn_values(task, job.blocks.data(), part.begin, part.end);
  });
}

void CpuFfn::RunPages(CpuFfnJob* job) const {
  if (job->blocks.empty()) return;
  const FfnTask& task = job->task;
  ComputeValues(task, *job);
  pool_.Run([&](int thread) {
    const Range part = PartOf(task.dim / kPanelRows, 1, thread, pool_.size());
    kernels_.ffn_down(task, job->blocks.data(), static_cast<int64_t>(job->blocks.size()), part.begin, part.end);
  });
  job->blocks.clear();
}

void CpuFfn::AccumulatePages(std::span<const FfnPageRef> pages, CpuFfnJob* job) const {
  int32_t number = 0;
  for (const FfnPageRef& page : pages) {
    const int32_t blocks = BlocksOf(page.row_count);
    MakeRoom(blocks, job);
    if (static_cast<int64_t>(job->blocks.size()) + blocks > job->block_capacity()) RunPages(job);
    AddPageBlocks(job->layout, job->task, page, number++, &job->blocks);
  }
  RunPages(job);
}

void CpuFfn::AccumulateOverlay(const FfnOverlayRef& overlay, CpuFfnJob* job) const {
  MakeRoom(BlocksOf(overlay.row_count), job);
  FfnTask task = job->task;
  task.int8_down = false;
  task.down_panel_bytes = OverlayDownPanelBytes(task.down_type, overlay.row_capacity);
  AddOverlayBlocks(overlay, task, &job->blocks);
  if (job->blocks.empty()) return;
  ComputeValues(task, *job);
  pool_.Run([&](int thread) {
    const Range part = PartOf(task.dim / kPanelRows, 1, thread, pool_.size());
    kernels_.overlay_down(task, job->blocks.data(), static_cast<int64_t>(job->blocks.size()), part.begin, part.end);
  });
  job->blocks.clear();
}

}  // namespace dogstar
