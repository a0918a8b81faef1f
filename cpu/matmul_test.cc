// Products on every instruction set and thread count against device/reference.
#include "cpu/test_support.h"

namespace dogstar {
namespace {

std::vector<float> Reference(const TestMatrix& w, const std::vector<float>& x, int32_t rows, bool precise) {
  std::vector<float> out;
  for (int32_t t = 0; t < rows; ++t) {
    for (int32_t r = 0; r < w.rows; ++r) {
      out.push_back(reference::Dot(w.type, w.row(r), RowOf(x, t, w.cols), precise));
    }
  }
  return out;
}

std::vector<float> Product(Backend& backend, const TestMatrix& w, MatrixLayout layout, const std::vector<float>& x,
                           int32_t rows) {
  auto tensor = MakeTensor(backend, rows, w.cols, x);
  auto activations = *backend.NewActivations(rows, w.cols);
  auto out = MakeTensor(backend, rows, w.rows);
  backend.Prepare(*tensor, rows, activations.get());
  backend.MatMul(w.view(layout), *activations, rows, 0, out.get());
  return ValuesOf(backend, *out);
}

struct Shape {
  int32_t w_rows, cols, rows;
};

class MatMulTest : public ::testing::TestWithParam<QuantType> {
 protected:
  // Both layouts, every instruction set and thread count, against the reference.
  void Check(Shape shape, bool precise) {
    shape.cols = WholeBlocks(GetParam(), shape.cols);
    const TestMatrix w = MakeMatrix(GetParam(), shape.w_rows, shape.cols, 1);
    const std::vector<float> x = RandomActivations(2, int64_t{shape.rows} * shape.cols);
    const std::vector<float> expected = Reference(w, x, shape.rows, precise);
    for (const CpuOptions& options : AllOptions(precise)) {
      auto backend = MakeBackend(options);
      SCOPED_TRACE(backend->Describe() + ", weights " + std::to_string(shape.w_rows) + "x" +
                   std::to_string(shape.cols) + ", rows " + std::to_string(shape.rows));
      EXPECT_TRUE(SameValues(Product(*backend, w, MatrixLayout::kPanels, x, shape.rows), expected));
      EXPECT_TRUE(SameValues(Product(*backend, w, MatrixLayout::kPlain, x, shape.rows), expected)) << "plain";
    }
  }
};

TEST_P(MatMulTest, EqualsReference) {
  for (const Shape& shape : {Shape{16, 32, 1}, Shape{1, 64, 1}, Shape{40, 96, 3}, Shape{70, 160, 7}, Shape{65, 256, 8},
                             Shape{33, 64, 9}, Shape{130, 32, 21}, Shape{17, 1024, 2}}) {
    Check(shape, false);
  }
}

TEST_P(MatMulTest, PreciseEqualsReference) {
  for (const Shape& shape : {Shape{16, 32, 1}, Shape{40, 96, 3}, Shape{70, 64, 15}, Shape{17, 512, 1}}) {
    Check(shape, true);
  }
}

TEST_P(MatMulTest, ManyRowsThatDoNotFitACacheEqualSingleRows) {
  constexpr int32_t kRows = 40, kCols = 32768, kWeightRows = 32;
  const TestMatrix w = MakeMatrix(GetParam(), kWeightRows, kCols, 3);
  const std::vector<float> x = RandomActivations(4, int64_t{kRows} * kCols);
  auto backend = MakeBackend({.threads = 2});
  const std::vector<float> all = Product(*backend, w, MatrixLayout::kPanels, x, kRows);
  EXPECT_TRUE(SameValues(Product(*backend, w, MatrixLayout::kPlain, x, kRows), all));
  for (int32_t t = 0; t < kRows; ++t) {
    const std::span<const float> row = RowOf(x, t, kCols);
    const std::vector<float> one =
        Product(*backend, w, MatrixLayout::kPanels, std::vector<float>(row.begin(), row.end()), 1);
    EXPECT_TRUE(SameValues(one, RowOf(all, t, kWeightRows))) << t;
  }
}

TEST_P(MatMulTest, FewerRowsThanPreparedAndAnOutputColumn) {
  constexpr int32_t kRows = 11, kWeightRows = 20, kOutCol = 5;
  const int32_t kCols = WholeBlocks(GetParam(), 64);
  const TestMatrix w = MakeMatrix(GetParam(), kWeightRows, kCols, 5);
  const std::vector<float> x = RandomActivations(6, kRows * kCols);
  const std::vector<float> expected = Reference(w, x, kRows, false);
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    auto tensor = MakeTensor(*backend, kRows, kCols, x);
    auto activations = *backend->NewActivations(kRows + 5, kCols);
    backend->Prepare(*tensor, kRows, activations.get());
    for (const int32_t rows : {1, 4, 9}) {
      auto out = MakeTensor(*backend, kRows, kWeightRows + 8);
      backend->MatMul(w.view(MatrixLayout::kPanels), *activations, rows, kOutCol, out.get());
      const std::vector<float> values = ValuesOf(*backend, *out);
      for (int32_t t = 0; t < kRows; ++t) {
        std::vector<float> row(kWeightRows + 8);
        if (t < rows) std::copy_n(RowOf(expected, t, kWeightRows).begin(), kWeightRows, row.begin() + kOutCol);
        EXPECT_TRUE(SameValues(RowOf(values, t, kWeightRows + 8), row)) << backend->Describe() << " row " << t;
      }
    }
  }
}

// Codes at the ends of their ranges, where a 16-bit intermediate would overflow.
TEST_P(MatMulTest, ExtremeCodesAreExact) {
  constexpr int32_t kRows = 16, kCols = 256;
  TestMatrix w = MakeMatrix(GetParam(), kRows, kCols, 7);
  if (IsFloatType(w.type)) return;
  // Codes of all ones; -128 for signed bytes. Scales stay.
  Codes codes;
  codes.fill(w.type == QuantType::kQ8_0 ? uint8_t{0x80} : static_cast<uint8_t>((1 << ShapeOf(w.type).bits()) - 1));
  const uint64_t row_bytes = RowBytes(w.type, kCols);
  for (int32_t r = 0; r < kRows; ++r) {
    std::vector<std::byte> row(row_bytes);
    for (int64_t i = 0; i < kCols / 32; ++i) StoreCodes(w.type, codes, i, row.data());
    for (int64_t g = 0; g < kCols / ShapeOf(w.type).group_weights; ++g) {
      StoreScales(w.type, LoadScales(w.type, w.row(r), g), g, row.data());
    }
    std::memcpy(w.plain.data() + r * row_bytes, row.data(), row_bytes);
  }
  PackMatrix(w.type, w.plain.data(), kRows, kCols, w.panels.data());
  for (const float sign : {1.0f, -1.0f}) {
    const std::vector<float> x(kCols, sign);
    const std::vector<float> expected = Reference(w, x, 1, false);
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      EXPECT_TRUE(SameValues(Product(*backend, w, MatrixLayout::kPanels, x, 1), expected)) << backend->Describe();
    }
  }
}

