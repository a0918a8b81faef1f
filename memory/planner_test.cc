// Plans of models that exist only as sizes.
#include "memory/planner.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/bit_planes.h"
#include "base/panel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "memory/pager.h"

namespace dogstar {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct ShapeOptions {
  bool packed = false;
  int32_t chunk_rows = 0;  // of attention and head, as checksums cut them
  int32_t layers = 6;
};

ModelShape MakeShape(const ShapeOptions& options) {
  constexpr QuantType kType = QuantType::kQ4_0;
  constexpr int32_t kDim = 1024, kKvDim = 256, kFfn = 4096, kVocabulary = 20000;
  const auto matrix = [&](int32_t rows, int32_t cols) { return MatrixShape{kType, rows, cols, options.chunk_rows}; };
  ModelShape model;
  model.name = "test.gguf";
  model.packed = options.packed;
  model.head = matrix(kVocabulary, kDim);
  for (int32_t i = 0; i < options.layers; ++i) {
    LayerShape layer;
    layer.query = matrix(kDim, kDim);
    layer.key = matrix(kKvDim, kDim);
    layer.value = matrix(kKvDim, kDim);
    layer.output = matrix(kDim, kDim);
    if (options.packed) {
      layer.pages = FfnPageLayout::Make(kType, kType, kType, kDim, kFfn, 64, 8).value();
      layer.down_scales = {QuantType::kF16, layer.pages.group_count(), kDim, 0};
    } else {
      layer.gate = layer.up = {kType, kFfn, kDim, 0};
      layer.down = {kType, kDim, kFfn, 0};
    }
    model.layers.push_back(layer);
  }
  return model;
}

PlanRequest RequestOf(uint64_t budget_bytes) {
  PlanRequest request;
  request.budget_bytes = budget_bytes;
  request.fixed = {{"program", 3 * kMiB}, {"KV cache", kMiB}};
  return request;
}

uint64_t WeightBytes(const ModelShape& model) {
  uint64_t bytes = model.head.bytes();
  for (const LayerShape& layer : model.layers) {
    bytes += layer.query.bytes() + layer.key.bytes() + layer.value.bytes() + layer.output.bytes();
    bytes += model.packed ? layer.pages_bytes() : layer.gate.bytes() + layer.up.bytes() + layer.down.bytes();
  }
  return bytes;
}

class PlannerTest : public testing::TestWithParam<bool> {
 protected:
  ModelShape model_ = MakeShape({.packed = GetParam()});
};

TEST_P(PlannerTest, WithoutABudgetEverythingStays) {
  const Placement plan = PlanPlacement(model_, RequestOf(kNoLimit)).value();
  EXPECT_TRUE(plan.everything_resident());
  EXPECT_EQ(plan.resident_bytes, WeightBytes(model_));  // Q4_0 takes the same room in panels
  EXPECT_DOUBLE_EQ(plan.resident_density, 1);
  EXPECT_EQ(plan.drafts_need_no_disk, model_.packed);
}

TEST_P(PlannerTest, EveryBudgetIsKeptUsedUpAndCoversTheModel) {
  const BudgetMarks marks = MarkBudgets(model_, RequestOf(0));
  uint64_t complement = kNoLimit;
  for (uint64_t budget = marks.smallest; budget < marks.everything + kMiB; budget += 700'001) {
    const auto plan = PlanPlacement(model_, RequestOf(budget));
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE(plan->planned_bytes, budget);
    EXPECT_EQ(plan->resident_bytes + plan->complement_bytes, WeightBytes(model_));
    uint64_t lines = 0;
    for (const PlanLine& line : plan->lines) lines += line.resident_bytes;
    EXPECT_EQ(lines, plan->planned_bytes);
    if (!plan->everything_resident()) {
      EXPECT_GT(plan->planned_bytes + 128 * 1024, budget);
    }
    // A larger ring may take a little back.
    EXPECT_LE(plan->complement_bytes, complement == kNoLimit ? complement : complement + 512 * 1024);
    complement = plan->complement_bytes;
  }
  EXPECT_EQ(complement, 0u);
}

TEST_P(PlannerTest, TheSmallestBudgetWorksAndAByteLessIsAnErrorThatNamesIt) {
  const BudgetMarks marks = MarkBudgets(model_, RequestOf(0));
  EXPECT_TRUE(PlanPlacement(model_, RequestOf(marks.smallest)).ok());
  const auto refused = PlanPlacement(model_, RequestOf(marks.smallest - 1));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              testing::AllOf(testing::HasSubstr("test.gguf"), testing::HasSubstr("smallest that works is")));
}

