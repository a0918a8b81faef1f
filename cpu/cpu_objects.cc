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

CpuFfnJob::CpuFfnJob(const FfnJobShape& shape, AlignedBuffer memory)
    : shape_(shape), block_capacity_(BlocksFor(shape.rows, shape.ffn_rows)), memory_(std::move(memory)) {
  blocks.reserve(block_capacity_);
  if (shape.choice_rows > 0) choice_blocks_list.reserve(choice_blocks());
}

// Sum, y, z, and values, masks and keys of a choice, one after the other.
uint64_t CpuFfnJob::BytesFor(const FfnJobShape& shape) {
  Cutter measure(nullptr);
  measure.Take<float>(2 * uint64_t(shape.rows) * shape.dim);
  const uint64_t before_choice = measure.used() + FfnValueBytes(shape.rows, BlocksFor(shape.rows, shape.ffn_rows));
  const uint64_t choice_rows = shape.choice_rows;
  if (choice_rows == 0) return before_choice;
  const uint64_t blocks = (uint64_t(shape.ffn_rows) + kQuantBlock - 1) / kQuantBlock;
  Cutter choice(nullptr);
  choice.Take<float>(choice_rows * blocks * kQuantBlock);
  choice.Take<uint32_t>(choice_rows * blocks);
  choice.Take<uint64_t>(blocks * kQuantBlock);
  return before_choice + choice.used();
}

std::byte* CpuFfnJob::ChoiceMemory() const {
  FfnJobShape without = shape_;
  without.choice_rows = 0;
  return memory_.data() + BytesFor(without);
}

FfnChoice CpuFfnJob::Choice(int32_t rows) const {
  Cutter cutter(ChoiceMemory());
  FfnChoice choice;
  choice.values = cutter.Take<float>(uint64_t(rows) * choice_blocks() * kQuantBlock);
  choice.masks = cutter.Take<uint32_t>(uint64_t(rows) * choice_blocks());
  return choice;
}

std::span<uint64_t> CpuFfnJob::ChoiceKeys() const {
  Cutter cutter(ChoiceMemory());
  cutter.Take<float>(uint64_t(shape_.choice_rows) * choice_blocks() * kQuantBlock);
  cutter.Take<uint32_t>(uint64_t(shape_.choice_rows) * choice_blocks());
  const uint64_t count = uint64_t(choice_blocks()) * kQuantBlock;
  return {cutter.Take<uint64_t>(count), count};
}

absl::Status CpuFfnJob::Grow(int32_t new_blocks) {
  ASSIGN_OR_RETURN(grown_, AlignedBuffer::Create(FfnValueBytes(shape_.rows, new_blocks)));
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
  cutter.Take<float>(2 * uint64_t(shape_.rows) * shape_.dim);
  return CutFfnValues(rows, block_capacity_, cutter);
}

}  // namespace dogstar
