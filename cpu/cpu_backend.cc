#include "cpu/cpu_backend.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "base/bit_runs.h"
#include "base/panel.h"
#include "base/thread_pool.h"
#include "cpu/cpu_ffn.h"
#include "cpu/cpu_objects.h"
#include "cpu/isa.h"
#include "cpu/top_entries.h"
#include "device/rope_table.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr int32_t kMaxHeadDim = 1024;  // of attention's buffer on the stack

// Work below this many values is not worth waking threads for (a fork and join costs 1 to 2 us).
constexpr int64_t kValuesPerThread = 4096;

// Panels of plain matrices are packed here on the way: enough for rows of 32768 F16 or 58000 Q8_0 weights. A longer
// row makes it grow, once.
constexpr uint64_t kPanelScratchBytes = 1 << 20;

// With more activation rows, plain rows are packed once and then multiplied.
constexpr int32_t kPlainProductRows = 4;

float* ValuesOf(Tensor* tensor) { return static_cast<CpuTensor*>(tensor)->values(); }
const float* ValuesOf(const Tensor& tensor) { return static_cast<const CpuTensor&>(tensor).values(); }

void CopyValues(const float* from, int64_t count, float* to) {
  if (count > 0) std::memmove(to, from, count * sizeof(float));  // an empty span may have no address
}

class CpuBackend : public Backend {
 public:
  CpuBackend(const CpuOptions& options, const KernelTable& kernels)
      : kernels_(kernels),
        precise_(options.precise),
        touch_memory_(options.touch_memory),
        pool_(options.threads),
        ffn_(kernels, options.precise, pool_, scratch_) {}

  absl::Status Init() {
    for (int i = 0; i < pool_.size(); ++i) {
      ASSIGN_OR_RETURN(AlignedBuffer scratch, AlignedBuffer::Create(kPanelScratchBytes));
      scratch_.push_back(std::move(scratch));
    }
    return absl::OkStatus();
  }

  std::string Describe() const override {
    return fmt::format("cpu, {}, {} thread{}{}", kernels_.name, pool_.size(), pool_.size() == 1 ? "" : "s",
                       precise_ ? ", precise" : "");
  }
  bool precise() const override { return precise_; }

  bool shares_host_memory() const override { return true; }
  uint64_t device_bytes() const override { return 0; }
  absl::StatusOr<std::byte*> AllocateMemory(uint64_t bytes) override;
  void FreeMemory(std::byte* memory) override { CHECK(memory == nullptr || memory_.erase(memory) == 1); }
  absl::Status WriteMemory(std::span<const std::byte> from, std::byte* to) override {
    if (!from.empty()) std::memcpy(to, from.data(), from.size());
    return absl::OkStatus();
  }
  absl::Status ReadMemory(DeviceAddress from, std::span<std::byte> to) override {
    if (!to.empty()) std::memcpy(to.data(), from, to.size());
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) override {
    ASSIGN_OR_RETURN(AlignedBuffer memory, NewBuffer(bytes));
    return std::make_unique<CpuHostMemory>(std::move(memory));
  }
  absl::Status ReserveStaging(uint64_t) override { return absl::OkStatus(); }
  uint64_t JoinRoomBytes(uint64_t) const override { return 0; }
  absl::Status ReserveJoinRoom(uint64_t) override { return absl::OkStatus(); }
  absl::StatusOr<DeviceAddress> Stage(std::span<const std::byte> host) override { return host.data(); }
  void Unstage(Ticket) override {}

  absl::StatusOr<std::unique_ptr<Tensor>> NewTensor(int32_t rows, int32_t cols) override;
  absl::StatusOr<std::unique_ptr<Activations>> NewActivations(int32_t rows, int32_t cols) override;
  absl::StatusOr<std::unique_ptr<KvStore>> NewKvStore(const KvShape& shape) override;
  absl::StatusOr<std::unique_ptr<FfnJob>> NewFfnJob(const FfnJobShape& shape) override;
  uint64_t TensorBytes(int32_t rows, int32_t cols) const override { return sizeof(float) * rows * cols; }
  uint64_t ActivationsBytes(int32_t rows, int32_t cols) const override {
    return CpuActivations::BytesFor(rows, cols, precise_);
  }
  uint64_t KvStoreBytes(const KvShape& shape) const override { return KvDataBytes(shape); }
  uint64_t FfnJobBytes(const FfnJobShape& shape) const override { return CpuFfnJob::BytesFor(shape); }

