// PackedWriter: writes a packed file from parts that are given in order, so that a conversion and a generator of
// synthetic models need neither the other's source nor a second copy on disk.
//
// Order of calls: WritePlain until NextPlainBytes() is 0, WriteLayer for every layer, Finish. The file appears under
// its name only then; an unfinished writer leaves nothing. Threads: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/ffn_page.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "model/gguf.h"
#include "model/packed_file.h"
#include "model/row_order.h"

namespace dogstar {

struct PackedPlan {
  std::vector<GgufField> fields;      // of the model; general.alignment and our own keys are left out
  std::vector<GgufTensor> plain;      // name, gguf_type, shape and bytes of the tensors that are not FFN matrices
  std::vector<FfnPageLayout> layers;  // one dim, ffn_rows, page_rows and run_rows; types may differ
  SourceIdentity source;              // all zero: the file has no source
  bool hot_order = false;
  bool planes = false;  // layers whose types are cut get their low planes once more
};

class PackedWriter {
 public:
  // Checks the free space. `pool` outlives the writer. progress: bytes written so far and in all; may be null.
  static absl::StatusOr<PackedWriter> Create(const std::string& path, PackedPlan plan, ThreadPool* pool,
                                             std::function<void(uint64_t, uint64_t)> progress);

  // Bytes of the next chunk of the plain tensors; 0 when all are written.
  uint64_t NextPlainBytes() const;
  // chunk: NextPlainBytes() bytes.
  absl::Status WritePlain(std::span<const std::byte> chunk);
  // The next layer. matrices: plain rows as in a GGUF.
  absl::Status WriteLayer(const RowOrder& order, const LayerMatrices& matrices);
  absl::Status Finish();

 private:
  // A tensor's checksums as they are collected.
  struct ChecksumEntry {
    std::string tensor;
    uint64_t rows = 0, row_bytes = 0;
  };

  explicit PackedWriter(GgufWriter writer) : writer_(std::move(writer)) {}
  absl::Status Declare();
  void DeclareFields();
  void DeclareChecksumFields();
  absl::Status DeclareLayers();
  absl::Status DeclareLayer(size_t layer);
  std::vector<const GgufTensor*> AttentionOf(size_t layer) const;
  absl::Status AllocateLayerBuffers();
  void AddChecksumEntry(std::string tensor, uint32_t gguf_type, std::span<const uint64_t> shape);
  bool HasLowPlanes(const FfnPageLayout& layout) const { return plan_.planes && layout.low.bytes > 0; }
  absl::Status WriteLowPlanes(const FfnPageLayout& layout, std::span<const std::byte> pages);
  // Low planes of the layer's attention matrices, which are written.
  uint64_t AttentionLowBytes(size_t layer) const;
  absl::Status WriteAttentionLow(size_t layer);
  absl::Status WriteTensor(std::span<const std::byte> bytes);
  // Writes a whole tensor that has checksums.
  absl::Status WriteChecked(std::span<const std::byte> bytes, uint64_t row_bytes);
  void Progress(uint64_t bytes);

  GgufWriter writer_;
  PackedPlan plan_;
  ThreadPool* pool_ = nullptr;
  std::function<void(uint64_t, uint64_t)> progress_;
  uint64_t done_bytes_ = 0, total_bytes_ = 0;
  AlignedBuffer pages_, low_planes_, down_scales_;  // of the largest layer
  std::vector<ChecksumEntry> entries_;
  std::vector<uint64_t> page_checksums_, low_checksums_, tensor_checksums_;
  uint64_t header_checksum_ = 0;
  size_t plain_index_ = 0;
  uint64_t plain_done_ = 0;  // bytes of plain tensor plain_index_
  size_t layer_ = 0;
};

}  // namespace dogstar
