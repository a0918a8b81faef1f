#include "memory/weights.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "base/bit_planes.h"
#include "base/panel.h"
#include "memory/model_shape.h"

namespace dogstar {
namespace {

constexpr uint64_t kCacheLine = 64;
uint64_t AlignUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) / alignment * alignment; }

uint64_t VectorBytes(int32_t size) { return AlignUp(static_cast<uint64_t>(size) * sizeof(float), kCacheLine); }

// Norms and biases.
uint64_t VectorsBytes(const ModelFile& model) {
  uint64_t of_layer = 0;
  for (int i = 0; i < kLayerVectors; ++i) {
    of_layer += VectorBytes(model.config().VectorSize(static_cast<LayerVector>(i)));
  }
  return of_layer * model.layers().size() + VectorBytes(model.config().dim);
}

}  // namespace

FfnPageRef PageRefOf(const PackedLayer& layer, int32_t page, DeviceAddress data) {
  FfnPageRef ref;
  ref.data = data;
  ref.first_row = page * layer.layout.page_rows;
  ref.row_count = std::min(layer.layout.page_rows, layer.layout.ffn_rows - ref.first_row);
  ref.run_groups = layer.run_groups.data() + ref.first_row / layer.layout.run_rows;
  return ref;
}

// Lays out the arena, lists what must be read into it and what will stream, then reads.
struct Weights::Loader {
  // One range read while loading, and where it goes.
  struct Action {
    MatrixView plain;                    // rows > 0: pack into panels
    bool high_planes = false;            // of them only high planes are kept
    const FfnPageLayout* cut = nullptr;  // pages of which the high planes are kept; null: bytes as they are
    std::byte* destination = nullptr;
    bool to_host = false;             // destination is host memory
    std::byte* low_planes = nullptr;  // cut: where low planes go, in host memory; null: they are not kept
    std::byte* host_copy = nullptr;   // beside it; null: none
  };

  const ModelFile& model;
  const Placement& placement;
  Backend* backend;
  Weights* weights;
  uint64_t arena_used = 0, host_used = 0, host_tables_used = 0;
  std::vector<StreamRange> ranges;
  std::vector<Action> actions;
  std::unordered_map<std::string, int32_t> first_piece_of;                       // by tensor with checksums
  std::vector<std::pair<std::span<const std::byte>, std::byte*>> vector_copies;  // norms and biases, and where they go
  std::vector<std::byte> panels_of_rows, high_planes;                            // of one range

  uint64_t ArenaBytes() const {
    uint64_t bytes = TableBytes(model);
    for (size_t i = 0; i < model.layers().size(); ++i) {
      const LayerSource& layer = model.layers()[i];
      const LayerPlacement& place = placement.layers[i];
      bytes += MatrixArenaBytes(layer.query, place.query) + MatrixArenaBytes(layer.key, place.key) +
               MatrixArenaBytes(layer.value, place.value) + MatrixArenaBytes(layer.output, place.output);
      if (place.attention_planes) bytes -= layer.attention_low->bytes;  // multiples of a cache line, as panels are
      if (layer.gate) {
        bytes += MatrixArenaBytes(*layer.gate, place.gate) + MatrixArenaBytes(*layer.up, place.up) +
                 MatrixArenaBytes(*layer.down, place.down);
      } else {
        const FfnPageLayout& pages = model.packed()->layers()[i].layout;
        bytes += static_cast<uint64_t>(place.resident_pages) * pages.page_bytes +
                 static_cast<uint64_t>(place.plane_pages) * pages.high.bytes;
      }
    }
    return bytes + MatrixArenaBytes(model.head(), placement.head);
  }
  static uint64_t MatrixArenaBytes(const MatrixSource& matrix, const MatrixPlacement& place) {
    return AlignUp(PanelMatrixBytes(matrix.type, place.resident_rows, matrix.cols), kCacheLine);
  }

  std::byte* Take(uint64_t bytes, uint64_t alignment) {
    arena_used = AlignUp(arena_used, alignment);
    std::byte* place = weights->arena_ + arena_used;
    arena_used += bytes;
    return place;
  }

  int32_t FirstPiece(const MatrixSource& matrix) {
    if (matrix.checksums == nullptr) return -1;
    const auto [entry, added] =
        first_piece_of.try_emplace(matrix.tensor, static_cast<int32_t>(weights->pager_options_.piece_checksums.size()));
    if (added) AppendChecksums(matrix.checksums->checksums);
    return entry->second;
  }
  void AppendChecksums(const std::vector<uint64_t>& checksums) {
    auto& all = weights->pager_options_.piece_checksums;
    all.insert(all.end(), checksums.begin(), checksums.end());
  }