TEST_P(PlannerTest, MarksMeanWhatTheySay) {
  const BudgetMarks marks = MarkBudgets(model_, RequestOf(0));
  EXPECT_LT(marks.smallest, marks.drafts);
  EXPECT_LT(marks.drafts, marks.sensible);
  EXPECT_LT(marks.sensible, marks.everything);
  EXPECT_TRUE(PlanPlacement(model_, RequestOf(marks.everything))->everything_resident());
  EXPECT_FALSE(PlanPlacement(model_, RequestOf(marks.everything - kMiB))->everything_resident());
  EXPECT_NEAR(PlanPlacement(model_, RequestOf(marks.sensible))->resident_density, kSensibleDensity, 0.02);
  const auto head_rows = [&](uint64_t budget) { return PlanPlacement(model_, RequestOf(budget))->head.resident_rows; };
  EXPECT_EQ(head_rows(marks.drafts), model_.head.rows);
  EXPECT_LT(head_rows(marks.drafts - kMiB), model_.head.rows);
  EXPECT_EQ(PlanPlacement(model_, RequestOf(marks.drafts))->drafts_need_no_disk, model_.packed);
}

TEST_P(PlannerTest, TheRingFollowsTheMachine) {
  PlanRequest request = RequestOf(64 * kMiB);
  request.budget_bytes = MarkBudgets(model_, request).everything - 4 * kMiB;
  request.rates = {1e9, 40e9, kMiB};
  const uint64_t slow_disk = PlanPlacement(model_, request)->ring_bytes;
  request.rates.disk_bytes_per_second = 6e9;
  const uint64_t fast_disk = PlanPlacement(model_, request)->ring_bytes;
  EXPECT_GE(fast_disk, slow_disk);
  EXPECT_LE(fast_disk, request.budget_bytes / 8);
  request.ring_bytes = 7 * kMiB;
  EXPECT_EQ(PlanPlacement(model_, request)->ring_bytes, 7 * kMiB);
  request.ring_bytes = 1;  // raised to what works
  EXPECT_GE(PlanPlacement(model_, request)->ring_bytes,
            Pager::MinRingBytes(PlanPlacement(model_, request)->range_bytes));
}

INSTANTIATE_TEST_SUITE_P(Files, PlannerTest, testing::Bool(),
                         [](const auto& packed) { return packed.param ? "Packed" : "Plain"; });

TEST(PlannerTest, WhereAttentionDoesNotFitItsFirstRowsStay) {
  const ModelShape model = MakeShape({.chunk_rows = 48});
  const BudgetMarks marks = MarkBudgets(model, RequestOf(0));
  const Placement plan = PlanPlacement(model, RequestOf(marks.smallest + kMiB)).value();
  const LayerPlacement& first = plan.layers[0];
  EXPECT_EQ(first.query.resident_rows, model.layers[0].query.rows);
  EXPECT_EQ(plan.layers[5].output.resident_rows, 0);
  bool partial = false;
  for (const LayerPlacement& layer : plan.layers) {
    for (const MatrixPlacement* place : {&layer.query, &layer.key, &layer.value, &layer.output}) {
      EXPECT_EQ(place->chunk_rows, 48);
      const bool whole = place->resident_rows == model.layers[0].query.rows || place->resident_rows == 256;
      if (!whole) {
        EXPECT_EQ(place->resident_rows % 48, 0);
      }
      partial = partial || (!whole && place->resident_rows > 0);
    }
  }
  EXPECT_TRUE(partial);
  EXPECT_EQ(plan.head.resident_rows, 0);
}

