// HostFfn: the processor's part of full passes where a device computes ("hybrid passes"). Of the FFN pages that are in
// host memory some cross the link to the device; the processor computes the others beside it, with the CPU's kernels,
// and sends the sum of each group of pages (FfnPageLayout::SumGroupOf), a few KiB for hundreds of KiB of weights. Every
// bit is what the device would have computed.
//
//   of a layer's pages, in the file's order:  device | link | processor, whole groups | link | disk
//
// Threads: one calls it; the work is done on a thread of its own and `threads` of the CPU backend. Memory: allocated in
// Create, Bytes says how much.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/worker.h"
#include "device/backend.h"
#include "memory/hybrid_split.h"
#include "memory/weights.h"
#include "model/model_file.h"

namespace dogstar {

class HostFfn {
 public:
  struct Options {
    int threads = 1;
    int32_t rows = 0;  // of a pass in which the processor computes, at most
    FfnActivation activation = FfnActivation::kSilu;
  };
  // Groups [begin, end) of a layer.
  struct Groups {
    int32_t begin = 0, end = 0;
    bool empty() const { return begin >= end; }
  };

  // Bytes of host memory that Create takes.
  static absl::StatusOr<uint64_t> Bytes(const ModelFile& model, const Options& options);
  // REQUIRES: the weights have host_down_scales where the file has tables. They outlive the object.
  static absl::StatusOr<std::unique_ptr<HostFfn>> Create(const ModelFile& model, const Weights* weights,
                                                         const Options& options);

  // Measures the processor on the pages, then the link of `device`; some milliseconds each.
  // REQUIRES: nothing is staged.
  absl::StatusOr<HybridRates> Measure(Backend* device);
  void SetSplit(const HybridSplit& split) { split_ = split; }
  const HybridSplit& split() const { return split_; }

  // What the processor computes of the layer in a pass over so many rows: the last whole groups among the pages in host
  // memory. Empty where the pass has more rows than Options.
  Groups GroupsOf(LayerIndex layer, int32_t rows) const;

  // Room for the layer's normed input, [rows, dim], to be filled before Start.
  std::span<float> Input(int32_t rows) {
    return std::span(input_).first(static_cast<size_t>(rows) * static_cast<size_t>(dim_));
  }
  // Starts with these groups. REQUIRES: they are not empty; what was started before is over.
  void Start(LayerIndex layer, const Groups& groups, int32_t rows);
  void Wait() { worker_.Wait(); }
  // Of what is over: group number i of those started. [rows, dim]
  std::span<const float> Sum(int32_t i) const;

  uint64_t computed_bytes() const { return computed_bytes_; }  // of pages, by the processor

 private:
  HostFfn(const Weights* weights, int32_t dim, const Options& options)
      : weights_(weights), dim_(dim), options_(options) {}
  absl::Status Allocate(const ModelFile& model);
  void Compute(LayerIndex layer, const Groups& groups, int32_t rows);
  double SecondsOf(LayerIndex layer, int32_t rows);

  const Weights* weights_;
  int32_t dim_;
  Options options_;
  HybridSplit split_{0.0};
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Tensor> in_, out_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<FfnJob> job_;
  std::vector<float> input_, sums_;  // [rows, dim]; [group][rows, dim], rows of the pass
  std::vector<FfnPageRef> pages_;    // of a group
  int32_t started_rows_ = 0;
  uint64_t computed_bytes_ = 0;
  Worker worker_;  // last: it uses the others
};

}  // namespace dogstar
