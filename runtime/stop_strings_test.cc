#include "runtime/stop_strings.h"

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(StopStringsTest, AStopStringMaySpanTokens) {
  StopStrings stops({"END", "\n\n"});
  EXPECT_EQ(stops.Push("one E"), "one ");
  EXPECT_EQ(stops.Push("N"), "");
  EXPECT_FALSE(stops.stopped());
  EXPECT_EQ(stops.Push("D and more"), "");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.Push("x"), "");
  EXPECT_EQ(stops.Flush(), "");
}

TEST(StopStringsTest, HeldTextIsReleasedWhenItIsNone) {
  StopStrings stops({"END"});
  EXPECT_EQ(stops.Push("E"), "");
  EXPECT_EQ(stops.Push("NE"), "EN");
  EXPECT_EQ(stops.Push("NX"), "ENX");
  EXPECT_EQ(stops.Push("EN"), "");
  EXPECT_EQ(stops.Flush(), "EN");
}

TEST(StopStringsTest, TheFirstOfSeveralEndsTheText) {
  StopStrings stops({"b", "a"});
  EXPECT_EQ(stops.Push("xxaab"), "xx");
  EXPECT_TRUE(stops.stopped());
}

TEST(StopStringsTest, WithoutStringsEverythingPasses) {
  StopStrings stops({""});
  EXPECT_EQ(stops.Push("all"), "all");
  EXPECT_FALSE(stops.stopped());
}

}  // namespace
}  // namespace dogstar
