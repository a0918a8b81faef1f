// The packed file: a GGUF whose FFN rows lie in pages, in order of importance. docs/packed_format.md.
//
// Threads: PackedFile is const after Open.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/ffn_page.h"
#include "base/status.h"
#include "base/types.h"
#include "model/gguf.h"
#include "model/model_config.h"

namespace dogstar {

inline constexpr uint32_t kPackedVersion = 1;

// What a packed file was made from; a change of the source makes the pack stale.
struct SourceIdentity {
  uint64_t bytes = 0;
  uint64_t mtime_ns = 0;
  uint64_t header_hash = 0;  // XXH3-64 of metadata and tensor table
  bool operator==(const SourceIdentity&) const = default;
};
absl::StatusOr<SourceIdentity> IdentifySource(const std::string& path);

struct PackedLayer {
  FfnPageLayout layout;
  uint64_t pages_offset = 0;        // file offset of page 0; page i at + i * layout.page_bytes
  uint64_t low_offset = 0;          // of page 0's low plane; page i's at + i * layout.low.bytes; 0: the file has none
  uint64_t down_scales_offset = 0;  // 0 when the layer has no table
  uint64_t down_scales_bytes = 0;
  std::vector<uint16_t> run_groups;      // [rows / run_rows rounded up]
  std::vector<NeuronIndex> row_order;    // [ffn_rows] source neuron of each packed row
  std::vector<uint64_t> page_checksums;  // [page_count] XXH3-64
  std::vector<uint64_t> low_checksums;   // the same of low planes
};

// A part of a tensor that is read and checked as a whole. A plain tensor in a packed file is cut into chunks of
// ChunkRows rows; the last one is shorter.
struct TensorChecksums {
  std::string tensor;
  int32_t chunk_rows = 0;
  std::vector<uint64_t> checksums;
};
// Rows of a streamed chunk: about 1 MiB, a multiple of 16, at least 16.
int32_t ChunkRows(uint64_t row_bytes);
uint64_t ChecksumOf(std::span<const std::byte> bytes);  // XXH3-64

class PackedFile {
 public:
  // True when the header says it is a packed file (of any version).
  static bool IsPacked(const GgufHeader& header);
  // Reads layers, orders and checksums. DataLoss / InvalidArgument name the layer and what is wrong; Unimplemented
  // for a newer version.
  static absl::StatusOr<PackedFile> Open(const std::string& path, const GgufHeader& header);

  const std::vector<PackedLayer>& layers() const { return layers_; }
  // Of each layer's pages.
  std::vector<FfnPageLayout> layouts() const;
  const SourceIdentity& source() const { return source_; }
  // nullptr when the tensor has none.
  const TensorChecksums* FindChecksums(std::string_view tensor) const;

 private:
  std::vector<PackedLayer> layers_;
  std::vector<TensorChecksums> tensor_checksums_;
  SourceIdentity source_;
};

// Importance of a layer's neurons, [ffn_rows], larger = more important; called once a layer, in order. The spans are
// the layer's plain matrices as read from the source, so that an importance pass needs no second read.
struct LayerMatrices {
  std::span<const std::byte> gate, up, down;
};
using ImportanceFn = std::function<absl::StatusOr<std::vector<float>>(LayerIndex layer, const LayerMatrices& matrices)>;

struct PackOptions {
  int32_t page_rows = 0;  // 0: chosen from the row size (a page of 64 KiB or more)
  int32_t run_rows = 8;
  bool planes = true;       // low planes once more, where types are cut (base/bit_planes.h)
  ImportanceFn importance;  // null: the source's order
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> progress;  // may be null
};

// Writes the packed form of `source` to `output`. Memory: about two layers' FFN at once. Source errors, a full disk
// and a source that is already packed are reported with path and what would be right; no partial file stays.
absl::Status PackModel(const std::string& source, const std::string& output, const PackOptions& options);

// model.dog.gguf beside model.gguf.
std::string PackedPathBeside(const std::string& source);
// Where an automatic pack of `source` goes: beside it if that folder can be written, else in
// cache_dir.
std::string DefaultPackedPath(const std::string& source, const std::string& cache_dir);

}  // namespace dogstar
