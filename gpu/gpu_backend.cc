#include "gpu/gpu_backend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "base/panel.h"
#include "base/units.h"
#include "device/rope_table.h"
#include "device/staging_ring.h"
#include "fmt/format.h"
#include "gpu/gpu_objects.h"
#include "gpu/host_runtime.h"

namespace dogstar {
namespace {

constexpr int32_t kNoGroup = -1;  // of no pages
constexpr uint64_t kTensorAlignment = 256, kWeightAlignment = 4096;
constexpr uint64_t kAlignmentBytes = 64 * 1024;  // lost between some dozens of things, at most

using gpu::ActivationView;
using gpu::Runtime;

class GpuBackend : public Backend {
 public:
  GpuBackend(std::unique_ptr<Runtime> runtime, uint64_t memory_bytes)
      : runtime_(std::move(runtime)), memory_bytes_(memory_bytes) {}

  absl::Status Init(uint64_t reserved_bytes) {
    used_ = reserved_bytes + kAlignmentBytes;
    if (used_ > memory_bytes_) return Missing(Lists().size() * Runtime::kSendBytes);
    RETURN_IF_ERROR(pool_.Create(runtime_.get(), memory_bytes_ - reserved_bytes));
    for (SentList* list : Lists()) {
      ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(Runtime::kSendBytes));
      *list = SentList(std::move(memory));
    }
    return absl::OkStatus();
  }

  std::string Describe() const override { return runtime_->Describe(); }
  bool precise() const override { return false; }
  bool shares_host_memory() const override { return false; }
  uint64_t device_bytes() const override { return used_; }