  void Upload(std::span<const float> values, int32_t first_row, Tensor* dst) override;
  absl::Status Download(const Tensor& src, int32_t first_row, int32_t rows, std::span<float> values) override;
  absl::Status FindPeaks(const Tensor& x, int32_t first_row, int32_t cols, float scale,
                         std::span<RowPeak> peaks) override;
  absl::Status FindTop(const Tensor& x, int32_t row, int32_t cols, std::span<RowEntry> top) override {
    CHECK(cols <= x.cols() && top.size() <= static_cast<size_t>(std::min(cols, kMostTop)));
    TopEntries({ValuesOf(x) + int64_t{row} * x.cols(), static_cast<size_t>(cols)}, top);
    return absl::OkStatus();
  }
  void GatherRows(const MatrixView& table, std::span<const int32_t> row_index, Tensor* dst) override;
  void CopyRows(const Tensor& src, int32_t src_row, int32_t rows, int32_t dst_row, Tensor* dst) override;

  void RmsNorm(const Tensor& x, int32_t rows, DeviceAddress weight, float epsilon, Tensor* out) override;
  void HeadRmsNorm(int32_t head_dim, int32_t rows, DeviceAddress weight, float epsilon, Tensor* x) override;
  void Prepare(const Tensor& x, int32_t rows, Activations* out) override;
  void MatMul(const MatrixView& w, const Activations& x, int32_t rows, int32_t out_col, Tensor* out) override;
  void PackPanels(const MatrixView& plain, std::byte* panels) override;
  void Add(const Tensor& y, int32_t rows, Tensor* x) override;
  void AddBias(DeviceAddress bias, int32_t rows, Tensor* x) override;
  void Scale(float factor, int32_t rows, Tensor* x) override;
  void Clear(int32_t rows, Tensor* x) override;
  void GatedActivation(FfnActivation activation, const Tensor& gate, const Tensor& up, int32_t rows,
                       Tensor* z) override;
  void Rope(const RopeParams& params, std::span<const TokenPos> positions, Tensor* x) override;

  void WriteKv(LayerIndex layer, std::span<const KvSlot> slots, const Tensor& k, const Tensor& v,
               KvStore* store) override;
  void CopyKv(KvSlot from, KvSlot to, KvStore* store) override;
  void Attention(const AttentionParams& params, LayerIndex layer, const AttentionMask& mask, const KvStore& store,
                 const Tensor& q, Tensor* out) override;