  // Cuts rows [begin, end) into chunks; each is a range of its own with its own checksum.
  template <typename Function>
  void ForEachChunk(const MatrixSource& matrix, const MatrixPlacement& place, int32_t begin, int32_t end,
                    Function function) {
    const int32_t first_piece = FirstPiece(matrix);
    for (int32_t row = begin; row < end; row += place.chunk_rows) {
      const int32_t rows = std::min(place.chunk_rows, end - row);
      StreamRange range;
      range.offset = matrix.offset + static_cast<uint64_t>(row) * matrix.row_bytes();
      range.bytes = static_cast<uint32_t>(static_cast<uint64_t>(rows) * matrix.row_bytes());
      if (first_piece >= 0) {
        range.first_piece = first_piece + row / place.chunk_rows;
        range.piece_bytes = range.bytes;
      }
      function(range, row, rows);
    }
  }

  void Attention(const LayerSource& layer, const LayerPlacement& place) {
    AttentionPlanes& planes = weights->attention_planes_.emplace_back();
    planes.cut = place.attention_planes;
    uint64_t low_bytes = 0;
    for (const auto& [matrix, rows] :
         {std::pair{&layer.query, &place.query}, std::pair{&layer.key, &place.key},
          std::pair{&layer.value, &place.value}, std::pair{&layer.output, &place.output}}) {
      weights->matrices_.push_back(Matrix(*matrix, *rows, place.attention_planes ? &low_bytes : nullptr));
    }
    if (!place.attention_planes) return;
    CHECK(low_bytes == layer.attention_low->bytes);
    const Pages low = AddPages(layer.attention_low->offset, low_bytes, layer.attention_low->checksums->checksums);
    const auto bytes = static_cast<uint32_t>(low_bytes);
    const StreamRange range{.offset = low.offset, .bytes = bytes, .first_piece = low.first_piece, .piece_bytes = bytes};
    if (!place.host_attention_low) return weights->schedule_.push_back(range);
    const std::span<std::byte> host = TakeHost(low_bytes);
    planes.host_low = host;
    ranges.push_back(range);
    actions.push_back({.destination = host.data(), .to_host = true});
  }

  std::span<std::byte> TakeHost(uint64_t bytes) {
    const std::span<std::byte> place = weights->host_->span().subspan(host_used, bytes);
    host_used += bytes;
    return place;
  }

  // low_bytes: none, or where high planes alone are to be resident: of the layer's low planes so far.
  MatrixPart Matrix(const MatrixSource& matrix, const MatrixPlacement& place, uint64_t* low_bytes = nullptr) {
    const PlanePanel planes = PanelPlanes(matrix.type, matrix.cols);
    const bool cut = low_bytes != nullptr && planes.low > 0;
    const uint64_t panel_bytes = cut ? planes.high : planes.high + planes.low;
    MatrixPart part;
    part.type = matrix.type;
    part.cols = matrix.cols;
    const auto panels = static_cast<uint64_t>((place.resident_rows + kPanelRows - 1) / kPanelRows);
    std::byte* const memory = Take(panels * panel_bytes, kCacheLine);
    part.resident = {matrix.type,
                     MatrixLayout::kPanels,
                     place.resident_rows,
                     matrix.cols,
                     memory,
                     cut ? PlaneState::kHigh : PlaneState::kWhole};
    if (cut) {
      part.low_offset = *low_bytes;
      *low_bytes += LowPlanesBytes(matrix.type, matrix.rows, matrix.cols);
    }
    ForEachChunk(matrix, place, 0, place.resident_rows, [&](const StreamRange& range, int32_t row, int32_t rows) {
      ranges.push_back(range);
      actions.push_back({.plain = {matrix.type, MatrixLayout::kPlain, rows, matrix.cols, nullptr},
                         .high_planes = cut,
                         .destination = memory + static_cast<uint64_t>(row / kPanelRows) * panel_bytes});
    });
    if (place.host_rows > 0) HostRows(matrix, place, &part);
    ForEachChunk(matrix, place, place.held_rows(), matrix.rows, [&](const StreamRange& range, int32_t, int32_t rows) {
      weights->schedule_.push_back(range);
      part.chunk_rows.push_back(rows);
    });
    return part;
  }

