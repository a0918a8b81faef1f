// dogstar bench: every combination of a sweep, with figures that agree with their own runs.
#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/child.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing_support::ChildOutput;
using testing_support::RunChild;

class BenchTest : public testing::Test {
 protected:
  BenchTest() : model_(testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false)) {}
  ChildOutput Bench(const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"bench", model_, "-p", "8", "-n", "6", "-r", "3", "-t", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunChild(DOGSTAR_PROGRAM, arguments);
  }

  testing_support::TestFolder folder_;
  std::string model_;
};

TEST_F(BenchTest, RunsEveryCombinationAndPrintsItsKeys) {
  const ChildOutput output = Bench({"--mode", "strict", "--sweep", "corrector.period=2..4+2", "--sweep",
                                    "cache.policy=lru,sieve", "--set", "corrector.adaptive=false", "--json"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const json results = json::parse(output.out)["results"];
  ASSERT_EQ(results.size(), 4U);
  EXPECT_EQ(results[1]["corrector.period"], "2");
  EXPECT_EQ(results[1]["cache.policy"], "sieve");
  EXPECT_EQ(results[2]["corrector.period"], "4");
  for (const json& result : results) {
    // 5 tokens a run after the first one, however many a pass wins; the last pass may win some that are not wanted.
    int64_t tokens = 0;
    for (const auto& [won, passes] : result["cycle_tokens"].items()) tokens += std::stoi(won) * passes.get<int64_t>();
    EXPECT_GE(tokens, 15);
    EXPECT_EQ(result["accepted_mean"]["runs"].size(), 3U);
    EXPECT_EQ(result["weight_bytes_per_token"]["computed"], true);
    EXPECT_FALSE(result["decode_tok_s"].contains("computed"));
  }
}

TEST_F(BenchTest, MeanDeviationAndMinimumAreThoseOfTheRuns) {
  const json result = json::parse(Bench({"--json"}).out)["results"][0];
  const std::vector<double> runs = result["decode_tok_s"]["runs"];
  ASSERT_EQ(runs.size(), 3U);
  const double mean = (runs[0] + runs[1] + runs[2]) / 3;
  double squares = 0;
  for (double run : runs) squares += (run - mean) * (run - mean);
  EXPECT_NEAR(result["decode_tok_s"]["mean"], mean, 1e-6 * mean);
  EXPECT_NEAR(result["decode_tok_s"]["sd"], std::sqrt(squares / 2), 1e-6 * mean);
  EXPECT_EQ(result["decode_tok_s"]["min"], *std::min_element(runs.begin(), runs.end()));
}

TEST_F(BenchTest, ColdRunsLoadAndWarmOnesDoNot) {
  const json results = json::parse(Bench({"--state", "both", "--json"}).out)["results"];
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[0]["state"], "warm");
  EXPECT_FALSE(results[0].contains("load_s"));
  EXPECT_EQ(results[1]["state"], "cold");
  EXPECT_EQ(results[1]["load_s"]["runs"].size(), 3U);
}

TEST_F(BenchTest, PrintsForPeopleAndForTables) {
  EXPECT_THAT(Bench({}).out, AllOf(HasSubstr("decode tok/s"), HasSubstr("±"), HasSubstr("threads")));
  EXPECT_THAT(Bench({"-o", "markdown"}).out, HasSubstr("|--"));
  const std::string csv = Bench({"-o", "csv", "--sweep", "threads=1,2"}).out;
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
  EXPECT_THAT(csv, HasSubstr("threads,mode,state,runs,prompt_tok_s_mean"));
}

TEST_F(BenchTest, WhatIsAssumedIsSaidInEveryLineThatRestsOnIt) {
  const std::vector<std::string> both = {
      "--sweep", "corrector.mode=dense,strict", "--assume-accepted", "3", "--set", "corrector.period=4",
      "--set",   "corrector.adaptive=false"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), both.begin(), both.end());
    return Bench(more).out;
  };
  const json results = json::parse(with({"--json"}))["results"];
  ASSERT_EQ(results.size(), 2U);
  EXPECT_FALSE(results[0].contains("assumed_accepted"));
  EXPECT_EQ(results[1]["assumed_accepted"], 3);
  for (const auto& [won, passes] : results[1]["cycle_tokens"].items()) EXPECT_LE(std::stoi(won), 3);
  EXPECT_GT(results[1]["cycle_tokens"]["3"], 0);
  for (const std::string output : {"table", "csv", "markdown"}) {
    EXPECT_THAT(with({"-o", output}), HasSubstr("strict (3 ASSUMED)")) << output;
  }
}

TEST_F(BenchTest, MistakesAreNamedBeforeTheFirstRun) {
  const auto refused = [&](const std::vector<std::string>& more) {
    const ChildOutput output = Bench(more);
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_EQ(output.out, "");
    return output.err;
  };
  EXPECT_THAT(refused({"--sweep", "cache.polcy=lru"}), HasSubstr("cache.policy"));
  EXPECT_THAT(refused({"--sweep", "cache.policy=lru,mru"}), HasSubstr("mru"));
  EXPECT_THAT(refused({"--sweep", "threads"}), HasSubstr("KEY=VALUES"));
  EXPECT_THAT(refused({"--sweep", "threads=4..1+1"}), HasSubstr("no range"));
  EXPECT_THAT(refused({"--sweep", "budget.ram=30%..x"}), HasSubstr("no range"));
  EXPECT_THAT(refused({"--mode", "dense", "--assume-accepted", "3"}), HasSubstr("this is dense"));
  EXPECT_THAT(refused({"--sweep", "budget.ram=1%", "--mode", "dense"}), HasSubstr("budget.ram=1%"));
}

}  // namespace
}  // namespace dogstar