  void FfnBegin(const FfnParams& params, const Activations& x, int32_t rows, FfnJob* job) override {
    ffn_.Begin(params, static_cast<const CpuActivations&>(x), rows, static_cast<CpuFfnJob*>(job));
  }
  Ticket FfnAccumulatePages(std::span<const FfnPageRef> pages, FfnJob* job) override {
    ffn_.AccumulatePages(pages, static_cast<CpuFfnJob*>(job));
    return NextTicket();
  }
  FfnUse FfnAccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice, std::span<uint64_t> chosen,
                             FfnJob* job) override {
    return ffn_.AccumulateChosen(pages, choice, chosen, static_cast<CpuFfnJob*>(job));
  }
  void FfnAccumulateSum(const Tensor& sum, FfnJob* job) override {
    CpuFfn::AccumulateSum(static_cast<const CpuTensor&>(sum), static_cast<CpuFfnJob*>(job));
  }
  Ticket FfnAccumulateOverlay(const FfnOverlayRef& overlay, FfnJob* job) override {
    ffn_.AccumulateOverlay(overlay, static_cast<CpuFfnJob*>(job));
    return NextTicket();
  }
  Ticket FfnEnd(FfnJob* job, Tensor* x) override;

  Ticket Now() override { return Ticket{last_ticket_}; }
  // Work is done when a call returns.
  bool IsDone(Ticket) override { return true; }
  void Wait(Ticket) override {}

 private:
  Ticket NextTicket() { return Ticket{++last_ticket_}; }

  absl::StatusOr<AlignedBuffer> NewBuffer(uint64_t bytes) const {
    ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(bytes));
    if (touch_memory_) RETURN_IF_ERROR(buffer.Touch());
    return buffer;
  }

  // Runs work(begin, end) over parts of `total` items, `values` of work each.
  template <typename Work>
  void ForParts(int64_t total, int64_t values, const Work& work) {
    const int64_t grain = std::max<int64_t>(1, kValuesPerThread / std::max<int64_t>(values, 1));
    if (total <= grain || pool_.size() == 1) return work(int64_t{0}, total);
    pool_.Run([&](int thread) {
      const Range part = PartOf(total, grain, thread, pool_.size());
      if (part.begin < part.end) work(part.begin, part.end);
    });
  }

  std::byte* ScratchOf(int thread) { return scratch_[thread].data(); }
  void ReserveScratch(uint64_t bytes);
  // A panel of a plain matrix.
  void PackPlainPanel(const MatrixView& w, int64_t panel, std::byte* out) const;
  void MatMulPlain(const MatrixView& w, const MatMulTask& task);
  void MatMulCut(const MatrixView& w, const MatMulTask& task);
  // Panels from first_panel on, each packed into scratch memory first.
  void MatMulByPacking(const MatrixView& w, int64_t first_panel, const MatMulTask& task);
  void AddValues(const float* y, int64_t count, float* x);

  const KernelTable& kernels_;
  const bool precise_;
  const bool touch_memory_;
  ThreadPool pool_;
  CpuFfn ffn_;
  std::vector<AlignedBuffer> scratch_;  // one per thread
  RopeTables rope_;
  std::unordered_map<std::byte*, AlignedBuffer> memory_;
  uint64_t last_ticket_ = 0;
};

absl::StatusOr<std::byte*> CpuBackend::AllocateMemory(uint64_t bytes) {
  ASSIGN_OR_RETURN(AlignedBuffer buffer, NewBuffer(std::max<uint64_t>(bytes, 1)));
  std::byte* data = buffer.data();
  memory_.emplace(data, std::move(buffer));
  return data;
}

absl::StatusOr<std::unique_ptr<Tensor>> CpuBackend::NewTensor(int32_t rows, int32_t cols) {
  ASSIGN_OR_RETURN(AlignedBuffer memory, NewBuffer(TensorBytes(rows, cols)));
  rope_.Reserve(rows);
  return std::make_unique<CpuTensor>(rows, cols, std::move(memory));
}

absl::StatusOr<std::unique_ptr<Activations>> CpuBackend::NewActivations(int32_t rows, int32_t cols) {
  if (cols % kQuantBlock != 0) {
    return absl::InvalidArgumentError(fmt::format("activations of {} columns: not a multiple of 32", cols));
  }
  ASSIGN_OR_RETURN(AlignedBuffer memory, NewBuffer(ActivationsBytes(rows, cols)));
  return std::make_unique<CpuActivations>(rows, cols, precise_, std::move(memory));
}

absl::StatusOr<std::unique_ptr<KvStore>> CpuBackend::NewKvStore(const KvShape& shape) {
  if (shape.head_dim < 1 || shape.head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        fmt::format("attention heads of {} dimensions: must be 1 to {}", shape.head_dim, kMaxHeadDim));
  }
  ASSIGN_OR_RETURN(AlignedBuffer memory, NewBuffer(KvStoreBytes(shape)));
  return std::make_unique<CpuKvStore>(shape, std::move(memory));
}

absl::StatusOr<std::unique_ptr<FfnJob>> CpuBackend::NewFfnJob(const FfnJobShape& shape) {
  if (shape.dim % kQuantBlock != 0) {
    return absl::InvalidArgumentError(fmt::format("an FFN of {} columns: not a multiple of 32", shape.dim));
  }
  ASSIGN_OR_RETURN(AlignedBuffer memory, NewBuffer(FfnJobBytes(shape)));
  return std::make_unique<CpuFfnJob>(shape, std::move(memory));
}