  absl::StatusOr<std::byte*> AllocateMemory(uint64_t bytes) override {
    ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(bytes, kWeightAlignment));
    std::byte* const data = memory.data();
    weights_.push_back(std::move(memory));
    return data;
  }
  void FreeMemory(std::byte* memory) override {
    const auto found = std::ranges::find(weights_, memory, &DeviceMemory::data);
    if (found == weights_.end()) return;
    used_ -= found->bytes();
    weights_.erase(found);
  }
  absl::Status WriteMemory(std::span<const std::byte> from, std::byte* to) override {
    return from.empty() ? absl::OkStatus() : runtime_->CopyIn(from, to);
  }
  absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) override {
    return runtime_->NewHostMemory(bytes);
  }
  absl::Status ReserveStaging(uint64_t bytes) override {
    ASSIGN_OR_RETURN(staging_, NewMemory(bytes));
    runtime_->Wait(runtime_->Record());  // cleared before the first staged copy, which other work does not wait for
    places_ = StagingRing(bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<DeviceAddress> Stage(std::span<const std::byte> host) override;
  void Unstage(Ticket last) override { unstaged_.push_back(last); }

  absl::StatusOr<std::unique_ptr<Tensor>> NewTensor(int32_t rows, int32_t cols) override {
    ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(TensorBytes(rows, cols)));
    return std::make_unique<GpuTensor>(rows, cols, std::move(memory));
  }
  absl::StatusOr<std::unique_ptr<Activations>> NewActivations(int32_t rows, int32_t cols) override {
    if (cols % kQuantBlock != 0) {
      return absl::InvalidArgumentError(fmt::format("activations of {} columns: not a multiple of 32", cols));
    }
    ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(ActivationsBytes(rows, cols)));
    return std::make_unique<GpuActivations>(rows, cols, std::move(memory));
  }
  absl::StatusOr<std::unique_ptr<KvStore>> NewKvStore(const KvShape& shape) override {
    ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(KvStoreBytes(shape)));
    return std::make_unique<GpuKvStore>(shape, std::move(memory));
  }
  absl::StatusOr<std::unique_ptr<FfnJob>> NewFfnJob(const FfnJobShape& shape) override {
    ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(FfnJobBytes(shape)));
    return std::make_unique<GpuFfnJob>(shape, std::move(memory));
  }
  uint64_t TensorBytes(int32_t rows, int32_t cols) const override {
    return static_cast<uint64_t>(rows) * static_cast<uint64_t>(cols) * sizeof(float);
  }
  uint64_t ActivationsBytes(int32_t rows, int32_t cols) const override { return GpuActivations::BytesFor(rows, cols); }
  uint64_t FfnJobBytes(const FfnJobShape& shape) const override { return GpuFfnJob::BytesFor(shape); }

  void Upload(std::span<const float> values, int32_t first_row, Tensor* dst) override;
  absl::Status Download(const Tensor& src, int32_t first_row, int32_t rows, std::span<float> values) override {
    CHECK(static_cast<int64_t>(values.size()) == int64_t{rows} * src.cols());
    return runtime_->CopyOut(reinterpret_cast<const std::byte*>(ValuesOf(src) + int64_t{first_row} * src.cols()),
                             std::as_writable_bytes(values));
  }
  void GatherRows(const MatrixView& table, std::span<const int32_t> row_index, Tensor* dst) override;
  void CopyRows(const Tensor& src, int32_t src_row, int32_t rows, int32_t dst_row, Tensor* dst) override {
    runtime_->CopyOnDevice(reinterpret_cast<const std::byte*>(ValuesOf(src) + int64_t{src_row} * src.cols()),
                           TensorBytes(rows, src.cols()),
                           reinterpret_cast<std::byte*>(ValuesOf(dst) + int64_t{dst_row} * dst->cols()));
  }

  void RmsNorm(const Tensor& x, int32_t rows, DeviceAddress weight, float epsilon, Tensor* out) override {
    Norm(ValuesOf(x), x.cols(), rows, weight, epsilon, ValuesOf(out));
  }
  void HeadRmsNorm(int32_t head_dim, int32_t rows, DeviceAddress weight, float epsilon, Tensor* x) override {
    Norm(ValuesOf(x), head_dim, int64_t{rows} * (x->cols() / head_dim), weight, epsilon, ValuesOf(x));
  }
  void Prepare(const Tensor& x, int32_t rows, Activations* out) override {
    const auto& activations = static_cast<const GpuActivations&>(*out);
    CHECK(rows <= activations.capacity() && x.cols() == activations.view().cols);
    Launch(gpu::PrepareKernel{ValuesOf(x), rows, activations.view()});
  }
  void MatMul(const MatrixView& w, const Activations& x, int32_t rows, int32_t out_col, Tensor* out) override;
  void Add(const Tensor& y, int32_t rows, Tensor* x) override { AddTo(ValuesOf(y), int64_t{rows} * x->cols(), x); }
  void AddBias(DeviceAddress bias, int32_t rows, Tensor* x) override {
    Launch(gpu::AddBiasKernel{reinterpret_cast<const float*>(bias), x->cols(), ValuesOf(x), int64_t{rows} * x->cols()});
  }
  void Scale(float factor, int32_t rows, Tensor* x) override {
    Launch(gpu::ScaleKernel{factor, ValuesOf(x), int64_t{rows} * x->cols()});
  }
  void Clear(int32_t rows, Tensor* x) override { Launch(gpu::ClearKernel{ValuesOf(x), int64_t{rows} * x->cols()}); }
  void PackPanels(const MatrixView& plain, std::byte* panels) override;
  void GatedActivation(FfnActivation activation, const Tensor& gate, const Tensor& up, int32_t rows,
                       Tensor* z) override {
    Launch(gpu::GatedKernel{activation, ValuesOf(gate), ValuesOf(up), ValuesOf(z), int64_t{rows} * z->cols()});
  }
  void Rope(const RopeParams& params, std::span<const TokenPos> positions, Tensor* x) override;
  void WriteKv(LayerIndex layer, std::span<const KvSlot> slots, const Tensor& k, const Tensor& v,
               KvStore* store) override;
  void CopyKv(KvSlot from, KvSlot to, KvStore* store) override;
  void Attention(const AttentionParams& params, LayerIndex layer, const AttentionMask& mask, const KvStore& store,
                 const Tensor& q, Tensor* out) override;

  void FfnBegin(const FfnParams& params, const Activations& x, int32_t rows, FfnJob* job) override;
  Ticket FfnAccumulatePages(std::span<const FfnPageRef> pages, FfnJob* job) override;
  FfnUse FfnAccumulateChosen(std::span<const FfnPageRef>, const RowChoice&, std::span<uint64_t>, FfnJob*) override {
    CHECK(false);  // a run's plan refuses it
    return {};
  }
  Ticket FfnAccumulateOverlay(const FfnOverlayRef&, FfnJob*) override {
    CHECK(false);
    return {};
  }
  void FfnAccumulateSum(const Tensor& sum, FfnJob* job) override {
    auto* own = static_cast<GpuFfnJob*>(job);
    CHECK(sum.cols() == own->shape().dim && sum.rows() >= own->rows);
    CloseGroup(own);
    Launch(gpu::AddKernel{ValuesOf(sum), own->y, int64_t{own->rows} * own->shape().dim});
  }
  Ticket FfnEnd(FfnJob* job, Tensor* x) override {
    auto& own = static_cast<GpuFfnJob&>(*job);
    CloseGroup(&own);
    AddTo(own.y, int64_t{own.rows} * own.shape().dim, x);
    return Now();
  }

  Ticket Now() override { return runtime_->Record(); }
  bool IsDone(Ticket ticket) override { return runtime_->IsDone(ticket); }
  void Wait(Ticket ticket) override { runtime_->Wait(ticket); }

 private:
  std::array<SentList*, 5> Lists() { return {&rope_, &slots_, &index_, &runs_, &row_runs_}; }

  absl::Status Missing(uint64_t bytes) const {
    return absl::ResourceExhaustedError(fmt::format("{} of device memory are given, {} are taken: {} more do not fit",
                                                    FormatSize(memory_bytes_), FormatSize(used_), FormatSize(bytes)));
  }
  // Zeroed.
  absl::StatusOr<DeviceMemory> NewMemory(uint64_t bytes, uint64_t alignment = kTensorAlignment) {
    const uint64_t whole = std::max<uint64_t>((bytes + 3) / 4 * 4, 4);
    if (bytes > memory_bytes_ - std::min(used_, memory_bytes_)) return Missing(bytes);
    std::byte* const data = pool_.Take(whole, alignment);
    if (data == nullptr) return Missing(bytes);
    used_ += whole;
    Launch(gpu::ClearKernel{reinterpret_cast<float*>(data), static_cast<int64_t>(whole / 4)});
    return DeviceMemory(&pool_, data, whole);
  }

  template <typename Kernel>
  void Launch(const Kernel& kernel) {
    if (kernel.Blocks() > 0) runtime_->Launch(kernel);
  }
  template <template <QuantType> typename Kernel, typename Task>
  void LaunchOfType(QuantType type, const Task& task) {
    gpu::WithType(type, [&]<QuantType kType>() {
      Kernel<kType> kernel;
      kernel.task = task;
      runtime_->Launch(gpu::OfEveryType<Kernel>(kernel));
    });
  }
  void Norm(const float* x, int32_t width, int64_t rows, DeviceAddress weight, float epsilon, float* out) {
    Launch(gpu::RmsNormKernel{x, reinterpret_cast<const float*>(weight), epsilon, width, rows, out});
  }
  void AddTo(const float* y, int64_t count, Tensor* x) { Launch(gpu::AddKernel{y, ValuesOf(x), count}); }
  void Multiply(QuantType type, const gpu::ProductTask& task) {
    if (task.Blocks() == 0) return;
    if (task.rows >= gpu::kTiledFromRows) return LaunchOfType<gpu::TiledProduct>(type, task);
    LaunchOfType<gpu::Product>(type, task);
  }
  void RunPages(GpuFfnJob* job);
  void CloseGroup(GpuFfnJob* job);
  void AddPage(const FfnPageRef& page, int32_t number, GpuFfnJob* job) const;

  std::unique_ptr<Runtime> runtime_;  // first: memory is freed through it
  DevicePool pool_;                   // second: all else is of it
  const uint64_t memory_bytes_;
  uint64_t used_ = 0;
  std::vector<DeviceMemory> weights_;
  DeviceMemory staging_;
  StagingRing places_;
  std::deque<Ticket> unstaged_;  // of places_, oldest first
  RopeTables ropes_;
  SentList rope_, slots_, index_, runs_, row_runs_;
};

