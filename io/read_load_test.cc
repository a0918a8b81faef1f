#include "io/read_load.h"

#include <algorithm>
#include <map>

#include "base/aligned_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/test_file.h"

namespace dogstar {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Passes reads on and remembers them.
class Recorder : public PageReader {
 public:
  explicit Recorder(std::unique_ptr<PageReader> reader) : reader_(std::move(reader)) {}
  absl::Status Submit(std::span<const ReadRequest> requests) override {
    for (const ReadRequest& request : requests) offsets_.push_back(request.offset);
    const absl::Status status = reader_->Submit(requests);
    most_ = std::max(most_, reader_->in_flight());
    return status;
  }
  absl::Status Reap(size_t min_count, std::vector<Completion>* finished) override {
    return reader_->Reap(min_count, finished);
  }
  absl::StatusOr<bool> Await(std::chrono::milliseconds limit) override { return reader_->Await(limit); }
  size_t in_flight() const override { return reader_->in_flight(); }
  size_t free_depth() const override { return reader_->free_depth(); }
  std::string Describe() const override { return reader_->Describe(); }

  const std::vector<uint64_t>& offsets() const { return offsets_; }
  size_t most() const { return most_; }

 private:
  std::unique_ptr<PageReader> reader_;
  std::vector<uint64_t> offsets_;
  size_t most_ = 0;
};

class ReadLoadTest : public testing::Test {
 protected:
  ReadLoadTest() : recorder_(OpenPageReader(file_.path(), {.queue_depth = 8}, nullptr).value()) {}
  TestFile file_{2 * kMiB};
  AlignedBuffer buffer_ = *AlignedBuffer::Create(kMiB);
  Recorder recorder_;
};

TEST_F(ReadLoadTest, ReadsAsManyBytesAsAskedForWithinTheRange) {
  for (const bool random : {false, true}) {
    const ReadLoad load = {.offset = kMiB,
                           .bytes = kMiB / 2,
                           .read_bytes = 64 << 10,
                           .depth = 4,
                           .random = random,
                           .seconds_max = 60,
                           .bytes_max = 3 * kMiB};
    const auto result = RunLoad(&recorder_, buffer_.span(), load);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->bytes, 3 * kMiB);
    EXPECT_EQ(result->reads, 48u);
    EXPECT_GT(result->bytes_per_second(), 0);
  }
  EXPECT_EQ(recorder_.most(), 4u);
  for (const uint64_t offset : recorder_.offsets()) {
    EXPECT_GE(offset, kMiB);
    EXPECT_LE(offset + (64 << 10), kMiB + kMiB / 2);
  }
}

TEST_F(ReadLoadTest, WorkBesideIsDoneForEachReadWhileOthersAreInFlight) {
  int calls = 0, alone = 0;
  const ReadLoad load = {
      .bytes = kMiB, .read_bytes = 64 << 10, .depth = 4, .seconds_max = 60, .bytes_max = kMiB, .beside = [&] {
        ++calls;
        alone += recorder_.in_flight() == 0 ? 1 : 0;
      }};
  const auto result = RunLoad(&recorder_, buffer_.span(), load);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(calls, 12);  // the last four are only waited for
  EXPECT_LE(calls, 16);
  EXPECT_EQ(alone, 0);
}

TEST_F(ReadLoadTest, SequentialReadsFollowEachOtherAndBeginAgain) {
  const ReadLoad load = {.bytes = 4 * 4096 + 100, .read_bytes = 4096, .seconds_max = 60, .bytes_max = 6 * 4096};
  ASSERT_TRUE(RunLoad(&recorder_, buffer_.span(), load).ok());
  EXPECT_THAT(recorder_.offsets(), testing::ElementsAre(0, 4096, 8192, 12288, 0, 4096));
}

TEST_F(ReadLoadTest, EndsWhenItsTimeIsOver) {
  const ReadLoad load = {.bytes = kMiB, .read_bytes = 4096, .depth = 2, .seconds_max = 0.02};
  const auto result = RunLoad(&recorder_, buffer_.span(), load);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->seconds, 0.02);
  EXPECT_LT(result->seconds, 10);
}

TEST_F(ReadLoadTest, AFailedReadEndsIt) {
  file_.Truncate(kMiB);
  const ReadLoad load = {.bytes = 2 * kMiB, .read_bytes = 64 << 10, .depth = 4, .seconds_max = 60};
  EXPECT_EQ(RunLoad(&recorder_, buffer_.span(), load).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace dogstar
