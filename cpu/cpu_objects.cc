#include "cpu/cpu_objects.h"

#include <algorithm>

#include "base/panel.h"

namespace dogstar {
namespace {

constexpr uint64_t kLine = 64;

uint64_t RoundUp(uint64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Hands out parts of one allocation.
class Cutter {
 public:
  explicit Cutter(std::byte* memory) : memory_(memory) {}
  template <typename T>
  T* Take(uint64_t count) {
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += RoundUp(count * sizeof(T));
    return part;
  }
  uint64_t used() const { return used_; }

 private:
  std::byte* memory_;
  uint64_t used_ = 0;
};

ActivationBuffers CutActivations(uint64_t rows, uint64_t cols, bool precise, Cutter& cutter) {
  ActivationBuffers out;
  out.f32 = cutter.Take<float>(rows * cols);
  if (precise) return out;
  const uint64_t blocks = rows * (cols / kQuantBlock);
  out.codes = cutter.Take<int8_t>(rows * cols);
  out.scales = cutter.Take<float>(blocks);
  out.code_sums = cutter.Take<int32_t>(blocks);
  out.low_code_sums = cutter.Take<int32_t>(blocks);
  out.sums = cutter.Take<float>(blocks);
  out.half_sums = cutter.Take<float>(2 * blocks);
  out.outliers = cutter.Take<int32_t>(blocks);
  out.outlier_rows = cutter.Take<uint8_t>((rows + kTileRows - 1) / kTileRows * (cols / kQuantBlock));
  return out;
}

FfnValues CutFfnValues(uint64_t rows, uint64_t blocks, Cutter& cutter) {
  FfnValues out;
  out.rows = static_cast<int32_t>(rows);
  out.f32 = cutter.Take<float>(rows * blocks * kQuantBlock);
  out.codes = cutter.Take<int8_t>(rows * blocks * kQuantBlock);
  out.scales = cutter.Take<float>(rows * blocks);
  out.run_terms = cutter.Take<int32_t>(rows * blocks * 8);
  out.outliers = cutter.Take<int32_t>(rows * blocks);
  out.outlier_runs = cutter.Take<uint64_t>((rows + kTileRows - 1) / kTileRows * blocks);
  return out;
}

uint64_t FfnValueBytes(uint64_t rows, uint64_t blocks) {
  Cutter measure(nullptr);
  CutFfnValues(rows, blocks, measure);
  return measure.used();
}

// All of the FFN for few rows; for many, what keeps z of a batch in the cache, yet at least 2048 packed rows so that
// threads have enough to share.
int32_t BlocksFor(int32_t rows, int32_t ffn_rows) {
  constexpr int64_t kValues = 2 << 20;
  const int64_t all = (int64_t{ffn_rows} + kQuantBlock - 1) / kQuantBlock;
  const int64_t fit = std::max<int64_t>(kValues / std::max(rows, 1), 2048) / kQuantBlock;
  return static_cast<int32_t>(std::min(all, fit));
}

}  // namespace

CpuActivations::CpuActivations(int32_t rows, int32_t cols, bool precise, AlignedBuffer memory)
    : rows_(rows), cols_(cols), memory_(std::move(memory)) {
  Cutter cutter(memory_.data());
  buffers_ = CutActivations(rows, cols, precise, cutter);
}

uint64_t CpuActivations::BytesFor(int32_t rows, int32_t cols, bool precise) {
  Cutter measure(nullptr);
  CutActivations(rows, cols, precise, measure);
  return measure.used();
}

int64_t CpuKvStore::head_bytes() const { return KvHeadBytes(shape_.type, shape_.head_dim); }

int64_t CpuKvStore::score_rows() const {
  return static_cast<int64_t>((memory_.size() - KvDataBytes(shape_)) / sizeof(float)) / score_stride();
}

CpuFfnJob::CpuFfnJob(int32_t rows, int32_t dim, int32_t ffn_rows, AlignedBuffer memory)
    : rows_(rows), dim_(dim), block_capacity_(BlocksFor(rows, ffn_rows)), memory_(std::move(memory)) {
  blocks.reserve(block_capacity_);
}

uint64_t CpuFfnJob::BytesFor(int32_t rows, int32_t dim, int32_t ffn_rows) {
  Cutter measure(nullptr);
  measure.Take<float>(uint64_t(rows) * dim);
  return measure.used() + FfnValueBytes(rows, BlocksFor(rows, ffn_rows));
}

absl::Status CpuFfnJob::Grow(int32_t new_blocks) {
  ASSIGN_OR_RETURN(grown_, AlignedBuffer::Create(FfnValueBytes(rows_, new_blocks)));
  block_capacity_ = new_blocks;
  blocks.reserve(new_blocks);
  return absl::OkStatus();
}

FfnValues CpuFfnJob::Values(int32_t rows) const {
  if (grown_.size() > 0) {
    Cutter cutter(grown_.data());
    return CutFfnValues(rows, block_capacity_, cutter);
  }
  Cutter cutter(memory_.data());
  cutter.Take<float>(uint64_t(rows_) * dim_);
  return CutFfnValues(rows, block_capacity_, cutter);
}

}  // namespace dogstar