TEST(PlannerTest, TheOverlayTakesItsShareOfTheRowsAndOnlyThat) {
  const ModelShape model = MakeShape({.packed = true});
  PlanRequest request = RequestOf(0);
  request.budget_bytes = MarkBudgets(model, request).sensible;
  const Placement without = PlanPlacement(model, request).value();
  request.overlay_share = 0.2;
  const Placement with = PlanPlacement(model, request).value();
  EXPECT_LE(with.planned_bytes, request.budget_bytes);
  EXPECT_GT(with.layers[0].overlay_rows, 0);
  EXPECT_EQ(with.layers[0].overlay_rows % kPanelRows, 0);
  EXPECT_GT(with.complement_bytes, without.complement_bytes);  // an overlay saves no reads
  EXPECT_NEAR(with.resident_density, without.resident_density, 0.05);
  request.budget_bytes = kNoLimit;  // nothing is absent, so nothing is chosen
  EXPECT_EQ(PlanPlacement(model, request)->layers[0].overlay_rows, 0);
}

// Pages in part: more rows for the same bytes, and no more to read.
TEST(PlannerTest, HighPlanesAreMoreRowsForTheSameBytes) {
  ModelShape model = MakeShape({.packed = true});
  PlanRequest request = RequestOf(0);
  request.planes = 1;
  const BudgetMarks marks = MarkBudgets(model, request);
  for (LayerShape& layer : model.layers) layer.low_planes = true;
  const FfnPageLayout& pages = model.layers[0].pages;
  double before = 0;
  for (uint64_t budget = marks.drafts; budget < marks.everything + kMiB; budget += 300'001) {
    request.budget_bytes = budget;
    request.planes = 0;
    const Placement whole = PlanPlacement(model, request).value();
    EXPECT_EQ(whole.plane_density, 0);
    request.planes = 1;
    const Placement cut = PlanPlacement(model, request).value();
    EXPECT_LE(cut.planned_bytes, budget);
    EXPECT_GE(cut.resident_density, whole.resident_density);
    EXPECT_GE(cut.resident_density, before);
    EXPECT_NEAR(static_cast<double>(cut.complement_bytes), static_cast<double>(whole.complement_bytes), 300e3);
    before = cut.resident_density;
    for (const LayerPlacement& place : cut.layers) {
      ASSERT_LE(place.resident_pages + place.plane_pages, pages.page_count());
      // Whole pages before all are there in part would be fewer rows.
      if (place.resident_pages > 1) {
        ASSERT_EQ(place.resident_pages + place.plane_pages, pages.page_count());
      }
    }
    if (cut.everything_resident()) {
      EXPECT_EQ(cut.plane_density, 0);
    }
    request.planes = 0.25;
    const Placement quarter = PlanPlacement(model, request).value();
    EXPECT_LE(quarter.plane_density, 0.25 + 1e-9);
    EXPECT_LE(quarter.planned_bytes, budget);
  }
  EXPECT_EQ(before, 1);
}

