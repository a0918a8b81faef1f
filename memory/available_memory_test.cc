#include "memory/available_memory.h"

#include "gtest/gtest.h"
#include "memory/accountant.h"

namespace dogstar {
namespace {

TEST(AvailableMemoryTest, MemAvailableIsReadInKibibytes) {
  EXPECT_EQ(AvailableOf("MemTotal: 100 kB\nMemAvailable:   2048 kB\n"), 2048u * 1024);
  EXPECT_EQ(AvailableOf("MemTotal: 100 kB\n"), kNoLimit);
}

TEST(AvailableMemoryTest, ACgroupLeavesItsLimitLessWhatCannotBeDropped) {
  const std::string stat = "anon 600\ninactive_file 300\nactive_file 100\n";
  EXPECT_EQ(CgroupRoom("2000\n", "1000\n", stat), 1400u);
  EXPECT_EQ(CgroupRoom("500\n", "1000\n", stat), 0u);
  EXPECT_EQ(CgroupRoom("max\n", "1000\n", stat), kNoLimit);
  EXPECT_EQ(CgroupRoom("9223372036854771712\n", "1000\n", stat), kNoLimit);  // v1 without a limit
}

TEST(AvailableMemoryTest, ThisProcessHasSome) { EXPECT_GT(AvailableMemoryBytes(), 0u); }

}  // namespace
}  // namespace dogstar