absl::StatusOr<DeviceAddress> GpuBackend::Stage(std::span<const std::byte> host) {
  std::optional<uint64_t> place = places_.Take(host.size());
  for (; !place && !unstaged_.empty(); place = places_.Take(host.size())) {
    runtime_->Wait(unstaged_.front());
    unstaged_.pop_front();
    places_.GiveBackOldest();
  }
  if (!place) {
    return absl::InternalError(
        fmt::format("staging of {} has no room for {}", FormatSize(places_.bytes()), FormatSize(host.size())));
  }
  runtime_->Stage(host, staging_.data() + *place);
  return staging_.data() + *place;
}

void GpuBackend::Upload(std::span<const float> values, int32_t first_row, Tensor* dst) {
  const auto bytes = std::as_bytes(values);
  auto* to = reinterpret_cast<std::byte*>(ValuesOf(dst) + int64_t{first_row} * dst->cols());
  for (size_t at = 0; at < bytes.size(); at += Runtime::kSendBytes) {
    runtime_->Send(bytes.subspan(at, std::min<size_t>(Runtime::kSendBytes, bytes.size() - at)), to + at);
  }
}

void GpuBackend::GatherRows(const MatrixView& table, std::span<const int32_t> row_index, Tensor* dst) {
  CHECK(table.layout == MatrixLayout::kPanels && dst->cols() == table.cols);
  if (row_index.empty()) return;
  const auto* index = reinterpret_cast<const int32_t*>(index_.Update(runtime_.get(), std::as_bytes(row_index)));
  gpu::WithType(table.type, [&]<QuantType kType>() {
    const gpu::GatherKernel<kType> kernel{table.data, PanelBytes(table.type, table.cols),
                                          index,      static_cast<int32_t>(row_index.size()),
                                          table.cols, ValuesOf(dst)};
    runtime_->Launch(gpu::OfEveryType<gpu::GatherKernel>(kernel));
  });
}

