#include "base/ffn_page.h"

#include <limits>

#include "base/panel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<FfnPageLayout> Make(QuantType type, int64_t dim, int64_t ffn_rows, int64_t page_rows,
                                   int64_t run_rows = 8) {
  return FfnPageLayout::Make(type, type, type, dim, ffn_rows, page_rows, run_rows);
}

TEST(FfnPageTest, PartsFollowEachOtherWithoutOverlap) {
  for (const QuantType type :
       {QuantType::kF32, QuantType::kBF16, QuantType::kQ8_0, QuantType::kQ4_0, QuantType::kQ4_1}) {
    const absl::StatusOr<FfnPageLayout> layout = Make(type, 2048, 5632, 64);
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->gate_offset, 0u);
    EXPECT_EQ(layout->up_offset, 4 * PanelBytes(type, 2048));
    EXPECT_EQ(layout->down_offset, 8 * PanelBytes(type, 2048));
    EXPECT_EQ(layout->down_panel_bytes, DownPanelBytes(type, 64));
    EXPECT_GE(layout->page_bytes, layout->down_offset + 128 * layout->down_panel_bytes);
    EXPECT_EQ(layout->page_bytes % kPageAlignment, 0u);
    EXPECT_EQ(layout->up_offset % 64, 0u);
    EXPECT_EQ(layout->down_offset % 64, 0u);
  }
}

TEST(FfnPageTest, TypesMayDiffer) {
  const absl::StatusOr<FfnPageLayout> layout =
      FfnPageLayout::Make(QuantType::kQ4_0, QuantType::kQ8_0, QuantType::kF16, 64, 100, 32, 8);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->up_offset, 2 * PanelBytes(QuantType::kQ4_0, 64));
  EXPECT_EQ(layout->down_offset, layout->up_offset + 2 * PanelBytes(QuantType::kQ8_0, 64));
  EXPECT_FALSE(layout->has_down_table());
  EXPECT_EQ(layout->down_table_bytes(), 0u);
  EXPECT_EQ(layout->page_count(), 4);
  EXPECT_EQ(layout->group_count(), 0);
}

TEST(FfnPageTest, DownCodesHaveNoScales) {
  EXPECT_EQ(DownPanelBytes(QuantType::kQ4_0, 64), 64u * 8);
  EXPECT_EQ(DownPanelBytes(QuantType::kQ4_1, 64), 64u * 8);
  EXPECT_EQ(DownPanelBytes(QuantType::kQ8_0, 64), 64u * 16);
  EXPECT_EQ(DownPanelBytes(QuantType::kF16, 64), 64u * 32);
}

TEST(FfnPageTest, DownTableHoldsTheMinimumWhereThereIsOne) {
  EXPECT_EQ(Make(QuantType::kQ4_0, 2048, 5632, 64)->down_table_bytes(), 5632u / 32 * 4096);
  EXPECT_EQ(Make(QuantType::kQ4_1, 2048, 5632, 64)->down_table_bytes(), 5632u / 32 * 8192);
  EXPECT_EQ(Make(QuantType::kQ4_K, 2048, 5632, 64)->down_table_bytes(), 5632u / 256 * 2048 * (4 + 8 * 2));
  EXPECT_EQ(Make(QuantType::kQ6_K, 2048, 5632, 64)->down_table_bytes(), 5632u / 256 * 2048 * (2 + 16));
  EXPECT_TRUE(Make(QuantType::kQ4_1, 2048, 5632, 64)->has_down_minimum());
}

TEST(FfnPageTest, SizesThatDoNotFitAreNamed) {
  struct Case {
    int64_t dim, ffn_rows, page_rows, run_rows;
    const char* name;
    const char* value;
  };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const Case cases[] = {
      {2047, 5632, 64, 8, "hidden size", "2047"}, {0, 5632, 64, 8, "hidden size", "0"},
      {-32, 5632, 64, 8, "hidden size", "-32"},   {2048, 5633, 64, 8, "FFN width", "5633"},
      {2048, kMax, 64, 8, "FFN width", "9223"},   {2048, 5632, 63, 8, "rows of a page", "63"},
      {2048, 5632, 64, 7, "run rows", "7"},       {2048, 5632, 64, 2, "run rows", "4, 8, 16 or 32"},
      {2048, 5632, 64, 0, "run rows", "0"},       {int64_t{1} << 40, 5632, 64, 8, "hidden size", "1099511627776"}};
  for (const Case& c : cases) {
    const absl::Status status = Make(QuantType::kQ4_0, c.dim, c.ffn_rows, c.page_rows, c.run_rows).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(c.name), HasSubstr(c.value)));
  }
}

TEST(FfnPageTest, RunsLongerThanAScaleGroupAreRefused) {
  EXPECT_TRUE(Make(QuantType::kQ6_K, 2048, 5632, 64, 16).ok());
  EXPECT_THAT(std::string(Make(QuantType::kQ6_K, 2048, 5632, 64, 32).status().message()),
              AllOf(HasSubstr("run rows are 32"), HasSubstr("16 weights share a scale in Q6_K")));
}

TEST(FfnPageTest, PagesTooLargeToReadAtOnceAreRefused) {
  const absl::Status status = Make(QuantType::kF32, int64_t{1} << 24, int64_t{1} << 21, int64_t{1} << 21).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("422212465065984 bytes"));
}

TEST(FfnPageTest, TypesThatDoNotRunAreNamed) {
  const absl::Status known =
      FfnPageLayout::Make(QuantType::kF16, static_cast<QuantType>(16), QuantType::kF16, 64, 64, 32, 4).status();
  EXPECT_THAT(std::string(known.message()), AllOf(HasSubstr("up"), HasSubstr("IQ2_XXS")));
  const absl::Status unknown =
      FfnPageLayout::Make(static_cast<QuantType>(77), QuantType::kF16, QuantType::kF16, 64, 64, 32, 4).status();
  EXPECT_THAT(std::string(unknown.message()), AllOf(HasSubstr("gate"), HasSubstr("77")));
}

}  // namespace
}  // namespace dogstar
