// What a run records is what its overlay saw: a replay gives the engine's own counters, for every policy.
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "memory/access_trace.h"
#include "memory/simulator.h"
#include "nlohmann/json.hpp"
#include "runtime/overlay_replay.h"
#include "tests/support/child.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing_support::ChildOutput;
using testing_support::OpenModel;
using testing_support::RunChild;
using testing_support::TestFolder;

class RecordTest : public testing::Test {
 protected:
  RecordTest() {
    config_.model = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    config_.corrector.mode = RunMode::kStrict;
    config_.corrector.adaptive = false;
    config_.corrector.period = 4;
    config_.cache.harvest = HarvestMode::kText;
    config_.draft.density = 0.2;
    config_.draft.overlay = 0.5;
    // Less and less memory until much of the model streams.
    auto opened = OpenModel(config_, 128, 4).value();
    uint64_t budget = opened.engine->placement().planned_bytes;
    while (opened.engine->overlay() == nullptr || opened.engine->placement().complement_bytes < 1 << 20) {
      config_.budget.ram = budget -= 512 << 10;
      opened = OpenModel(config_, 128, 4).value();
    }
  }

  // Two texts after one another, recorded; gives the engine's counters.
  PageCache::Stats Record(const std::string& path) {
    const auto model = ModelFile::Open(config_.model).value();
    const auto recorder = AccessRecorder::Create(path).value();
    Engine::Options options{.mode = RunMode::kStrict,
                            .context_slots = 128,
                            .accesses = recorder.get(),
                            .logit_rows = 4,
                            .program_bytes = testing_support::kProgramBytes};
    const auto engine = Engine::Create(config_, model.get(), options, {}).value();
    Generator generator(engine.get());
    for (const char* text : {"A first text.", "Another one, which is longer than the first."}) {
      GenerationResult result;
      CHECK(generator.Generate(model->tokenizer().Encode(text, {}), {.max_tokens = 24, .ignore_end = true}, &result)
                .ok());
    }
    CHECK(recorder->Finish().ok() && recorder->requests() > 0);
    return engine->overlay()->stats();
  }

  TestFolder folder_;
  Config config_;
};

TEST_F(RecordTest, AReplayHasTheEnginesCountersForEveryPolicy) {
  for (size_t kind = 0; kind < EvictionNames().size(); ++kind) {
    config_.cache.eviction.kind = static_cast<EvictionKind>(kind);
    config_.cache.hysteresis = kind % 2 == 0 ? 0 : 0.3;
    const PageCache::Stats engine = Record(folder_.Path("run.trace"));
    const AccessTrace trace = ReadAccessTrace(folder_.Path("run.trace")).value();
    const PageCache::Stats replay = ReplayOverlay(trace, RecordedOptions(trace, {}).value()).stats;
    EXPECT_GT(engine.hits, 0) << EvictionNames()[kind];
    EXPECT_EQ(replay.hits, engine.hits) << EvictionNames()[kind];
    EXPECT_EQ(replay.misses, engine.misses) << EvictionNames()[kind];
    EXPECT_EQ(replay.admissions, engine.admissions) << EvictionNames()[kind];
    EXPECT_EQ(replay.evictions, engine.evictions) << EvictionNames()[kind];
    EXPECT_EQ(replay.refused, engine.refused) << EvictionNames()[kind];
    const RequestList list = RequestsOf(trace, 1);
    EXPECT_EQ(static_cast<int64_t>(list.keys.size()), engine.hits + engine.misses);
  }
}

TEST_F(RecordTest, GlobalCapacityIsReplayedToo) {
  config_.cache.capacity = CacheCapacity::kGlobal;
  const PageCache::Stats engine = Record(folder_.Path("run.trace"));
  const AccessTrace trace = ReadAccessTrace(folder_.Path("run.trace")).value();
  const PageCache::Stats replay = ReplayOverlay(trace, RecordedOptions(trace, {}).value()).stats;
  EXPECT_EQ(replay.hits, engine.hits);
  EXPECT_EQ(replay.misses, engine.misses);
}

// A text is the same whether it is recorded or not, and the program's two sides count the same.
TEST(RecordProgramTest, SimulateRepeatsWhatRunCounted) {
  const std::string model = testing_support::DemoModelPath();
  if (model.empty()) GTEST_SKIP() << testing_support::kNoDemoModel;
  const TestFolder folder;
  const std::string trace = folder.Path("run.trace");
  std::vector<std::string> run = {"run",    model,    "-p",    "Once upon a time",   "-n",    "12", "--ram", "86MiB",
                                  "--mode", "strict", "--set", "cache.harvest=text", "--json"};
  const auto plain = nlohmann::json::parse(RunChild(DOGSTAR_PROGRAM, run).out);
  run.insert(run.end(), {"--record", trace});
  const auto recorded = nlohmann::json::parse(RunChild(DOGSTAR_PROGRAM, run).out);
  EXPECT_EQ(plain["tokens"], recorded["tokens"]);
  EXPECT_LE(recorded["peak_rss_bytes"], recorded["budget_bytes"]);
  const auto simulated = nlohmann::json::parse(RunChild(DOGSTAR_PROGRAM, {"simulate", trace, "--json"}).out);
  for (const char* counter : {"policy", "slots", "hits", "misses", "admissions", "evictions", "refused"}) {
    EXPECT_EQ(simulated["recorded"][counter], recorded["cache"][counter]) << counter;
  }
}

TEST(SimulateProgramTest, PrintsCountsOfAListAndRefusesMistakes) {
  const TestFolder folder;
  std::ofstream(folder.Path("ids.csv")) << "1\n2\n3\n1\n2\n3\n";
  std::ofstream(folder.Path("bad.csv")) << "1\ntwo\n";
  const auto simulate = [&](const std::string& file, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"simulate", "--csv", folder.Path(file), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunChild(DOGSTAR_PROGRAM, arguments);
  };
  const auto results =
      nlohmann::json::parse(simulate("ids.csv", {"--policies", "lru,belady", "--slots", "2..3+1"}).out)["results"];
  ASSERT_EQ(results.size(), 4U);
  EXPECT_EQ(results[0]["policy"], "lru");
  EXPECT_EQ(results[0]["slots"], 2);
  EXPECT_EQ(results[0]["hits"], 0);
  EXPECT_EQ(results[0]["misses"], 6);
  EXPECT_EQ(results[1]["hits"], 2);  // belady keeps one of three
  EXPECT_EQ(results[3]["hits"], 3);
  EXPECT_THAT(simulate("bad.csv", {}).err, AllOf(HasSubstr("bad.csv:2"), HasSubstr("two")));
  EXPECT_THAT(simulate("ids.csv", {"--policies", "mru"}).err, AllOf(HasSubstr("mru"), HasSubstr("belady")));
  EXPECT_THAT(simulate("ids.csv", {"--slots", "0"}).err, HasSubstr("at least one slot"));
  EXPECT_THAT(simulate("ids.csv", {"--slots", "9..3+1"}).err, HasSubstr("no range"));
  EXPECT_THAT(simulate("absent.csv", {}).err, HasSubstr("absent.csv"));
  EXPECT_EQ(simulate("bad.csv", {}).exit_code, 1);
}

}  // namespace
}  // namespace dogstar