void GpuBackend::MatMul(const MatrixView& w, const Activations& x, int32_t rows, int32_t out_col, Tensor* out) {
  CHECK(w.layout == MatrixLayout::kPanels && w.planes == PlaneState::kWhole && out_col + w.rows <= out->cols());
  gpu::ProductTask task;
  task.panels = {w.data, PanelBytes(w.type, w.cols), nullptr};
  task.w_rows = w.rows;
  task.x = static_cast<const GpuActivations&>(x).view();
  task.rows = rows;
  task.out = ValuesOf(out) + out_col;
  task.out_stride = out->cols();
  CHECK(task.x.cols == w.cols);
  Multiply(w.type, task);
}

void GpuBackend::PackPanels(const MatrixView& plain, std::byte* panels) {
  const uint64_t row_bytes = RowBytes(plain.type, plain.cols), panel_bytes = PanelBytes(plain.type, plain.cols);
  std::vector<std::byte> packed(PanelMatrixBytes(plain.type, plain.rows, plain.cols));
  for (int32_t first = 0; first < plain.rows; first += kPanelRows) {
    std::array<const std::byte*, kPanelRows> rows{};
    for (int32_t i = 0; i < std::min(kPanelRows, plain.rows - first); ++i) {
      rows[static_cast<size_t>(i)] = plain.data + static_cast<uint64_t>(first + i) * row_bytes;
    }
    PackPanel(plain.type, rows, plain.cols, packed.data() + static_cast<uint64_t>(first / kPanelRows) * panel_bytes);
  }
  const absl::Status copied = WriteMemory(packed, panels);
  CHECK(copied.ok());
}

