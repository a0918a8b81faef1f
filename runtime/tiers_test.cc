#include "runtime/tiers.h"

#include <filesystem>
#include <fstream>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

MachineRates Example() {
  MachineRates rates = CommonRates();
  rates.machine = "cpu \"x\"\tavx2, 2 threads";
  rates.threads = 2;
  rates.disks.push_back(
      {"254:0", "/a \\ b.gguf", "io_uring", {{65536, 8, 1e9}, {1048576, 16, 2e9}}, 2.1e9, 1 << 24, 0.25});
  rates.disks.push_back({"8:1", "/c", "pread", {}, 5e8, 0});  // shared: not known
  rates.devices.push_back({"cuda:0", "a \"GPU\"", 9e11, 2.4e10, {{QuantType::kQ6_K, WeightForm::kPages, 4, 8e11}}});
  return rates;
}

TEST(TiersTest, WhatWasWrittenIsReadAgain) {
  const MachineRates rates = Example();
  const auto read = ParseTiers(FormatTiers(rates), "t.json");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->machine, rates.machine);
  EXPECT_EQ(read->kernels.size(), rates.kernels.size());
  EXPECT_EQ(read->kernels[1].rows, 16);
  ASSERT_EQ(read->disks.size(), 2u);
  EXPECT_EQ(read->disks[0].path, rates.disks[0].path);
  EXPECT_EQ(read->disks[0].reads[1].read_bytes, 1048576u);
  EXPECT_EQ(read->disks[0].in_flight_bytes, 1u << 24);
  EXPECT_DOUBLE_EQ(read->disks[0].shared, 0.25);
  EXPECT_LT(read->disks[1].shared, 0);
  ASSERT_NE(read->FindDisk("8:1"), nullptr);
  EXPECT_DOUBLE_EQ(read->FindDisk("8:1")->bytes_per_second, 5e8);
  EXPECT_EQ(read->FindDisk("9:9"), nullptr);
  ASSERT_NE(read->FindDevice("cuda:0"), nullptr);
  EXPECT_EQ(read->devices[0].description, rates.devices[0].description);
  EXPECT_DOUBLE_EQ(read->devices[0].link_bytes_per_second, 2.4e10);
  EXPECT_EQ(read->devices[0].kernels[0].type, QuantType::kQ6_K);
  EXPECT_EQ(read->FindDevice("cuda:1"), nullptr);
  EXPECT_EQ(FormatTiers(*read), FormatTiers(rates));
}

TEST(TiersTest, MistakesNameFileLineAndField) {
  const auto error = [](std::string_view text) { return std::string(ParseTiers(text, "t.json").status().message()); };
  EXPECT_THAT(error("[1]"), testing::HasSubstr("t.json:1"));
  EXPECT_THAT(error("{\"version\": 2}"), testing::HasSubstr("version 2"));
  EXPECT_THAT(error("{\"version\": 1, \"machine\": \"m\",\n \"threads\": 0}"),
              testing::AllOf(testing::HasSubstr("t.json:2"), testing::HasSubstr("\"threads\" must be 1 to")));
  std::string text = FormatTiers(Example());
  const size_t form = text.find("\"panels\"");
  text.replace(form, 8, "\"wrong!\"");
  EXPECT_THAT(error(text), testing::HasSubstr("unknown form"));
  EXPECT_THAT(error("{\"version\": 1, "), testing::HasSubstr("t.json"));
}

TEST(TiersTest, AFileIsWrittenWholeAndItsFolderMade) {
  const std::string folder = fmt::format("{}tiers_test_{}", testing::TempDir(), ::getpid());
  const std::string path = folder + "/deep/tiers.json";
  ASSERT_TRUE(WriteTiersFile(Example(), path).ok());
  EXPECT_TRUE(ReadTiersFile(path).ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder + "/deep"), {}), 1);  // nothing temporary stays
  EXPECT_TRUE(absl::IsNotFound(ReadTiersFile(folder + "/none.json").status()));
  EXPECT_EQ(DeviceOf(path).value(), DeviceOf(folder).value());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace dogstar
