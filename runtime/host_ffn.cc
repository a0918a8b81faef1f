#include "runtime/host_ffn.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "cpu/cpu_backend.h"
#include "runtime/probe.h"

namespace dogstar {
namespace {

constexpr uint64_t kMeasuredBytes = uint64_t{64} << 20;  // of pages, at most
constexpr int kMeasuredTimes = 3;

// Rows of the widest layer, as packed, and groups of the layer that has most.
struct Widest {
  int32_t rows = 0, groups = 0;
};

Widest WidestOf(const ModelFile& model) {
  Widest widest;
  for (const PackedLayer& layer : model.packed()->layers()) {
    const FfnPageLayout& layout = layer.layout;
    widest.rows = std::max(widest.rows, layout.page_count() * layout.page_rows);
    widest.groups = std::max(widest.groups, layout.SumGroupOf(layout.ffn_rows - 1) + 1);
  }
  return widest;
}

absl::StatusOr<std::unique_ptr<Backend>> NewProcessor(int threads) {
  return NewCpuBackend({.threads = threads, .precise = false, .touch_memory = true});
}

size_t Values(int32_t rows, int32_t cols) { return static_cast<size_t>(rows) * static_cast<size_t>(cols); }

}  // namespace

absl::StatusOr<uint64_t> HostFfn::Bytes(const ModelFile& model, const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> cpu, NewProcessor(1));
  const int32_t dim = model.config().dim;
  const Widest widest = WidestOf(model);
  const size_t values = Values(options.rows, dim) * static_cast<size_t>(1 + widest.groups);
  return 2 * cpu->TensorBytes(options.rows, dim) + cpu->ActivationsBytes(options.rows, dim) +
         cpu->FfnJobBytes({options.rows, dim, widest.rows}) + values * sizeof(float);
}

absl::StatusOr<std::unique_ptr<HostFfn>> HostFfn::Create(const ModelFile& model, const Weights* weights,
                                                         const Options& options) {
  auto ffn = std::unique_ptr<HostFfn>(new HostFfn(weights, model.config().dim, options));
  RETURN_IF_ERROR(ffn->Allocate(model));
  return ffn;
}

absl::Status HostFfn::Allocate(const ModelFile& model) {
  const Widest widest = WidestOf(model);
  ASSIGN_OR_RETURN(cpu_, NewProcessor(options_.threads));
  ASSIGN_OR_RETURN(in_, cpu_->NewTensor(options_.rows, dim_));
  ASSIGN_OR_RETURN(out_, cpu_->NewTensor(options_.rows, dim_));
  ASSIGN_OR_RETURN(activations_, cpu_->NewActivations(options_.rows, dim_));
  ASSIGN_OR_RETURN(job_, cpu_->NewFfnJob({options_.rows, dim_, widest.rows}));
  input_.resize(Values(options_.rows, dim_));
  sums_.resize(Values(options_.rows, dim_) * static_cast<size_t>(widest.groups));
  return absl::OkStatus();
}

HostFfn::Groups HostFfn::GroupsOf(LayerIndex layer, int32_t rows) const {
  const FfnPart& part = weights_->ffn(layer);
  if (part.host_page_count == 0 || rows > options_.rows) return {};
  const FfnPageLayout& layout = part.layer->layout;
  const int32_t first = part.first_host_page(), end = first + part.host_page_count, together = layout.sum_pages();
  // Whole groups; a layer's last one may be short.
  const int32_t first_group = (first + together - 1) / together;
  const int32_t end_group = end == layout.page_count() ? (end + together - 1) / together : end / together;
  const double wanted = split_.ShareOf(rows) * part.host_page_count / together;
  const int32_t count = std::min(static_cast<int32_t>(wanted + 0.5), std::max(0, end_group - first_group));
  return {end_group - count, end_group};
}