TEST(PlannerTest, AttentionGivesLowPlanesAwayForRows) {
  ModelShape model = MakeShape({.packed = true});
  uint64_t attention = 0, low = 0;
  for (LayerShape& layer : model.layers) {
    for (const MatrixShape* matrix : {&layer.query, &layer.key, &layer.value, &layer.output}) {
      layer.attention_low_bytes += LowPlanesBytes(matrix->type, matrix->rows, matrix->cols);
      attention += matrix->panel_bytes();
    }
    low += layer.attention_low_bytes;
    layer.low_planes = true;
  }
  PlanRequest request = RequestOf(0);
  request.planes = 1;
  const BudgetMarks marks = MarkBudgets(model, request);
  int cut_somewhere = 0;
  for (uint64_t budget = marks.smallest; budget < marks.everything + kMiB; budget += 300'001) {
    request.budget_bytes = budget;
    request.attention_planes = 0;
    const Placement whole = PlanPlacement(model, request).value();
    request.attention_planes = std::nullopt;
    const Placement cut = PlanPlacement(model, request).value();
    EXPECT_LE(cut.planned_bytes, budget);
    EXPECT_GE(cut.resident_density, whole.resident_density);
    EXPECT_GE(cut.drafts_need_no_disk, whole.drafts_need_no_disk);
    const auto layers = std::ranges::count_if(cut.layers, &LayerPlacement::attention_planes);
    if (whole.resident_density == 1) {
      EXPECT_EQ(layers, 0);
    }
    // From the last layer on, and no more of them than all rows take.
    for (size_t i = 0; i + static_cast<size_t>(layers) < cut.layers.size(); ++i) {
      EXPECT_FALSE(cut.layers[i].attention_planes);
    }
    if (layers < std::ssize(cut.layers) && layers > 0) {
      EXPECT_EQ(cut.resident_density, 1);
    }
    cut_somewhere += layers > 0 ? 1 : 0;
    if (layers == 0) continue;
    EXPECT_TRUE(cut.drafts_need_no_disk);
    if (whole.drafts_need_no_disk) {
      EXPECT_GT(cut.resident_density, whole.resident_density);
    }
    EXPECT_NEAR(static_cast<double>(cut.complement_bytes), static_cast<double>(whole.complement_bytes), 400e3);
  }
  EXPECT_GT(cut_somewhere, 10);

  request.attention_planes = 0.5;
  const Placement half = PlanPlacement(model, request).value();
  EXPECT_EQ(std::ranges::count_if(half.layers, &LayerPlacement::attention_planes), std::ssize(half.layers) / 2);
  EXPECT_LT(half.resident_bytes, WeightBytes(model));
  EXPECT_EQ(half.complement_bytes, low / 2);
  EXPECT_LT(low, attention / 4);
}

TEST(PlannerTest, FilesWithoutLowPlanesHaveWholePages) {
  const ModelShape model = MakeShape({.packed = true});
  PlanRequest request = RequestOf(0);
  request.budget_bytes = MarkBudgets(model, request).sensible;
  const Placement before = PlanPlacement(model, request).value();
  request.planes = 1;
  const Placement after = PlanPlacement(model, request).value();
  EXPECT_EQ(after.plane_density, 0);
  EXPECT_EQ(after.resident_bytes, before.resident_bytes);
  EXPECT_EQ(after.complement_bytes, before.complement_bytes);
}

// Rows of the head that drafts do not use make room for FFN rows.
TEST(DraftHeadRowsTest, FfnRowsComeBeforeTheRestOfTheHead) {
  const ModelShape model = MakeShape({.packed = true});
  const BudgetMarks marks = MarkBudgets(model, RequestOf(0));
  PlanRequest request = RequestOf((marks.drafts + marks.everything) / 2);
  const Placement before = PlanPlacement(model, request).value();
  request.draft_head_rows = 32;
  const Placement after = PlanPlacement(model, request).value();
  EXPECT_EQ(before.head.resident_rows, model.head.rows);
  EXPECT_GE(after.head.resident_rows, 32);
  EXPECT_LT(after.head.resident_rows, model.head.rows);
  EXPECT_GT(after.resident_density, before.resident_density);
  EXPECT_TRUE(after.drafts_need_no_disk);
  EXPECT_LE(after.planned_bytes, request.budget_bytes);
  request.budget_bytes = marks.smallest;
  EXPECT_FALSE(PlanPlacement(model, request).value().drafts_need_no_disk) << "attention streams";
}

}  // namespace
}  // namespace dogstar
