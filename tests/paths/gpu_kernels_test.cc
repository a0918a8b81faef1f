// Operations of a GPU's backend against the CPU's, to the bit: rows and matrices in bit planes, plain rows, rows that
// tokens choose. On the host's emulation, and on a GPU where there is one.
#include <cmath>
#include <functional>
#include <limits>

#include "base/bit_planes.h"
#include "cpu/ffn_test_support.h"
#include "gmock/gmock.h"
#include "tests/support/gpu_devices.h"

namespace dogstar {
namespace {

using enum QuantType;

using testing_support::Copies;
using testing_support::Devices;

// A layer's pages and tables in a backend's memory.
struct LayerCopy {
  FfnParams params;
  std::vector<FfnPageRef> pages;

  // planes[p % planes.size()]: how page p is there.
  LayerCopy(const TestLayer& layer, std::vector<PlaneState> planes, Copies* copies)
      : params(layer.params()), pages(layer.pages()) {
    const FfnPageLayout& layout = layer.layout();
    if (layout.has_down_table()) params.down_scales = copies->Put({params.down_scales, layout.down_table_bytes()});
    for (size_t p = 0; p < pages.size(); ++p) {
      FfnPageRef& page = pages[p];
      page.planes = planes[p % planes.size()];
      if (page.planes == PlaneState::kWhole) {
        page.data = copies->Put({page.data, layout.page_bytes});
        continue;
      }
      std::vector<std::byte> high(layout.high.bytes), low(layout.low.bytes);
      SplitPage(layout, page.data, high.data(), low.empty() ? nullptr : low.data());
      page.data = copies->Put(high);
      if (page.planes == PlaneState::kBoth) page.low = copies->Put(low);
    }
  }
};

class GpuFfnTest : public ::testing::TestWithParam<FfnCase> {
 protected:
  using Work = std::function<void(Backend&, std::span<const FfnPageRef>, FfnJob*)>;

  // What `work` gives on the backend over the layer's pages.
  std::vector<float> Run(Backend& backend, const std::vector<PlaneState>& planes, int32_t rows, const Work& work) {
    const int32_t dim = GetParam().dim;
    Copies copies(&backend);
    const LayerCopy layer(layer_, planes, &copies);
    return RunFfn(backend, layer.params, RandomActivations(51, int64_t{rows} * dim), rows,
                  RandomFloats(52, int64_t{rows} * dim), [&](FfnJob* job) { work(backend, layer.pages, job); });
  }

