#include "base/worker.h"

#include <atomic>
#include <vector>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(WorkerTest, TasksRunOneAfterTheOtherAndWhatTheyWroteIsThere) {
  std::vector<int> done;
  Worker worker;
  worker.Wait();  // for nothing
  for (int i = 0; i < 200; ++i) {
    worker.Start([&done, i] { done.push_back(i); });
    worker.Wait();
    ASSERT_EQ(done.size(), static_cast<size_t>(i) + 1);
    ASSERT_EQ(done.back(), i);
  }
}

TEST(WorkerTest, RunsBesideItsOwnerAndEndsWithItsTask) {
  std::atomic<bool> may_end = false, ended = false;
  {
    Worker worker;
    worker.Start([&] {
      while (!may_end) std::this_thread::yield();
      ended = true;
    });
    EXPECT_FALSE(ended);
    may_end = true;
  }
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace dogstar
