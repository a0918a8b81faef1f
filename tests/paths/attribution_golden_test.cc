// `dogstar eval --task attribution` on the demo model against PyTorch's autograd (tests/golden), as a user calls it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using nlohmann::json;

constexpr double kBound = 0.01;
// A head's g x is a sum of terms that nearly cancel: what f32 leaves of it, as a share of the norm of the layer's
// heads.
constexpr double kHeadFloor = 1e-4;

// Standard output of the program; fails the test when it does.
json Eval(const std::string& arguments) {
  std::FILE* pipe = popen((std::string(DOGSTAR_PROGRAM) + " eval " + arguments + " --json").c_str(), "r");
  CHECK(pipe != nullptr);
  std::string out;
  char buffer[4096];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, got);
  EXPECT_EQ(pclose(pipe), 0) << arguments;
  return json::parse(out, nullptr, false);
}

class Deviations {
 public:
  void Check(const char* what, size_t layer, double ours, double expected, double floor) {
    const double error = std::fabs(ours - expected) / std::max(std::fabs(expected), floor);
    largest_[what] = std::max(largest_.value(what, 0.0), error);
    EXPECT_LT(error, kBound) << what << " of layer " << layer << ": " << ours << ", by autograd " << expected;
  }
  void Print() const { std::printf("largest relative deviations: %s\n", largest_.dump().c_str()); }

 private:
  json largest_ = json::object();
};

double Norm(const json& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

// Pairs [unit, value]: every unit of the reference's is there with its value.
void CheckTop(const char* what, size_t layer, const json& ours, const json& expected, Deviations* deviations) {
  for (const json& pair : expected) {
    const auto found = std::find_if(ours.begin(), ours.end(), [&](const json& own) { return own[0] == pair[0]; });
    ASSERT_NE(found, ours.end()) << what << " of layer " << layer << ": no unit " << pair[0];
    deviations->Check(what, layer, (*found)[1], pair[1], 0);
  }
}

TEST(AttributionGoldenTest, EveryLayersScoresAreAutograds) {
  const std::string model = testing_support::DemoModelPath();
  if (model.empty()) GTEST_SKIP() << testing_support::kNoDemoModel;
  std::ifstream file(DOGSTAR_SOURCE_DIR "/tests/golden/smollm2_attribution.json");
  const json golden = json::parse(file);
  ASSERT_EQ(golden["cases"].size(), 2U);
  Deviations deviations;
  for (const json& entry : golden["cases"]) {
    const json ours = Eval(model + " --task attribution --precise -p '" + entry["text"].get<std::string>() +
                           "' --label " + std::to_string(entry["label"].get<int>()));
    ASSERT_TRUE(ours.is_object());
    EXPECT_EQ(ours["tokens"], entry["tokens"]);
    deviations.Check("loss", 0, ours["loss"], entry["loss"], 0);
    ASSERT_EQ(ours["layers"].size(), entry["layers"].size());
    for (size_t layer = 0; layer < entry["layers"].size(); ++layer) {
      const json &own = ours["layers"][layer], &reference = entry["layers"][layer];
      for (const char* key : {"grad_l2", "activation_l2"}) deviations.Check(key, layer, own[key], reference[key], 0);
      for (const char* key : {"gxo_top", "corrected_top"}) CheckTop(key, layer, own[key], reference[key], &deviations);
      for (const char* key : {"head_gxo", "head_corrected"}) {
        ASSERT_EQ(own[key].size(), reference[key].size());
        const double floor = kHeadFloor / kBound * Norm(reference[key]);
        for (size_t head = 0; head < reference[key].size(); ++head) {
          deviations.Check(key, layer, own[key][head], reference[key][head], floor);
        }
      }
    }
  }
  deviations.Print();
}

TEST(AttributionGoldenTest, OptionsOfTheCommandDoWhatTheySay) {
  const testing_support::TestFolder folder;
  const std::string call =
      testing_support::WriteTinyModel(folder, QuantType::kQ4_0, true) + " --task attribution --precise -p hello ";
  const json plain = Eval(call), all = Eval(call + "--every-position"),
             more = Eval(call + "--metric snip --head-reduce mean --lambda 0 --ig-steps 1");
  EXPECT_EQ(plain["layers"].size(), 4U);
  EXPECT_EQ(all["positions"].size(), plain["tokens"].size());
  EXPECT_EQ(all["positions"].back()["label"], plain["label"]);
  EXPECT_EQ(all["positions"][0]["label"], plain["tokens"][1]);
  for (size_t layer = 0; layer < 4; ++layer) {
    const json &one = plain["layers"][layer], &many = all["layers"][layer], &other = more["layers"][layer];
    EXPECT_NEAR(many["grad_l2"].get<double>() / one["grad_l2"].get<double>(), 1, 1e-4);
    for (size_t i = 0; i < 12; ++i) {
      EXPECT_NEAR(other["ig_top"][i][1].get<double>() / one["gxo_top"][i][1].get<double>(), 1, 1e-3);
      EXPECT_NEAR(other["top"][i][1].get<double>(), std::fabs(one["gxo_top"][i][1].get<double>()), 1e-6);
    }
    for (size_t head = 0; head < one["head_gxo"].size(); ++head) {  // lambda 0: minus g x, the mean of 64 dimensions
      EXPECT_NEAR(-64 * other["head_corrected"][head].get<double>(), one["head_gxo"][head].get<double>(), 1e-5);
    }
  }
}

}  // namespace
}  // namespace dogstar