void CpuBackend::Upload(std::span<const float> values, int32_t first_row, Tensor* dst) {
  const int64_t at = int64_t{first_row} * dst->cols();
  CHECK(first_row >= 0 && at + static_cast<int64_t>(values.size()) <= int64_t{dst->rows()} * dst->cols());
  CopyValues(values.data(), static_cast<int64_t>(values.size()), ValuesOf(dst) + at);
}

absl::Status CpuBackend::FindPeaks(const Tensor& x, int32_t first_row, int32_t cols, float scale,
                                   std::span<RowPeak> peaks) {
  CHECK(cols > 0 && cols <= x.cols() && peaks.size() <= static_cast<size_t>(kMostPeaks));
  const auto find = [&](int64_t i) {
    kernels_.find_peak(ValuesOf(x) + (first_row + i) * x.cols(), cols, scale, &peaks[static_cast<size_t>(i)]);
  };
  if (peaks.size() == 1) {
    find(0);
    return absl::OkStatus();
  }
  pool_.Run([&](int thread) {
    const Range part = PartOf(static_cast<int64_t>(peaks.size()), 1, thread, pool_.size());
    for (int64_t i = part.begin; i < part.end; ++i) find(i);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::Download(const Tensor& src, int32_t first_row, int32_t rows, std::span<float> values) {
  CHECK(first_row >= 0 && rows >= 0 && first_row + rows <= src.rows());
  const int64_t count = int64_t{rows} * src.cols();
  CHECK(static_cast<int64_t>(values.size()) == count);
  CopyValues(ValuesOf(src) + int64_t{first_row} * src.cols(), count, values.data());
  return absl::OkStatus();
}

void CpuBackend::GatherRows(const MatrixView& table, std::span<const int32_t> row_index, Tensor* dst) {
  CHECK(dst->cols() == table.cols && static_cast<int32_t>(row_index.size()) <= dst->rows());
  const uint64_t row_bytes = RowBytes(table.type, table.cols);
  const uint64_t panel_bytes = PanelBytes(table.type, table.cols);
  ReserveScratch(row_bytes);
  pool_.Run([&](int thread) {
    const Range part = PartOf(static_cast<int64_t>(row_index.size()), 1, thread, pool_.size());
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int32_t row = row_index[i];
      CHECK(row >= 0 && row < table.rows);
      const std::byte* plain = table.data + row * row_bytes;
      if (table.layout == MatrixLayout::kPanels) {
        const std::byte* panel = table.data + row / kPanelRows * panel_bytes;
        UnpackPanelRow(table.type, panel, row % kPanelRows, table.cols, ScratchOf(thread));
        plain = ScratchOf(thread);
      }
      DequantizeRow(table.type, plain, table.cols, ValuesOf(dst) + i * dst->cols());
    }
  });
}

void CpuBackend::CopyRows(const Tensor& src, int32_t src_row, int32_t rows, int32_t dst_row, Tensor* dst) {
  CHECK(src.cols() == dst->cols() && src_row + rows <= src.rows() && dst_row + rows <= dst->rows());
  const int64_t cols = src.cols();
  CopyValues(ValuesOf(src) + src_row * cols, rows * cols, ValuesOf(dst) + dst_row * cols);
}

void CpuBackend::RmsNorm(const Tensor& x, int32_t rows, DeviceAddress weight, float epsilon, Tensor* out) {
  CHECK(rows <= x.rows() && rows <= out->rows() && x.cols() == out->cols());
  const float* weights = reinterpret_cast<const float*>(weight);
  const int64_t cols = x.cols();
  ForParts(rows, cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.rms_norm(ValuesOf(x) + t * cols, x.cols(), weights, epsilon, ValuesOf(out) + t * cols);
    }
  });
}