void GpuBackend::Rope(const RopeParams& params, std::span<const TokenPos> positions, Tensor* x) {
  const auto pairs = static_cast<int64_t>(params.frequencies.size());
  const int64_t heads = x->cols() / params.head_dim;
  const std::span<const float> table = ropes_.Update(params.frequencies, positions).values(positions.size());
  const auto* sent = reinterpret_cast<const float*>(rope_.Update(runtime_.get(), std::as_bytes(table)));
  Launch(gpu::RopeKernel{params.pairing, params.head_dim, params.rotary_dims, x->cols(), sent, ValuesOf(x),
                         static_cast<int64_t>(positions.size()) * heads * pairs});
}

void GpuBackend::WriteKv(LayerIndex layer, std::span<const KvSlot> slots, const Tensor& k, const Tensor& v,
                         KvStore* store) {
  const auto& kv = static_cast<const GpuKvStore&>(*store);
  const auto* sent = reinterpret_cast<const int32_t*>(slots_.Update(runtime_.get(), std::as_bytes(slots)));
  Launch(gpu::WriteKvKernel{ValuesOf(k), ValuesOf(v), sent, kv.Layer(layer),
                            2 * static_cast<int64_t>(slots.size()) * kv.shape().kv_head_count});
}

void GpuBackend::CopyKv(KvSlot from, KvSlot to, KvStore* store) {
  if (from == to) return;
  const auto& kv = static_cast<const GpuKvStore&>(*store);
  const KvShape& shape = kv.shape();
  const int64_t head_bytes = KvHeadBytes(shape.type, shape.head_dim);
  Launch(gpu::CopyKvKernel{kv.data(), head_bytes, head_bytes * shape.slots, ToInt(from), ToInt(to),
                           int64_t{2} * shape.layers * shape.kv_head_count * head_bytes});
}

void GpuBackend::Attention(const AttentionParams& params, LayerIndex layer, const AttentionMask& mask,
                           const KvStore& store, const Tensor& q, Tensor* out) {
  const auto& kv = static_cast<const GpuKvStore&>(store);
  std::vector<gpu::SlotRange> runs;
  for (const SlotRun& run : mask.runs) runs.push_back({run.begin, run.end});
  std::vector<gpu::RowRuns> rows;
  for (const AttentionMask::Row& row : mask.rows) {
    gpu::RowRuns& of = rows.emplace_back(gpu::RowRuns{row.first_run, row.run_count, 0});
    for (int32_t r = 0; r < row.run_count; ++r) {
      const gpu::SlotRange& run = runs[static_cast<size_t>(row.first_run + r)];
      of.slots += run.end - run.begin;
    }
  }
  gpu::AttentionKernel kernel;
  kernel.heads = params.head_count;
  kernel.group = params.head_count / params.kv_head_count;
  kernel.score_scale = params.score_scale;
  kernel.kv = kv.Layer(layer);
  kernel.runs = reinterpret_cast<const gpu::SlotRange*>(runs_.Update(runtime_.get(), BytesOf(runs)));
  kernel.rows = reinterpret_cast<const gpu::RowRuns*>(row_runs_.Update(runtime_.get(), BytesOf(rows)));
  if (params.head_mask != nullptr) {
    const std::span<const uint64_t> words(params.head_mask, static_cast<size_t>(params.head_count + 63) / 64);
    kernel.head_mask = reinterpret_cast<const uint64_t*>(index_.Update(runtime_.get(), std::as_bytes(words)));
  }
  kernel.q = ValuesOf(q);
  kernel.out = ValuesOf(out);
  kernel.scores = kv.scores();
  kernel.score_stride = kv.score_stride();
  const int64_t pairs = static_cast<int64_t>(rows.size()) * params.head_count;
  for (int64_t first = 0; first < pairs; first += kv.score_rows()) {
    kernel.first_pair = first;
    kernel.pairs = std::min(kv.score_rows(), pairs - first);
    Launch(kernel);
  }
}