  // Rows behind the resident ones, in host memory.
  void HostRows(const MatrixSource& matrix, const MatrixPlacement& place, MatrixPart* part) {
    const std::span<std::byte> host = TakeHost(static_cast<uint64_t>(place.host_rows) * matrix.row_bytes());
    part->host = host;
    std::byte* to = host.data();
    const auto read = [&](const StreamRange& range, int32_t, int32_t rows) {
      ranges.push_back(range);
      actions.push_back({.destination = to, .to_host = true});
      to += range.bytes;
      part->host_chunk_rows.push_back(rows);
    };
    ForEachChunk(matrix, place, place.resident_rows, place.held_rows(), read);
  }

  // A layer's pages, or their low planes, in the file.
  struct Pages {
    uint64_t offset = 0, bytes = 0;
    int32_t first_piece = 0;
  };

  // Pages that are one range.
  int32_t RunPages(const Pages& of_layer) const {
    return std::max<int32_t>(1, static_cast<int32_t>(placement.range_bytes / of_layer.bytes));
  }

  // Calls function(range, first_page, pages) for runs of neighbouring pages no longer than a range.
  template <typename Function>
  void ForEachPageRun(const Pages& of_layer, int32_t begin, int32_t end, Function function) {
    const int32_t run = RunPages(of_layer);
    for (int32_t page = begin; page < end; page += run) {
      const int32_t pages = std::min(run, end - page);
      StreamRange range;
      range.offset = of_layer.offset + static_cast<uint64_t>(page) * of_layer.bytes;
      range.bytes = static_cast<uint32_t>(static_cast<uint64_t>(pages) * of_layer.bytes);
      range.first_piece = of_layer.first_piece + page;
      range.piece_bytes = static_cast<uint32_t>(of_layer.bytes);
      function(range, page, pages);
    }
  }

  // Adds the checksums of the pages, which piece numbers then name.
  Pages AddPages(uint64_t offset, uint64_t bytes, const std::vector<uint64_t>& checksums) {
    const auto first_piece = static_cast<int32_t>(weights->pager_options_.piece_checksums.size());
    AppendChecksums(checksums);
    return {offset, bytes, first_piece};
  }

  FfnPart Ffn(int32_t index, const LayerPlacement& place) {
    const PackedLayer& layer = model.packed()->layers()[static_cast<size_t>(index)];
    FfnPart part;
    part.layer = &layer;
    if (layer.down_scales_bytes > 0) DownScales(layer, index, &part);
    const Pages pages = AddPages(layer.pages_offset, layer.layout.page_bytes, layer.page_checksums);
    Resident(pages, place.resident_pages, &part);
    const int32_t planes_end = place.resident_pages + place.plane_pages;
    if (place.plane_pages > 0) HighPlanes(pages, place.resident_pages, planes_end, place.host_low_pages, &part);
    const int32_t host_end = planes_end + place.host_pages;
    HostPages(pages, planes_end, host_end, &part);
    ForEachPageRun(pages, host_end, layer.layout.page_count(), [&](const StreamRange& range, int32_t, int32_t count) {
      weights->schedule_.push_back(range);
      part.streamed_runs.push_back(count);
    });
    return part;
  }

  void Resident(const Pages& pages, int32_t count, FfnPart* part) {
    std::byte* memory = Take(static_cast<uint64_t>(count) * pages.bytes, kIoAlignment);
    ForEachPageRun(pages, 0, count, [&](const StreamRange& range, int32_t page, int32_t) {
      ranges.push_back(range);
      actions.push_back({.destination = memory + static_cast<uint64_t>(page) * pages.bytes});
    });
    for (int32_t page = 0; page < count; ++page) {
      part->resident.push_back(PageRefOf(*part->layer, page, memory + static_cast<uint64_t>(page) * pages.bytes));
    }
  }

  // Pages [begin, end) in host memory.
  void HostPages(const Pages& pages, int32_t begin, int32_t end, FfnPart* part) {
    if (begin == end) return;
    part->host_page_count = end - begin;
    part->host_run_pages = RunPages(pages);
    const std::span<std::byte> host = TakeHost(static_cast<uint64_t>(end - begin) * pages.bytes);
    part->host_pages = host;
    ForEachPageRun(pages, begin, end, [&](const StreamRange& range, int32_t page, int32_t) {
      ranges.push_back(range);
      actions.push_back(
          {.destination = host.data() + static_cast<uint64_t>(page - begin) * pages.bytes, .to_host = true});
    });
  }

