#include "io/reader_choice.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/direct_file.h"
#include "io/test_file.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::vector<ReaderCandidate> FourCandidates(const std::vector<std::vector<double>>& runs) {
  return {{IoEngine::kUring, true, runs[0]},
          {IoEngine::kPread, true, runs[1]},
          {IoEngine::kUring, false, runs[2]},
          {IoEngine::kPread, false, runs[3]}};
}

TEST(PickReaderTest, TheFirstStaysWhereOthersAreAboutAsFast) {
  EXPECT_EQ(PickReader(FourCandidates({{2e9, 2e9}, {2.3e9, 2.3e9}, {2.9e9, 2.9e9}, {1e9, 1e9}})), 0u);
}

TEST(PickReaderTest, AClearlyFasterEngineWins) {
  EXPECT_EQ(PickReader(FourCandidates({{2e9, 1e9}, {2.5e9, 1.3e9}, {1e9, 1e9}, {1e9, 1e9}})), 1u);
}

TEST(PickReaderTest, OneFastRunIsNoise) {
  EXPECT_EQ(PickReader(FourCandidates({{2e9, 2e9}, {9e9, 2e9}, {2e9, 9e9}, {9e9, 2e9}})), 0u);
}

TEST(PickReaderTest, ThePageCacheMustWinByHalf) {
  EXPECT_EQ(PickReader(FourCandidates({{2e9, 2e9}, {1e9, 1e9}, {2.9e9, 3e9}, {1e9, 1e9}})), 0u);
  EXPECT_EQ(PickReader(FourCandidates({{2e9, 2e9}, {1e9, 1e9}, {3.1e9, 3e9}, {1e9, 1e9}})), 2u);
}

TEST(PickReaderTest, WhatWasNotMeasuredIsNotPicked) { EXPECT_EQ(PickReader(FourCandidates({{2e9}, {}, {}, {}})), 0u); }

class ChooseReaderTest : public testing::Test {
 protected:
  absl::StatusOr<ReaderChoice> Choose(const ReaderOptions& options) {
    return ChooseReader(file_.path(), options, {.seconds = 5, .file_bytes_min = 0});
  }
  TestFile file_{32 * kMiB};
};

TEST_F(ChooseReaderTest, ItIsMeasuredAndSaysWhat) {
  const auto choice = Choose({});
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_GT(choice->bytes_per_second, 0);
  EXPECT_THAT(choice->reason, AllOf(HasSubstr("GB/s"), HasSubstr("measured with"), HasSubstr("pread")));
}

TEST_F(ChooseReaderTest, WhatIsAskedForIsKeptAndStillMeasured) {
  const auto choice = Choose({.engine = IoEngine::kPread, .direct = DirectMode::kNever});
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->engine, IoEngine::kPread);
  EXPECT_EQ(choice->direct, DirectMode::kNever);
  EXPECT_GT(choice->bytes_per_second, 0);
  EXPECT_THAT(choice->reason, AllOf(HasSubstr("pread, buffered at"), Not(HasSubstr("io_uring"))));
}

TEST_F(ChooseReaderTest, WithADirectReaderAskedForThePageCacheTakesNoPart) {
  const auto choice = Choose({.direct = DirectMode::kAlways});
  if (!choice.ok()) GTEST_SKIP() << choice.status();  // the temporary folder has no O_DIRECT
  EXPECT_THAT(choice->reason, Not(HasSubstr("buffered")));
}

TEST_F(ChooseReaderTest, AFileWithoutODirectIsMeasuredThroughThePageCache) {
  if (::access("/dev/shm", W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  const TestFile file(16 * kMiB, "/dev/shm");
  if (DirectFile::Open(file.path(), DirectMode::kAlways, nullptr).ok())
    GTEST_SKIP() << "this kernel's tmpfs has O_DIRECT";
  const auto choice = ChooseReader(file.path(), {}, {.seconds = 0.05, .file_bytes_min = 0});
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->direct, DirectMode::kAuto);  // so that opening still says why O_DIRECT is refused
  EXPECT_THAT(choice->reason, Not(HasSubstr("O_DIRECT")));
}

TEST_F(ChooseReaderTest, MeasuringEndsInTime) {
  const double start = Now();
  const auto choice = ChooseReader(file_.path(), {}, {.seconds = 0.001, .file_bytes_min = 0});
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_GT(choice->bytes_per_second, 0);
  EXPECT_LT(Now() - start, 5);
}

TEST_F(ChooseReaderTest, SmallFilesAreNotMeasured) {
  const auto choice = ChooseReader(file_.path(), {.engine = IoEngine::kPread});
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->engine, IoEngine::kPread);
  EXPECT_EQ(choice->bytes_per_second, 0);
  EXPECT_THAT(choice->reason, AllOf(HasSubstr("not measured"), HasSubstr("32.0 MiB")));
}

TEST_F(ChooseReaderTest, AMissingFileIsNamed) {
  const absl::Status status = ChooseReader("/nowhere/model.gguf", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/model.gguf"));
}

}  // namespace
}  // namespace dogstar
