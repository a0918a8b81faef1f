#include "memory/forecast.h"

#include <cmath>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

constexpr QuantType kType = QuantType::kQ4_0;

// One layer of square matrices and one page of rows; everything is a few MiB.
ModelShape TinyShape(bool packed) {
  ModelShape model;
  model.packed = packed;
  const MatrixShape square{kType, 1024, 1024, 0};
  LayerShape layer;
  layer.query = layer.key = layer.value = layer.output = square;
  if (packed) {
    layer.pages = FfnPageLayout::Make(kType, kType, kType, 1024, 4096, 64, 8).value();
  } else {
    layer.gate = layer.up = {kType, 4096, 1024, 0};
    layer.down = {kType, 1024, 4096, 0};
  }
  model.layers.assign(8, layer);
  model.head = {kType, 8192, 1024, 0};
  return model;
}

MachineRates Rates() {
  MachineRates rates;
  for (const WeightForm form : {WeightForm::kPanels, WeightForm::kPlain, WeightForm::kPages}) {
    rates.kernels.push_back({kType, form, 1, 40e9});
    rates.kernels.push_back({kType, form, 16, 10e9});
  }
  return rates;
}

Placement PlanOf(const ModelShape& model, uint64_t budget) {
  PlanRequest request;
  request.budget_bytes = budget;
  return PlanPlacement(model, request).value();
}

TEST(MachineRatesTest, TimesBetweenMeasuredRowsAreLinear) {
  const MachineRates rates = Rates();
  EXPECT_DOUBLE_EQ(rates.KernelSeconds(kType, WeightForm::kPanels, 1, 40e9), 1);
  EXPECT_DOUBLE_EQ(rates.KernelSeconds(kType, WeightForm::kPanels, 16, 40e9), 4);
  EXPECT_DOUBLE_EQ(rates.KernelSeconds(kType, WeightForm::kPanels, 6, 40e9), 2);
  EXPECT_DOUBLE_EQ(rates.KernelSeconds(kType, WeightForm::kPanels, 32, 40e9), 8);  // bound by products
}

TEST(MachineRatesTest, ATypeThatWasNotMeasuredCountsAsTheNearestInWidth) {
  MachineRates rates = Rates();
  rates.kernels.push_back({QuantType::kQ8_0, WeightForm::kPanels, 1, 20e9});
  EXPECT_DOUBLE_EQ(rates.KernelSeconds(QuantType::kQ4_1, WeightForm::kPanels, 1, 40e9), 1);
  EXPECT_DOUBLE_EQ(rates.KernelSeconds(QuantType::kQ6_K, WeightForm::kPanels, 1, 40e9), 2);  // 6.56 bits: 8.5 is nearer
  EXPECT_DOUBLE_EQ(MachineRates{}.KernelSeconds(kType, WeightForm::kPanels, 1, 40e9), 0);
}

TEST(ForecastTest, APassTakesTheLongerOfReadingAndComputingAndAShareOfTheOther) {
  const ModelShape model = TinyShape(false);
  const Placement all = PlanOf(model, kNoLimit);
  const Forecast in_memory = MakeForecast(model, all, Rates(), {.disk_bytes_per_second = 1e9});
  EXPECT_NEAR(in_memory.dense_seconds, static_cast<double>(all.resident_bytes) / 40e9, 1e-9);
  EXPECT_EQ(in_memory.draft_seconds, 0);  // a plain file

  const Placement half = PlanOf(model, all.resident_bytes / 2);
  const Forecast slow = MakeForecast(model, half, Rates(), {.disk_bytes_per_second = 1e9});
  EXPECT_NEAR(slow.dense_seconds, static_cast<double>(half.complement_bytes) / 1e9 + kShared * in_memory.dense_seconds,
              1e-9);
  const Forecast fast = MakeForecast(model, half, Rates(), {.disk_bytes_per_second = 1e15});
  EXPECT_NEAR(fast.dense_seconds, in_memory.dense_seconds, 1e-7);
}

TEST(ForecastTest, CorrectedRunsPickTheBestPeriodAndNeverLoseToDense) {
  const ModelShape model = TinyShape(true);
  const Placement plan = PlanOf(model, MarkBudgets(model, {}).sensible);
  ASSERT_TRUE(plan.drafts_need_no_disk);
  const auto forecast = [&](double acceptance) {
    return MakeForecast(model, plan, Rates(), {.disk_bytes_per_second = 0.5e9, .period = 8, .acceptance = acceptance});
  };
  EXPECT_EQ(forecast(0.01).corrected_seconds, forecast(0.01).dense_seconds);
  EXPECT_EQ(forecast(0.01).period, 1);
  const Forecast sure = forecast(1);
  EXPECT_EQ(sure.period, 8);
  EXPECT_DOUBLE_EQ(sure.tokens_per_cycle, 8);
  EXPECT_NEAR(sure.corrected_seconds, (7 * sure.draft_seconds + sure.verify_seconds) / 8, 1e-12);
  const Forecast likely = forecast(0.7);
  EXPECT_GT(likely.period, 1);
  EXPECT_LT(likely.corrected_seconds, likely.dense_seconds);
  EXPECT_GT(likely.corrected_seconds, sure.corrected_seconds);
  EXPECT_NEAR(likely.tokens_per_cycle, (1 - std::pow(0.7, likely.period)) / 0.3, 1e-9);
}

TEST(ForecastTest, AssumedAcceptanceGrowsWithTheRowsAndEndsAtOne) {
  double last = 0;
  for (double density = 0; density <= 1.0001; density += 0.05) {
    EXPECT_GE(AssumedAcceptance(density), last);
    last = AssumedAcceptance(density);
  }
  EXPECT_DOUBLE_EQ(AssumedAcceptance(1), 1);
  EXPECT_DOUBLE_EQ(AssumedAcceptance(0.5), 0.466);
}

}  // namespace
}  // namespace dogstar
