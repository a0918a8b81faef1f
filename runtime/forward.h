// Forward: one pass of the model over a batch of rows. A full pass uses every weight and streams what is not
// resident; a draft uses resident rows only and touches no disk. Reads top to bottom in forward.cc.
//
// Threads: one. Memory: allocated in Create.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/trace.h"
#include "base/types.h"
#include "device/backend.h"
#include "memory/pager.h"
#include "memory/staged_ranges.h"
#include "memory/weights.h"
#include "model/model_file.h"
#include "runtime/batch.h"
#include "runtime/draft_head.h"
#include "runtime/draft_rows.h"
#include "runtime/host_ffn.h"
#include "runtime/layer_pass.h"
#include "runtime/score_maps.h"

namespace dogstar {

// Sees the FFN activations of a full pass over a packed file.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  // Which values it looks at; z is empty where it does not.
  enum class Reads { kNothing, kLayers, kPagesAndLayers };
  virtual Reads reads() const = 0;
  // Streamed pages, while they are still in memory. z: [rows, stride], RowIndex order; the columns of these pages and
  // of all before them in file order are valid.
  virtual void OnStreamedPages(LayerIndex layer, std::span<const FfnPageRef> pages, std::span<const float> z,
                               int32_t rows, int32_t stride) = 0;
  // True: OnLayerUp follows OnLayer.
  virtual bool reads_up() const { return false; }
  // up x of the whole layer, as z in OnLayer.
  virtual void OnLayerUp(LayerIndex layer, std::span<const float> up, int32_t rows, int32_t stride) {
    static_cast<void>(layer), static_cast<void>(up), static_cast<void>(rows), static_cast<void>(stride);
  }
  // The whole layer; not called for observers that read nothing.
  virtual void OnLayer(LayerIndex layer, std::span<const float> z, int32_t rows, int32_t stride) = 0;
  // True: OnContexts sees each layer's attention, before its FFN. [rows, stride], head after head.
  virtual bool reads_contexts() const { return false; }
  virtual void OnContexts(LayerIndex layer, std::span<const float> contexts, int32_t rows, int32_t stride) {
    static_cast<void>(layer), static_cast<void>(contexts), static_cast<void>(rows), static_cast<void>(stride);
  }
};

// Sees which rows drafts use; drafts wait for it.
class DraftObserver {
 public:
  virtual ~DraftObserver() = default;
  // masks: [rows][words], bit i of word i / 64 = RowIndex i. use: rows whose parts were read.
  virtual void OnDraftRows(LayerIndex layer, std::span<const uint64_t> masks, int32_t rows, const FfnUse& use) = 0;
};

class Forward {
 public:
  struct Limits {
    int32_t batch_rows = 0;
    int32_t logit_rows = 0;
    int32_t capture_rows = 0;       // most rows of a pass whose values an observer reads
    bool capture_up = false;        // observers may read up values
    int32_t choice_rows = 0;        // most rows of a draft whose tokens choose their FFN rows
    bool capture_contexts = false;  // observers may read contexts, of batch_rows rows
    int32_t host_rows = 0;          // most rows of a pass of which the processor computes a part (host_ffn.h)
  };
  // Bytes that Create takes.
  static uint64_t Bytes(const ModelFile& model, const Backend& backend, const Limits& limits);
  static absl::StatusOr<std::unique_ptr<Forward>> Create(const ModelFile* model, const Weights* weights,
                                                         Backend* backend, Pager* pager, KvStore* kv,
                                                         const Limits& limits);

  const Limits& limits() const { return limits_; }
  // Passes and their parts are entered there from now on; it outlives the object. May be null.
  void SetTrace(Trace* trace) { trace_ = trace; }

  // Of the predictor whose choices drafts follow; null where it has none. It outlives the object.
  void SetScoreMaps(ScoreMaps* maps) { score_maps_ = maps; }

  // The head of drafts; null: they use the model's. It outlives the object.
  void SetDraftHead(DraftHead* head) { draft_head_ = head; }

  // Maps for what drafts leave out of each layer's FFN; null: none. They outlive the object.
  void SetResiduals(LowRankProducts* residuals) { residuals_ = residuals; }

  // The processor's part of full passes of limits.host_rows rows; null: it has none. It outlives the object.
  void SetHostFfn(HostFfn* host_ffn) { host_ffn_ = host_ffn; }

  // It outlives the object, or the next call; may be null.
  void SetDraftObserver(DraftObserver* observer) { draft_observer_ = observer; }

  // REQUIRES: batch.rows() <= limits.batch_rows, and <= limits.capture_rows for an observer that reads values. observer
  // may be null.
  absl::Status Full(const Batch& batch, PassObserver* observer);
  // REQUIRES: attention is in memory, and the head, or drafts have one.
  absl::Status Draft(const Batch& batch, const DraftRows& rows);
  // What drafts whose tokens choose have used since the last call of it, summed over layers and passes.
  FfnUse TakeDraftUse() { return std::exchange(draft_use_, {}); }

  // Bytes of weights that went over the link.
  uint64_t link_bytes() const { return staged_.copied_bytes(); }

