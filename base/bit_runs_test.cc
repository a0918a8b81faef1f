#include "base/bit_runs.h"

#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using Runs = std::vector<std::tuple<int32_t, int32_t, bool>>;

Runs RunsOf(const uint64_t* mask, int32_t first, int32_t count) {
  Runs runs;
  ForBitRuns(mask, first, count, [&](int32_t begin, int32_t size, bool set) { runs.emplace_back(begin, size, set); });
  return runs;
}

TEST(BitRunsTest, RunsCoverTheBitsAcrossWords) {
  const uint64_t mask[] = {uint64_t{0xF} << 60, 0x3};
  EXPECT_EQ(RunsOf(mask, 58, 10), (Runs{{0, 2, false}, {2, 6, true}, {8, 2, false}}));
  EXPECT_EQ(RunsOf(mask, 61, 2), (Runs{{0, 2, true}}));
  EXPECT_EQ(RunsOf(mask, 0, 0), Runs{});
}

TEST(BitRunsTest, NoMaskIsAllSet) { EXPECT_EQ(RunsOf(nullptr, 5, 100), (Runs{{0, 100, true}})); }

}  // namespace
}  // namespace dogstar