void CpuBackend::HeadRmsNorm(int32_t head_dim, int32_t rows, DeviceAddress weight, float epsilon, Tensor* x) {
  CHECK(rows <= x->rows() && head_dim > 0 && x->cols() % head_dim == 0);
  const float* weights = reinterpret_cast<const float*>(weight);
  const int64_t heads = int64_t{rows} * (x->cols() / head_dim);  // of all rows: they lie one after the other
  ForParts(heads, head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      float* head = ValuesOf(x) + h * head_dim;
      kernels_.rms_norm(head, head_dim, weights, epsilon, head);
    }
  });
}

void CpuBackend::Prepare(const Tensor& x, int32_t rows, Activations* out) {
  auto* activations = static_cast<CpuActivations*>(out);
  CHECK(rows <= x.rows() && rows <= activations->capacity() && x.cols() == activations->cols());
  activations->set_prepared_rows(rows);
  constexpr int32_t kBlocksPerItem = 32;
  const int32_t blocks = x.cols() / kQuantBlock;
  const int64_t items_per_tile = (blocks + kBlocksPerItem - 1) / kBlocksPerItem;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t item_values = int64_t{kBlocksPerItem} * kQuantBlock * std::min(rows, kTileRows);
  ForParts(tiles * items_per_tile, item_values, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t first = static_cast<int32_t>(i % items_per_tile) * kBlocksPerItem;
      kernels_.prepare(ValuesOf(x), rows, x.cols(), static_cast<int32_t>(i / items_per_tile), first,
                       std::min(first + kBlocksPerItem, blocks), activations->buffers());
    }
  });
}

void CpuBackend::MatMul(const MatrixView& w, const Activations& x, int32_t rows, int32_t out_col, Tensor* out) {
  const auto& activations = static_cast<const CpuActivations&>(x);
  CHECK(rows <= activations.prepared_rows() && w.cols == activations.cols());
  CHECK(rows <= out->rows() && out_col >= 0 && out_col + w.rows <= out->cols());
  if (rows == 0 || w.rows == 0) return;
  MatMulTask task;
  task.product = kernels_.find_product(w.type, precise_ ? ProductKind::kFloat : ProductKind::kInt8);
  task.panels = w.data;
  task.panel_bytes = PanelBytes(w.type, w.cols);
  task.w_rows = w.rows;
  task.cols = w.cols;
  task.x = activations.buffers();
  task.x_rows = activations.prepared_rows();
  task.rows = rows;
  task.out = ValuesOf(out) + out_col;
  task.out_stride = out->cols();
  if (w.layout == MatrixLayout::kPlain) return MatMulPlain(w, task);
  if (w.planes != PlaneState::kWhole) return MatMulCut(w, task);
  const int64_t panels = (int64_t{w.rows} + kPanelRows - 1) / kPanelRows;
  pool_.Run([&](int thread) {
    const Range part = PartOf(panels, 1, thread, pool_.size());
    if (part.begin < part.end) kernels_.matmul(task, part.begin, part.end);
  });
}

void CpuBackend::MatMulCut(const MatrixView& w, const MatMulTask& task) {
  CHECK(!precise_ && w.cols % kQuantBlock == 0);
  CutMatMulTask cut{.whole = task, .type = w.type, .planes = PanelPlanes(w.type, w.cols)};
  CHECK(cut.planes.low > 0);
  if (w.planes == PlaneState::kBoth) cut.low = w.low;
  cut.high_product = kernels_.find_high_product(w.type);
  const uint64_t sums = 2 * kTileRows * sizeof(int32_t) * static_cast<uint64_t>(w.cols / kQuantBlock);
  ReserveScratch(2 * task.panel_bytes + sums);
  const int64_t panels = (int64_t{w.rows} + kPanelRows - 1) / kPanelRows;
  pool_.Run([&](int thread) {
    CutMatMulTask own = cut;
    own.joined = ScratchOf(thread);
    own.sums = reinterpret_cast<int32_t*>(own.joined + 2 * task.panel_bytes);
    const Range part = PartOf(panels, 1, thread, pool_.size());
    if (part.begin < part.end) kernels_.cut_matmul(own, part.begin, part.end);
  });
}

