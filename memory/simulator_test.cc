#include "memory/simulator.h"

#include <algorithm>
#include <bit>

#include "base/random.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::HasSubstr;

const SimulatedPolicy& PolicyOf(std::string_view name) {
  return *std::ranges::find(SimulatedPolicies(), name, &SimulatedPolicy::name);
}

RequestList ListOf(std::string_view letters) {
  RequestList list;
  for (char letter : letters) list.keys.push_back(PageKey{static_cast<uint64_t>(letter)});
  list.tokens.push_back({list.keys.size(), AccessPhase::kVerify, true});
  list.Index();
  return list;
}

Simulation Of(std::string_view policy, std::vector<int32_t> slots, int32_t prefetch = 0, bool warm = false) {
  Simulation simulation;
  simulation.policy = PolicyOf(policy);
  simulation.slots = std::move(slots);
  simulation.prefetch = prefetch;
  simulation.warm = warm;
  return simulation;
}

SimulationResult Play(const RequestList& list, std::string_view policy, int32_t slots, bool warm = false) {
  return Simulate(list, Of(policy, {slots}, 0, warm));
}

RequestList RandomList(int requests, int keys, uint64_t seed) {
  SplitMix64 random(seed);
  std::string letters;
  for (int i = 0; i < requests; ++i) letters += static_cast<char>('a' + static_cast<int>(random.Uniform() * keys));
  return ListOf(letters);
}

// The fewest misses of any choice of victims, by trying all of them: held[s] is the least for each set of keys held.
int64_t FewestMisses(const RequestList& list, int32_t slots, bool bypass) {
  const int keys = static_cast<int>(list.distinct.size());
  constexpr int64_t kNever = 1 << 20;
  std::vector<int64_t> held(size_t{1} << keys, kNever);
  held[0] = 0;
  for (int32_t id : list.ids) {
    std::vector<int64_t> next(held.size(), kNever);
    const auto reach = [&](size_t set, int64_t misses) { next[set] = std::min(next[set], misses); };
    for (size_t set = 0; set < held.size(); ++set) {
      if (held[set] == kNever) continue;
      const size_t with = set | size_t{1} << id;
      if (with == set) {
        reach(set, held[set]);
        continue;
      }
      if (bypass) reach(set, held[set] + 1);
      if (std::popcount(set) < slots) reach(with, held[set] + 1);
      if (std::popcount(set) < slots) continue;
      for (int victim = 0; victim < keys; ++victim) {
        if ((set >> victim & 1) != 0) reach(with & ~(size_t{1} << victim), held[set] + 1);
      }
    }
    held = std::move(next);
  }
  return *std::ranges::min_element(held);
}

TEST(SimulatorTest, BeladyHasTheFewestMissesOfAllChoices) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const RequestList list = RandomList(60, 7, seed);
    for (int32_t slots : {1, 2, 3, 5}) {
      EXPECT_EQ(Play(list, "belady", slots).cold.misses, FewestMisses(list, slots, false)) << seed << " " << slots;
      EXPECT_EQ(Play(list, "belady-bypass", slots).cold.misses, FewestMisses(list, slots, true))
          << seed << " " << slots;
    }
  }
}

TEST(SimulatorTest, NoPolicyBeatsBelady) {
  const RequestList list = RandomList(5000, 26, 3);
  for (const SimulatedPolicy& policy : SimulatedPolicies()) {
    for (int32_t slots : {1, 5, 13, 26}) {
      const SimulationCounts counts = Play(list, policy.name, slots).cold;
      EXPECT_EQ(counts.hits + counts.misses, 5000);
      EXPECT_GE(counts.misses, Play(list, "belady-bypass", slots).cold.misses) << policy.name;
      if (slots == 26) {
        EXPECT_EQ(counts.misses, 26) << policy.name;
      }
    }
  }
}