void GpuBackend::FfnBegin(const FfnParams& params, const Activations& x, int32_t rows, FfnJob* job) {
  auto& own = static_cast<GpuFfnJob&>(*job);
  CHECK(rows <= own.shape().rows && params.layout.dim == own.shape().dim);
  own.layout = params.layout;
  own.activation = params.activation;
  own.down_scales = params.down_scales;
  own.x = static_cast<const GpuActivations&>(x).view();
  own.rows = rows;
  own.capture = own.capture_up = nullptr;
  if (params.capture != nullptr) {
    own.capture = ValuesOf(params.capture);
    own.capture_stride = params.capture->cols();
  }
  if (params.capture_up != nullptr) {
    own.capture_up = ValuesOf(params.capture_up);
    own.capture_stride = params.capture_up->cols();
  }
  own.sum_group = kNoGroup;
  Launch(gpu::ClearKernel{own.sum, int64_t{rows} * own.shape().dim});
  Launch(gpu::ClearKernel{own.y, int64_t{rows} * own.shape().dim});
}

void GpuBackend::AddPage(const FfnPageRef& page, int32_t number, GpuFfnJob* job) const {
  const FfnPageLayout& layout = job->layout;
  const uint64_t gate_bytes = PanelBytes(layout.gate_type, layout.dim),
                 up_bytes = PanelBytes(layout.up_type, layout.dim);
  const int32_t runs = (page.row_count + layout.run_rows - 1) / layout.run_rows;
  const int32_t runs_per_block = kBlockRows / layout.run_rows;
  for (int32_t b = 0; b * kBlockRows < page.row_count; ++b) {
    const int32_t left = page.row_count - b * kBlockRows;
    gpu::RowBlock block;
    block.used = left >= kBlockRows ? ~0U : (1U << left) - 1;
    if (page.row_mask != nullptr) block.used &= static_cast<uint32_t>(page.row_mask[b / 2] >> (b % 2 * kBlockRows));
    if (block.used == 0) continue;
    block.down = page.data + layout.down_offset;
    block.first_row = page.first_row + b * kBlockRows;
    block.page = number;
    block.sum_group = layout.SumGroupOf(page.first_row);
    block.block_in_page = b;
    block.runs = std::min(runs - b * runs_per_block, runs_per_block);
    block.first_group = static_cast<int32_t>(job->pages.groups.size());
    for (int32_t run = 0; page.run_groups != nullptr && run < block.runs; ++run) {
      job->pages.groups.push_back(page.run_groups[b * runs_per_block + run]);
    }
    for (int32_t panel = 2 * b; panel < 2 * b + 2; ++panel) {
      job->pages.gate.push_back(page.data + layout.gate_offset + static_cast<uint64_t>(panel) * gate_bytes);
      job->pages.up.push_back(page.data + layout.up_offset + static_cast<uint64_t>(panel) * up_bytes);
    }
    job->pages.blocks.push_back(block);
  }
}

Ticket GpuBackend::FfnAccumulatePages(std::span<const FfnPageRef> pages, FfnJob* job) {
  auto& own = static_cast<GpuFfnJob&>(*job);
  const auto room = static_cast<size_t>(own.rows_together() / kBlockRows);
  int32_t number = 0;
  for (const FfnPageRef& page : pages) {
    CHECK(page.planes == PlaneState::kWhole && page.row_index == nullptr);
    const auto blocks = static_cast<size_t>((page.row_count + kBlockRows - 1) / kBlockRows);
    CHECK(blocks <= room);
    if (own.pages.blocks.size() + blocks > room) RunPages(&own);
    AddPage(page, number++, &own);
  }
  RunPages(&own);
  return Now();
}