void CpuBackend::MatMulPlain(const MatrixView& w, const MatMulTask& task) {
  const TileProduct product = precise_ ? nullptr : kernels_.find_plain_product(w.type);
  const int64_t whole = product != nullptr && task.rows <= kPlainProductRows ? w.rows / kPanelRows : 0;
  if (whole > 0) {
    MatMulTask rows = task;
    rows.product = product;
    rows.panel_bytes = kPanelRows * RowBytes(w.type, w.cols);
    rows.w_rows = static_cast<int32_t>(whole * kPanelRows);
    pool_.Run([&](int thread) {
      const Range part = PartOf(whole, 1, thread, pool_.size());
      if (part.begin < part.end) kernels_.matmul(rows, part.begin, part.end);
    });
  }
  MatMulByPacking(w, whole, task);
}

void CpuBackend::MatMulByPacking(const MatrixView& w, int64_t first_panel, const MatMulTask& task) {
  const int64_t panels = (int64_t{w.rows} + kPanelRows - 1) / kPanelRows;
  if (first_panel == panels) return;
  ReserveScratch(task.panel_bytes);
  pool_.Run([&](int thread) {
    MatMulTask one = task;
    one.panels = ScratchOf(thread);
    const Range part = PartOf(panels - first_panel, 1, thread, pool_.size());
    for (int64_t panel = first_panel + part.begin; panel < first_panel + part.end; ++panel) {
      PackPlainPanel(w, panel, ScratchOf(thread));
      one.out = task.out + panel * kPanelRows;
      one.w_rows = static_cast<int32_t>(std::min<int64_t>(w.rows - panel * kPanelRows, kPanelRows));
      kernels_.matmul(one, 0, 1);
    }
  });
}

void CpuBackend::PackPlainPanel(const MatrixView& w, int64_t panel, std::byte* out) const {
  const uint64_t row_bytes = RowBytes(w.type, w.cols);
  const std::byte* first = w.data + panel * kPanelRows * row_bytes;
  const int64_t rows = std::min<int64_t>(w.rows - panel * kPanelRows, kPanelRows);
  if (rows == kPanelRows && w.cols % kQuantBlock == 0) {
    return kernels_.pack_panel(w.type, first, row_bytes, w.cols, out);
  }
  std::array<const std::byte*, kPanelRows> pointers = {};
  for (int64_t r = 0; r < rows; ++r) pointers[r] = first + r * row_bytes;
  PackPanel(w.type, pointers, w.cols, out);
}

void CpuBackend::PackPanels(const MatrixView& plain, std::byte* panels) {
  CHECK(plain.layout == MatrixLayout::kPlain);
  const uint64_t panel_bytes = PanelBytes(plain.type, plain.cols);
  const int64_t count = (int64_t{plain.rows} + kPanelRows - 1) / kPanelRows;
  pool_.Run([&](int thread) {
    const Range part = PartOf(count, 1, thread, pool_.size());
    for (int64_t p = part.begin; p < part.end; ++p) PackPlainPanel(plain, p, panels + p * panel_bytes);
  });
}

void CpuBackend::ReserveScratch(uint64_t bytes) {
  if (bytes <= scratch_[0].size()) return;
  for (AlignedBuffer& scratch : scratch_) {
    absl::StatusOr<AlignedBuffer> larger = AlignedBuffer::Create(bytes);
    CHECK(larger.ok());
    scratch = *std::move(larger);
  }
}

void CpuBackend::AddValues(const float* y, int64_t count, float* x) {
  ForParts(count, 1, [&](int64_t begin, int64_t end) { kernels_.add(y + begin, end - begin, x + begin); });
}

void CpuBackend::Add(const Tensor& y, int32_t rows, Tensor* x) {
  CHECK(rows <= y.rows() && rows <= x->rows() && y.cols() == x->cols());
  AddValues(ValuesOf(y), int64_t{rows} * y.cols(), ValuesOf(x));
}

void CpuBackend::AddBias(DeviceAddress bias, int32_t rows, Tensor* x) {
  CHECK(rows <= x->rows());
  const float* values = reinterpret_cast<const float*>(bias);
  const int64_t cols = x->cols();
  ForParts(rows, cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) kernels_.add(values, cols, ValuesOf(x) + t * cols);
  });
}

