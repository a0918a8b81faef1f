#include "runtime/weight_stream.h"

#include <algorithm>
#include <utility>

#include "base/panel.h"
#include "fmt/format.h"
#include "runtime/backward_stages.h"

namespace dogstar {
namespace {

// A chunk is this many bytes, or 16 rows where these are more: reads long enough for any disk, and a chunk of Q4_0 is
// about a core's L2 cache. guess: within a factor of two of the best.
constexpr uint64_t kChunkBytes = 2 << 20;
constexpr int32_t kChunkRowsMax = 1024;
// Transposed products sum so many rows of the matrix apart, then these sums: a vocabulary's worth of terms that nearly
// cancel keeps its digits.
constexpr int32_t kRowsTogether = 32;

int32_t ChunkRowsOf(uint64_t row_bytes) {
  const auto fitting = static_cast<int32_t>(std::min<uint64_t>(kChunkBytes / row_bytes, kChunkRowsMax));
  return std::max(fitting / kPanelRows, 1) * kPanelRows;
}

uint64_t ChunkBytesMax(const ModelFile& model) {
  uint64_t bytes = 0;
  const auto add = [&](const MatrixSource& w) {
    bytes = std::max(bytes, static_cast<uint64_t>(std::min(ChunkRowsOf(w.row_bytes()), w.rows)) * w.row_bytes());
  };
  for (const LayerSource& layer : model.layers()) {
    for (const MatrixSource* w : {&layer.query, &layer.key, &layer.value, &layer.output}) add(*w);
    for (const auto* w : {&layer.gate, &layer.up, &layer.down}) {
      if (*w) add(**w);
    }
  }
  add(model.head());
  return bytes;
}

int32_t WidthMax(const WeightStream::Options& options) {
  return *std::max_element(options.widths.begin(), options.widths.end());
}

}  // namespace

uint64_t WeightStream::Bytes(const ModelFile& model, const Backend& backend, const Options& options) {
  uint64_t bytes = ChunkBytesMax(model) + 2 * backend.TensorBytes(options.rows, kChunkRowsMax);
  for (const int32_t cols : options.widths) {
    bytes += backend.TensorBytes(options.rows, cols) + backend.ActivationsBytes(options.rows, cols);
  }
  return bytes + static_cast<uint64_t>(options.threads) * static_cast<uint64_t>(WidthMax(options)) *
                     (kRowsTogether + 1) * sizeof(float);
}

absl::StatusOr<std::unique_ptr<WeightStream>> WeightStream::Create(const ModelFile* model, Backend* backend,
                                                                   const Options& options) {
  auto stream = std::unique_ptr<WeightStream>(new WeightStream(model, backend, options.threads));
  for (const int32_t cols : options.widths) {
    Input input{cols, nullptr, nullptr};
    ASSIGN_OR_RETURN(input.tensor, backend->NewTensor(options.rows, cols));
    ASSIGN_OR_RETURN(input.activations, backend->NewActivations(options.rows, cols));
    stream->inputs_.push_back(std::move(input));
  }
  ASSIGN_OR_RETURN(stream->out_, backend->NewTensor(options.rows, kChunkRowsMax));
  stream->out_host_.resize(static_cast<size_t>(options.rows) * kChunkRowsMax);
  stream->chunk_.resize(ChunkBytesMax(*model));
  stream->scratch_.assign(static_cast<size_t>(options.threads),
                          std::vector<float>(static_cast<size_t>(WidthMax(options)) * (kRowsTogether + 1)));
  return stream;
}

absl::Status WeightStream::ForEachChunk(const MatrixSource& w, ChunkFn function) {
  const int32_t chunk_rows = ChunkRowsOf(w.row_bytes());
  for (int32_t first = 0; first < w.rows; first += chunk_rows) {
    const int32_t rows = std::min(chunk_rows, w.rows - first);
    const auto bytes = std::span(chunk_).first(static_cast<uint64_t>(rows) * w.row_bytes());
    RETURN_IF_ERROR(ReadBytes(model_->path(), w.offset + static_cast<uint64_t>(first) * w.row_bytes(), bytes));
    RETURN_IF_ERROR(function(first, rows, bytes.data()));
  }
  return absl::OkStatus();
}

absl::Status WeightStream::Product(const MatrixSource& w, std::span<const float> x, int32_t rows,
                                   std::span<float> out) {
  const auto input = std::find_if(inputs_.begin(), inputs_.end(), [&](const Input& i) { return i.cols == w.cols; });
  CHECK(input != inputs_.end() && rows <= input->tensor->rows());
  backend_->Upload(x, 0, input->tensor.get());
  backend_->Prepare(*input->tensor, rows, input->activations.get());
  return ForEachChunk(w, [&](int32_t first, int32_t chunk_rows, const std::byte* bytes) -> absl::Status {
    backend_->MatMul({w.type, MatrixLayout::kPlain, chunk_rows, w.cols, bytes}, *input->activations, rows, 0,
                     out_.get());
    const std::span<float> got = std::span(out_host_).first(static_cast<size_t>(rows) * kChunkRowsMax);
    RETURN_IF_ERROR(backend_->Download(*out_, 0, rows, got));
    for (int32_t t = 0; t < rows; ++t) {
      std::copy_n(got.begin() + int64_t{t} * kChunkRowsMax, chunk_rows, out.begin() + int64_t{t} * w.rows + first);
    }
    return absl::OkStatus();
  });
}

absl::Status WeightStream::AddTransposed(const MatrixSource& w, std::span<const float> dy, int32_t rows,
                                         std::span<float> dx) {
  // Threads share the columns, in whole blocks: no row is decoded twice, and every sum has one order.
  const int64_t grain = std::max(TraitsOf(w.type).block_weights, kQuantBlock);
  return ForEachChunk(w, [&](int32_t first, int32_t chunk_rows, const std::byte* bytes) {
    pool_.Run([&](int thread) {
      const Range columns = PartOf(w.cols, grain, thread, pool_.size());
      if (columns.begin >= columns.end) return;
      AddTransposedPart(w, first, chunk_rows, bytes, dy, rows, columns, scratch_[static_cast<size_t>(thread)], dx);
    });
    return absl::OkStatus();
  });
}

void WeightStream::AddTransposedPart(const MatrixSource& w, int32_t first_row, int32_t chunk_rows,
                                     const std::byte* bytes, std::span<const float> dy, int32_t rows, Range columns,
                                     std::span<float> scratch, std::span<float> dx) {
  const auto width = static_cast<size_t>(columns.end - columns.begin);
  const uint64_t skip = RowBytes(w.type, columns.begin);
  const std::span<float> partial = scratch.first(width), decoded = scratch.subspan(width, kRowsTogether * width);
  for (int32_t begin = 0; begin < chunk_rows; begin += kRowsTogether) {
    const int32_t count = std::min(kRowsTogether, chunk_rows - begin);
    for (int32_t r = 0; r < count; ++r) {
      DequantizeRow(w.type, bytes + static_cast<uint64_t>(begin + r) * w.row_bytes() + skip,
                    static_cast<int64_t>(width), decoded.data() + static_cast<size_t>(r) * width);
    }
    for (int32_t t = 0; t < rows; ++t) {
      const std::span<const float> factors =
          dy.subspan(static_cast<size_t>(t) * static_cast<size_t>(w.rows) + static_cast<size_t>(first_row + begin),
                     static_cast<size_t>(count));
      std::fill(partial.begin(), partial.end(), 0.0F);
      for (int32_t r = 0; r < count; ++r) {
        AddScaled(factors[static_cast<size_t>(r)], decoded.subspan(static_cast<size_t>(r) * width, width), partial);
      }
      AddScaled(
          1, partial,
          dx.subspan(static_cast<size_t>(t) * static_cast<size_t>(w.cols) + static_cast<size_t>(columns.begin), width));
    }
  }
}

absl::Status WeightStream::GatherRows(const MatrixSource& table, std::span<const TokenId> index, std::span<float> x) {
  std::vector<std::byte> row(table.row_bytes());
  for (size_t i = 0; i < index.size(); ++i) {
    const int32_t id = ToInt(index[i]);
    if (id < 0 || id >= table.rows) {
      return absl::InvalidArgumentError(fmt::format("token {} is outside of the vocabulary of {}", id, table.rows));
    }
    RETURN_IF_ERROR(ReadBytes(model_->path(), table.offset + static_cast<uint64_t>(id) * table.row_bytes(), row));
    DequantizeRow(table.type, row.data(), table.cols, x.data() + i * static_cast<size_t>(table.cols));
  }
  return absl::OkStatus();
}

}  // namespace dogstar
