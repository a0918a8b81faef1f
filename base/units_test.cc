#include "base/units.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(UnitsTest, ParsesSizesAsPeopleWriteThem) {
  struct Case {
    const char* text;
    uint64_t bytes;
  };
  const Case cases[] = {{"0", 0},
                        {"512", 512},
                        {"512B", 512},
                        {"64MiB", 64u << 20},
                        {"64 mib", 64u << 20},
                        {"2.5 GiB", 2560ull << 20},
                        {" 1.5KiB ", 1536},
                        {"3 kb", 3000},
                        {"1TB", 1'000'000'000'000},
                        {"0.1 GiB", 107374182},
                        {"16777215 TiB", 16777215ull << 40},
                        {"18446744073709551615", UINT64_MAX}};
  for (const Case& c : cases) {
    const absl::StatusOr<uint64_t> bytes = ParseSize(c.text);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_EQ(*bytes, c.bytes) << c.text;
  }
}

TEST(UnitsTest, PercentagesAreOfTheWhole) {
  EXPECT_EQ(*ParseSize("70%", 1000), 700u);
  EXPECT_EQ(*ParseSize("12.5 %", 1000), 125u);
  EXPECT_EQ(*ParseSize("100%", UINT64_MAX), UINT64_MAX);
  EXPECT_FALSE(ParseSize("70%").ok());
  EXPECT_FALSE(ParseSize("101%", 1000).ok());
}

TEST(UnitsTest, WhatIsNoSizeIsQuotedWithWhatIsAllowed) {
  for (const char* text : {"", " ", "512k", "MiB", "-5 MiB", "1e9", ".5GiB", "1..5GiB", "1.2.3 GiB", "0x10", "5 MiB x",
                           "16777216 TiB", "18446744073709551616", "99999999999999999999999 B", "1.5", "NaN"}) {
    const absl::Status status = ParseSize(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("\"" + std::string(text) + "\""), HasSubstr("MiB")));
  }
}

TEST(UnitsTest, FormatsWithAReadableUnit) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(512), "512 B");
  EXPECT_EQ(FormatSize(1536), "1.5 KiB");
  EXPECT_EQ(FormatSize(84u << 20), "84.0 MiB");
  EXPECT_EQ(FormatSize(1536ull << 20), "1.50 GiB");
  EXPECT_EQ(FormatSize((1024ull << 20) - 1), "1.00 GiB");
  EXPECT_EQ(FormatSize(UINT64_MAX), "16777216.00 TiB");
}

}  // namespace
}  // namespace dogstar
