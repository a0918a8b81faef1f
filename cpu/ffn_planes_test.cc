// Pages of FFN rows in two bit planes, on every instruction set and thread count: both are the page, to the bit; the
// high one alone counts missing bits as their mean.
#include "base/bit_planes.h"
#include "cpu/ffn_test_support.h"

namespace dogstar {
namespace {

class FfnPlanesTest : public ::testing::TestWithParam<FfnCase> {
 protected:
  const TestLayer layer_{GetParam(), 1};
  const int32_t dim_ = GetParam().dim;
};

// Pages cut in two planes, each in memory of its own.
class CutPages {
 public:
  // planes[p % planes.size()]: of page p.
  CutPages(const TestLayer& layer, const std::vector<PlaneState>& planes) : pages_(layer.pages()) {
    const FfnPageLayout& layout = layer.layout();
    planes_.reserve(2 * pages_.size());
    for (size_t p = 0; p < pages_.size(); ++p) {
      FfnPageRef& page = pages_[p];
      page.planes = planes[p % planes.size()];
      if (page.planes == PlaneState::kWhole) continue;
      AlignedBuffer& high = planes_.emplace_back(*AlignedBuffer::Create(layout.high.bytes));
      AlignedBuffer& low = planes_.emplace_back(*AlignedBuffer::Create(std::max<uint64_t>(layout.low.bytes, 64)));
      SplitPage(layout, page.data, high.data(), layout.low.bytes > 0 ? low.data() : nullptr);
      page.data = high.data();
      if (page.planes == PlaneState::kBoth) page.low = low.data();
    }
  }
  std::vector<FfnPageRef>& pages() { return pages_; }

 private:
  std::vector<FfnPageRef> pages_;
  std::vector<AlignedBuffer> planes_;
};

TEST_P(FfnPlanesTest, BothPlanesAreThePage) {
  CutPages cut(layer_, {PlaneState::kBoth, PlaneState::kWhole});
  std::vector<FfnPageRef>& pages = cut.pages();
  const std::vector<uint64_t> mask((layer_.layout().page_rows + 63) / 64, 0x7ffe'0000'f0f0'ff00);
  pages[0].row_mask = mask.data();
  std::vector<FfnPageRef> whole = layer_.pages();
  whole[0].row_mask = mask.data();
  for (const int32_t rows : {1, 3, 8, 13}) {
    const std::vector<float> x = RandomActivations(22, rows * dim_), before = RandomFloats(23, rows * dim_);
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      const std::vector<float> expected = RunFfn(*backend, layer_.params(), x, rows, before,
                                                 [&](FfnJob* job) { backend->FfnAccumulatePages(whole, job); });
      const std::vector<float> got = RunFfn(*backend, layer_.params(), x, rows, before,
                                            [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); });
      EXPECT_TRUE(SameValues(got, expected)) << backend->Describe() << ", rows " << rows;
    }
  }
}

// The number that a code counts as where its low bits are missing.
double MeanValue(QuantType type, int code) {
  const int32_t low = LowPlaneBits(type);
  double sum = 0;
  for (int bits = 0; bits < 1 << low; ++bits) sum += CodeValue(type, (code >> low << low) | bits);
  return sum / (1 << low);
}

// Weight `column` of row `lane` of a panel without its low bits.
double MeanWeight(QuantType type, const std::byte* panel, int lane, int32_t column, int32_t cols) {
  if (IsFloatType(type)) {
    std::vector<std::byte> row(RowBytes(type, cols));
    std::vector<float> values(static_cast<size_t>(cols));
    UnpackPanelRow(type, panel, lane, cols, row.data());
    DequantizeRow(type, row.data(), cols, values.data());
    return values[static_cast<size_t>(column)];
  }
  const int64_t group = column / ShapeOf(type).group_weights;
  const GroupScale scale =
      Combine(type, TableScales(type, panel + PanelScalesOffset(type, cols), group, kPanelRows, lane));
  return double{scale.d} * MeanValue(type, PanelCode(type, panel, lane, column)) + double{scale.m};
}

// What a page without its low planes gives one row of x, in double precision.
std::vector<double> MeanOutputs(const TestLayer& layer, const FfnPageRef& page, std::span<const float> x) {
  const FfnPageLayout& layout = layer.layout();
  const auto product = [&](QuantType type, const std::byte* part, int32_t row) {
    const std::byte* panel = part + row / kPanelRows * PanelBytes(type, layout.dim);
    double sum = 0;
    for (int32_t k = 0; k < layout.dim; ++k) sum += x[k] * MeanWeight(type, panel, row % kPanelRows, k, layout.dim);
    return sum;
  };
  std::vector<double> y(static_cast<size_t>(layout.dim));
  for (int32_t row = 0; row < page.row_count; ++row) {
    const double gate = product(layout.gate_type, page.data + layout.gate_offset, row);
    const double z = reference::Activate(layer.params().activation, static_cast<float>(gate)) *
                     product(layout.up_type, page.data + layout.up_offset, row);
    for (int32_t o = 0; o < layout.dim; ++o) {
      const std::byte* panel = page.data + layout.down_offset + o / kPanelRows * layout.down_panel_bytes;
      if (IsFloatType(layout.down_type)) {
        y[o] += z * MeanWeight(layout.down_type, panel, o % kPanelRows, row, layout.page_rows);
        continue;
      }
      const GroupScale scale =
          Combine(layout.down_type, TableScales(layout.down_type, layer.params().down_scales,
                                                page.run_groups[row / layout.run_rows], layout.dim, o));
      const int code = PanelCode(layout.down_type, panel, o % kPanelRows, row);
      y[o] += z * (double{scale.d} * MeanValue(layout.down_type, code) + double{scale.m});
    }
  }
  return y;
}

double RelativeError(std::span<const float> got, std::span<const double> expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return std::sqrt(error / norm);
}

TEST_P(FfnPlanesTest, MissingBitsCountAsTheirMean) {
  CutPages cut(layer_, {PlaneState::kHigh});
  const std::vector<FfnPageRef> one = {cut.pages()[0]};
  const std::vector<float> x = RandomFloats(24, dim_), before(dim_);
  const std::vector<double> expected = MeanOutputs(layer_, layer_.pages()[0], x);
  std::vector<float> same;
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    const std::vector<float> got =
        RunFfn(*backend, layer_.params(), x, 1, before, [&](FfnJob* job) { backend->FfnAccumulatePages(one, job); });
    // Activations of 8 bits; IQ4_NL takes one of two values in place of their mean.
    const bool table = GetParam().gate == QuantType::kIQ4_NL;
    EXPECT_LT(RelativeError(got, expected), table ? 0.3 : 0.03) << backend->Describe();
    if (same.empty()) same = got;
    EXPECT_TRUE(SameValues(got, same)) << backend->Describe();
  }
}

