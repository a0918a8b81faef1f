// What a GPU's backend keeps in device memory: tensors, activations, keys and values, an FFN in progress, lists.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/panel.h"
#include "device/backend.h"
#include "gpu/device_arena.h"
#include "gpu/runtime.h"

namespace dogstar {

constexpr int32_t kBlockRows = gpu::kBlockColumns;

// All device memory of a backend, taken at once.
class DevicePool {
 public:
  absl::Status Create(gpu::Runtime* runtime, uint64_t bytes) {
    ASSIGN_OR_RETURN(data_, runtime->Allocate(bytes));
    runtime_ = runtime;
    arena_ = DeviceArena(bytes);
    return absl::OkStatus();
  }
  DevicePool() = default;
  ~DevicePool() {
    if (data_ != nullptr) runtime_->Free(data_);
  }
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;

  // None: nothing of that size is left.
  std::byte* Take(uint64_t bytes, uint64_t alignment) {
    const std::optional<uint64_t> place = arena_.Take(bytes, alignment);
    return place ? data_ + *place : nullptr;
  }
  void GiveBack(std::byte* data, uint64_t bytes) { arena_.GiveBack(static_cast<uint64_t>(data - data_), bytes); }

 private:
  gpu::Runtime* runtime_ = nullptr;
  std::byte* data_ = nullptr;
  DeviceArena arena_;
};

// Device memory that is given back with its owner.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(DevicePool* pool, std::byte* data, uint64_t bytes) : pool_(pool), data_(data), bytes_(bytes) {}
  DeviceMemory(DeviceMemory&& other) noexcept
      : pool_(other.pool_), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) pool_->GiveBack(data_, bytes_);
  }
  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  DevicePool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Hands out parts of one allocation; of none: counts.
class Cutter {
 public:
  explicit Cutter(std::byte* memory) : memory_(memory) {}
  template <typename T>
  T* Take(uint64_t count) {
    T* const part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return part;
  }
  uint64_t used() const { return used_; }

 private:
  std::byte* memory_;
  uint64_t used_ = 0;
};

inline gpu::ActivationView CutActivations(uint64_t rows, uint64_t cols, Cutter* cutter) {
  const uint64_t blocks = rows * (cols / kQuantBlock);
  gpu::ActivationView view;
  view.f32 = cutter->Take<float>(rows * cols);
  view.codes = cutter->Take<int8_t>(rows * cols);
  view.scales = cutter->Take<float>(blocks);
  view.code_sums = cutter->Take<int32_t>(2 * blocks);
  view.outliers = cutter->Take<int32_t>(blocks);
  view.cols = static_cast<int32_t>(cols);
  return view;
}

class GpuTensor : public Tensor {
 public:
  GpuTensor(int32_t rows, int32_t cols, DeviceMemory memory) : Tensor(rows, cols), memory_(std::move(memory)) {}
  float* values() const { return reinterpret_cast<float*>(memory_.data()); }

 private:
  DeviceMemory memory_;
};

class GpuActivations : public Activations {
 public:
  GpuActivations(int32_t rows, int32_t cols, DeviceMemory memory) : rows_(rows), memory_(std::move(memory)) {
    Cutter cutter(memory_.data());
    view_ = CutActivations(static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), &cutter);
  }
  static uint64_t BytesFor(int32_t rows, int32_t cols) {
    Cutter measure(nullptr);
    CutActivations(static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), &measure);
    return measure.used();
  }
  int32_t capacity() const { return rows_; }
  const gpu::ActivationView& view() const { return view_; }

 private:
  int32_t rows_;
  DeviceMemory memory_;
  gpu::ActivationView view_;
};

class GpuKvStore : public KvStore {
 public:
  GpuKvStore(const KvShape& shape, DeviceMemory memory) : shape_(shape), memory_(std::move(memory)) {}
  uint64_t bytes() const override { return memory_.bytes(); }
  const KvShape& shape() const { return shape_; }
  std::byte* data() const { return memory_.data(); }
  gpu::KvLayer Layer(LayerIndex layer) const {
    gpu::KvLayer kv{.type = shape_.type,
                    .head_dim = shape_.head_dim,
                    .kv_heads = shape_.kv_head_count,
                    .slots = shape_.slots,
                    .stride = KvHeadStride(shape_.type, shape_.head_dim),
                    .head_bytes = KvHeadBytes(shape_.type, shape_.head_dim)};
    const int64_t part = int64_t{shape_.kv_head_count} * shape_.slots * kv.head_bytes;
    kv.keys = memory_.data() + 2 * ToInt(layer) * part;
    kv.values = kv.keys + part;
    return kv;
  }
  // Room behind keys and values for the parts of so many tiles of queries (gpu/attention.h).
  static constexpr int64_t kTilesApart = 8;
  float* partials() const { return reinterpret_cast<float*>(memory_.data() + KvDataBytes(shape_)); }
  static uint64_t BytesFor(const KvShape& shape) {
    const int64_t parts = (int64_t{shape.slots} + kAttentionPart - 1) / kAttentionPart;
    const int64_t floats = kTilesApart * shape.kv_head_count * parts * gpu::kTileQueries *
                           gpu::AttentionShape::PartialFloats(KvHeadStride(shape.type, shape.head_dim));
    return KvDataBytes(shape) + static_cast<uint64_t>(floats) * sizeof(float);
  }

 private:
  KvShape shape_;
  DeviceMemory memory_;
};

