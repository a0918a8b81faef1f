#include "gpu/gpu_backend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/bit_planes.h"
#include "base/panel.h"
#include "base/units.h"
#include "device/rope_table.h"
#include "device/staging_ring.h"
#include "fmt/format.h"
#include "gpu/gpu_ffn.h"
#include "gpu/gpu_objects.h"
#include "gpu/host_runtime.h"
#include "gpu/query_tiles.h"

namespace dogstar {
namespace {

constexpr uint64_t kTensorAlignment = 256, kWeightAlignment = 4096;
constexpr uint64_t kAlignmentBytes = 64 * 1024;                          // lost between some dozens of things, at most
constexpr uint64_t kJoinedBytes = uint64_t{4} << 20, kJoinedShare = 64;  // at most that share of the budget
constexpr uint64_t kMostBlockWeights = 256;
constexpr int64_t kEnoughBlocks = 128;  // of attention: for the multiprocessors of a large card

using gpu::ActivationView;
using gpu::Runtime;

class GpuBackend : public Backend {
 public:
  GpuBackend(std::unique_ptr<Runtime> runtime, uint64_t memory_bytes)
      : runtime_(std::move(runtime)), launcher_(runtime_.get()), ffn_(runtime_.get()), memory_bytes_(memory_bytes) {}

  absl::Status Init(uint64_t reserved_bytes) {
    used_ = reserved_bytes + kAlignmentBytes;
    if (used_ > memory_bytes_) return Missing(Lists().size() * Runtime::kSendBytes);
    RETURN_IF_ERROR(pool_.Create(runtime_.get(), memory_bytes_ - reserved_bytes));
    for (SentList* list : Lists()) {
      ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(Runtime::kSendBytes));
      *list = SentList(std::move(memory));
    }
    ASSIGN_OR_RETURN(DeviceMemory memory, NewMemory(kMostBlockWeights * sizeof(CodePlace)));
    code_places_ = SentList(std::move(memory));
    ASSIGN_OR_RETURN(peaks_, NewMemory(kMostPeaks * sizeof(RowPeak)));
    ASSIGN_OR_RETURN(top_, NewMemory(kMostTop * sizeof(RowEntry)));
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
  absl::Status ReadMemory(DeviceAddress from, std::span<std::byte> to) override {
    return to.empty() ? absl::OkStatus() : runtime_->CopyOut(from, to);
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
  // Of pages and panels at a time so many that what is put together stays in a GPU's cache.
  uint64_t JoinRoomBytes(uint64_t longest) const override {
    return std::max(longest, std::min(kJoinedBytes, memory_bytes_ / kJoinedShare));
  }
  absl::Status ReserveJoinRoom(uint64_t longest) override {
    ASSIGN_OR_RETURN(join_room_, NewMemory(JoinRoomBytes(longest)));
    ffn_.SetJoinRoom({join_room_.data(), join_room_.bytes()});
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
  uint64_t KvStoreBytes(const KvShape& shape) const override { return GpuKvStore::BytesFor(shape); }
  uint64_t FfnJobBytes(const FfnJobShape& shape) const override { return GpuFfnJob::BytesFor(shape); }

  void Upload(std::span<const float> values, int32_t first_row, Tensor* dst) override;
  absl::Status Download(const Tensor& src, int32_t first_row, int32_t rows, std::span<float> values) override {
    CHECK(static_cast<int64_t>(values.size()) == int64_t{rows} * src.cols());
    RETURN_IF_ERROR(std::exchange(error_, absl::OkStatus()));
    return runtime_->CopyOut(reinterpret_cast<const std::byte*>(ValuesOf(src) + int64_t{first_row} * src.cols()),
                             std::as_writable_bytes(values));
  }
  absl::Status FindPeaks(const Tensor& x, int32_t first_row, int32_t cols, float scale,
                         std::span<RowPeak> peaks) override;
  absl::Status FindTop(const Tensor& x, int32_t row, int32_t cols, std::span<RowEntry> top) override;
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

  void FfnBegin(const FfnParams& params, const Activations& x, int32_t rows, FfnJob* job) override {
    ffn_.Begin(params, static_cast<const GpuActivations&>(x), rows, JobOf(job));
  }
  Ticket FfnAccumulatePages(std::span<const FfnPageRef> pages, FfnJob* job) override {
    ffn_.AccumulatePages(pages, JobOf(job));
    return Now();
  }
  FfnUse FfnAccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice, std::span<uint64_t> chosen,
                             FfnJob* job) override {
    absl::StatusOr<FfnUse> use = ffn_.AccumulateChosen(pages, choice, chosen, JobOf(job));
    if (use.ok()) return *use;
    error_ = use.status();  // told by the next Download
    return {};
  }
  Ticket FfnAccumulateOverlay(const FfnOverlayRef&, FfnJob*) override {
    CHECK(false);  // a run's plan refuses it
    return {};
  }
  void FfnAccumulateSum(const Tensor& sum, FfnJob* job) override {
    ffn_.AccumulateSum(static_cast<const GpuTensor&>(sum), JobOf(job));
  }
  Ticket FfnEnd(FfnJob* job, Tensor* x) override {
    GpuFfnJob* const own = JobOf(job);
    ffn_.End(own);
    AddTo(own->y, int64_t{own->rows} * own->shape().dim, x);
    return Now();
  }

  Ticket Now() override { return runtime_->Record(); }
  bool IsDone(Ticket ticket) override { return runtime_->IsDone(ticket); }
  void Wait(Ticket ticket) override { runtime_->Wait(ticket); }

 private:
  std::array<SentList*, 6> Lists() { return {&rope_, &slots_, &index_, &runs_, &row_runs_, &tiles_}; }

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
    launcher_.Launch(kernel);
  }
  void Norm(const float* x, int32_t width, int64_t rows, DeviceAddress weight, float epsilon, float* out) {
    Launch(gpu::RmsNormKernel{x, reinterpret_cast<const float*>(weight), epsilon, width, rows, out});
  }
  void AddTo(const float* y, int64_t count, Tensor* x) { Launch(gpu::AddKernel{y, ValuesOf(x), count}); }
  void MultiplyInRoom(const MatrixView& w, const gpu::ProductTask& task);
  void JoinInRoom(const MatrixView& w, int64_t first_panel, int64_t count);
  void PackInRoom(const MatrixView& w, int64_t first_panel, int32_t rows);

