// WeightStream: products with weight matrices that are read from the file chunk by chunk, forwards and transposed. No
// matrix is ever in memory as a whole, so a model of any size is worked through with one small buffer; what the page
// cache holds is not read twice from the disk.
//
// Threads: one thread calls it; products use `threads` of their own. Memory: allocated in Create, Bytes says how much.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "device/backend.h"
#include "model/model_file.h"

namespace dogstar {

class WeightStream {
 public:
  struct Options {
    int threads = 1;
    bool precise = true;  // f32 activations in Product; else the engine's int8 ones. AddTransposed is f32 always
    int32_t rows = 0;     // activation rows of a call, at most
    std::vector<int32_t> widths;  // columns of the matrices that Product will see
  };

  // Bytes that Create takes, the chunk for the file included.
  static uint64_t Bytes(const ModelFile& model, const Backend& backend, const Options& options);
  // `model` and `backend` outlive the object.
  static absl::StatusOr<std::unique_ptr<WeightStream>> Create(const ModelFile* model, Backend* backend,
                                                              const Options& options);

  ThreadPool* pool() { return &pool_; }

  // out[t, r] = sum_k w[r, k] x[t, k]. x: [rows, w.cols], out: [rows, w.rows], f32, row-major. Waits.
  absl::Status Product(const MatrixSource& w, std::span<const float> x, int32_t rows, std::span<float> out);
  // dx[t, k] += sum_r dy[t, r] w[r, k], in one order of r whatever the threads: what a product's output gradient means
  // for its input. dy: [rows, w.rows], dx: [rows, w.cols]. Waits.
  absl::Status AddTransposed(const MatrixSource& w, std::span<const float> dy, int32_t rows, std::span<float> dx);
  // Row i of x is row index[i] of the table, decoded. x: [index.size(), table.cols]
  absl::Status GatherRows(const MatrixSource& table, std::span<const TokenId> index, std::span<float> x);

 private:
  struct Input {  // of one width
    int32_t cols = 0;
    std::unique_ptr<Tensor> tensor;
    std::unique_ptr<Activations> activations;
  };
  using ChunkFn = absl::FunctionRef<absl::Status(int32_t first_row, int32_t rows, const std::byte* bytes)>;

  WeightStream(const ModelFile* model, Backend* backend, int threads)
      : model_(model), backend_(backend), pool_(threads) {}
  absl::Status ForEachChunk(const MatrixSource& w, ChunkFn function);
  // Columns `columns` of dx, for one chunk of w. scratch: of a thread.
  void AddTransposedPart(const MatrixSource& w, int32_t first_row, int32_t chunk_rows, const std::byte* bytes,
                         std::span<const float> dy, int32_t rows, Range columns, std::span<float> scratch,
                         std::span<float> dx);

  const ModelFile* model_;
  Backend* backend_;
  ThreadPool pool_;
  std::vector<Input> inputs_;
  std::unique_ptr<Tensor> out_;              // [rows, chunk rows]
  std::vector<float> out_host_;              // the same
  std::vector<std::byte> chunk_;             // bytes of the file
  std::vector<std::vector<float>> scratch_;  // of each thread: parts of 32 rows, and of a sum
};

}  // namespace dogstar