// The sum so far goes to y.
void GpuBackend::CloseGroup(GpuFfnJob* job) {
  const int64_t count = int64_t{job->rows} * job->shape().dim;
  Launch(gpu::AddKernel{job->sum, job->y, count});
  Launch(gpu::ClearKernel{job->sum, count});
  job->sum_group = kNoGroup;
}

void GpuBackend::RunPages(GpuFfnJob* job) {
  PageLists& lists = job->pages;
  if (lists.blocks.empty()) return;
  std::vector<std::byte> bytes;
  const auto append = [&](std::span<const std::byte> part) {
    const size_t at = (bytes.size() + 15) / 16 * 16;
    bytes.resize(at);
    bytes.insert(bytes.end(), part.begin(), part.end());
    return job->lists + at;
  };
  const std::byte* const gate = append(BytesOf(lists.gate));
  const std::byte* const up = append(BytesOf(lists.up));
  const auto* blocks = reinterpret_cast<const gpu::RowBlock*>(append(BytesOf(lists.blocks)));
  const auto* groups = reinterpret_cast<const uint16_t*>(append(BytesOf(lists.groups)));
  runtime_->Send(bytes, job->lists);

  const auto count = static_cast<int32_t>(lists.blocks.size());
  ActivationView z = job->z;
  z.cols = count * kBlockRows;
  gpu::ProductTask product{.panels = {}, .w_rows = z.cols, .x = job->x, .rows = job->rows, .out_stride = z.cols};
  product.panels.list = reinterpret_cast<const std::byte* const*>(gate);
  product.out = job->gate;
  Multiply(job->layout.gate_type, product);
  product.panels.list = reinterpret_cast<const std::byte* const*>(up);
  product.out = job->up;
  Multiply(job->layout.up_type, product);
  Launch(gpu::ValuesKernel{job->activation, blocks, count, job->rows, job->gate, job->up, z, job->capture,
                           job->capture_up, job->capture_stride});
  const gpu::DownTask down = {.blocks = blocks,
                              .block_count = count,
                              .groups = groups,
                              .run_rows = job->layout.run_rows,
                              .panel_bytes = job->layout.down_panel_bytes,
                              .scales = job->down_scales,
                              .z = z,
                              .rows = job->rows,
                              .dim = job->layout.dim,
                              .sum = job->sum,
                              .sum_group = job->sum_group,
                              .y = job->y};
  if (job->rows >= gpu::kTiledFromRows) {
    LaunchOfType<gpu::TiledDown>(job->layout.down_type, down);
  } else {
    LaunchOfType<gpu::Down>(job->layout.down_type, down);
  }
  job->sum_group = lists.blocks.back().sum_group;
  lists.Clear();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewGpuBackend(std::unique_ptr<gpu::Runtime> runtime, uint64_t memory_bytes,
                                                       uint64_t reserved_bytes) {
  auto backend = std::make_unique<GpuBackend>(std::move(runtime), memory_bytes);
  RETURN_IF_ERROR(backend->Init(reserved_bytes));
  return backend;
}

absl::StatusOr<std::unique_ptr<Backend>> NewEmulatedGpuBackend(uint64_t memory_bytes) {
  return NewGpuBackend(gpu::NewHostRuntime(), memory_bytes, 0);
}

absl::StatusOr<std::unique_ptr<Backend>> NewGpuBackendForSizes() {
  constexpr uint64_t kContext = uint64_t{512} << 20, kLists = uint64_t{16} << 20;
  return NewGpuBackend(gpu::NewHostRuntime(), kContext + kLists, kContext);
}

}  // namespace dogstar