  // Pages [begin, end): high planes stay; the low ones of the first host_pages are kept in host memory, the others
  // stream.
  void HighPlanes(const Pages& pages, int32_t begin, int32_t end, int32_t host_pages, FfnPart* part) {
    const PackedLayer& layer = *part->layer;
    const uint64_t high_bytes = layer.layout.high.bytes;
    std::byte* memory = Take(static_cast<uint64_t>(end - begin) * high_bytes, kCacheLine);
    const auto place_of = [&](int32_t page) { return memory + static_cast<uint64_t>(page - begin) * high_bytes; };
    const Pages low = AddPages(layer.low_offset, layer.layout.low.bytes, layer.low_checksums);
    const int32_t low_begin = begin + host_pages;
    std::span<std::byte> host;
    if (host_pages > 0) {
      part->host_low = host = TakeHost(static_cast<uint64_t>(host_pages) * low.bytes);
      part->host_low_count = host_pages;
      part->host_low_run_pages = RunPages(low);
    }
    const auto read = [&](const StreamRange& range, int32_t page, int32_t) {
      ranges.push_back(range);
      std::byte* const low_planes =
          page < low_begin ? host.data() + static_cast<uint64_t>(page - begin) * low.bytes : nullptr;
      actions.push_back({.cut = &layer.layout, .destination = place_of(page), .low_planes = low_planes});
    };
    ForEachPageRun(pages, begin, low_begin, read);
    ForEachPageRun(pages, low_begin, end, read);
    for (int32_t page = begin; page < end; ++page) {
      FfnPageRef& ref = part->planes.emplace_back(PageRefOf(layer, page, place_of(page)));
      ref.planes = PlaneState::kHigh;
    }
    ForEachPageRun(low, low_begin, end, [&](const StreamRange& range, int32_t, int32_t count) {
      weights->schedule_.push_back(range);
      part->low_runs.push_back(count);
    });
  }

  void DownScales(const PackedLayer& layer, int32_t index, FfnPart* part) {
    const MatrixSource table = DownScaleTable(*model.packed(), index);
    std::byte* memory = Take(layer.down_scales_bytes, kCacheLine);
    part->down_scales = memory;
    std::byte* host = nullptr;
    if (placement.host_tables) {
      part->host_down_scales = host = weights->host_tables_.data() + host_tables_used;
      host_tables_used += AlignUp(layer.down_scales_bytes, kCacheLine);
    }
    MatrixPlacement place;
    place.chunk_rows = table.checksums != nullptr ? table.checksums->chunk_rows : ChunkRows(table.row_bytes());
    ForEachChunk(table, place, 0, table.rows, [&](const StreamRange& range, int32_t row, int32_t) {
      ranges.push_back(range);
      const uint64_t at = static_cast<uint64_t>(row) * table.row_bytes();
      actions.push_back({.destination = memory + at, .host_copy = host != nullptr ? host + at : nullptr});
    });
  }

  DeviceAddress Vector(const std::vector<float>& values) {
    if (values.empty()) return nullptr;
    std::byte* place = Take(values.size() * sizeof(float), kCacheLine);
    vector_copies.push_back({std::as_bytes(std::span(values)), place});
    return place;
  }

  void Vectors() {
    for (const LayerSource& layer : model.layers()) {
      LayerVectors& vectors = weights->vectors_.emplace_back();
      for (size_t i = 0; i < vectors.size(); ++i) vectors[i] = Vector(layer.vectors[i]);
    }
    weights->output_norm_ = Vector(model.output_norm());
  }

  void Layout() {
    Vectors();
    for (size_t i = 0; i < model.layers().size(); ++i) {
      const LayerSource& layer = model.layers()[i];
      const LayerPlacement& place = placement.layers[i];
      Attention(layer, place);
      if (layer.gate) {
        weights->matrices_.push_back(Matrix(*layer.gate, place.gate));
        weights->matrices_.push_back(Matrix(*layer.up, place.up));
        weights->matrices_.push_back(Matrix(*layer.down, place.down));
      } else {
        weights->matrices_.resize(weights->matrices_.size() + 3);
        weights->ffn_.push_back(Ffn(static_cast<int32_t>(i), place));
      }
    }
    weights->head_ = Matrix(model.head(), placement.head);
    if (model.config().tied_head && weights->head_.whole()) weights->embedding_ = weights->head_.resident;
  }

