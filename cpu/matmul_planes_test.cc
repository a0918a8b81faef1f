// Products of matrices in bit planes, on every instruction set and thread count.
#include "base/bit_planes.h"

#include <cmath>

#include "base/panel.h"
#include "cpu/test_support.h"

namespace dogstar {
namespace {

class MatMulPlanesTest : public ::testing::TestWithParam<QuantType> {
 protected:
  void Make(int32_t w_rows, int32_t cols, int32_t rows) {
    w_ = MakeMatrix(GetParam(), w_rows, WholeBlocks(GetParam(), cols), 31);
    rows_ = rows;
    x_ = RandomActivations(32, int64_t{rows} * w_.cols);
    const int64_t panels = (int64_t{w_rows} + kPanelRows - 1) / kPanelRows;
    const PlanePanel planes = PanelPlanes(w_.type, w_.cols);
    high_ = *AlignedBuffer::Create(static_cast<uint64_t>(panels) * planes.high);
    low_ = *AlignedBuffer::Create(static_cast<uint64_t>(panels) * planes.low);
    ASSERT_EQ(LowPlanesBytes(w_.type, w_rows, w_.cols), low_.size());
    SplitPanels(w_.type, w_.cols, panels, w_.view(MatrixLayout::kPanels).data, high_.data(), low_.data());
  }
  MatrixView View(PlaneState state) {
    MatrixView view = w_.view(MatrixLayout::kPanels);
    view.planes = state;
    view.data = high_.data();
    view.low = state == PlaneState::kBoth ? low_.data() : nullptr;
    return view;
  }
  std::vector<float> Product(Backend& backend, const MatrixView& view) const {
    return ProductOf(backend, view, rows_, x_);
  }
  std::vector<float> ProductWithLowBits(Backend& backend, int byte) {
    std::fill_n(low_.data(), low_.size(), static_cast<std::byte>(byte));
    return Product(backend, View(PlaneState::kBoth));
  }

  TestMatrix w_;
  int32_t rows_ = 0;
  std::vector<float> x_;
  AlignedBuffer high_, low_;
};

struct Shape {
  int32_t w_rows, cols, rows;
};
constexpr Shape kShapes[] = {{16, 32, 1}, {40, 96, 2}, {65, 256, 3}, {70, 160, 8}, {33, 64, 9}, {130, 512, 21}};

TEST_P(MatMulPlanesTest, BothPlanesAreTheMatrix) {
  for (const Shape& shape : kShapes) {
    Make(shape.w_rows, shape.cols, shape.rows);
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      EXPECT_TRUE(
          SameValues(Product(*backend, View(PlaneState::kBoth)), Product(*backend, w_.view(MatrixLayout::kPanels))))
          << backend->Describe() << ", weights " << shape.w_rows << "x" << shape.cols << ", rows " << shape.rows;
    }
  }
}

// A product is linear in the codes, so that their mean gives the mean of those with all low bits 0 and 1; an outlier's
// missing bits are rounded to whole steps.
TEST_P(MatMulPlanesTest, MissingBitsCountAsTheirMean) {
  const bool table = GetParam() == QuantType::kIQ4_NL, half_a_step = GetParam() == QuantType::kQ8_0;
  for (const Shape& shape : kShapes) {
    Make(shape.w_rows, shape.cols, shape.rows);
    std::vector<float> same;
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      const std::vector<float> got = Product(*backend, View(PlaneState::kHigh));
      if (same.empty()) same = got;
      EXPECT_TRUE(SameValues(got, same)) << backend->Describe() << ", rows " << shape.rows;
      const std::vector<float> least = ProductWithLowBits(*backend, 0), most = ProductWithLowBits(*backend, 0xff);
      double error = 0, norm = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        const double mean = (double{least[i]} + double{most[i]}) / 2;
        error += std::pow(double{got[i]} - mean, 2);
        norm += std::pow(mean, 2);
      }
      EXPECT_LT(std::sqrt(error / norm), table         ? 0.4
                                         : half_a_step ? 0.01
                                                       : 2e-3)
          << backend->Describe() << ", weights " << shape.w_rows << "x" << shape.cols << ", rows " << shape.rows;
    }
  }
}

using enum QuantType;
INSTANTIATE_TEST_SUITE_P(Types, MatMulPlanesTest,
                         ::testing::Values(kQ4_0, kQ4_1, kQ4_K, kIQ4_NL, kQ5_0, kQ5_1, kQ5_K, kQ6_K, kQ8_0),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

}  // namespace
}  // namespace dogstar