  // The likeliest token after row `index` of these: RowPeak::col is its id.
  absl::StatusOr<RowPeak> Peak(int32_t index, float scale);
  // The likeliest tokens after it, as many as top holds or there are (RowEntry::col is a token's id); how many.
  absl::StatusOr<size_t> Top(int32_t index, std::span<RowEntry> top);
  // Logits of the last pass: index 0 is the first of its logit_rows. [vocab_size]
  absl::Status Logits(int32_t index, std::span<float> logits);

 private:
  Forward(const ModelFile* model, const Weights* weights, Backend* backend, Pager* pager, KvStore* kv,
          const Limits& limits);
  absl::Status Allocate();

  absl::Status Embed(const Batch& batch);
  absl::Status FindPeaks(size_t index);
  absl::Status GatherTokens(const Batch& batch);
  absl::Status GatherToken(TokenId token);
  // embedding_row_ = a plain row of the host.
  void UploadToken(QuantType type, std::span<const std::byte> row);
  absl::Status Attention(LayerIndex layer, const Batch& batch);
  absl::Status PlanesAttention(LayerIndex layer, const Batch& batch);
  absl::Status ShowContexts(LayerIndex layer, int32_t rows, PassObserver* observer);
  absl::Status DraftAttention(LayerIndex layer, const Batch& batch, const DraftLayer& rows);
  void ProjectHeads(const MatrixView& query, std::span<const uint64_t> heads, const Activations& x, int32_t rows,
                    Tensor* out);
  absl::Status Ffn(LayerIndex layer, const Batch& batch, PassObserver* observer);
  absl::Status CutPages(LayerIndex layer, const FfnPart& part);
  absl::StatusOr<HostFfn::Groups> StartHostFfn(LayerIndex layer, int32_t rows, bool captures);
  void AddHostSums(const HostFfn::Groups& groups);
  absl::Status HostPages(LayerIndex layer, const FfnPart& part, const HostFfn::Groups& on_host);
  absl::Status LinkPages(LayerIndex layer, const FfnPart& part, int32_t begin, int32_t end);
  absl::Status PackedFfn(LayerIndex layer, const Batch& batch, PassObserver* observer);
  absl::Status DraftFfn(LayerIndex layer, const Batch& batch, const DraftLayer& rows);
  // scores: of a choice by RowScore::kGiven, else empty.
  FfnUse DraftPages(const FfnPart& part, int32_t rows, const DraftLayer& layer, std::span<const float> scores);
  absl::Status Head(const Batch& batch, DraftHead* draft_head);
  TraceScope Compute(const char* name, LayerIndex layer) const {
    return TraceScope(trace_, Trace::Track::kCompute, name, {.layer = ToInt(layer)});
  }
  LayerPass::Layer LayerOf(LayerIndex layer) const { return {layer, layer, weights_->vectors(layer)}; }
  absl::Status Product(const MatrixPart& matrix, const Activations& x, int32_t rows, Tensor* out);
  auto ProductOf(LayerIndex layer, int32_t rows) {
    return [this, layer, rows](MatrixRole role, const Activations& x, Tensor* out) {
      return Product(weights_->matrix(layer, role), x, rows, out);
    };
  }
  FfnParams ParamsOf(const FfnPart& part) const;
  absl::Status FetchCaptured(const Tensor& capture, int32_t rows);

  const ModelFile* model_;
  const ModelConfig& config_;
  const Weights* weights_;
  Backend* backend_;
  Pager* pager_;
  KvStore* kv_;
  Limits limits_;
  StagedRanges staged_;
  Trace* trace_ = nullptr;
  bool pass_begun_ = false;  // the pager already streams the next full pass

  std::unique_ptr<LayerPass> layer_pass_;
  std::unique_ptr<Tensor> x_;                     // [batch, dim] the residual stream
  std::unique_ptr<Tensor> capture_, capture_up_;  // [capture rows, packed rows]
  std::unique_ptr<Tensor> embedding_row_;         // [1, dim]
  std::unique_ptr<Tensor> head_in_;               // [logit_rows, dim]
  std::unique_ptr<Tensor> logits_;                // [logit_rows, vocab]
  std::unique_ptr<Activations> head_act_;
  std::unique_ptr<FfnJob> ffn_job_;
  std::unique_ptr<Tensor> host_sum_;  // [host rows, dim]
  std::vector<float> captured_, contexts_;
  std::vector<std::byte> embedding_bytes_;  // of one row
  int32_t capture_cols_ = 0;
  FfnUse draft_use_;
  DraftObserver* draft_observer_ = nullptr;
  ScoreMaps* score_maps_ = nullptr;
  LowRankProducts* residuals_ = nullptr;
  DraftHead* draft_head_ = nullptr;
  HostFfn* host_ffn_ = nullptr;
  bool last_was_draft_ = false;  // with a head of its own
  // Of the last pass's logits, as far as they were asked for at this scale.
  std::vector<RowPeak> peaks_;
  std::vector<bool> known_peaks_;
  float peak_scale_ = 1;
  std::vector<uint64_t> draft_masks_;
};

}  // namespace dogstar