  absl::Status KeepHighPlanes(const MatrixView& rows, std::byte* to) {
    const auto panels = (rows.rows + kPanelRows - 1) / kPanelRows;
    panels_of_rows.resize(PanelMatrixBytes(rows.type, rows.rows, rows.cols));
    high_planes.resize(static_cast<uint64_t>(panels) * PanelPlanes(rows.type, rows.cols).high);
    if (backend->shares_host_memory()) {
      backend->PackPanels(rows, panels_of_rows.data());  // on all threads
    } else {
      PackPanels(rows.type, rows.rows, rows.cols, rows.data, panels_of_rows.data());
    }
    SplitPanels(rows.type, rows.cols, panels, panels_of_rows.data(), high_planes.data(), nullptr);
    return backend->WriteMemory(high_planes, to);
  }

  // low: where low planes go; null: nowhere.
  absl::Status KeepHighPlanes(const FfnPageLayout& layout, std::span<const std::byte> pages, std::byte* low,
                              std::byte* to) {
    high_planes.resize(pages.size() / layout.page_bytes * layout.high.bytes);
    std::byte* plane = high_planes.data();
    for (uint64_t at = 0; at < pages.size(); at += layout.page_bytes, plane += layout.high.bytes) {
      SplitPage(layout, pages.data() + at, plane, low);
      if (low != nullptr) low += layout.low.bytes;
    }
    return backend->WriteMemory(high_planes, to);
  }

  absl::Status Read(PageReader* reader, std::span<std::byte> ring,
                    const std::function<void(uint64_t, uint64_t)>& progress) {
    for (const auto& [values, place] : vector_copies) RETURN_IF_ERROR(backend->WriteMemory(values, place));
    uint64_t total = 0, done = 0;
    for (const StreamRange& range : ranges) total += range.bytes;
    Pager pager(reader, ring, weights->pager_options_);
    RETURN_IF_ERROR(pager.Begin(ranges));
    for (Action& action : actions) {
      ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, pager.Next());
      if (action.plain.rows > 0) {
        action.plain.data = bytes.data();
        if (action.high_planes) {
          RETURN_IF_ERROR(KeepHighPlanes(action.plain, action.destination));
        } else {
          backend->PackPanels(action.plain, action.destination);
        }
      } else if (action.cut != nullptr) {
        RETURN_IF_ERROR(KeepHighPlanes(*action.cut, bytes, action.low_planes, action.destination));
      } else if (action.to_host) {
        std::memcpy(action.destination, bytes.data(), bytes.size());
      } else {
        RETURN_IF_ERROR(backend->WriteMemory(bytes, action.destination));
      }
      if (action.host_copy != nullptr) std::memcpy(action.host_copy, bytes.data(), bytes.size());
      RETURN_IF_ERROR(pager.Release());
      done += bytes.size();
      if (progress) progress(done, total);
    }
    return absl::OkStatus();
  }
};

uint64_t Weights::HostTableBytes(const ModelFile& model) {
  uint64_t bytes = 0;
  for (const PackedLayer& layer : model.packed()->layers()) bytes += AlignUp(layer.down_scales_bytes, kCacheLine);
  return bytes;
}

uint64_t Weights::TableBytes(const ModelFile& model) {
  uint64_t bytes = VectorsBytes(model);
  if (model.packed() != nullptr) {
    for (const PackedLayer& layer : model.packed()->layers()) {
      bytes += AlignUp(layer.down_scales_bytes, kCacheLine) + kIoAlignment + kCacheLine;  // pages begin at multiples
    }
  }
  return bytes;
}

Weights::~Weights() {
  if (arena_ != nullptr) backend_->FreeMemory(arena_);
}

absl::StatusOr<std::unique_ptr<Weights>> Weights::Load(const ModelFile& model, const Placement& placement,
                                                       Backend* backend, PageReader* reader, std::span<std::byte> ring,
                                                       std::unique_ptr<HostMemory> host, VerifyMode verify,
                                                       const std::function<void(uint64_t, uint64_t)>& progress) {
  auto weights = std::unique_ptr<Weights>(new Weights(backend));
  weights->pager_options_.path = model.path();
  weights->pager_options_.verify = verify;
  Loader loader{.model = model, .placement = placement, .backend = backend, .weights = weights.get()};
  ASSIGN_OR_RETURN(weights->arena_, backend->AllocateMemory(loader.ArenaBytes()));
  CHECK(placement.host_bytes == 0 || (host != nullptr && host->span().size() >= placement.host_bytes));
  weights->host_ = std::move(host);
  if (placement.host_tables) {
    ASSIGN_OR_RETURN(weights->host_tables_, AlignedBuffer::Create(HostTableBytes(model)));
  }
  loader.Layout();
  CHECK(loader.arena_used <= loader.ArenaBytes());
  RETURN_IF_ERROR(loader.Read(reader, ring, progress));
  return weights;
}

}  // namespace dogstar
