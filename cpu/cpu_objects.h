// What the CPU backend's handles are: plain host memory.
#pragma once

#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/panel.h"
#include "cpu/kernels.h"
#include "device/backend.h"

namespace dogstar {

class CpuTensor : public Tensor {
 public:
  CpuTensor(int32_t rows, int32_t cols, AlignedBuffer memory) : Tensor(rows, cols), memory_(std::move(memory)) {}
  // Row-major, without padding between rows.
  float* values() const { return reinterpret_cast<float*>(memory_.data()); }
  float* row(int32_t r) const { return values() + int64_t{r} * cols(); }

 private:
  AlignedBuffer memory_;
};

class CpuActivations : public Activations {
 public:
  CpuActivations(int32_t rows, int32_t cols, bool precise, AlignedBuffer memory);
  static uint64_t BytesFor(int32_t rows, int32_t cols, bool precise);

  int32_t capacity() const { return rows_; }
  int32_t cols() const { return cols_; }
  const ActivationBuffers& buffers() const { return buffers_; }
  // Rows of the last Prepare: they decide the layout.
  int32_t prepared_rows() const { return prepared_rows_; }
  void set_prepared_rows(int32_t rows) { prepared_rows_ = rows; }

 private:
  int32_t rows_, cols_;
  int32_t prepared_rows_ = 0;
  AlignedBuffer memory_;
  ActivationBuffers buffers_;
};

class CpuHostMemory : public HostMemory {
 public:
  explicit CpuHostMemory(AlignedBuffer memory) : memory_(std::move(memory)) {}
  std::span<std::byte> span() const override { return memory_.span(); }

 private:
  AlignedBuffer memory_;
};

class CpuKvStore : public KvStore {
 public:
  CpuKvStore(const KvShape& shape, AlignedBuffer memory) : shape_(shape), memory_(std::move(memory)) {}
  uint64_t bytes() const override { return memory_.size(); }

  const KvShape& shape() const { return shape_; }
  int64_t head_bytes() const;  // one head of one slot
  std::byte* keys(LayerIndex layer) const { return Part(2 * ToInt(layer)); }
  std::byte* values(LayerIndex layer) const { return Part(2 * ToInt(layer) + 1); }

 private:
  std::byte* Part(int32_t index) const {
    return memory_.data() + int64_t{index} * shape_.kv_head_count * shape_.slots * head_bytes();
  }

  KvShape shape_;
  AlignedBuffer memory_;
};

// z of the pages of a call and the sum y.
class CpuFfnJob : public FfnJob {
 public:
  CpuFfnJob(const FfnJobShape& shape, AlignedBuffer memory);
  static uint64_t BytesFor(const FfnJobShape& shape);

  // Blocks of 32 packed rows whose z fits.
  int32_t block_capacity() const { return block_capacity_; }
  // A page larger than any seen at NewFfnJob: the one case in which memory is allocated later.
  absl::Status Grow(int32_t blocks);

  int32_t capacity() const { return shape_.rows; }
  int32_t dim() const { return shape_.dim; }
  int32_t choice_rows() const { return shape_.choice_rows; }
  int32_t choice_blocks() const { return (shape_.ffn_rows + kQuantBlock - 1) / kQuantBlock; }
  float* sum() const { return reinterpret_cast<float*>(memory_.data()); }  // of a group of pages
  float* y() const { return sum() + int64_t{shape_.rows} * shape_.dim; }

  FfnTask task;  // of the FFN begun last
  FfnPageLayout layout;
  std::vector<FfnBlock> blocks;  // of the pages of one call that fit

  FfnValues Values(int32_t rows) const;
  FfnChoice Choice(int32_t rows) const;
  // One number for each row of the layer. [ffn_rows, rounded up to blocks]
  std::span<uint64_t> ChoiceKeys() const;
  std::vector<FfnBlock> choice_blocks_list;  // of all pages of FfnAccumulateChosen

 private:
  std::byte* ChoiceMemory() const;

  FfnJobShape shape_;
  int32_t block_capacity_;
  AlignedBuffer memory_;
  AlignedBuffer grown_;  // z, where it no longer fits memory_
};

}  // namespace dogstar