void CpuBackend::Scale(float factor, int32_t rows, Tensor* x) {
  CHECK(rows <= x->rows());
  ForParts(int64_t{rows} * x->cols(), 1,
           [&](int64_t begin, int64_t end) { kernels_.scale(factor, end - begin, ValuesOf(x) + begin); });
}

void CpuBackend::Clear(int32_t rows, Tensor* x) {
  CHECK(rows <= x->rows());
  std::fill_n(ValuesOf(x), int64_t{rows} * x->cols(), 0.0f);
}

void CpuBackend::GatedActivation(FfnActivation activation, const Tensor& gate, const Tensor& up, int32_t rows,
                                 Tensor* z) {
  CHECK(rows <= gate.rows() && rows <= up.rows() && rows <= z->rows());
  CHECK(gate.cols() == up.cols() && gate.cols() == z->cols());
  constexpr int64_t kCost = 4;  // as much work as so many plain values
  ForParts(int64_t{rows} * gate.cols(), kCost, [&](int64_t begin, int64_t end) {
    kernels_.gated(activation, ValuesOf(gate) + begin, ValuesOf(up) + begin, end - begin, ValuesOf(z) + begin);
  });
}

void CpuBackend::Rope(const RopeParams& params, std::span<const TokenPos> positions, Tensor* x) {
  CHECK(params.rotary_dims % 2 == 0 && params.rotary_dims <= params.head_dim && x->cols() % params.head_dim == 0);
  CHECK(static_cast<int32_t>(params.frequencies.size()) == params.rotary_dims / 2);
  CHECK(static_cast<int32_t>(positions.size()) <= x->rows());
  const RopeTable& table = rope_.Update(params.frequencies, positions);
  const int32_t heads = x->cols() / params.head_dim;
  ForParts(static_cast<int64_t>(positions.size()), x->cols(), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.rope(params.pairing, params.head_dim, params.rotary_dims, heads, table.row(t),
                    ValuesOf(x) + t * x->cols());
    }
  });
}

void CpuBackend::WriteKv(LayerIndex layer, std::span<const KvSlot> slots, const Tensor& k, const Tensor& v,
                         KvStore* store) {
  auto* kv = static_cast<CpuKvStore*>(store);
  const KvShape& shape = kv->shape();
  const int32_t cols = shape.kv_head_count * shape.head_dim;
  CHECK(k.cols() == cols && v.cols() == cols);
  CHECK(static_cast<int32_t>(slots.size()) <= std::min(k.rows(), v.rows()));
  CHECK(ToInt(layer) >= 0 && ToInt(layer) < shape.layers);
  ForParts(static_cast<int64_t>(slots.size()), 2 * cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      CHECK(ToInt(slots[i]) >= 0 && ToInt(slots[i]) < shape.slots);
      for (int32_t h = 0; h < shape.kv_head_count; ++h) {
        const int64_t to = (int64_t{h} * shape.slots + ToInt(slots[i])) * kv->head_bytes();
        const int64_t from = i * cols + int64_t{h} * shape.head_dim;
        kernels_.store_kv(shape.type, ValuesOf(k) + from, shape.head_dim, kv->keys(layer) + to);
        kernels_.store_kv(shape.type, ValuesOf(v) + from, shape.head_dim, kv->values(layer) + to);
      }
    }
  });
}

void CpuBackend::CopyKv(KvSlot from, KvSlot to, KvStore* store) {
  auto* kv = static_cast<CpuKvStore*>(store);
  const KvShape& shape = kv->shape();
  CHECK(std::min(ToInt(from), ToInt(to)) >= 0 && std::max(ToInt(from), ToInt(to)) < shape.slots);
  if (from == to) return;
  // Keys and values of all layers and heads lie one after the other.
  std::byte* head = kv->keys(LayerIndex{0});
  for (int64_t i = 0; i < int64_t{2} * shape.layers * shape.kv_head_count; ++i) {
    std::memcpy(head + ToInt(to) * kv->head_bytes(), head + ToInt(from) * kv->head_bytes(), kv->head_bytes());
    head += shape.slots * kv->head_bytes();
  }
}