  std::unique_ptr<Runtime> runtime_;  // first: memory is freed through it
  Launcher launcher_;
  GpuFfn ffn_;
  DevicePool pool_;  // before all that is of it
  const uint64_t memory_bytes_;
  uint64_t used_ = 0;
  std::vector<DeviceMemory> weights_;
  DeviceMemory staging_;
  StagingRing places_;
  DeviceMemory join_room_, peaks_, top_;
  absl::Status error_;           // of an operation that could not tell it
  std::deque<Ticket> unstaged_;  // of places_, oldest first
  RopeTables ropes_;
  SentList rope_, slots_, index_, runs_, row_runs_, tiles_, code_places_;
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
  runtime_->SendAll(std::as_bytes(values),
                    reinterpret_cast<std::byte*>(ValuesOf(dst) + int64_t{first_row} * dst->cols()));
}

absl::Status GpuBackend::FindPeaks(const Tensor& x, int32_t first_row, int32_t cols, float scale,
                                   std::span<RowPeak> peaks) {
  CHECK(cols > 0 && cols <= x.cols() && peaks.size() <= static_cast<size_t>(kMostPeaks));
  RETURN_IF_ERROR(std::exchange(error_, absl::OkStatus()));
  Launch(gpu::PeakKernel{ValuesOf(x) + int64_t{first_row} * x.cols(), x.cols(), cols,
                         static_cast<int32_t>(peaks.size()), scale, reinterpret_cast<RowPeak*>(peaks_.data())});
  return runtime_->CopyOut(peaks_.data(), std::as_writable_bytes(peaks));
}

absl::Status GpuBackend::FindTop(const Tensor& x, int32_t row, int32_t cols, std::span<RowEntry> top) {
  const auto count = static_cast<int32_t>(top.size());
  CHECK(cols <= x.cols() && count <= cols && count <= kMostTop);
  if (count == 0) return absl::OkStatus();
  RETURN_IF_ERROR(std::exchange(error_, absl::OkStatus()));
  Launch(gpu::TopKernel{ValuesOf(x) + int64_t{row} * x.cols(), cols, count, reinterpret_cast<RowEntry*>(top_.data())});
  RETURN_IF_ERROR(runtime_->CopyOut(top_.data(), std::as_writable_bytes(top)));
  std::ranges::sort(top, std::less<>());
  return absl::OkStatus();
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
  CHECK(out_col + w.rows <= out->cols());
  gpu::ProductTask task;
  task.panels = {w.data, PanelBytes(w.type, w.cols), nullptr};
  task.w_rows = w.rows;
  task.x = static_cast<const GpuActivations&>(x).view();
  task.rows = rows;
  task.out = ValuesOf(out) + out_col;
  task.out_stride = out->cols();
  CHECK(task.x.cols == w.cols);
  const bool cut = w.planes != PlaneState::kWhole && LowPlaneBits(w.type) > 0;
  if (w.layout == MatrixLayout::kPanels && !cut) return launcher_.Multiply(w.type, task);
  MultiplyInRoom(w, task);
}

// Panels are made in the room, as many at a time as it holds.
void GpuBackend::MultiplyInRoom(const MatrixView& w, const gpu::ProductTask& task) {
  const uint64_t panel_bytes = PanelBytes(w.type, w.cols);
  const auto together = static_cast<int64_t>(join_room_.bytes() / panel_bytes), panels = task.panel_count();
  CHECK(together > 0);
  for (int64_t first = 0; first < panels; first += together) {
    const int64_t count = std::min(together, panels - first);
    gpu::ProductTask part = task;
    part.panels.first = join_room_.data();
    part.out = task.out + first * kPanelRows;
    part.w_rows = static_cast<int32_t>(std::min<int64_t>(count * kPanelRows, w.rows - first * kPanelRows));
    part.misses_bits = w.planes == PlaneState::kHigh;
    if (w.layout == MatrixLayout::kPlain) {
      PackInRoom(w, first, part.w_rows);
    } else {
      JoinInRoom(w, first, count);
    }
    launcher_.Multiply(w.type, part);
  }
}

void GpuBackend::JoinInRoom(const MatrixView& w, int64_t first_panel, int64_t count) {
  const PlanePanel planes = PanelPlanes(w.type, w.cols);
  const auto first = static_cast<uint64_t>(first_panel);
  const std::byte* const low = w.planes == PlaneState::kHigh ? nullptr : w.low + first * planes.low;
  Launch(gpu::JoinKernel{.cut = gpu::PlaneCut::Of(w.type),
                         .pieces = nullptr,
                         .piece = {w.data + first * planes.high, low, join_room_.data()},
                         .high_panel = planes.high,
                         .low_panel = planes.low,
                         .out_panel = PanelBytes(w.type, w.cols),
                         .panels = static_cast<uint32_t>(count),
                         .blocks = static_cast<uint32_t>(w.cols / kQuantBlock)});
}

void GpuBackend::PackInRoom(const MatrixView& w, int64_t first_panel, int32_t rows) {
  const uint64_t row_bytes = RowBytes(w.type, w.cols);
  gpu::PanelsKernel pack{.format = gpu::PlainFormat::Of(w.type),
                         .places = nullptr,
                         .plain = w.data + static_cast<uint64_t>(first_panel * kPanelRows) * row_bytes,
                         .row_bytes = row_bytes,
                         .rows = rows,
                         .cols = w.cols,
                         .panels = join_room_.data(),
                         .panel_bytes = PanelBytes(w.type, w.cols)};
  if (!IsFloatType(w.type)) {
    std::vector<CodePlace> of_type;
    for (int32_t i = 0; i < TraitsOf(w.type).block_weights; ++i) of_type.push_back(PlaceOf(w.type, i));
    pack.places = reinterpret_cast<const CodePlace*>(code_places_.Update(runtime_.get(), BytesOf(of_type)));
  }
  Launch(pack);
}

void GpuBackend::PackPanels(const MatrixView& plain, std::byte* panels) {
  std::vector<std::byte> packed(PanelMatrixBytes(plain.type, plain.rows, plain.cols));
  dogstar::PackPanels(plain.type, plain.rows, plain.cols, plain.data, packed.data());
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
  gpu::WriteKvKernel kernel{ValuesOf(k), ValuesOf(v), sent, kv.Layer(layer), static_cast<int32_t>(slots.size())};
  kernel.count = kernel.Pieces();
  Launch(kernel);
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
  CHECK(params.kv_head_count == kv.shape().kv_head_count && params.head_dim == kv.shape().head_dim);
  const int32_t group = params.head_count / params.kv_head_count;
  const QueryLists lists = ListsOf(mask, group);
  gpu::AttentionShape shape{.heads = params.head_count,
                            .group = group,
                            .score_scale = params.score_scale,
                            .kv = kv.Layer(layer),
                            .q = ValuesOf(q),
                            .out = ValuesOf(out),
                            .partials = kv.partials()};
  shape.runs = reinterpret_cast<const gpu::SlotRange*>(runs_.Update(runtime_.get(), BytesOf(lists.runs)));
  shape.rows = reinterpret_cast<const gpu::RowRuns*>(row_runs_.Update(runtime_.get(), BytesOf(lists.rows)));
  if (params.head_mask != nullptr) {
    const std::span<const uint64_t> words(params.head_mask, static_cast<size_t>(params.head_count + 63) / 64);
    shape.head_mask = reinterpret_cast<const uint64_t*>(index_.Update(runtime_.get(), std::as_bytes(words)));
  }
  const auto* tiles = reinterpret_cast<const gpu::QueryTile*>(tiles_.Update(runtime_.get(), BytesOf(lists.tiles)));
  const auto count = static_cast<int64_t>(lists.tiles.size());
  const int32_t parts = (lists.most_slots + kAttentionPart - 1) / kAttentionPart;
  const bool apart = parts > 1 && count * params.kv_head_count < kEnoughBlocks;
  shape.parts = apart ? parts : 0;
  const int64_t together = apart ? GpuKvStore::kTilesApart : count;
  for (int64_t first = 0; first < count; first += together) {
    shape.tiles = tiles + first;
    shape.tile_count = std::min(together, count - first);
    Launch(gpu::AttentionKernel{shape, parts});
    if (!apart) continue;
    gpu::AttentionSumKernel sum{shape};
    sum.count = sum.Elements();
    Launch(sum);
  }
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
