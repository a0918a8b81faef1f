#include "device/staging_ring.h"

#include <deque>
#include <utility>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(StagingRingTest, PiecesThatFillItExactlyBeginAnew) {
  StagingRing ring(4096);
  EXPECT_EQ(ring.Take(2048), 0U);
  EXPECT_EQ(ring.Take(2048), 2048U);
  EXPECT_EQ(ring.Take(256), std::nullopt);
  ring.GiveBackOldest();
  EXPECT_EQ(ring.Take(2048), 0U);
  ring.GiveBackOldest();
  EXPECT_EQ(ring.Take(2048), 2048U);
}

// Places are within the ring, and none shares a byte with another that is in use.
TEST(StagingRingTest, PlacesNeverOverlap) {
  SplitMix64 random(1);
  for (const uint64_t bytes : {uint64_t{1024}, uint64_t{4096}, uint64_t{5000}, uint64_t{65536}}) {
    StagingRing ring(bytes);
    std::deque<std::pair<uint64_t, uint64_t>> used;
    int taken = 0;
    for (int i = 0; i < 5000; ++i) {
      const uint64_t wanted = 1 + random.Next() % (bytes / 2);
      const std::optional<uint64_t> place = random.Next() % 3 > 0 ? ring.Take(wanted) : std::nullopt;
      if (place) {
        ++taken;
        ASSERT_EQ(*place % StagingRing::kAlignment, 0U);
        ASSERT_LE(*place + wanted, bytes);
        for (const auto& [begin, end] : used) ASSERT_TRUE(*place + wanted <= begin || end <= *place);
        used.emplace_back(*place, *place + wanted);
      } else if (!used.empty()) {
        ring.GiveBackOldest();
        used.pop_front();
      }
    }
    EXPECT_GT(taken, 1000);
  }
}

}  // namespace
}  // namespace dogstar