TEST_P(MatMulTest, PackPanelsEqualsPackPanel) {
  for (const int32_t rows : {16, 35}) {
    for (const int32_t least_cols : {32, 96, 512}) {
      const int32_t cols = WholeBlocks(GetParam(), least_cols);
      const TestMatrix w = MakeMatrix(GetParam(), rows, cols, 8);
      for (const CpuOptions& options : AllOptions(false)) {
        auto backend = MakeBackend(options);
        std::vector<std::byte> panels(w.panels.size(), std::byte{0xcd});
        backend->PackPanels(w.view(MatrixLayout::kPlain), panels.data());
        EXPECT_EQ(std::memcmp(panels.data(), w.panels.data(), panels.size()), 0)
            << backend->Describe() << " " << rows << "x" << cols;
      }
    }
  }
}

// What an int8 product may lose: half a step of each block, whose 127 steps reach to the largest value that is not kept
// apart.
float Int8Bound(std::span<const float> weights, std::span<const float> x) {
  float bound = 0;
  for (size_t b = 0; b < x.size(); b += kQuantBlock) {
    float most = 0, second = 0, weight_sum = 0;
    for (size_t i = b; i < b + kQuantBlock; ++i) {
      second = std::max(second, std::min(most, std::fabs(x[i])));
      most = std::max(most, std::fabs(x[i]));
      weight_sum += std::fabs(weights[i]);
    }
    const bool apart = most > 2 * second && most <= 4000 * second;
    bound += 0.5f * (apart ? second : most) / 127 * weight_sum * 1.001f;
  }
  return bound;
}

