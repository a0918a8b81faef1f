// The pager on disks that fail: what it gives is right, or it says what is wrong, and it can begin again.
#include <algorithm>
#include <ctime>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/faulty_reader.h"
#include "io/test_file.h"
#include "memory/pager.h"
#include "model/packed_file.h"

namespace dogstar {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr uint32_t kPieceBytes = 5000;
constexpr uint32_t kRangeBytesMax = 30000;

class PagerFaultsTest : public testing::TestWithParam<IoEngine> {
 protected:
  PagerFaultsTest() {
    SplitMix64 random(11);
    for (int i = 0; i < 60; ++i) {
      const auto bytes = 1 + static_cast<uint32_t>(random.Next() % kRangeBytesMax);
      const StreamRange range = {random.Next() % (file_.content().size() - bytes), bytes,
                                 static_cast<int32_t>(options_.piece_checksums.size()), kPieceBytes};
      const auto content = Content(range);
      for (uint32_t at = 0; at < bytes; at += kPieceBytes) {
        options_.piece_checksums.push_back(ChecksumOf(content.subspan(at, std::min(kPieceBytes, bytes - at))));
      }
      schedule_.push_back(range);
    }
    options_.path = file_.path();
    options_.verify = VerifyMode::kAlways;
  }
  std::span<const std::byte> Content(const StreamRange& range) const {
    return std::span(file_.content()).subspan(range.offset, range.bytes);
  }
  std::unique_ptr<PageReader> Open(const FaultOptions& faults) {
    auto reader =
        OpenPageReader(file_.path(), {.engine = GetParam(), .queue_depth = 16, .buffer = ring_.span()}, nullptr);
    CHECK(reader.ok());
    return NewFaultyReader(*std::move(reader), file_.path(), faults);
  }
  // One pass: OK when all of it came and was right.
  absl::Status Pass(Pager* pager) {
    RETURN_IF_ERROR(pager->Begin(schedule_));
    for (const StreamRange& range : schedule_) {
      ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, pager->Next());
      EXPECT_TRUE(std::ranges::equal(bytes, Content(range))) << range.offset;
      RETURN_IF_ERROR(pager->Release());
    }
    return absl::OkStatus();
  }
  void ExpectNamed(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(file_.path()), HasSubstr("offset"), HasSubstr("after 3 attempts")));
  }

  const TestFile file_{1'000'003};
  const AlignedBuffer ring_ = *AlignedBuffer::Create(Pager::MinRingBytes(kRangeBytesMax) + 40 * kIoAlignment);
  std::vector<StreamRange> schedule_;
  Pager::Options options_;
};

TEST_P(PagerFaultsTest, WhateverTheSeedBytesAreRightOrTheErrorSaysWhere) {
  int whole = 0, failed = 0;
  uint64_t repeated = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const double share = 0.02 * static_cast<double>(seed % 6);
    const auto reader = Open({.seed = seed,
                              .error_probability = share,
                              .error_burst = 1 + static_cast<uint32_t>(seed % 5),
                              .short_probability = share,
                              .corrupt_probability = share,
                              .late_probability = 0.05,
                              .late_by = std::chrono::microseconds(200),
                              .reorder = true});
    Pager pager(reader.get(), ring_.span(), options_);
    for (int pass = 0; pass < 3; ++pass) {
      const absl::Status status = Pass(&pager);
      status.ok() ? ++whole : ++failed;
      if (!status.ok()) ExpectNamed(status);
    }
    repeated += pager.stats().repeated_reads;
  }
  EXPECT_GT(whole, 10);
  EXPECT_GT(failed, 0);
  EXPECT_GT(repeated, 10u);
}

TEST_P(PagerFaultsTest, ReadsThatAlwaysFailEndThePassWithTheirReason) {
  struct Case {
    FaultOptions faults;
    std::string reason;
  };
  for (const Case& bad :
       {Case{{.error_probability = 1}, "Input/output error"}, Case{{.short_probability = 1}, "the file ends after"},
        Case{{.corrupt_probability = 1}, "do not match their checksum"}}) {
    const auto reader = Open(bad.faults);
    Pager pager(reader.get(), ring_.span(), options_);
    const absl::Status status = Pass(&pager);
    ExpectNamed(status);
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.reason));
    EXPECT_EQ(pager.stats().repeated_reads, 2u);
  }
}

double ProcessCpuSeconds() {
  timespec time = {};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

TEST_P(PagerFaultsTest, AStalledDiskIsWaitedForAsleep) {
  const auto reader = Open({.late_probability = 1, .late_by = std::chrono::milliseconds(400)});
  int notes = 0;
  options_.note = [&](std::string_view) { ++notes; };
  options_.stall_after = std::chrono::milliseconds(50);
  Pager pager(reader.get(), ring_.span(), options_);
  ASSERT_TRUE(pager.Begin(schedule_).ok());
  const double start = Now(), cpu_start = ProcessCpuSeconds();
  ASSERT_TRUE(pager.Next().ok());
  EXPECT_GT(Now() - start, 0.3);
  EXPECT_LT(ProcessCpuSeconds() - cpu_start, 0.1 * (Now() - start));
  EXPECT_EQ(notes, 2);  // that it waits, and that it goes on
}

INSTANTIATE_TEST_SUITE_P(Engines, PagerFaultsTest, testing::Values(IoEngine::kAuto, IoEngine::kPread),
                         [](const auto& engine) { return engine.param == IoEngine::kAuto ? "Auto" : "Pread"; });

}  // namespace
}  // namespace dogstar
