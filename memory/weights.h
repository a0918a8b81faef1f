// Weights: the resident part of a model in tier 0, and the schedule that streams the rest.
//
// A matrix is its resident rows (panels in the arena) followed by chunks, of host memory where a device computes and
// then streamed ones; a packed FFN is its resident pages
// followed by streamed runs of pages, then drafts may add overlay rows. A full pass asks for parts in the order of
// MatrixId / layers, and the schedule lists the streamed ranges in just that order.
//
// Threads: const after Load.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/status.h"
#include "device/backend.h"
#include "memory/pager.h"
#include "memory/planner.h"
#include "model/model_file.h"

namespace dogstar {

enum class MatrixRole { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };
inline constexpr int kMatrixRoles = 7;

// One matrix of a pass.
struct MatrixPart {
  MatrixView resident;  // rows may be 0
  // Chunks in order: rows of each (plain layout); they start at row resident.rows. The first are in host memory, one
  // after the other, the others stream.
  QuantType type = QuantType::kF32;
  int32_t cols = 0;
  std::span<const std::byte> host;
  std::vector<int32_t> host_chunk_rows, chunk_rows;
  bool whole() const { return host_chunk_rows.empty() && chunk_rows.empty(); }
  // Where only high planes are resident (PlaneState::kHigh): of the matrix's low planes in the layer's streamed range.
  uint64_t low_offset = 0;
};

// Norms and biases of a layer, f32; null where the model has none.
using LayerVectors = std::array<DeviceAddress, kLayerVectors>;

// The FFN of one layer of a packed file.
struct FfnPart {
  const PackedLayer* layer = nullptr;
  DeviceAddress down_scales = nullptr;
  std::vector<FfnPageRef> resident;  // the prefix, in file order
  std::vector<FfnPageRef> planes;    // behind it: pages whose high planes are resident (PlaneState::kHigh)
  // Low planes of these: of the first in host memory, where a device computes; of the others streamed, pages of each
  // range.
  std::span<const std::byte> host_low;
  int32_t host_low_count = 0, host_low_run_pages = 1;
  std::vector<int32_t> low_runs;
  // Behind both, where a device computes: pages in host memory, which cross the link in runs of at most a range.
  std::span<const std::byte> host_pages;
  int32_t host_page_count = 0, host_run_pages = 1;
  // For pages that the processor computes (Placement::host_tables); null: it computes none.
  const std::byte* host_down_scales = nullptr;
  std::vector<int32_t> streamed_runs;  // pages of each streamed range, in file order after all of these

  // What drafts may use, prefix and high planes: function(page).
  template <typename Function>
  void ForEachDraftPage(Function function) const {
    for (const FfnPageRef& page : resident) function(page);
    for (const FfnPageRef& page : planes) function(page);
  }
  size_t draft_page_count() const { return resident.size() + planes.size(); }
  int32_t first_host_page() const { return static_cast<int32_t>(draft_page_count()); }
  const std::byte* HostPage(int32_t page) const {
    return host_pages.data() + static_cast<uint64_t>(page - first_host_page()) * layer->layout.page_bytes;
  }
  uint64_t host_run_bytes() const { return static_cast<uint64_t>(host_run_pages) * layer->layout.page_bytes; }
};

// Page `page` of a layer at `data`.
FfnPageRef PageRefOf(const PackedLayer& layer, int32_t page, DeviceAddress data);

class Weights {
 public:
  // Reads everything resident through `ring` and `reader`, and what the host holds of it into `host`
  // (placement.host_bytes; null: nothing). `progress` (may be null) gets bytes done and in all.
  static absl::StatusOr<std::unique_ptr<Weights>> Load(const ModelFile& model, const Placement& placement,
                                                       Backend* backend, PageReader* reader, std::span<std::byte> ring,
                                                       std::unique_ptr<HostMemory> host, VerifyMode verify,
                                                       const std::function<void(uint64_t, uint64_t)>& progress);
  ~Weights();

  // Bytes that Load takes beside matrices and pages: norms and biases, down-scale tables, embedding buffer.
  static uint64_t TableBytes(const ModelFile& model);
  // And of host memory, where Placement::host_tables. REQUIRES: a packed file.
  static uint64_t HostTableBytes(const ModelFile& model);

  const MatrixPart& matrix(LayerIndex layer, MatrixRole role) const {
    return matrices_[static_cast<size_t>(ToInt(layer)) * kMatrixRoles + static_cast<size_t>(role)];
  }
  // Where the layer's attention is there by its high planes: a full pass takes its low ones from host memory, where a
  // device computes, or streams them, one range before all others of the layer.
  struct AttentionPlanes {
    bool cut = false;
    std::span<const std::byte> host_low;  // empty: they stream
  };
  const AttentionPlanes& attention_planes(LayerIndex layer) const {
    return attention_planes_[static_cast<size_t>(ToInt(layer))];
  }
  const MatrixPart& head() const { return head_; }
  const FfnPart& ffn(LayerIndex layer) const { return ffn_[static_cast<size_t>(ToInt(layer))]; }
  bool packed() const { return !ffn_.empty(); }
  int32_t layer_count() const { return static_cast<int32_t>(matrices_.size()) / kMatrixRoles; }
  const LayerVectors& vectors(LayerIndex layer) const { return vectors_[static_cast<size_t>(ToInt(layer))]; }
  DeviceAddress output_norm() const { return output_norm_; }
  // The whole embedding table when it is resident (tied to a resident head), else rows == 0.
  const MatrixView& embedding() const { return embedding_; }

  // Streamed ranges of a full pass, in order.
  std::span<const StreamRange> schedule() const { return schedule_; }
  const Pager::Options& pager_options() const { return pager_options_; }

 private:
  struct Loader;
  explicit Weights(Backend* backend) : backend_(backend) {}

  Backend* backend_;
  std::byte* arena_ = nullptr;
  std::unique_ptr<HostMemory> host_;  // what a device does not hold; null: nothing
  AlignedBuffer host_tables_;         // down-scale tables of all layers, for the processor
  std::vector<MatrixPart> matrices_;
  std::vector<AttentionPlanes> attention_planes_;
  MatrixPart head_;
  MatrixView embedding_;
  std::vector<FfnPart> ffn_;
  std::vector<LayerVectors> vectors_;
  DeviceAddress output_norm_ = nullptr;
  std::vector<StreamRange> schedule_;
  Pager::Options pager_options_;
};

}  // namespace dogstar
