// Runs whose budget holds some pages by their high bit planes.
#include <fcntl.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::HasSubstr;
using testing_support::OpenModel;
using testing_support::RunModel;

constexpr char kPrompt[] = "A tiny model says nothing of sense.";

class PlanesTest : public testing::TestWithParam<QuantType> {
 protected:
  PlanesTest() {
    config_.model = testing_support::WriteTinyModel(folder_, GetParam(), false);
    config_.threads = 2;
    config_.corrector.mode = RunMode::kStrict;
    config_.corrector.adaptive = false;
    config_.corrector.period = 8;
    config_.draft.vocabulary = 0;
  }

  void FlipABit(uint64_t at) const {
    const int fd = open(config_.model.c_str(), O_RDWR);
    char byte = 0;
    ASSERT_EQ(pread(fd, &byte, 1, static_cast<off_t>(at)), 1);
    byte = static_cast<char>(byte ^ 16);
    ASSERT_EQ(pwrite(fd, &byte, 1, static_cast<off_t>(at)), 1);
    close(fd);
  }

  testing_support::TestFolder folder_;
  Config config_;
};

TEST_P(PlanesTest, MoreRowsInTheSameMemoryAndTheSameText) {
  config_.budget.ram = testing_support::BudgetForFfn(config_, 0.9);
  const auto opened = OpenModel(config_, 64, 16);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Placement& cut = opened->engine->placement();
  EXPECT_GT(cut.plane_density, 0);
  EXPECT_EQ(cut.resident_density, 1);
  Config whole = config_;
  whole.draft.planes = 0;
  EXPECT_LT(OpenModel(whole, 64, 16)->engine->placement().resident_density, 0.97);

  Config dense = config_;
  dense.corrector.mode = RunMode::kDense;
  const auto expected = RunModel(dense, kPrompt, 40), with = RunModel(config_, kPrompt, 40),
             without = RunModel(whole, kPrompt, 40);
  ASSERT_TRUE(expected.ok() && with.ok() && without.ok()) << with.status();
  EXPECT_EQ(with->result.tokens, expected->result.tokens);
  EXPECT_EQ(without->result.tokens, expected->result.tokens);
  EXPECT_GT(with->result.drafts_accepted, 0);
}

TEST_P(PlanesTest, AttentionByItsHighPlanesDraftsAndIsWholeInFullPasses) {
  config_.budget.ram = testing_support::BudgetForFfn(config_, 0.6);
  Config dense = config_;
  dense.corrector.mode = RunMode::kDense;
  const auto expected = RunModel(dense, kPrompt, 40);
  ASSERT_TRUE(expected.ok()) << expected.status();
  double whole = 0;  // share of the rows with whole attention
  for (const double layers : {0.0, 0.5, 1.0, -1.0}) {
    for (const double heads : {1.0, 0.5}) {
      Config config = config_;
      config.draft.attention_planes = layers;
      config.draft.head_density = heads;
      const auto opened = OpenModel(config, 64, 16);
      ASSERT_TRUE(opened.ok()) << opened.status();
      const Placement& placement = opened->engine->placement();
      if (layers == 0 && heads == 1) whole = placement.resident_density;
      EXPECT_GT(placement.resident_density, whole - 0.03) << layers;  // a page
      const auto cut = std::ranges::count_if(placement.layers, &LayerPlacement::attention_planes);
      if (layers >= 0) {
        EXPECT_EQ(cut, static_cast<int64_t>(layers * static_cast<double>(placement.layers.size())));
      }
      const auto got = RunModel(config, kPrompt, 40);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(got->result.tokens, expected->result.tokens) << layers << " " << heads;
    }
  }
}

TEST_P(PlanesTest, DamageInALowPlaneOfAttentionIsNoticed) {
  config_.draft.attention_planes = 1;
  config_.io.verify = VerifyMode::kAlways;
  const uint64_t at = [&] {
    const auto model = ModelFile::Open(config_.model).value();
    return model->layers().back().attention_low->offset + 100;
  }();
  FlipABit(at);
  const absl::Status status = RunModel(config_, kPrompt, 8).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("pack the model again"));
}

TEST_P(PlanesTest, DamageInALowPlaneIsNoticed) {
  config_.budget.ram = testing_support::BudgetForFfn(config_, 0.9);
  config_.io.verify = VerifyMode::kAlways;
  const uint64_t at = [&] {
    const auto model = ModelFile::Open(config_.model).value();
    const PackedLayer& layer = model->packed()->layers().back();
    return layer.low_offset + layer.layout.low.bytes * static_cast<uint64_t>(layer.layout.page_count()) - 4000;
  }();
  FlipABit(at);
  const absl::Status status = RunModel(config_, kPrompt, 8).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("pack the model again"));
}

INSTANTIATE_TEST_SUITE_P(Types, PlanesTest,
                         testing::Values(QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ5_0, QuantType::kQ6_K,
                                         QuantType::kQ8_0),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

TEST(PlanesOfOthersTest, WholeRowsAreKeptForThoseThatWantThem) {
  testing_support::TestFolder folder;
  Config config;
  config.model = testing_support::WriteTinyModel(folder, QuantType::kQ4_0, false);
  config.corrector.mode = RunMode::kStrict;
  config.draft.predictor = "gate-weighted";
  config.draft.planes = 0.5;
  const absl::Status status = RunModel(config, kPrompt, 4).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("draft.planes 0.5: draft.predictor gate-weighted wants whole rows"));
  config.draft.planes = -1;
  EXPECT_TRUE(RunModel(config, kPrompt, 4).ok());
  config.draft.attention_planes = 0.5;  // of attention no predictor chooses rows
  EXPECT_TRUE(RunModel(config, kPrompt, 4).ok());
  config.precise = true;
  EXPECT_THAT(RunModel(config, kPrompt, 4).status().message(), HasSubstr("draft.attention_planes 0.5: precise mode"));
}

}  // namespace
}  // namespace dogstar