// A loop of one key more than there are slots: LRU never hits, Belady keeps all but two places' worth.
TEST(SimulatorTest, CountsOfALoopAreKnown) {
  const RequestList list = ListOf("abcdabcdabcdabcd");
  EXPECT_EQ(Play(list, "lru", 3).cold.hits, 0);
  EXPECT_EQ(Play(list, "belady", 3).cold.hits, 8);
  EXPECT_EQ(Play(list, "lru", 4, true).cold.misses, 4);
  EXPECT_EQ(Play(list, "lru", 4, true).warm.misses, 0);
}

TEST(SimulatorTest, PrefetchBringsWhatFollows) {
  const RequestList list = ListOf("abcdefgh");
  const SimulationResult result = Simulate(list, Of("lru", {8}, 3));
  EXPECT_EQ(result.cold.misses, 2);
  EXPECT_EQ(result.cold.prefetched, 6);
}

// Two layers, two partitions: one layer's scan costs the other nothing.
TEST(SimulatorTest, PartsOfLayersDoNotDisturbEachOther) {
  RequestList list;
  list.layers = 2;
  for (int i = 0; i < 50; ++i) {
    list.keys.push_back(KeyOf(LayerIndex{0}, RowIndex{0}));
    list.keys.push_back(KeyOf(LayerIndex{1}, RowIndex{2 * i}));
    list.keys.push_back(KeyOf(LayerIndex{1}, RowIndex{2 * i + 1}));
    list.tokens.push_back({list.keys.size(), AccessPhase::kVerify, true});
  }
  list.Index();
  for (const char* policy : {"lru", "fifo", "sieve", "belady"}) {
    const SimulationResult result = Simulate(list, Of(policy, {1, 2}));
    EXPECT_EQ(result.cold.hits, 49) << policy;
    EXPECT_THAT(result.layer_misses, testing::ElementsAre(1, 100));
    EXPECT_EQ(result.phase_misses[static_cast<size_t>(AccessPhase::kVerify)], 101);
  }
}

TEST(SimulatorTest, ThreadsChangeNoCount) {
  const RequestList list = RandomList(2000, 26, 9);
  std::vector<Simulation> simulations;
  for (const SimulatedPolicy& policy : SimulatedPolicies()) {
    for (int32_t slots : {2, 9}) simulations.push_back(Of(policy.name, {slots}, 0, true));
  }
  int calls = 0;
  const auto count = [&](int, int) { return ++calls > 0; };
  const std::vector<SimulationResult> one = SimulateAll(list, simulations, 1, count);
  const std::vector<SimulationResult> four = SimulateAll(list, simulations, 4, nullptr);
  EXPECT_EQ(calls, static_cast<int>(simulations.size()));
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].cold.hits, four[i].cold.hits);
    EXPECT_EQ(one[i].warm.hits, four[i].warm.hits);
  }
}

TEST(SimulatorTest, ListsOfIdsNameTheLineThatIsWrong) {
  const RequestList list = ParseRequests("3\n\n18446744073709551615\r\n3", "ids.csv", 2, 1).value();
  EXPECT_EQ(list.keys.size(), 3U);
  EXPECT_EQ(list.distinct.size(), 2U);
  EXPECT_EQ(list.tokens.size(), 2U);
  EXPECT_EQ(ParseRequests("7\n6\n8\n", "ids.csv", 10, 4).value().distinct.size(), 2U);
  const auto message = [](std::string_view text) {
    return std::string(ParseRequests(text, "ids.csv", 2, 1).status().message());
  };
  EXPECT_THAT(message("1\n2\n-3\n"), HasSubstr("ids.csv:3: \"-3\""));
  EXPECT_THAT(message("1\n2 3\n"), HasSubstr("ids.csv:2"));
  EXPECT_THAT(message("18446744073709551616\n"), HasSubstr("ids.csv:1"));
  EXPECT_THAT(message("\n"), HasSubstr("no page ids"));
}

}  // namespace
}  // namespace dogstar
