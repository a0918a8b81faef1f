#include "gpu/device_arena.h"

#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(DeviceArenaTest, TakesAlignedPlacesUntilNoneIsLeft) {
  DeviceArena arena(1000);
  EXPECT_EQ(arena.Take(100, 256), 0U);
  EXPECT_EQ(arena.Take(100, 256), 256U);
  EXPECT_EQ(arena.Take(156, 1), 100U);  // between them
  EXPECT_EQ(arena.Take(645, 1), std::nullopt);
  EXPECT_EQ(arena.Take(644, 1), 356U);
  EXPECT_EQ(arena.Take(1, 1), std::nullopt);
  EXPECT_EQ(DeviceArena(0).Take(1, 1), std::nullopt);
}

TEST(DeviceArenaTest, WhatIsGivenBackIsOneAgain) {
  SplitMix64 random(3);
  constexpr uint64_t kBytes = 1 << 16;
  DeviceArena arena(kBytes);
  struct Piece {
    uint64_t place, bytes;
  };
  std::vector<Piece> pieces;
  for (int i = 0; i < 4000; ++i) {
    const uint64_t bytes = 1 + random.Next() % 4096;
    if (random.Next() % 2 == 0) {
      const auto place = arena.Take(bytes, 256);
      if (!place) continue;
      ASSERT_EQ(*place % 256, 0U);
      ASSERT_LE(*place + bytes, kBytes);
      for (const Piece& other : pieces) {
        ASSERT_TRUE(*place + bytes <= other.place || other.place + other.bytes <= *place);
      }
      pieces.push_back({*place, bytes});
    } else if (!pieces.empty()) {
      const size_t which = random.Next() % pieces.size();
      arena.GiveBack(pieces[which].place, pieces[which].bytes);
      pieces.erase(pieces.begin() + static_cast<ptrdiff_t>(which));
    }
  }
  for (const Piece& piece : pieces) arena.GiveBack(piece.place, piece.bytes);
  EXPECT_EQ(arena.Take(kBytes, 1), 0U);
}

}  // namespace
}  // namespace dogstar
