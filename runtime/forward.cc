#include "runtime/forward.h"

#include <algorithm>

#include "base/bit_planes.h"
#include "base/bit_runs.h"
#include "base/panel.h"

namespace dogstar {
namespace {

int32_t PackedCols(const ModelFile& model) {
  int32_t cols = 0;
  for (const PackedLayer& layer : model.packed()->layers()) {
    cols = std::max(cols, layer.layout.page_count() * layer.layout.page_rows);
  }
  return cols;
}

// Neighbouring pages from `first` on, one after the other at `data`.
void SetPages(const PackedLayer& layer, int32_t first, int32_t count, DeviceAddress data,
              std::vector<FfnPageRef>* pages) {
  pages->clear();
  for (int32_t i = 0; i < count; ++i) {
    pages->push_back(PageRefOf(layer, first + i, data + static_cast<uint64_t>(i) * layer.layout.page_bytes));
  }
}

}  // namespace

Forward::Forward(const ModelFile* model, const Weights* weights, Backend* backend, Pager* pager, KvStore* kv,
                 const Limits& limits)
    : model_(model),
      config_(model->config()),
      weights_(weights),
      backend_(backend),
      pager_(pager),
      kv_(kv),
      limits_(limits),
      staged_(backend, pager) {}

uint64_t Forward::Bytes(const ModelFile& model, const Backend& backend, const Limits& limits) {
  const ModelConfig& c = model.config();
  const int32_t rows = limits.batch_rows;
  const bool packed = model.packed() != nullptr;
  uint64_t bytes = LayerPass::Bytes(c, backend, {rows, !packed}) + backend.TensorBytes(rows, c.dim);
  bytes += backend.TensorBytes(1, c.dim);
  bytes += backend.TensorBytes(limits.logit_rows, c.dim) + backend.ActivationsBytes(limits.logit_rows, c.dim) +
           backend.TensorBytes(limits.logit_rows, c.vocab_size);
  if (packed) {
    bytes += backend.FfnJobBytes({rows, c.dim, PackedCols(model), limits.choice_rows});
    if (limits.host_rows > 0) bytes += backend.TensorBytes(limits.host_rows, c.dim);
    const uint64_t captured = limits.capture_rows > 0 ? backend.TensorBytes(limits.capture_rows, PackedCols(model)) : 0;
    bytes += (limits.capture_up ? 3 : 2) * captured;
    if (limits.capture_contexts) bytes += backend.TensorBytes(rows, c.head_count * c.head_dim);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Create(const ModelFile* model, const Weights* weights,
                                                         Backend* backend, Pager* pager, KvStore* kv,
                                                         const Limits& limits) {
  auto forward = std::unique_ptr<Forward>(new Forward(model, weights, backend, pager, kv, limits));
  RETURN_IF_ERROR(forward->Allocate());
  return forward;
}

absl::Status Forward::Allocate() {
  const int32_t rows = limits_.batch_rows;
  ASSIGN_OR_RETURN(layer_pass_, LayerPass::Create(&config_, backend_, {rows, !weights_->packed()}));
  ASSIGN_OR_RETURN(x_, backend_->NewTensor(rows, config_.dim));
  ASSIGN_OR_RETURN(embedding_row_, backend_->NewTensor(1, config_.dim));
  ASSIGN_OR_RETURN(head_in_, backend_->NewTensor(limits_.logit_rows, config_.dim));
  ASSIGN_OR_RETURN(head_act_, backend_->NewActivations(limits_.logit_rows, config_.dim));
  ASSIGN_OR_RETURN(logits_, backend_->NewTensor(limits_.logit_rows, config_.vocab_size));
  peaks_.reserve(static_cast<size_t>(limits_.logit_rows));
  known_peaks_.reserve(static_cast<size_t>(limits_.logit_rows));
  if (!weights_->packed()) return absl::OkStatus();
  capture_cols_ = PackedCols(*model_);
  ASSIGN_OR_RETURN(ffn_job_, backend_->NewFfnJob({rows, config_.dim, capture_cols_, limits_.choice_rows}));
  if (limits_.host_rows > 0) {
    ASSIGN_OR_RETURN(host_sum_, backend_->NewTensor(limits_.host_rows, config_.dim));
  }
  if (limits_.capture_rows > 0) {
    ASSIGN_OR_RETURN(capture_, backend_->NewTensor(limits_.capture_rows, capture_cols_));
    if (limits_.capture_up) {
      ASSIGN_OR_RETURN(capture_up_, backend_->NewTensor(limits_.capture_rows, capture_cols_));
    }
    captured_.resize(static_cast<size_t>(limits_.capture_rows) * static_cast<size_t>(capture_cols_));
  }
  if (limits_.capture_contexts) contexts_.resize(static_cast<size_t>(rows * config_.head_count * config_.head_dim));
  return absl::OkStatus();
}

absl::Status Forward::Full(const Batch& batch, PassObserver* observer) {
  CHECK(batch.rows() <= limits_.batch_rows && batch.logit_rows <= limits_.logit_rows);
  const TraceScope pass(trace_, Trace::Track::kPass, "full pass", {.rows = batch.rows()});
  if (!pass_begun_) {
    staged_.Forget();
    RETURN_IF_ERROR(pager_->Begin(weights_->schedule()));
  }
  pass_begun_ = false;
  layer_pass_->Begin(&batch);
  RETURN_IF_ERROR(Embed(batch));
  for (int32_t i = 0; i < config_.layer_count; ++i) {
    const LayerIndex layer{i};
    RETURN_IF_ERROR(weights_->attention_planes(layer).cut ? PlanesAttention(layer, batch) : Attention(layer, batch));
    if (observer != nullptr && observer->reads_contexts()) RETURN_IF_ERROR(ShowContexts(layer, batch.rows(), observer));
    RETURN_IF_ERROR(Ffn(layer, batch, observer));
  }
  RETURN_IF_ERROR(Head(batch, nullptr));
  RETURN_IF_ERROR(staged_.Drain());
  // The next full pass streams the same ranges: its first reads run while tokens are chosen and drafts are made.
  RETURN_IF_ERROR(pager_->Begin(weights_->schedule()));
  pass_begun_ = true;
  return absl::OkStatus();
}

absl::Status Forward::Draft(const Batch& batch, const DraftRows& rows) {
  const TraceScope pass(trace_, Trace::Track::kPass, "draft", {.rows = batch.rows()});
  layer_pass_->Begin(&batch);
  RETURN_IF_ERROR(Embed(batch));
  for (int32_t i = 0; i < config_.layer_count; ++i) {
    const LayerIndex layer{i};
    RETURN_IF_ERROR(DraftAttention(layer, batch, rows.layer(layer)));
    RETURN_IF_ERROR(DraftFfn(layer, batch, rows.layer(layer)));
  }
  return Head(batch, draft_head_);
}

// x = the tokens' rows of the embedding, scaled
absl::Status Forward::Embed(const Batch& batch) {
  RETURN_IF_ERROR(GatherTokens(batch));
  if (config_.embedding_scale != 1) backend_->Scale(config_.embedding_scale, batch.rows(), x_.get());
  return absl::OkStatus();
}

absl::Status Forward::GatherTokens(const Batch& batch) {
  if (weights_->embedding().rows > 0) {
    std::vector<int32_t> ids;
    for (TokenId token : batch.tokens) ids.push_back(ToInt(token));
    backend_->GatherRows(weights_->embedding(), ids, x_.get());
    return absl::OkStatus();
  }
  for (int32_t i = 0; i < batch.rows(); ++i) {
    RETURN_IF_ERROR(GatherToken(batch.tokens[static_cast<size_t>(i)]));
    backend_->CopyRows(*embedding_row_, 0, 1, i, x_.get());
  }
  return absl::OkStatus();
}

// embedding_row_ = the token's row of a table that is not resident whole: from the head's resident rows or the drafts'
// copies where it is tied to the head (so drafts touch no disk for what they drafted), else from the file.
absl::Status Forward::GatherToken(TokenId token) {
  const auto gather = [&](const MatrixView& table, int32_t row) {
    backend_->GatherRows(table, {&row, 1}, embedding_row_.get());
    return absl::OkStatus();
  };
  if (config_.tied_head) {
    const MatrixView& resident = weights_->head().resident;
    if (ToInt(token) < resident.rows) return gather(resident, ToInt(token));
    const uint64_t row_bytes = RowBytes(resident.type, resident.cols);
    const auto at = static_cast<uint64_t>(ToInt(token) - resident.rows) * row_bytes;
    const std::span<const std::byte> host = weights_->head().host;
    if (at < host.size()) {
      UploadToken(resident.type, host.subspan(at, row_bytes));
      return absl::OkStatus();
    }
    const int32_t copy = draft_head_ != nullptr ? draft_head_->FindCopy(token) : -1;
    if (copy >= 0) return gather(draft_head_->copies(), copy);
  }
  const MatrixSource& table = model_->embedding();
  embedding_bytes_.resize(table.row_bytes());
  RETURN_IF_ERROR(
      model_->ReadBytes(table.offset + static_cast<uint64_t>(ToInt(token)) * table.row_bytes(), embedding_bytes_));
  if (backend_->shares_host_memory()) {
    return gather({table.type, MatrixLayout::kPlain, 1, table.cols, embedding_bytes_.data()}, 0);
  }
  UploadToken(table.type, embedding_bytes_);
  return absl::OkStatus();
}

void Forward::UploadToken(QuantType type, std::span<const std::byte> row) {
  std::vector<float> values(static_cast<size_t>(config_.dim));
  DequantizeRow(type, row.data(), config_.dim, values.data());
  backend_->Upload(values, 0, embedding_row_.get());
}

absl::Status Forward::Attention(LayerIndex layer, const Batch& batch) {
  const TraceScope scope = Compute("attention", layer);
  return layer_pass_->Attention(LayerOf(layer), ProductOf(layer, batch.rows()), kv_, x_.get());
}

// High planes are resident, and the low ones of all four matrices arrive together.
absl::Status Forward::PlanesAttention(LayerIndex layer, const Batch& batch) {
  const TraceScope scope = Compute("attention", layer);
  const std::span<const std::byte> host_low = weights_->attention_planes(layer).host_low;
  ASSIGN_OR_RETURN(const DeviceAddress low, host_low.empty() ? staged_.Next() : staged_.NextOf(host_low));
  const auto product = [&](MatrixRole role, const Activations& x, Tensor* out) -> absl::Status {
    const MatrixPart& matrix = weights_->matrix(layer, role);
    MatrixView whole = matrix.resident;
    if (whole.planes == PlaneState::kHigh) {
      whole.planes = PlaneState::kBoth;
      whole.low = low + matrix.low_offset;
    }
    backend_->MatMul(whole, x, batch.rows(), 0, out);
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(layer_pass_->Attention(LayerOf(layer), product, kv_, x_.get()));
  return staged_.Used(backend_->Now());
}

absl::Status Forward::ShowContexts(LayerIndex layer, int32_t rows, PassObserver* observer) {
  CHECK(limits_.capture_contexts);
  const int32_t stride = config_.head_count * config_.head_dim;
  const std::span<float> contexts = std::span(contexts_).first(static_cast<size_t>(rows) * static_cast<size_t>(stride));
  RETURN_IF_ERROR(backend_->Download(layer_pass_->context(), 0, rows, contexts));
  observer->OnContexts(layer, contexts, rows, stride);
  return absl::OkStatus();
}

// Keys and values of all heads: later tokens read them. Queries of the draft's heads alone.
absl::Status Forward::DraftAttention(LayerIndex layer, const Batch& batch, const DraftLayer& rows) {
  if (rows.heads.empty()) return Attention(layer, batch);
  const TraceScope scope = Compute("attention", layer);
  LayerPass::Layer of_layer = LayerOf(layer);
  of_layer.heads = rows.heads.data();
  const auto product = [&](MatrixRole role, const Activations& x, Tensor* out) -> absl::Status {
    const MatrixPart& matrix = weights_->matrix(layer, role);
    const bool by_heads = role == MatrixRole::kQuery && config_.head_dim % kPanelRows == 0 && matrix.whole();
    if (!by_heads) return Product(matrix, x, batch.rows(), out);
    ProjectHeads(matrix.resident, rows.heads, x, batch.rows(), out);
    return absl::OkStatus();
  };
  return layer_pass_->Attention(of_layer, product, kv_, x_.get());
}

void Forward::ProjectHeads(const MatrixView& query, std::span<const uint64_t> heads, const Activations& x, int32_t rows,
                           Tensor* out) {
  uint64_t head_bytes = PanelMatrixBytes(query.type, config_.head_dim, query.cols);
  if (query.planes == PlaneState::kHigh) head_bytes -= LowPlanesBytes(query.type, config_.head_dim, query.cols);
  ForBitRuns(heads.data(), 0, config_.head_count, [&](int32_t first, int32_t count, bool used) {
    if (!used) return;
    MatrixView part = query;
    part.data += static_cast<uint64_t>(first) * head_bytes;
    part.rows = count * config_.head_dim;
    backend_->MatMul(part, x, rows, first * config_.head_dim, out);
  });
}

absl::Status Forward::Ffn(LayerIndex layer, const Batch& batch, PassObserver* observer) {
  const TraceScope scope = Compute("ffn", layer);
  if (weights_->packed()) return PackedFfn(layer, batch, observer);
  return layer_pass_->PlainFfn(LayerOf(layer), ProductOf(layer, batch.rows()), x_.get());
}

FfnParams Forward::ParamsOf(const FfnPart& part) const {
  FfnParams params;
  params.layout = part.layer->layout;
  params.activation = config_.activation;
  params.down_scales = part.down_scales;
  return params;
}

absl::Status Forward::FetchCaptured(const Tensor& capture, int32_t rows) {
  const size_t values = static_cast<size_t>(rows) * static_cast<size_t>(capture_cols_);
  return backend_->Download(capture, 0, rows, std::span(captured_).first(values));
}

// Pages whose high planes are resident, as their low planes arrive: first those of host memory.
absl::Status Forward::CutPages(LayerIndex layer, const FfnPart& part) {
  const uint64_t low_bytes = part.layer->layout.low.bytes;
  std::vector<int32_t> runs;
  for (int32_t left = part.host_low_count; left > 0; left -= part.host_low_run_pages) {
    runs.push_back(std::min(left, part.host_low_run_pages));
  }
  const size_t host_runs = runs.size();
  runs.insert(runs.end(), part.low_runs.begin(), part.low_runs.end());
  std::vector<FfnPageRef> pages;
  auto next = part.planes.begin();
  for (size_t run = 0; run < runs.size(); ++run) {
    const int32_t count = runs[run];
    const auto first = static_cast<uint64_t>(next - part.planes.begin());
    ASSIGN_OR_RETURN(const DeviceAddress data, run < host_runs
                                                   ? staged_.NextOf(part.host_low.subspan(
                                                         first * low_bytes, static_cast<uint64_t>(count) * low_bytes))
                                                   : staged_.Next());
    pages.assign(next, next + count);
    next += count;
    for (size_t i = 0; i < pages.size(); ++i) {
      pages[i].planes = PlaneState::kBoth;
      pages[i].low = data + i * low_bytes;
    }
    const TraceScope scope = Compute("streamed low planes", layer);
    RETURN_IF_ERROR(staged_.Used(backend_->FfnAccumulatePages(pages, ffn_job_.get())));
  }
  return absl::OkStatus();
}

// Gives the processor its part of the layer, if it has one, as soon as the layer's input is known.
absl::StatusOr<HostFfn::Groups> Forward::StartHostFfn(LayerIndex layer, int32_t rows, bool captures) {
  if (host_ffn_ == nullptr || captures) return HostFfn::Groups{};
  const HostFfn::Groups groups = host_ffn_->GroupsOf(layer, rows);
  if (groups.empty()) return groups;
  host_ffn_->Wait();  // for what a pass that failed has left
  const TraceScope scope = Compute("input for the processor", layer);
  RETURN_IF_ERROR(backend_->Download(layer_pass_->ffn_input(), 0, rows, host_ffn_->Input(rows)));
  host_ffn_->Start(layer, groups, rows);
  return groups;
}

void Forward::AddHostSums(const HostFfn::Groups& groups) {
  host_ffn_->Wait();
  for (int32_t i = 0; i < groups.end - groups.begin; ++i) {
    backend_->Upload(host_ffn_->Sum(i), 0, host_sum_.get());
    backend_->FfnAccumulateSum(*host_sum_, ffn_job_.get());
  }
}

// Pages in host memory: over the link, but for those that the processor computes.
absl::Status Forward::HostPages(LayerIndex layer, const FfnPart& part, const HostFfn::Groups& on_host) {
  const int32_t first = part.first_host_page(), end = first + part.host_page_count;
  if (on_host.empty()) return LinkPages(layer, part, first, end);
  const int32_t together = part.layer->layout.sum_pages();
  RETURN_IF_ERROR(LinkPages(layer, part, first, on_host.begin * together));
  {
    const TraceScope scope = Compute("sums of the processor", layer);
    AddHostSums(on_host);
  }
  return LinkPages(layer, part, on_host.end * together, end);
}

absl::Status Forward::LinkPages(LayerIndex layer, const FfnPart& part, int32_t begin, int32_t end) {
  const uint64_t page_bytes = part.layer->layout.page_bytes;
  std::vector<FfnPageRef> pages;
  for (int32_t first = begin; first < end; first += part.host_run_pages) {
    const int32_t count = std::min(part.host_run_pages, end - first);
    ASSIGN_OR_RETURN(const DeviceAddress data,
                     staged_.NextOf({part.HostPage(first), static_cast<uint64_t>(count) * page_bytes}));
    SetPages(*part.layer, first, count, data, &pages);
    const TraceScope scope = Compute("pages of host memory", layer);
    RETURN_IF_ERROR(staged_.Used(backend_->FfnAccumulatePages(pages, ffn_job_.get())));
  }
  return absl::OkStatus();
}

// Resident pages first, then the complement as it arrives: the file's order, whatever was resident.
absl::Status Forward::PackedFfn(LayerIndex layer, const Batch& batch, PassObserver* observer) {
  const int32_t rows = batch.rows();
  const FfnPart& part = weights_->ffn(layer);
  const PassObserver::Reads reads = observer != nullptr ? observer->reads() : PassObserver::Reads::kNothing;
  const bool captures = reads != PassObserver::Reads::kNothing;
  CHECK(!captures || rows <= limits_.capture_rows);
  const Activations& in = layer_pass_->FfnInput(LayerOf(layer), *x_);
  const bool captures_up = captures && observer->reads_up();
  CHECK(!captures_up || limits_.capture_up);
  FfnParams params = ParamsOf(part);
  if (captures) params.capture = capture_.get();
  if (captures_up) params.capture_up = capture_up_.get();
  ASSIGN_OR_RETURN(const HostFfn::Groups on_host, StartHostFfn(layer, rows, captures));
  backend_->FfnBegin(params, in, rows, ffn_job_.get());
  if (!part.resident.empty()) backend_->FfnAccumulatePages(part.resident, ffn_job_.get());
  RETURN_IF_ERROR(CutPages(layer, part));
  RETURN_IF_ERROR(HostPages(layer, part, on_host));
  int32_t page = part.first_host_page() + part.host_page_count;
  std::vector<FfnPageRef> pages;
  for (int32_t count : part.streamed_runs) {
    ASSIGN_OR_RETURN(const DeviceAddress data, staged_.Next());
    SetPages(*part.layer, page, count, data, &pages);
    page += count;
    const TraceScope scope = Compute("streamed pages", layer);
    const Ticket done = backend_->FfnAccumulatePages(pages, ffn_job_.get());
    if (observer != nullptr) {
      std::span<const float> values;
      if (reads == PassObserver::Reads::kPagesAndLayers) {
        RETURN_IF_ERROR(FetchCaptured(*capture_, rows));
        values = captured_;
      }
      observer->OnStreamedPages(layer, pages, values, rows, capture_cols_);
    }
    RETURN_IF_ERROR(staged_.Used(done));
  }
  layer_pass_->EndFfn(LayerOf(layer), ffn_job_.get(), nullptr, x_.get());
  if (captures) {
    RETURN_IF_ERROR(FetchCaptured(*capture_, rows));
    observer->OnLayer(layer, captured_, rows, capture_cols_);
    if (captures_up) {
      RETURN_IF_ERROR(FetchCaptured(*capture_up_, rows));
      observer->OnLayerUp(layer, captured_, rows, capture_cols_);
    }
  }
  return absl::OkStatus();
}

// Where tokens choose, what they used.
FfnUse Forward::DraftPages(const FfnPart& part, int32_t rows, const DraftLayer& layer, std::span<const float> scores) {
  const size_t words = (static_cast<size_t>(part.layer->layout.ffn_rows) + 63) / 64;
  draft_masks_.assign(draft_observer_ != nullptr ? words * static_cast<size_t>(rows) : 0, 0);
  if (layer.choice == nullptr) {
    if (!layer.pages.empty()) backend_->FfnAccumulatePages(layer.pages, ffn_job_.get());
    for (size_t at = 0; at < draft_masks_.size(); at += words) layer.AddTo(std::span(draft_masks_).subspan(at, words));
    return {};
  }
  RowChoice choice = *layer.choice;
  if (choice.score == RowScore::kGiven) {
    choice.given = scores.data();
    choice.given_stride = score_maps_->stride();
  }
  const FfnUse use = backend_->FfnAccumulateChosen(layer.pages, choice, draft_masks_, ffn_job_.get());
  draft_use_.gate_rows += use.gate_rows;
  draft_use_.up_rows += use.up_rows;
  draft_use_.down_rows += use.down_rows;
  draft_use_.used += use.used;
  return use;
}

absl::Status Forward::DraftFfn(LayerIndex layer, const Batch& batch, const DraftLayer& rows) {
  const TraceScope scope = Compute("ffn", layer);
  const FfnPart& part = weights_->ffn(layer);
  const Activations& in = layer_pass_->FfnInput(LayerOf(layer), *x_);
  FfnParams params = ParamsOf(part);
  params.layout = *rows.layout;
  backend_->FfnBegin(params, in, batch.rows(), ffn_job_.get());
  std::span<const float> scores;
  if (rows.choice != nullptr && rows.choice->score == RowScore::kGiven) {
    ASSIGN_OR_RETURN(scores, score_maps_->Score(layer, in, batch.rows()));
  }
  const FfnUse use = DraftPages(part, batch.rows(), rows, scores);
  if (rows.overlay.row_count > 0) backend_->FfnAccumulateOverlay(rows.overlay, ffn_job_.get());
  const Tensor* const residual = residuals_ != nullptr ? &residuals_->Multiply(layer, in, batch.rows()) : nullptr;
  layer_pass_->EndFfn(LayerOf(layer), ffn_job_.get(), residual, x_.get());
  if (draft_observer_ != nullptr) draft_observer_->OnDraftRows(layer, draft_masks_, batch.rows(), use);
  return absl::OkStatus();
}

absl::Status Forward::Head(const Batch& batch, DraftHead* draft_head) {
  const int32_t rows = batch.logit_rows;
  peaks_.resize(static_cast<size_t>(rows));
  known_peaks_.assign(static_cast<size_t>(rows), false);
  if (rows == 0) return absl::OkStatus();
  const TraceScope scope(trace_, Trace::Track::kCompute, "head", {.rows = rows});
  backend_->CopyRows(*x_, batch.rows() - rows, rows, 0, head_in_.get());
  backend_->RmsNorm(*head_in_, rows, weights_->output_norm(), config_.rms_epsilon, head_in_.get());
  backend_->Prepare(*head_in_, rows, head_act_.get());
  last_was_draft_ = draft_head != nullptr;
  if (draft_head != nullptr) {
    draft_head->Multiply(*head_act_, rows);
    return absl::OkStatus();
  }
  return Product(weights_->head(), *head_act_, rows, logits_.get());
}

// out = x W^T: the resident rows of W at once, the others as their chunks arrive, of host memory or from the disk.
absl::Status Forward::Product(const MatrixPart& matrix, const Activations& x, int32_t rows, Tensor* out) {
  int32_t first_row = matrix.resident.rows;
  if (first_row > 0) backend_->MatMul(matrix.resident, x, rows, 0, out);
  const auto multiply = [&](int32_t chunk_rows, DeviceAddress data) {
    const TraceScope scope(trace_, Trace::Track::kCompute, "streamed rows", {.rows = chunk_rows});
    backend_->MatMul({matrix.type, MatrixLayout::kPlain, chunk_rows, matrix.cols, data}, x, rows, first_row, out);
    first_row += chunk_rows;
    return staged_.Used(backend_->Now());
  };
  uint64_t at = 0;
  for (int32_t chunk_rows : matrix.host_chunk_rows) {
    const uint64_t bytes = static_cast<uint64_t>(chunk_rows) * RowBytes(matrix.type, matrix.cols);
    ASSIGN_OR_RETURN(const DeviceAddress data, staged_.NextOf(matrix.host.subspan(at, bytes)));
    RETURN_IF_ERROR(multiply(chunk_rows, data));
    at += bytes;
  }
  for (int32_t chunk_rows : matrix.chunk_rows) {
    ASSIGN_OR_RETURN(const DeviceAddress data, staged_.Next());
    RETURN_IF_ERROR(multiply(chunk_rows, data));
  }
  return absl::OkStatus();
}

absl::StatusOr<RowPeak> Forward::Peak(int32_t index, float scale) {
  const auto at = static_cast<size_t>(index);
  CHECK(at < peaks_.size());
  if (scale != peak_scale_) known_peaks_.assign(peaks_.size(), false);
  peak_scale_ = scale;
  if (!known_peaks_[at]) RETURN_IF_ERROR(FindPeaks(at));
  return peaks_[at];
}

// Of that row; of a device's also of those behind it, since each question waits for it.
absl::Status Forward::FindPeaks(size_t index) {
  const size_t behind = std::min<size_t>(peaks_.size() - index, kMostPeaks);
  const std::span<RowPeak> found = std::span(peaks_).subspan(index, backend_->shares_host_memory() ? 1 : behind);
  const auto row = static_cast<int32_t>(index);
  RETURN_IF_ERROR(last_was_draft_ ? draft_head_->FindPeaks(row, peak_scale_, found)
                                  : backend_->FindPeaks(*logits_, row, config_.vocab_size, peak_scale_, found));
  std::fill_n(known_peaks_.begin() + row, found.size(), true);
  return absl::OkStatus();
}

absl::StatusOr<size_t> Forward::Top(int32_t index, std::span<RowEntry> top) {
  if (last_was_draft_) return draft_head_->Top(index, top);
  RETURN_IF_ERROR(backend_->FindTop(*logits_, index, config_.vocab_size, top));
  return top.size();
}

absl::Status Forward::Logits(int32_t index, std::span<float> logits) {
  if (last_was_draft_) return draft_head_->Logits(index, logits);
  return backend_->Download(*logits_, index, 1, logits);
}

}  // namespace dogstar