void HostFfn::Start(LayerIndex layer, const Groups& groups, int32_t rows) {
  started_rows_ = rows;
  worker_.Start([this, layer, groups, rows] { Compute(layer, groups, rows); });
}

void HostFfn::Compute(LayerIndex layer, const Groups& groups, int32_t rows) {
  const FfnPart& part = weights_->ffn(layer);
  const FfnPageLayout& layout = part.layer->layout;
  FfnParams params;
  params.layout = layout;
  params.activation = options_.activation;
  params.down_scales = part.host_down_scales;
  cpu_->Upload(Input(rows), 0, in_.get());
  cpu_->Prepare(*in_, rows, activations_.get());
  std::span<float> sum = std::span(sums_).first(Values(rows, dim_));
  for (int32_t group = groups.begin; group < groups.end; ++group) {
    pages_.clear();
    const int32_t end = std::min((group + 1) * layout.sum_pages(), layout.page_count());
    for (int32_t page = group * layout.sum_pages(); page < end; ++page) {
      pages_.push_back(PageRefOf(*part.layer, page, part.HostPage(page)));
    }
    cpu_->FfnBegin(params, *activations_, rows, job_.get());
    cpu_->FfnAccumulatePages(pages_, job_.get());
    cpu_->Clear(rows, out_.get());
    cpu_->FfnEnd(job_.get(), out_.get());
    const absl::Status got = cpu_->Download(*out_, 0, rows, sum);
    CHECK(got.ok());
    computed_bytes_ += pages_.size() * layout.page_bytes;
    sum = std::span(sum.data() + sum.size(), sum.size());
  }
}

std::span<const float> HostFfn::Sum(int32_t i) const {
  const size_t values = Values(started_rows_, dim_);
  return std::span(sums_).subspan(static_cast<size_t>(i) * values, values);
}

// A byte of the layer's pages, the best of some runs over at most kMeasuredBytes.
double HostFfn::SecondsOf(LayerIndex layer, int32_t rows) {
  SetSplit(HybridSplit(1.0));
  Groups groups = GroupsOf(layer, rows);
  const FfnPageLayout& layout = weights_->ffn(layer).layer->layout;
  const uint64_t group_bytes = static_cast<uint64_t>(layout.sum_pages()) * layout.page_bytes;
  groups.end = std::min(groups.end, groups.begin + static_cast<int32_t>(kMeasuredBytes / group_bytes) + 1);
  if (groups.empty()) return 0;
  std::fill(input_.begin(), input_.end(), 1.0F);
  double best = 0;
  for (int i = 0; i < kMeasuredTimes; ++i) {
    const uint64_t before = computed_bytes_;
    const double start = Now();
    Start(layer, groups, rows);
    Wait();
    const double seconds = (Now() - start) / static_cast<double>(computed_bytes_ - before);
    if (i == 0 || seconds < best) best = seconds;
  }
  return best;
}

absl::StatusOr<HybridRates> HostFfn::Measure(Backend* device) {
  LayerIndex most{0};
  for (int32_t i = 0; i < weights_->layer_count(); ++i) {
    if (weights_->ffn(LayerIndex{i}).host_page_count > weights_->ffn(most).host_page_count) most = LayerIndex{i};
  }
  HybridRates rates;
  rates.rows = options_.rows;
  rates.one_row_seconds = SecondsOf(most, 1);
  rates.rows_seconds = options_.rows > 1 ? SecondsOf(most, options_.rows) : rates.one_row_seconds;
  computed_bytes_ = 0;
  const FfnPart& part = weights_->ffn(most);
  const auto some = part.host_pages.first(std::min<uint64_t>(part.host_pages.size(), kMeasuredBytes));
  const uint64_t piece = std::min<uint64_t>(part.host_run_bytes(), some.size());
  ASSIGN_OR_RETURN(const double link, StagedCopyRate(some, piece, 0, device));
  rates.link_seconds = 1 / link;
  return rates;
}

}  // namespace dogstar
