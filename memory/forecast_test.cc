#include "memory/forecast.h"

#include <cmath>
#include <cstdlib>
#include <string>

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

// Everything but a quarter of the pages is on the device; the disk has none.
Placement WithDevice(const ModelShape& model, double share) {
  PlanRequest request;
  const Placement all = PlanOf(model, kNoLimit);
  request.device_bytes = 0;
  const std::string refusal(PlanPlacement(model, request).status().message());
  request.device_bytes =
      static_cast<uint64_t>(std::strtod(refusal.c_str() + refusal.find("works is ") + 9, nullptr) * (1 << 20)) +
      all.resident_bytes -
      static_cast<uint64_t>(share * static_cast<double>(model.layers.size() * model.layers[0].pages_bytes()));
  request.host_tables = true;
  return PlanPlacement(model, request).value();
}

TEST(ForecastTest, ADevicesPassEndsWhenTheLastOfItsPartsDoes) {
  const ModelShape model = TinyShape(true);
  const Placement placement = WithDevice(model, 0.5);
  ASSERT_GT(placement.host_bytes, 0U);
  ASSERT_EQ(placement.complement_bytes, 0U);
  const auto host = static_cast<double>(placement.host_bytes);
  DeviceRates device{
      .name = "test", .description = "", .memory_bytes_per_second = 1e12, .link_bytes_per_second = 20e9, .kernels = {}};
  device.kernels = {{kType, WeightForm::kPanels, 1, 1e15}, {kType, WeightForm::kPages, 1, 1e15}};
  ForecastRequest request{.device = &device, .hybrid = 0};
  // All over the link.
  const Forecast link = MakeForecast(model, placement, Rates(), request);
  EXPECT_NEAR(link.dense_seconds, host / 20e9, 1e-9);
  EXPECT_EQ(link.processor_share, 0);
  // The processor reads 40 GB/s: two thirds are its.
  request.hybrid = -1;
  const Forecast hybrid = MakeForecast(model, placement, Rates(), request);
  EXPECT_NEAR(hybrid.processor_share, 2.0 / 3, 1e-9);
  EXPECT_NEAR(hybrid.dense_seconds, host / 60e9, 1e-9);
  EXPECT_NEAR(hybrid.link_seconds, hybrid.dense_seconds, 1e-9);
  // Over more rows it computes longer.
  if (hybrid.period > 1) {
    EXPECT_LT(hybrid.verify_processor_share, hybrid.processor_share);
  }
  // A slow device is what is waited for.
  device.kernels = {{kType, WeightForm::kPanels, 1, 1e9}, {kType, WeightForm::kPages, 1, 1e9}};
  const Forecast slow = MakeForecast(model, placement, Rates(), request);
  EXPECT_EQ(slow.dense_seconds, slow.compute_seconds);
}

}  // namespace
}  // namespace dogstar