// Packed rows of a call whose z fits: all for few activation rows, for many about 2 Mi values.
inline int32_t RowsTogether(const FfnJobShape& shape) {
  const int64_t fit = std::max<int64_t>((int64_t{2} << 20) / std::max(shape.rows, 1), 2048);
  return static_cast<int32_t>(std::min<int64_t>(shape.ffn_rows, fit) + kBlockRows - 1) / kBlockRows * kBlockRows;
}

// What a call's pages are made of, as kernels read it.
struct PageLists {
  std::vector<const std::byte*> gate, up;  // panels
  std::vector<gpu::RowBlock> blocks;
  std::vector<uint16_t> groups;
  std::vector<gpu::JoinPiece> cut;  // pages in planes
  bool misses_bits = false;         // of all pages: they are there by their high planes alone
  void Clear() {
    gate.clear();
    up.clear();
    blocks.clear();
    groups.clear();
    cut.clear();
  }
  // Of all of it, sent.
  static uint64_t Bytes(uint64_t block_count) {
    return block_count * (4 * sizeof(std::byte*) + sizeof(gpu::RowBlock) + kMostRuns * sizeof(uint16_t) +
                          sizeof(gpu::JoinPiece)) +
           1024;
  }

 private:
  static constexpr uint64_t kMostRuns = 8;  // of a block
};

// PageLists in device memory.
struct SentPages {
  const std::byte* const* gate = nullptr;
  const std::byte* const* up = nullptr;
  const gpu::RowBlock* blocks = nullptr;
  const uint16_t* groups = nullptr;
  const gpu::JoinPiece* cut = nullptr;
  int32_t block_count = 0;
};

class GpuFfnJob : public FfnJob {
 public:
  GpuFfnJob(const FfnJobShape& shape, DeviceMemory memory) : shape_(shape), memory_(std::move(memory)) {
    Cutter cutter(memory_.data());
    Cut(&cutter);
  }
  static uint64_t BytesFor(const FfnJobShape& shape) {
    Cutter measure(nullptr);
    GpuFfnJob job(shape, {});
    job.Cut(&measure);
    return measure.used();
  }
  int32_t rows_together() const { return RowsTogether(shape_); }
  int32_t choice_blocks() const { return (shape_.ffn_rows + kBlockRows - 1) / kBlockRows; }
  const FfnJobShape& shape() const { return shape_; }

  float *sum = nullptr, *y = nullptr;  // of a group of pages, of the groups before it
  float *gate = nullptr, *up = nullptr;
  gpu::ActivationView z;
  std::byte* lists = nullptr;  // of rows_together
  // Of calls whose tokens choose: all rows' values, masks, weights of scores; lists of all blocks.
  float *choice_values = nullptr, *choice_weights = nullptr;
  uint32_t* choice_masks = nullptr;
  std::byte* choice_lists = nullptr;
  // Of the FFN begun last.
  FfnPageLayout layout;
  FfnActivation activation = FfnActivation::kSilu;
  const std::byte* down_scales = nullptr;
  float *capture = nullptr, *capture_up = nullptr;
  int64_t capture_stride = 0;
  gpu::ActivationView x;
  int32_t rows = 0;
  int32_t sum_group = 0;  // of the last page
  PageLists pages;

 private:
  void Cut(Cutter* cutter) {
    const auto most = static_cast<uint64_t>(shape_.rows), together = static_cast<uint64_t>(rows_together());
    sum = cutter->Take<float>(most * static_cast<uint64_t>(shape_.dim));
    y = cutter->Take<float>(most * static_cast<uint64_t>(shape_.dim));
    gate = cutter->Take<float>(most * together);
    up = cutter->Take<float>(most * together);
    z = CutActivations(most, together, cutter);
    lists = cutter->Take<std::byte>(PageLists::Bytes(together / kBlockRows));
    if (shape_.choice_rows == 0) return;
    const auto choosers = static_cast<uint64_t>(shape_.choice_rows), blocks = static_cast<uint64_t>(choice_blocks());
    choice_values = cutter->Take<float>(choosers * blocks * kBlockRows);
    choice_weights = cutter->Take<float>(blocks * kBlockRows);
    choice_masks = cutter->Take<uint32_t>(choosers * blocks);
    choice_lists = cutter->Take<std::byte>(PageLists::Bytes(blocks));
  }

  FfnJobShape shape_;
  DeviceMemory memory_;
};

inline GpuFfnJob* JobOf(FfnJob* job) { return static_cast<GpuFfnJob*>(job); }
inline float* ValuesOf(Tensor* tensor) { return static_cast<GpuTensor*>(tensor)->values(); }
inline const float* ValuesOf(const Tensor& tensor) { return static_cast<const GpuTensor&>(tensor).values(); }

template <typename T>
std::span<const std::byte> BytesOf(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

// A list in device memory that is sent when it changes: layers of a pass use the same one.
class SentList {
 public:
  explicit SentList(DeviceMemory memory = {}) : memory_(std::move(memory)) {}
  const std::byte* Update(gpu::Runtime* runtime, std::span<const std::byte> bytes) {
    if (!std::ranges::equal(bytes, last_)) {
      runtime->Send(bytes, memory_.data());
      last_.assign(bytes.begin(), bytes.end());
    }
    return memory_.data();
  }

 private:
  DeviceMemory memory_;
  std::vector<std::byte> last_;
};

}  // namespace dogstar
