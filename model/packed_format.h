// Names and numbers of the packed file. docs/packed_format.md is the description; do not rename or renumber.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ffn_page.h"
#include "fmt/format.h"
#include "model/packed_file.h"

namespace dogstar::packed {

inline constexpr uint64_t kFileAlignment = 4096;  // of every tensor, so that each can be read past the page cache

// Metadata. Every key of ours starts with kKeyPrefix; such keys of a source are not copied.
inline constexpr char kKeyPrefix[] = "dogstar.";
inline constexpr char kVersionKey[] = "dogstar.packed.version";                  // u32
inline constexpr char kSourceBytesKey[] = "dogstar.source.bytes";                // u64
inline constexpr char kSourceMtimeKey[] = "dogstar.source.mtime_ns";             // u64
inline constexpr char kSourceHashKey[] = "dogstar.source.header_hash";           // u64
inline constexpr char kPageRowsKey[] = "dogstar.ffn.page_rows";                  // u32
inline constexpr char kRunRowsKey[] = "dogstar.ffn.run_rows";                    // u32
inline constexpr char kOrderKey[] = "dogstar.ffn.order";                         // "hot" or "original"
inline constexpr char kRowLayoutKey[] = "dogstar.ffn.row_layout";                // [layers] u32, RowLayout
inline constexpr char kGateTypeKey[] = "dogstar.ffn.gate_type";                  // [layers] u32, GGUF type numbers
inline constexpr char kUpTypeKey[] = "dogstar.ffn.up_type";                      // [layers] u32
inline constexpr char kDownTypeKey[] = "dogstar.ffn.down_type";                  // [layers] u32
inline constexpr char kChecksumTensorsKey[] = "dogstar.checksums.tensors";       // [n] string
inline constexpr char kChecksumChunkRowsKey[] = "dogstar.checksums.chunk_rows";  // [n] u32
inline constexpr char kChecksumCountsKey[] = "dogstar.checksums.counts";         // [n] u32

inline constexpr char kOrderHot[] = "hot";
inline constexpr char kOrderOriginal[] = "original";

// How a layer's rows lie in the file: in pages; and their low planes (base/bit_planes.h) once more, for runs that keep
// the high planes of pages in memory.
enum class RowLayout : uint32_t { kWholeRows = 1, kWholeRowsAndLowPlanes = 2 };

// Tensors.
inline constexpr char kPageChecksumsTensor[] = "dogstar.page_checksums";      // I64 [pages of all layers]
inline constexpr char kLowChecksumsTensor[] = "dogstar.low_plane_checksums";  // I64 [pages that have low planes]
inline constexpr char kTensorChecksumsTensor[] = "dogstar.tensor_checksums";  // I64 [sum of counts]
inline constexpr char kHeaderChecksumTensor[] = "dogstar.header_checksum";    // I64 [1]: all bytes before the data
inline constexpr char kPagesPart[] = "ffn_pages";                             // I8 [page_bytes, page_count]
inline constexpr char kLowPlanesPart[] = "ffn_low_planes";                    // I8 [low.bytes, page_count]
inline constexpr char kAttentionLowPart[] = "attn_low_planes";                // I8 [bytes], of q, k, v and output
inline constexpr char kDownScalesPart[] = "ffn_down_scales";                  // F16 [dim, table bytes / (2 * dim)]
inline constexpr char kRowOrderPart[] = "ffn_row_order";                      // I32 [ffn_rows]

inline constexpr uint32_t kGgufF16 = 1;
inline constexpr uint32_t kGgufI8 = 24;
inline constexpr uint32_t kGgufI32 = 26;
inline constexpr uint32_t kGgufI64 = 27;

inline std::string LayerTensor(size_t layer, const char* part) { return fmt::format("blk.{}.{}", layer, part); }

inline uint64_t ChunkCount(uint64_t rows, uint64_t row_bytes) {
  const auto chunk_rows = static_cast<uint64_t>(ChunkRows(row_bytes));
  return (rows + chunk_rows - 1) / chunk_rows;
}

// Shape of a layer's down-scale table, GGUF order. REQUIRES: layout.has_down_table().
inline std::vector<uint64_t> DownScalesShape(const FfnPageLayout& layout) {
  const auto dim = static_cast<uint64_t>(layout.dim);
  return {dim, layout.down_table_bytes() / (2 * dim)};  // every part of the table is a multiple of dim halves
}

}  // namespace dogstar::packed