// Query heads of one KV head that share a pass: as many as possible, yet enough items for all threads.
int32_t HeadsTogether(int32_t rows, int32_t kv_heads, int32_t group, int threads) {
  int32_t heads = std::min(group, kAttentionHeads);
  const auto items = [&](int32_t together) { return int64_t{rows} * kv_heads * ((group + together - 1) / together); };
  while (heads > 1 && items(heads) % threads != 0 && items(heads) < 4 * threads) --heads;
  return heads;
}

void CpuBackend::Attention(const AttentionParams& params, LayerIndex layer, const AttentionMask& mask,
                           const KvStore& store, const Tensor& q, Tensor* out) {
  const auto& kv = static_cast<const CpuKvStore&>(store);
  const KvShape& shape = kv.shape();
  const int32_t rows = static_cast<int32_t>(mask.rows.size());
  CHECK(params.kv_head_count == shape.kv_head_count && params.head_dim == shape.head_dim);
  CHECK(params.head_count % params.kv_head_count == 0);
  CHECK(q.cols() == params.head_count * params.head_dim && out->cols() == q.cols());
  CHECK(rows <= q.rows() && rows <= out->rows());
  AttentionTask task;
  task.type = shape.type;
  task.head_dim = shape.head_dim;
  task.stride = KvHeadStride(shape.type, shape.head_dim);
  task.slots = shape.slots;
  task.group = params.head_count / params.kv_head_count;
  task.score_scale = params.score_scale;
  task.keys = kv.keys(layer);
  task.values = kv.values(layer);
  const int threads = pool_.size();
  const int32_t together = HeadsTogether(rows, shape.kv_head_count, task.group, threads);
  const int32_t parts = (task.group + together - 1) / together;  // of a KV head's query heads
  const int64_t items_per_row = int64_t{shape.kv_head_count} * parts;
  pool_.Run([&](int thread) {
    // Every threads-th item: later rows of a prompt see more slots.
    for (int64_t item = thread; item < rows * items_per_row; item += threads) {
      const int64_t row = item / items_per_row;
      const int32_t kv_head = static_cast<int32_t>(item % items_per_row / parts);
      const int32_t first = static_cast<int32_t>(item % parts) * together;
      const int64_t at = row * q.cols() + (int64_t{kv_head} * task.group + first) * shape.head_dim;
      const AttentionMask::Row& allowed = mask.rows[row];
      const SlotRun* runs = mask.runs.data() + allowed.first_run;
      ForBitRuns(params.head_mask, kv_head * task.group + first, std::min(together, task.group - first),
                 [&](int32_t begin, int32_t heads, bool used) {
                   float* to = ValuesOf(out) + at + int64_t{begin} * shape.head_dim;
                   if (!used) return std::memset(to, 0, sizeof(float) * heads * shape.head_dim), void();
                   kernels_.attention(task, runs, allowed.run_count, kv_head, heads,
                                      ValuesOf(q) + at + int64_t{begin} * shape.head_dim, to);
                 });
    }
  });
}

Ticket CpuBackend::FfnEnd(FfnJob* job, Tensor* x) {
  auto* cpu_job = static_cast<CpuFfnJob*>(job);
  CHECK(x->cols() == cpu_job->dim() && cpu_job->task.rows <= x->rows());
  ForParts(int64_t{cpu_job->task.rows} * cpu_job->dim(), 1, [&](int64_t begin, int64_t end) {
    kernels_.add(cpu_job->sum() + begin, end - begin, cpu_job->y() + begin);
    kernels_.add(cpu_job->y() + begin, end - begin, ValuesOf(x) + begin);
  });
  return NextTicket();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(const CpuOptions& options) {
  if (options.threads < 1) return absl::InvalidArgumentError(fmt::format("{} threads", options.threads));
  ASSIGN_OR_RETURN(const KernelTable* kernels, FindKernels(options.isa));
  auto backend = std::make_unique<CpuBackend>(options, *kernels);
  RETURN_IF_ERROR(backend->Init());
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace dogstar
