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

}  // namespace

RowNorms NormsOf(const FfnPart& part, const float* input_norm, ThreadPool* pool) {
  const FfnPageLayout& layout = part.layer->layout;
  RowNorms norms;
  for (std::vector<float>* values : {&norms.gate, &norms.up, &norms.down}) {
    values->resize(static_cast<size_t>(layout.ffn_rows));
  }
  pool->Run([&](int thread) {
    const Range pages = PartOf(static_cast<int64_t>(part.resident.size()), 1, thread, pool->size());
    for (int64_t p = pages.begin; p < pages.end; ++p) {
      const PageNorms page(part, part.resident[static_cast<size_t>(p)], input_norm);
      page.Rows(layout.gate_type, layout.gate_offset, norms.gate.data());
      page.Rows(layout.up_type, layout.up_offset, norms.up.data());
      page.Down(norms.down.data());
    }
  });
  return norms;
}

void GiveRowNorms(const Weights& weights, int threads, Predictor* predictor) {
  if (!predictor->needs_row_norms() || !weights.packed()) return;
  ThreadPool pool(threads);
  for (int32_t i = 0; i < weights.layer_count(); ++i) {
    const LayerIndex layer{i};
    const auto* input_norm =
        reinterpret_cast<const float*>(weights.vectors(layer)[static_cast<size_t>(LayerVector::kFfnNorm)]);
    const RowNorms norms = NormsOf(weights.ffn(layer), input_norm, &pool);
    predictor->SetGateNorms(layer, norms.gate);
    predictor->SetRowNorms(layer, norms.up, norms.down);
  }
}

uint64_t RowNormBytes(int32_t layers, int32_t ffn_rows) {
  return 3 * sizeof(float) * static_cast<uint64_t>(layers) * static_cast<uint64_t>(ffn_rows);
}

}  // namespace dogstar
