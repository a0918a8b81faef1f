// Layers of random FFN pages, and a run of them.
#pragma once

#include "base/quant_codes.h"
#include "cpu/test_support.h"

namespace dogstar {

struct FfnCase {
  QuantType gate, up, down;
  int32_t dim, ffn_rows, page_rows, run_rows;
  FfnActivation activation = FfnActivation::kSilu;
};

inline std::string NameOfCase(const ::testing::TestParamInfo<FfnCase>& test) {
  const FfnCase& c = test.param;
  return std::string(TraitsOf(c.gate).name) + "_" + std::string(TraitsOf(c.up).name) + "_" +
         std::string(TraitsOf(c.down).name) + "_" + std::to_string(c.dim) + "_" + std::to_string(c.page_rows) + "_" +
         std::to_string(c.run_rows);
}

// A layer of random pages: codes, scales and groups of every value.
class TestLayer {
 public:
  TestLayer(const FfnCase& shape, uint64_t seed)
      : layout_(*FfnPageLayout::Make(shape.gate, shape.up, shape.down, shape.dim, shape.ffn_rows, shape.page_rows,
                                     shape.run_rows)),
        activation_(shape.activation),
        random_(seed) {
    pages_ = *AlignedBuffer::Create(layout_.page_count() * layout_.page_bytes);
    scales_ = *AlignedBuffer::Create(layout_.down_table_bytes());
    const auto half = [&] { return FloatToHalf(static_cast<float>(random_.Uniform() - 0.5) * 0.1f); };
    for (int32_t group = 0; group < layout_.group_count(); ++group) {
      for (int32_t output = 0; output < layout_.dim; ++output) {
        const StoredScales scales{half(), half(), static_cast<uint8_t>(random_.Next() % 16),
                                  static_cast<uint8_t>(random_.Next() % 16)};
        SetTableScales(layout_.down_type, scales, group, layout_.dim, output, scales_.data());
      }
    }
    for (int32_t p = 0; p < layout_.page_count(); ++p) FillPage(p);
  }

  const FfnPageLayout& layout() const { return layout_; }
  FfnParams params(Tensor* capture = nullptr) const { return {layout_, activation_, scales_.data(), capture}; }
  std::vector<FfnPageRef> pages() const {
    std::vector<FfnPageRef> refs;
    for (int32_t p = 0; p < layout_.page_count(); ++p) {
      FfnPageRef ref;
      ref.data = pages_.data() + p * layout_.page_bytes;
      ref.first_row = p * layout_.page_rows;
      ref.row_count = std::min(layout_.page_rows, layout_.ffn_rows - ref.first_row);
      ref.run_groups = run_groups_[p].data();
      refs.push_back(ref);
    }
    return refs;
  }

 private:
  void FillPage(int32_t p) {
    std::byte* page = pages_.data() + p * layout_.page_bytes;
    FillRows(layout_.gate_type, page + layout_.gate_offset);
    FillRows(layout_.up_type, page + layout_.up_offset);
    std::byte* down = page + layout_.down_offset;
    if (TraitsOf(layout_.down_type).block_weights == 1) {
      FillFloats(down);
    } else {
      for (uint64_t i = 0; i < layout_.down_panel_bytes * layout_.dim / kPanelRows; ++i) {
        down[i] = static_cast<std::byte>(random_.Next());
      }
    }
    std::vector<uint16_t> groups;
    for (int32_t row = 0; row < layout_.page_rows; row += layout_.run_rows) {
      groups.push_back(static_cast<uint16_t>(random_.Next() % std::max(layout_.group_count(), 1)));
    }
    run_groups_.push_back(groups);
  }
  void FillRows(QuantType type, std::byte* panels) {
    const TestMatrix matrix = MakeMatrix(type, layout_.page_rows, layout_.dim, random_.Next() % 1000);
    std::memcpy(panels, matrix.panels.data(), matrix.panels.size());
  }
  void FillFloats(std::byte* down) {
    for (int32_t o = 0; o < layout_.dim; o += kPanelRows) {
      const TestMatrix matrix = MakeMatrix(layout_.down_type, kPanelRows, layout_.page_rows, random_.Next() % 1000);
      std::memcpy(down + o / kPanelRows * layout_.down_panel_bytes, matrix.panels.data(), matrix.panels.size());
    }
  }

  FfnPageLayout layout_;
  FfnActivation activation_;
  SplitMix64 random_;
  AlignedBuffer pages_, scales_;
  std::vector<std::vector<uint16_t>> run_groups_;
};

// Runs an FFN; add(job) adds pages or overlays.
template <typename AddWork>
std::vector<float> RunFfn(Backend& backend, const FfnParams& params, const std::vector<float>& x, int32_t rows,
                          const std::vector<float>& before, const AddWork& add) {
  const FfnPageLayout& layout = params.layout;
  auto tensor = MakeTensor(backend, rows, layout.dim, x);
  auto activations = *backend.NewActivations(rows, layout.dim);
  auto job = *backend.NewFfnJob({rows, layout.dim, layout.page_count() * layout.page_rows, rows});
  auto out = MakeTensor(backend, rows, layout.dim, before);
  backend.Prepare(*tensor, rows, activations.get());
  backend.FfnBegin(params, *activations, rows, job.get());
  add(job.get());
  backend.FfnEnd(job.get(), out.get());
  return ValuesOf(backend, *out);
}

}  // namespace dogstar
