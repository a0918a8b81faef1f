#include "device/simulated_device.h"

#include "device/staging_ring.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(StagingRingTest, PlacesFollowEachOtherAndComeBackInOrder) {
  StagingRing ring(1024);
  EXPECT_EQ(ring.Take(300), 0U);
  EXPECT_EQ(ring.Take(256), 512U);  // multiples of 256
  EXPECT_EQ(ring.Take(512), std::nullopt);
  ring.GiveBackOldest();
  EXPECT_EQ(ring.Take(512), 0U);  // what is left at the end is too small
  EXPECT_EQ(ring.Take(1), std::nullopt);
  ring.GiveBackOldest();
  ring.GiveBackOldest();
  EXPECT_TRUE(ring.empty());
  EXPECT_EQ(ring.Take(1024), 0U);
  EXPECT_EQ(StagingRing(100).Take(1), std::nullopt);
}

}  // namespace
}  // namespace dogstar