TEST_P(MatMulTest, IsCloseToTheProductOfDecodedWeights) {
  constexpr int32_t kRows = 64, kCols = 512;
  const TestMatrix w = MakeMatrix(GetParam(), kRows, kCols, 9);
  std::vector<float> with_outliers = RandomFloats(10, kCols);
  for (int32_t b = 0; b < kCols; b += kQuantBlock) with_outliers[b + b / kQuantBlock * 7 % kQuantBlock] = 60;
  auto backend = MakeBackend({.threads = 2});
  auto precise = MakeBackend({.threads = 2, .precise = true});
  for (const std::vector<float>& x : {RandomFloats(10, kCols), with_outliers}) {
    const std::vector<float> fast = Product(*backend, w, MatrixLayout::kPanels, x, 1);
    const std::vector<float> exact = Product(*precise, w, MatrixLayout::kPanels, x, 1);
    std::vector<float> weights(kCols);
    double error = 0, norm = 0;
    for (int32_t r = 0; r < kRows; ++r) {
      DequantizeRow(w.type, w.row(r), kCols, weights.data());
      EXPECT_NEAR(fast[r], exact[r], Int8Bound(weights, x) + 1e-3f) << r;
      error += std::pow(fast[r] - exact[r], 2);
      norm += std::pow(exact[r], 2);
    }
    EXPECT_LT(std::sqrt(error / norm), 0.008);
  }
}

TEST_P(MatMulTest, GatherRowsGivesDecodedRows) {
  constexpr int32_t kRows = 37;
  const int32_t kCols = WholeBlocks(GetParam(), 96);
  const TestMatrix table = MakeMatrix(GetParam(), kRows, kCols, 11);
  const std::vector<int32_t> row_index = {36, 0, 17, 17, 5};
  std::vector<float> expected(row_index.size() * kCols);
  for (size_t i = 0; i < row_index.size(); ++i) {
    DequantizeRow(table.type, table.row(row_index[i]), kCols, &expected[i * kCols]);
  }
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    for (const MatrixLayout layout : {MatrixLayout::kPanels, MatrixLayout::kPlain}) {
      auto out = MakeTensor(*backend, 5, kCols);
      backend->GatherRows(table.view(layout), row_index, out.get());
      EXPECT_TRUE(SameValues(ValuesOf(*backend, *out), expected)) << backend->Describe();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, MatMulTest, ::testing::ValuesIn(kAllTypes),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

// Plain matrices come straight from files: their rows start anywhere.
TEST(PlainMatMulTest, DataMayBeUnaligned) {
  constexpr int32_t kRows = 16;
  for (const QuantType type : kAllTypes) {
    const int32_t kCols = WholeBlocks(type, 64);
    const TestMatrix w = MakeMatrix(type, kRows, kCols, 12);
    const std::vector<float> x = RandomActivations(13, kCols);
    std::vector<std::byte> shifted(w.plain.size() + 1);
    std::memcpy(shifted.data() + 1, w.plain.data(), w.plain.size());
    for (const CpuIsa isa : AvailableIsas()) {
      auto backend = MakeBackend({.threads = 1, .isa = isa});
      const std::vector<float> expected = Product(*backend, w, MatrixLayout::kPlain, x, 1);
      auto tensor = MakeTensor(*backend, 1, kCols, x);
      auto activations = *backend->NewActivations(1, kCols);
      auto out = MakeTensor(*backend, 1, kRows);
      backend->Prepare(*tensor, 1, activations.get());
      backend->MatMul({type, MatrixLayout::kPlain, kRows, kCols, shifted.data() + 1}, *activations, 1, 0, out.get());
      EXPECT_TRUE(SameValues(ValuesOf(*backend, *out), expected)) << backend->Describe();
    }
  }
}

TEST(PrepareTest, ZerosAndTinyValuesGiveZero) {
  constexpr int32_t kRows = 16, kCols = 64;
  const TestMatrix w = MakeMatrix(QuantType::kQ4_0, kRows, kCols, 14);
  for (const float value : {0.0f, 1e-40f}) {
    const std::vector<float> x(kCols, value);
    for (const CpuIsa isa : AvailableIsas()) {
      auto backend = MakeBackend({.threads = 1, .isa = isa});
      EXPECT_TRUE(SameValues(Product(*backend, w, MatrixLayout::kPanels, x, 1), std::vector<float>(kRows)));
    }
  }
}

}  // namespace
}  // namespace dogstar
