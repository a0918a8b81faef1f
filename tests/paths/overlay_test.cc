#include "memory/overlay.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "memory/weights.h"
#include "model/synth.h"

namespace dogstar {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;

constexpr int32_t kRows = 1024;

// A tiny packed model, of which the first pages are said to be resident; pages come by as random bytes.
class OverlayTest : public testing::Test {
 protected:
  OverlayTest() {
    SynthOptions options;
    options.shape = {2, 256, kRows, 4, 2};
    options.type = QuantType::kQ4_0;
    options.packed = true;
    path_ = std::filesystem::path(testing::TempDir()) / fmt::format("dogstar_overlay_{}.dog.gguf", getpid());
    CHECK(WriteSyntheticModel(options, path_, nullptr).ok());
    model_ = ModelFile::Open(path_).value();
    backend_ = NewCpuBackend({.threads = 1}).value();
    page_.resize(packed().layers()[0].layout.page_bytes);
    prefix_ = packed().layers()[0].layout.page_rows;
  }
  ~OverlayTest() override { std::filesystem::remove(path_); }

  const PackedFile& packed() const { return *model_->packed(); }
  std::unique_ptr<Overlay> Make(int32_t rows, double hysteresis, CacheCapacity capacity = CacheCapacity::kLayer) {
    Overlay::Options options;
    options.layer_rows = {rows, rows};
    options.prefix_rows = {prefix_, prefix_};
    options.hysteresis = hysteresis;
    options.capacity = capacity;
    return Overlay::Create(packed(), options, backend_.get()).value();
  }
  FfnPageRef Page(int32_t row) const {
    return PageRefOf(packed().layers()[0], row / packed().layers()[0].layout.page_rows, page_.data());
  }
  bool Admit(Overlay* overlay, int32_t layer, int32_t row, std::span<const float> scores) const {
    const FfnPageRef page = Page(row);
    return overlay->Admit(LayerIndex{layer}, page, row - page.first_row, scores);
  }
  static std::vector<int32_t> Rows(const Overlay& overlay, int32_t layer) {
    const FfnOverlayRef ref = overlay.Ref(LayerIndex{layer});
    return {ref.row_index, ref.row_index + ref.row_count};
  }

