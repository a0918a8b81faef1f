// Rows gathered next to each other are the rows of the list, whatever their types and groups.
#include "memory/gathered_rows.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "gtest/gtest.h"
#include "memory/weights.h"
#include "model/model_file.h"
#include "model/synth.h"

namespace dogstar {
namespace {

constexpr int32_t kRows = 768, kDim = 256;

class GatheredRowsTest : public testing::TestWithParam<QuantType> {
 protected:
  GatheredRowsTest() {
    SynthOptions options;
    options.shape = {2, kDim, kRows, 4, 2};
    options.type = GetParam();
    options.packed = true;
    path_ = std::filesystem::path(testing::TempDir()) / fmt::format("dogstar_gathered_{}.dog.gguf", getpid());
    CHECK(WriteSyntheticModel(options, path_, nullptr).ok());
    model_ = ModelFile::Open(path_).value();
    backend_ = NewCpuBackend({.threads = 2, .precise = true}).value();
    LoadLayer();
  }
  ~GatheredRowsTest() override { std::filesystem::remove(path_); }

  const PackedLayer& layer() const { return model_->packed()->layers()[1]; }

  void LoadLayer() {
    const FfnPageLayout& layout = layer().layout;
    pages_ = AlignedBuffer::Create(static_cast<uint64_t>(layout.page_count()) * layout.page_bytes).value();
    CHECK(model_->ReadBytes(layer().pages_offset, pages_.span()).ok());
    part_.layer = &layer();
    for (int32_t page = 0; page < layout.page_count(); ++page) {
      part_.resident.push_back(
          PageRefOf(layer(), page, pages_.data() + static_cast<uint64_t>(page) * layout.page_bytes));
    }
    if (layout.has_down_table()) {
      scales_ = AlignedBuffer::Create(layout.down_table_bytes()).value();
      CHECK(model_->ReadBytes(layer().down_scales_offset, scales_.span()).ok());
      part_.down_scales = scales_.data();
    }
  }

  // The FFN's output over pages of a layout, and z by row in `capture`.
  std::vector<float> Output(const FfnPageLayout& layout, std::span<const FfnPageRef> pages, std::vector<float>* z) {
    std::vector<float> input(kDim);
    SplitMix64 random(3);
    for (float& value : input) value = static_cast<float>(random.Uniform() - 0.5);
    const auto x = backend_->NewTensor(1, kDim).value(), y = backend_->NewTensor(1, kDim).value();
    const auto capture = backend_->NewTensor(1, kRows).value();
    backend_->Upload(input, 0, x.get());
    const auto activations = backend_->NewActivations(1, kDim).value();
    backend_->Prepare(*x, 1, activations.get());
    const auto job = backend_->NewFfnJob({.rows = 1, .dim = kDim, .ffn_rows = kRows}).value();
    FfnParams params{layout, FfnActivation::kSilu, part_.down_scales, capture.get(), nullptr};
    backend_->FfnBegin(params, *activations, 1, job.get());
    backend_->FfnAccumulatePages(pages, job.get());
    backend_->FfnEnd(job.get(), y.get());
    std::vector<float> out(kDim);
    z->resize(kRows);
    CHECK(backend_->Download(*y, 0, 1, out).ok());
    CHECK(backend_->Download(*capture, 0, 1, *z).ok());
    return out;
  }

  std::string path_;
  std::unique_ptr<ModelFile> model_;
  std::unique_ptr<Backend> backend_;
  AlignedBuffer pages_, scales_;
  FfnPart part_;
};

TEST_P(GatheredRowsTest, AreThoseOfTheList) {
  const std::vector<int32_t> most = {kRows, kRows * 2 / 3};
  const auto gathered = GatheredRows::Create(model_->packed()->layouts(), most, backend_.get()).value();
  EXPECT_GT(GatheredRows::Bytes(model_->packed()->layouts(), most), uint64_t{0});
  // A long list, then a shorter one in its place.
  for (const int32_t step : {2, 5}) {
    RowSet list;
    list.Reset(kRows);
    for (int32_t row = 1; row < kRows; row += step) list.Insert(RowIndex{row});
    gathered->Gather(LayerIndex{1}, part_.layer->run_groups, part_.resident, list);
    std::vector<FfnPageRef> masked = part_.resident;
    std::vector<std::vector<uint64_t>> masks;
    masks.reserve(masked.size());
    for (FfnPageRef& page : masked) {
      std::vector<uint64_t>& mask = masks.emplace_back();
      for (int32_t first = 0; first < page.row_count; first += 64) mask.push_back(list.Bits(page.first_row + first));
      page.row_mask = mask.data();
    }
    std::vector<float> z, gathered_z;
    const std::vector<float> expected = Output(layer().layout, masked, &z);
    const std::vector<float> output =
        Output(gathered->layout(LayerIndex{1}), gathered->Pages(LayerIndex{1}), &gathered_z);
    EXPECT_EQ(gathered_z, z) << "step " << step;
    double most_value = 0;
    for (const float value : expected) most_value = std::max(most_value, std::fabs(double{value}));
    ASSERT_GT(most_value, 0);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(output[i], expected[i], 1e-4 * most_value) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GatheredRowsTest,
                         testing::Values(QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ5_0, QuantType::kQ8_0,
                                         QuantType::kQ2_K, QuantType::kQ3_K, QuantType::kQ4_K, QuantType::kQ5_K,
                                         QuantType::kQ6_K, QuantType::kF16),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

}  // namespace
}  // namespace dogstar
