// The overlay follows the text: what verified tokens wanted comes in as its page streams by, and nothing else.
#include <numeric>

#include "gtest/gtest.h"
#include "runtime/text_harvest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing_support::TestFolder;

class HarvestTest : public testing::Test {
 protected:
  static constexpr int32_t kPassRows = 4;

  HarvestTest() {
    Config config;
    config.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config.corrector.mode = RunMode::kStrict;
    config.cache.harvest = HarvestMode::kText;
    config.cache.hysteresis = 0;
    OpenWithOverlay(config);
    rows_ = opened_.model->config().ffn_rows;
    scores_ = std::make_unique<RowScores>(opened_.model->config().layer_count, rows_, RowScores::Options{});
    scores_->BeginPrompt();
    harvest_ = std::make_unique<TextHarvest>(&engine().weights(), &engine().predictor(), scores_.get(),
                                             engine().overlay(), TextHarvest::Options{0.01, kPassRows});
    harvest_->BeginText(0);
  }

  // Less and less memory until an overlay makes sense.
  void OpenWithOverlay(Config config) {
    opened_ = testing_support::OpenModel(config, 64, kPassRows).value();
    uint64_t budget = engine().placement().planned_bytes;
    while (engine().overlay() == nullptr || engine().placement().complement_bytes < 1 << 20) {
      config.budget.ram = budget -= 512 << 10;
      opened_ = testing_support::OpenModel(config, 64, kPassRows).value();
    }
    CHECK(engine().can_draft() && !engine().weights().ffn(LayerIndex{1}).resident.empty());
  }

  Engine& engine() { return *opened_.engine; }
  Overlay& overlay() { return *engine().overlay(); }
  int32_t top_rows() const { return static_cast<int32_t>(0.01 * rows_); }

  // A full pass' values: pass row t has its largest ones in rows first[t] .. of every layer.
  void Pass(const std::vector<int32_t>& first) {
    std::vector<float> z(first.size() * static_cast<size_t>(rows_), 0.01F);
    for (size_t t = 0; t < first.size(); ++t) {
      for (int32_t i = 0; i < top_rows(); ++i)
        z[t * static_cast<size_t>(rows_) + static_cast<size_t>(first[t] + i)] = 1;
    }
    for (int32_t layer = 0; layer < engine().weights().layer_count(); ++layer) {
      StreamPages(LayerIndex{layer});
      harvest_->OnLayer(LayerIndex{layer}, z, static_cast<int32_t>(first.size()), rows_);
    }
  }
  void StreamPages(LayerIndex layer) {
    const FfnPart& part = engine().weights().ffn(layer);
    const std::vector<std::byte> bytes(part.layer->layout.page_bytes);
    for (int32_t page = static_cast<int32_t>(part.resident.size()); page < part.layer->layout.page_count(); ++page) {
      const FfnPageRef ref = PageRefOf(*part.layer, page, bytes.data());
      harvest_->OnStreamedPages(layer, {&ref, 1}, {}, 0, 0);
    }
  }
  // The first so many rows of the pass are tokens of the text.
  void EndPass(int32_t verified) {
    std::vector<int32_t> rows(static_cast<size_t>(verified));
    std::iota(rows.begin(), rows.end(), 0);
    harvest_->EndPass(rows);
  }
  bool Holds(int32_t first) {
    RowSet rows(rows_);
    overlay().AddTo(LayerIndex{1}, &rows);
    int32_t held = 0;
    for (int32_t i = 0; i < top_rows(); ++i) held += rows.Contains(RowIndex{first + i});
    EXPECT_TRUE(held == 0 || held == top_rows());
    return held > 0;
  }

  TestFolder folder_;
  testing_support::OpenedModel opened_;
  int32_t rows_ = 0;
  std::unique_ptr<RowScores> scores_;
  std::unique_ptr<TextHarvest> harvest_;
};

TEST_F(HarvestTest, RowsOfVerifiedTokensComeInWithTheNextPassAndThoseOfRejectedDraftsDoNot) {
  const int32_t last = rows_ - top_rows(), other = rows_ - 2 * top_rows();
  Pass({last, other});
  EndPass(1);
  EXPECT_FALSE(Holds(last));
  Pass({0, 0});
  EndPass(1);
  EXPECT_TRUE(Holds(last));
  EXPECT_FALSE(Holds(other));
  const PageCache::Stats stats = overlay().stats();
  EXPECT_EQ(stats.misses, engine().weights().layer_count() * top_rows());  // the second pass wanted the prefix only
}

// The rows that a prompt brought are there when the text begins.
TEST_F(HarvestTest, DraftsHaveThePromptsRows) {
  GenerationResult result;
  const std::vector<TokenId> prompt = opened_.model->tokenizer().Encode("A tiny model says nothing of sense.", {});
  ASSERT_TRUE(Generator(&engine()).Generate(prompt, {.max_tokens = 1, .ignore_end = true}, &result).ok());
  EXPECT_EQ(overlay().Ref(LayerIndex{1}).row_count, overlay().places(LayerIndex{1}));
  EXPECT_NEAR(result.draft_density, engine().placement().resident_density, 1e-6);
}

TEST_F(HarvestTest, AWantedRowThatNoPassBroughtIsWantedNoLonger) {
  const int32_t last = rows_ - top_rows();
  Pass({last});
  EndPass(1);
  EndPass(0);
  Pass({0});
  EXPECT_FALSE(Holds(last));
}

TEST_F(HarvestTest, ScoresCountVerifiedTokensOnly) {
  const int32_t last = rows_ - top_rows();
  const float before = scores_->Of(LayerIndex{0})[static_cast<size_t>(last)];
  Pass({last, last, last, 0});
  EndPass(3);
  // Each token spreads top_rows uses over its rows, as good as evenly.
  EXPECT_NEAR(scores_->Of(LayerIndex{0})[static_cast<size_t>(last)], before + 3, 0.3);
}

}  // namespace
}  // namespace dogstar