  const TestLayer layer_{GetParam(), 5};
};

void AddPages(Backend& backend, std::span<const FfnPageRef> pages, FfnJob* job) {
  backend.FfnAccumulatePages(pages, job);
}

TEST_P(GpuFfnTest, PagesInPlanesGiveTheCpusBits) {
  const std::vector<std::vector<PlaneState>> mixes = {
      {PlaneState::kBoth, PlaneState::kWhole}, {PlaneState::kHigh}, {PlaneState::kWhole, PlaneState::kHigh}};
  auto cpu = MakeBackend({.threads = 2});
  for (const auto& device : Devices()) {
    ASSERT_TRUE(device->ReserveJoinRoom(layer_.layout().page_bytes).ok());
    for (const auto& planes : mixes) {
      for (const int32_t rows : {1, 3, 12}) {
        EXPECT_TRUE(SameValues(Run(*device, planes, rows, AddPages), Run(*cpu, planes, rows, AddPages)))
            << device->Describe() << ", rows " << rows;
      }
    }
  }
}

TEST_P(GpuFfnTest, TokensChooseAsOnTheCpu) {
  const int32_t ffn_rows = layer_.layout().ffn_rows;
  std::vector<float> weight = RandomFloats(53, ffn_rows), given = RandomFloats(54, int64_t{3} * ffn_rows);
  for (float& value : weight) value = std::fabs(value);
  const std::vector<RowChoice> choices = {
      {.score = RowScore::kGate, .count = ffn_rows / 2},
      {.score = RowScore::kGate, .count = ffn_rows / 5, .weight = weight.data(), .shared = true},
      {.score = RowScore::kGate, .count = ffn_rows / 2, .value_count = ffn_rows / 4, .value_weight = weight.data()},
      {.score = RowScore::kValue, .count = ffn_rows / 3, .weight = weight.data()},
      {.score = RowScore::kValue, .count = -1, .threshold = 0.1f},
      {.score = RowScore::kGate, .count = 0},
      {.score = RowScore::kGate, .count = 1 << 20},
      {.score = RowScore::kGiven, .count = ffn_rows / 2, .given = given.data(), .given_stride = ffn_rows},
  };
  auto cpu = MakeBackend({.threads = 2});
  const size_t words = (static_cast<size_t>(ffn_rows) + 63) / 64;
  for (const auto& device : Devices()) {
    for (size_t i = 0; i < choices.size(); ++i) {
      for (const int32_t rows : {1, 3}) {
        FfnUse use[2];
        std::vector<uint64_t> chosen[2];
        std::vector<float> out[2];
        for (int side = 0; side < 2; ++side) {
          chosen[side].assign(words * static_cast<size_t>(rows), ~uint64_t{0});
          const auto work = [&](Backend& backend, std::span<const FfnPageRef> pages, FfnJob* job) {
            use[side] = backend.FfnAccumulateChosen(pages, choices[i], chosen[side], job);
          };
          out[side] = Run(side == 0 ? *cpu : *device, {PlaneState::kWhole}, rows, work);
        }
        EXPECT_TRUE(SameValues(out[1], out[0])) << device->Describe() << ", choice " << i << ", rows " << rows;
        EXPECT_EQ(chosen[1], chosen[0]) << i;
        EXPECT_EQ(use[1].gate_rows, use[0].gate_rows) << i;
        EXPECT_EQ(use[1].up_rows, use[0].up_rows) << i;
        EXPECT_EQ(use[1].down_rows, use[0].down_rows) << i;
        EXPECT_EQ(use[1].used, use[0].used) << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GpuFfnTest,
    ::testing::Values(FfnCase{kQ4_0, kQ4_0, kQ4_0, 64, 160, 32, 8}, FfnCase{kQ4_1, kQ4_0, kQ4_1, 64, 160, 64, 8},
                      FfnCase{kQ4_0, kQ4_0, kQ4_0, 64, 608, 32, 4}, FfnCase{kQ5_0, kQ5_1, kQ5_0, 64, 96, 64, 8},
                      FfnCase{kQ8_0, kQ8_0, kQ8_0, 160, 96, 32, 8, FfnActivation::kGeluTanh},
                      FfnCase{kIQ4_NL, kIQ4_NL, kIQ4_NL, 64, 96, 32, 8}, FfnCase{kQ4_K, kQ4_K, kQ6_K, 256, 256, 96, 8},
                      FfnCase{kQ5_K, kQ5_K, kQ5_K, 256, 256, 64, 16}, FfnCase{kQ6_K, kQ3_K, kQ3_K, 256, 256, 64, 8},
                      FfnCase{kF16, kQ8_0, kF16, 64, 160, 64, 8}),
    NameOfCase);

TEST(GpuPeaksTest, AreTheCpus) {
  auto cpu = MakeBackend({.threads = 2});
  for (const auto& device : Devices()) {
    for (const int32_t cols : {1, 200, 1000, 3001}) {
      std::vector<float> x = RandomFloats(71, 4 * cols, 3);
      x[static_cast<size_t>(cols / 2)] = std::nanf("");
      for (int32_t i = 0; i < cols; ++i) x[static_cast<size_t>(3 * cols + i)] = -std::numeric_limits<float>::infinity();
      std::vector<RowPeak> of_cpu(4), of_device(4);
      ASSERT_TRUE(cpu->FindPeaks(*MakeTensor(*cpu, 4, cols, x), 0, cols, 0.7f, of_cpu).ok());
      ASSERT_TRUE(device->FindPeaks(*MakeTensor(*device, 4, cols, x), 0, cols, 0.7f, of_device).ok());
      for (size_t i = 0; i < of_cpu.size(); ++i) {
        EXPECT_EQ(of_device[i].col, of_cpu[i].col) << "row " << i << " of " << cols;
        EXPECT_EQ(of_device[i].value, of_cpu[i].value) << "row " << i << " of " << cols;
        EXPECT_EQ(of_device[i].weight, of_cpu[i].weight) << "row " << i << " of " << cols;
      }
    }
  }
}

TEST(GpuTopTest, IsTheCpus) {
  auto cpu = MakeBackend({.threads = 2});
  for (const auto& device : Devices()) {
    for (const int32_t cols : {1, 40, 1000, 3001}) {
      std::vector<float> x = RandomFloats(72, 2 * cols, 3);
      for (size_t i = 0; i < x.size(); i += 5) x[i] = i % 3 == 0 ? std::nanf("") : 1.25F;  // many are equal
      for (size_t i = 0; i < static_cast<size_t>(cols); i += 2) x[i] = i % 4 == 0 ? 0.0F : -0.0F;
      for (const int32_t count : {1, 7, 256}) {
        const auto top_of = [&](Backend& backend, int32_t row) {
          std::vector<RowEntry> top(static_cast<size_t>(std::min(count, cols)));
          EXPECT_TRUE(backend.FindTop(*MakeTensor(backend, 2, cols, x), row, cols, top).ok());
          return top;
        };
        for (const int32_t row : {0, 1}) {
          const std::vector<RowEntry> of_cpu = top_of(*cpu, row), of_device = top_of(*device, row);
          for (size_t i = 0; i < of_cpu.size(); ++i) {
            EXPECT_EQ(of_device[i].col, of_cpu[i].col) << "place " << i << " of " << count << ", columns " << cols;
            EXPECT_EQ(of_device[i].value, of_cpu[i].value) << "place " << i << " of " << count << ", columns " << cols;
          }
        }
      }
    }
  }
}

class GpuMatMulTest : public ::testing::TestWithParam<QuantType> {};

struct MatMulShape {
  int32_t w_rows, cols, rows;
};
constexpr MatMulShape kShapes[] = {{16, 32, 1}, {40, 96, 2}, {70, 160, 8}, {33, 64, 9}, {130, 512, 21}};

TEST_P(GpuMatMulTest, PlainRowsGiveTheCpusBits) {
  auto cpu = MakeBackend({.threads = 2});
  for (const auto& device : Devices()) {
    ASSERT_TRUE(device->ReserveJoinRoom(PanelBytes(GetParam(), 512)).ok());
    for (const MatMulShape& shape : kShapes) {
      const TestMatrix w = MakeMatrix(GetParam(), shape.w_rows, WholeBlocks(GetParam(), shape.cols), 61);
      const std::vector<float> x = RandomActivations(62, int64_t{shape.rows} * w.cols);
      Copies copies(device.get());
      MatrixView plain = w.view(MatrixLayout::kPlain);
      plain.data = copies.Put({plain.data, w.rows * RowBytes(w.type, w.cols)});
      EXPECT_TRUE(SameValues(ProductOf(*device, plain, shape.rows, x),
                             ProductOf(*cpu, w.view(MatrixLayout::kPanels), shape.rows, x)))
          << device->Describe() << ", weights " << shape.w_rows << "x" << w.cols << ", rows " << shape.rows;
    }
  }
}

TEST_P(GpuMatMulTest, PlanesGiveTheCpusBits) {
  if (LowPlaneBits(GetParam()) == 0) GTEST_SKIP() << "the type is not cut";
  auto cpu = MakeBackend({.threads = 2});
  for (const auto& device : Devices()) {
    ASSERT_TRUE(device->ReserveJoinRoom(PanelBytes(GetParam(), 512)).ok());
    for (const MatMulShape& shape : kShapes) {
      const TestMatrix w = MakeMatrix(GetParam(), shape.w_rows, WholeBlocks(GetParam(), shape.cols), 63);
      const std::vector<float> x = RandomActivations(64, int64_t{shape.rows} * w.cols);
      const int64_t panels = (int64_t{shape.w_rows} + kPanelRows - 1) / kPanelRows;
      const PlanePanel planes = PanelPlanes(w.type, w.cols);
      AlignedBuffer high = *AlignedBuffer::Create(static_cast<uint64_t>(panels) * planes.high);
      AlignedBuffer low = *AlignedBuffer::Create(static_cast<uint64_t>(panels) * planes.low);
      SplitPanels(w.type, w.cols, panels, w.view(MatrixLayout::kPanels).data, high.data(), low.data());
      Copies copies(device.get());
      for (const PlaneState state : {PlaneState::kBoth, PlaneState::kHigh}) {
        MatrixView of_cpu = w.view(MatrixLayout::kPanels);
        of_cpu.planes = state;
        of_cpu.data = high.data();
        of_cpu.low = state == PlaneState::kBoth ? low.data() : nullptr;
        MatrixView of_device = of_cpu;
        of_device.data = copies.Put(high.span());
        if (state == PlaneState::kBoth) of_device.low = copies.Put(low.span());
        EXPECT_TRUE(SameValues(ProductOf(*device, of_device, shape.rows, x), ProductOf(*cpu, of_cpu, shape.rows, x)))
            << device->Describe() << ", weights " << shape.w_rows << "x" << w.cols << ", rows " << shape.rows
            << (state == PlaneState::kHigh ? ", high planes" : ", both planes");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GpuMatMulTest, ::testing::ValuesIn(kAllTypes),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

}  // namespace
}  // namespace dogstar