  std::string path_;
  std::unique_ptr<ModelFile> model_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::byte> page_;
  int32_t prefix_ = 0;  // one page
};

TEST_F(OverlayTest, APromptKeepsTheBestRowsThatCameBy) {
  const std::unique_ptr<Overlay> overlay = Make(16, 0);
  std::vector<int32_t> best;
  for (int32_t row = prefix_; row < kRows;) {
    const FfnPageRef page = Page(row);
    std::vector<float> scores;
    for (int32_t i = 0; i < page.row_count; ++i) {
      scores.push_back(static_cast<float>((page.first_row + i) * 37 % 1023));
    }
    overlay->Offer(LayerIndex{0}, page, scores);
    row += page.row_count;
  }
  for (int32_t row = prefix_; row < kRows; ++row) best.push_back(row);
  std::sort(best.begin(), best.end(), [](int32_t a, int32_t b) { return a * 37 % 1023 > b * 37 % 1023; });
  best.resize(16);
  EXPECT_THAT(Rows(*overlay, 0), testing::UnorderedElementsAreArray(best));
  EXPECT_TRUE(Rows(*overlay, 1).empty());
}

TEST_F(OverlayTest, ARowComesInWhenItBeatsTheVictimByTheMargin) {
  const std::unique_ptr<Overlay> overlay = Make(16, 0.5);
  const size_t first = static_cast<size_t>(prefix_);
  std::vector<float> scores(kRows);
  std::fill_n(scores.begin() + prefix_, 16, 2.0F);
  scores[first + 3] = 1;  // the worst of those held
  overlay->Offer(LayerIndex{0}, Page(prefix_), std::span(scores).subspan(first, first));
  overlay->BeginText(LayerIndex{0}, scores);
  EXPECT_TRUE(overlay->TakeChanged(LayerIndex{0}));
  const std::vector<int32_t> before = Rows(*overlay, 0);

  EXPECT_FALSE(overlay->Request(LayerIndex{0}, RowIndex{kRows - 7}, 1));
  scores[kRows - 7] = 1.5F;  // equal to the margin: not enough
  EXPECT_FALSE(Admit(overlay.get(), 0, kRows - 7, scores));
  EXPECT_EQ(Rows(*overlay, 0), before);
  EXPECT_FALSE(overlay->TakeChanged(LayerIndex{0}));
  scores[kRows - 7] = 1.6F;
  EXPECT_TRUE(Admit(overlay.get(), 0, kRows - 7, scores));
  EXPECT_TRUE(overlay->TakeChanged(LayerIndex{0}));
  EXPECT_TRUE(overlay->Request(LayerIndex{0}, RowIndex{kRows - 7}, 1));
  EXPECT_FALSE(overlay->Request(LayerIndex{0}, RowIndex{prefix_ + 3}, 1));
  EXPECT_FALSE(Admit(overlay.get(), 0, kRows - 7, scores));  // it is here
  const PageCache::Stats stats = overlay->stats();
  EXPECT_EQ(stats.evictions, 1);
  EXPECT_EQ(stats.admissions, 17);
}

TEST_F(OverlayTest, ClearForgetsRowsAndKeepsCounts) {
  const std::unique_ptr<Overlay> overlay = Make(16, 0);
  const std::vector<float> scores(kRows, 1.0F);
  overlay->BeginText(LayerIndex{0}, scores);
  EXPECT_TRUE(Admit(overlay.get(), 0, 100, scores));
  EXPECT_TRUE(Admit(overlay.get(), 0, 101, scores));
  EXPECT_THAT(Rows(*overlay, 0), ElementsAre(100, 101));  // free places are taken in order
  overlay->Clear();
  EXPECT_TRUE(Rows(*overlay, 0).empty());
  EXPECT_EQ(overlay->stats().admissions, 2);
  EXPECT_EQ(overlay->stats().released, 2);
}

TEST_F(OverlayTest, GlobalCapacityFollowsTheMissesWithinTheSameBytes) {
  const std::unique_ptr<Overlay> overlay = Make(64, 0, CacheCapacity::kGlobal);
  overlay->Clear();
  EXPECT_EQ(overlay->places(LayerIndex{0}), 64);  // nothing is known yet
  for (int32_t i = 0; i < 300; ++i) overlay->Request(LayerIndex{1}, RowIndex{100 + i % 100}, 1);
  for (int32_t i = 0; i < 100; ++i) overlay->Request(LayerIndex{0}, RowIndex{100 + i}, 1);
  overlay->Clear();
  EXPECT_EQ(overlay->places(LayerIndex{0}), 32);
  EXPECT_EQ(overlay->places(LayerIndex{1}), 96);
  // Places beyond the old border hold rows, and the counts go on.
  const std::vector<float> scores(kRows, 1.0F);
  for (int32_t row = prefix_; row < prefix_ + 96; ++row) EXPECT_TRUE(Admit(overlay.get(), 1, row, scores));
  EXPECT_EQ(Rows(*overlay, 1).size(), 96U);
  EXPECT_EQ(overlay->stats().misses, 400);
}

TEST_F(OverlayTest, TheTablesStayWithinWhatIsDeclared) {
  const std::vector<int32_t> rows = {64, 64};
  for (size_t kind = 0; kind < EvictionNames().size(); ++kind) {
    EvictionOptions eviction;
    eviction.kind = static_cast<EvictionKind>(kind);
    EXPECT_GT(Overlay::TableBytes(eviction, rows), 128U * sizeof(PageKey)) << EvictionNames()[kind];
    EXPECT_LT(Overlay::TableBytes(eviction, rows), 128U * 512U) << EvictionNames()[kind];
  }
}

}  // namespace
}  // namespace dogstar
