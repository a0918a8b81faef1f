#include "base/thread_pool.h"

#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, EveryThreadRunsOnceARun) {
  ThreadPool pool(GetParam());
  ASSERT_EQ(pool.size(), GetParam());
  std::vector<int> calls(GetParam(), 0);  // no atomics: Run itself must order these writes
  for (int run = 1; run <= 2000; ++run) {
    pool.Run([&](int thread) { ++calls[thread]; });
    ASSERT_EQ(calls, std::vector<int>(GetParam(), run));
  }
}

TEST_P(ThreadPoolTest, WritesAreSeenByEveryThreadOfTheNextRun) {
  ThreadPool pool(GetParam());
  std::vector<int> values(GetParam(), 0);
  std::vector<int> sums(GetParam(), 0);
  for (int run = 0; run < 500; ++run) {
    pool.Run([&](int thread) { values[thread] = run; });
    pool.Run([&](int thread) { sums[thread] = std::accumulate(values.begin(), values.end(), 0); });
    ASSERT_EQ(sums, std::vector<int>(GetParam(), run * GetParam()));
  }
}

TEST_P(ThreadPoolTest, WorkersWakeAfterSleeping) {
  ThreadPool pool(GetParam());
  std::vector<int> calls(GetParam(), 0);
  for (int run = 0; run < 10; ++run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far longer than they spin
    pool.Run([&](int thread) { ++calls[thread]; });
  }
  EXPECT_EQ(calls, std::vector<int>(GetParam(), 10));
}

TEST_P(ThreadPoolTest, CallerWaitsForSlowWorkers) {
  ThreadPool pool(GetParam());
  int finished = 0;
  pool.Run([&](int thread) {
    if (thread != pool.size() - 1) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    finished = 1;
  });
  EXPECT_EQ(finished, 1);
}

TEST_P(ThreadPoolTest, PoolsThatRanNothingEnd) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(PartOfTest, PartsCoverEverythingOnceInOrder) {
  for (const int64_t total : {0, 1, 15, 16, 17, 100, 2048, 2049}) {
    for (const int64_t grain : {1, 16, 64}) {
      for (const int parts : {1, 2, 3, 7, 40}) {
        int64_t next = 0;
        for (int part = 0; part < parts; ++part) {
          const Range range = PartOf(total, grain, part, parts);
          EXPECT_EQ(range.begin, next);
          EXPECT_GE(range.end, range.begin);
          EXPECT_TRUE(range.end == total || range.end % grain == 0);
          next = range.end;
        }
        EXPECT_EQ(next, total);
      }
    }
  }
}

TEST(PartOfTest, PartsDifferByOneGrainAtMost) {
  for (int part = 0; part < 3; ++part) {
    const Range range = PartOf(160, 16, part, 3);
    EXPECT_EQ(range.end - range.begin, part == 0 ? 64 : 48);
  }
}

}  // namespace
}  // namespace dogstar