using enum QuantType;
INSTANTIATE_TEST_SUITE_P(
    Shapes, FfnPlanesTest,
    ::testing::Values(FfnCase{kQ4_0, kQ4_0, kQ4_0, 64, 160, 32, 8}, FfnCase{kQ4_0, kQ4_0, kQ4_0, 96, 160, 64, 4},
                      FfnCase{kQ4_1, kQ4_0, kQ4_1, 64, 160, 64, 8, FfnActivation::kGeluTanh},
                      FfnCase{kQ4_1, kQ4_1, kQ4_1, 32, 96, 64, 16}, FfnCase{kQ5_0, kQ5_1, kQ5_0, 64, 96, 64, 8},
                      FfnCase{kQ5_1, kQ5_0, kQ5_1, 64, 96, 64, 4, FfnActivation::kGeluTanh},
                      FfnCase{kQ8_0, kQ8_0, kQ8_0, 160, 96, 32, 8}, FfnCase{kQ8_0, kQ4_0, kQ8_0, 64, 64, 32, 32},
                      FfnCase{kIQ4_NL, kIQ4_NL, kIQ4_NL, 64, 96, 32, 8}, FfnCase{kQ4_K, kQ4_K, kQ6_K, 256, 256, 96, 8},
                      FfnCase{kQ4_K, kQ4_K, kQ4_K, 256, 512, 64, 32}, FfnCase{kQ5_K, kQ5_K, kQ5_K, 256, 256, 64, 16},
                      FfnCase{kQ6_K, kQ3_K, kQ3_K, 256, 256, 64, 8}, FfnCase{kQ4_0, kQ4_0, kF16, 64, 96, 64, 8},
                      FfnCase{kF16, kQ8_0, kF16, 64, 150, 64, 8}),
    NameOfCase);

}  // namespace
}  // namespace dogstar
