#include "runtime/row_norms.h"

#include <algorithm>
#include <cmath>

#include "base/panel.h"

namespace dogstar {
namespace {

// Of one page, into the places of its rows.
class PageNorms {
 public:
  PageNorms(const FfnPart& part, const FfnPageRef& page, const float* input_norm)
      : layout_(part.layer->layout), part_(part), page_(page), input_norm_(input_norm) {}

  void Rows(QuantType type, uint64_t offset, float* norms) const {
    std::vector<std::byte> plain(RowBytes(type, layout_.dim));
    std::vector<float> row(static_cast<size_t>(layout_.dim));
    for (int32_t i = 0; i < page_.row_count; ++i) {
      const std::byte* panel =
          page_.data + offset + static_cast<uint64_t>(i / kPanelRows) * PanelBytes(type, layout_.dim);
      UnpackPanelRow(type, panel, i % kPanelRows, layout_.dim, plain.data());
      DequantizeRow(type, plain.data(), layout_.dim, row.data());
      double sum = 0;
      for (size_t k = 0; k < row.size(); ++k) {
        const double value = row[k] * input_norm_[k];
        sum += value * value;
      }
      norms[page_.first_row + i] = static_cast<float>(std::sqrt(sum));
    }
  }

  void Down(float* norms) const {
    std::vector<double> sums(static_cast<size_t>(page_.row_count));
    for (int32_t output = 0; output < layout_.dim; ++output) {
      const std::byte* panel =
          page_.data + layout_.down_offset + static_cast<uint64_t>(output / kPanelRows) * layout_.down_panel_bytes;
      if (IsFloatType(layout_.down_type)) {
        AddFloats(panel, output % kPanelRows, &sums);
      } else {
        AddCodes(panel, output, &sums);
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      norms[static_cast<size_t>(page_.first_row) + i] = static_cast<float>(std::sqrt(sums[i]));
    }
  }

 private:
  void AddFloats(const std::byte* panel, int lane, std::vector<double>* sums) const {
    std::vector<std::byte> plain(RowBytes(layout_.down_type, layout_.page_rows));
    std::vector<float> values(static_cast<size_t>(layout_.page_rows));
    UnpackPanelRow(layout_.down_type, panel, lane, layout_.page_rows, plain.data());
    DequantizeRow(layout_.down_type, plain.data(), layout_.page_rows, values.data());
    for (size_t i = 0; i < sums->size(); ++i) (*sums)[i] += double{values[i]} * values[i];
  }

  void AddCodes(const std::byte* panel, int32_t output, std::vector<double>* sums) const {
    const QuantType type = layout_.down_type;
    for (int32_t first = 0; first < page_.row_count; first += layout_.run_rows) {
      const GroupScale scale = Combine(
          type, TableScales(type, part_.down_scales, page_.run_groups[first / layout_.run_rows], layout_.dim, output));
      const int32_t end = std::min(first + layout_.run_rows, page_.row_count);
      for (int32_t i = first; i < end; ++i) {
        const int value = CodeValue(type, PanelCode(type, panel, output % kPanelRows, i));
        const double weight = double{scale.d} * value + scale.m;
        (*sums)[static_cast<size_t>(i)] += weight * weight;
      }
    }
  }

  const FfnPageLayout& layout_;
  const FfnPart& part_;
  const FfnPageRef& page_;
  const float* input_norm_;
};

// Of some of the part's pages, which the host can read, as its down scales.
void AddNorms(const FfnPart& part, std::span<const FfnPageRef> some, const float* input_norm, ThreadPool* pool,
              RowNorms* norms) {
  const FfnPageLayout& layout = part.layer->layout;
  pool->Run([&](int thread) {
    const Range pages = PartOf(static_cast<int64_t>(some.size()), 1, thread, pool->size());
    for (int64_t p = pages.begin; p < pages.end; ++p) {
      const PageNorms page(part, some[static_cast<size_t>(p)], input_norm);
      page.Rows(layout.gate_type, layout.gate_offset, norms->gate.data());
      page.Rows(layout.up_type, layout.up_offset, norms->up.data());
      page.Down(norms->down.data());
    }
  });
}

constexpr size_t kPagesTogether = 32;  // copied to the host

absl::Status AddNormsOfDevice(const FfnPart& part, const float* input_norm, Backend* backend, ThreadPool* pool,
                              RowNorms* norms) {
  const PackedLayer& layer = *part.layer;
  const uint64_t page_bytes = layer.layout.page_bytes;
  std::vector<std::byte> scales(layer.down_scales_bytes), bytes(kPagesTogether * page_bytes);
  if (!scales.empty()) RETURN_IF_ERROR(backend->ReadMemory(part.down_scales, scales));
  FfnPart on_host;
  on_host.layer = part.layer;
  on_host.down_scales = scales.data();
  for (size_t first = 0; first < part.resident.size(); first += kPagesTogether) {
    const size_t count = std::min(kPagesTogether, part.resident.size() - first);
    std::vector<FfnPageRef> pages(part.resident.begin() + static_cast<ptrdiff_t>(first),
                                  part.resident.begin() + static_cast<ptrdiff_t>(first + count));
    for (size_t i = 0; i < count; ++i) {
      const std::span<std::byte> copy = std::span(bytes).subspan(i * page_bytes, page_bytes);
      RETURN_IF_ERROR(backend->ReadMemory(pages[i].data, copy));
      pages[i].data = copy.data();
    }
    AddNorms(on_host, pages, input_norm, pool, norms);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RowNorms> NormsOf(const FfnPart& part, std::span<const float> input_norm, Backend* backend,
                                 ThreadPool* pool) {
  RowNorms norms;
  for (std::vector<float>* values : {&norms.gate, &norms.up, &norms.down}) {
    values->resize(static_cast<size_t>(part.layer->layout.ffn_rows));
  }
  if (backend->shares_host_memory()) {
    AddNorms(part, part.resident, input_norm.data(), pool, &norms);
  } else {
    RETURN_IF_ERROR(AddNormsOfDevice(part, input_norm.data(), backend, pool, &norms));
  }
  return norms;
}

absl::StatusOr<RowNorms> NormsOfLayer(const Weights& weights, LayerIndex layer, Backend* backend, ThreadPool* pool) {
  const FfnPart& part = weights.ffn(layer);
  std::vector<float> input_norm(static_cast<size_t>(part.layer->layout.dim));
  RETURN_IF_ERROR(backend->ReadMemory(weights.vectors(layer)[static_cast<size_t>(LayerVector::kFfnNorm)],
                                      std::as_writable_bytes(std::span(input_norm))));
  return NormsOf(part, input_norm, backend, pool);
}

absl::Status GiveRowNorms(const Weights& weights, int threads, Backend* backend, Predictor* predictor) {
  if (!predictor->needs_row_norms() || !weights.packed()) return absl::OkStatus();
  ThreadPool pool(threads);
  for (int32_t i = 0; i < weights.layer_count(); ++i) {
    const LayerIndex layer{i};
    ASSIGN_OR_RETURN(const RowNorms norms, NormsOfLayer(weights, layer, backend, &pool));
    predictor->SetGateNorms(layer, norms.gate);
    predictor->SetRowNorms(layer, norms.up, norms.down);
  }
  return absl::OkStatus();
}

uint64_t RowNormBytes(int32_t layers, int32_t ffn_rows) {
  return 3 * sizeof(float) * static_cast<uint64_t>(layers) * static_cast<uint64_t>(ffn_rows);
}

}  // namespace dogstar
