#include "memory/pager.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/faulty_reader.h"
#include "model/packed_file.h"

namespace dogstar {
namespace {

// A file of pseudo-random bytes that goes away with the test.
class TestFile {
 public:
  explicit TestFile(size_t bytes) : content_(bytes) {
    char name[] = "/tmp/dogstar_pager_XXXXXX";
    const int fd = mkstemp(name);
    CHECK(fd >= 0);
    close(fd);
    path_ = name;
    SplitMix64 random(7);
    for (std::byte& b : content_) b = static_cast<std::byte>(random.Next());
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(content_.data()), static_cast<std::streamsize>(bytes));
  }
  ~TestFile() { std::remove(path_.c_str()); }

  const std::string& path() const { return path_; }
  std::span<const std::byte> Bytes(const StreamRange& range) const {
    return std::span(content_).subspan(range.offset, range.bytes);
  }

 private:
  std::string path_;
  std::vector<std::byte> content_;
};

// Ranges of many sizes, at aligned and unaligned offsets, the last one up to the file's end.
std::vector<StreamRange> MixedRanges(size_t file_bytes) {
  std::vector<StreamRange> ranges;
  SplitMix64 random(3);
  for (int i = 0; i < 200; ++i) {
    const uint32_t bytes = 1 + static_cast<uint32_t>(random.Next() % 30000);
    uint64_t offset = random.Next() % (file_bytes - bytes);
    if (i % 3 == 0) offset = offset / kIoAlignment * kIoAlignment;
    ranges.push_back({offset, bytes, -1, 0});
  }
  ranges.push_back({file_bytes - 5000, 5000, -1, 0});
  return ranges;
}

constexpr size_t kFileBytes = 1'000'003;

class PagerTest : public testing::TestWithParam<IoEngine> {
 protected:
  std::unique_ptr<PageReader> Open(std::span<std::byte> ring, size_t depth = 8) {
    ReaderOptions options;
    options.engine = GetParam();
    options.queue_depth = depth;
    options.buffer = ring;
    auto reader = OpenPageReader(file_.path(), options, nullptr);
    CHECK(reader.ok());
    return std::move(*reader);
  }

  TestFile file_{kFileBytes};
};

TEST_P(PagerTest, GivesEveryRangeInOrderWhateverTheRingsSize) {
  const std::vector<StreamRange> ranges = MixedRanges(kFileBytes);
  for (uint64_t ring_bytes : {Pager::MinRingBytes(30000), uint64_t{200 * 4096}, uint64_t{2 << 20}}) {
    AlignedBuffer ring = AlignedBuffer::Create(ring_bytes).value();
    auto reader = Open(ring.span());
    Pager pager(reader.get(), ring.span(), {file_.path(), VerifyMode::kFirst, {}});
    for (int pass = 0; pass < 2; ++pass) {
      ASSERT_TRUE(pager.Begin(ranges).ok());
      for (const StreamRange& range : ranges) {
        auto bytes = pager.Next();
        ASSERT_TRUE(bytes.ok()) << bytes.status();
        EXPECT_TRUE(std::ranges::equal(*bytes, file_.Bytes(range)));
        ASSERT_TRUE(pager.Release().ok());
      }
    }
  }
}

TEST_P(PagerTest, RangesMayBeHeldWhileLaterOnesArrive) {
  const std::vector<StreamRange> ranges = {{0, 4096, -1, 0}, {4096, 4096, -1, 0}, {8192, 100, -1, 0}};
  AlignedBuffer ring = AlignedBuffer::Create(8 * 4096).value();
  auto reader = Open(ring.span());
  Pager pager(reader.get(), ring.span(), {file_.path(), VerifyMode::kFirst, {}});
  ASSERT_TRUE(pager.Begin(ranges).ok());
  const auto first = pager.Next().value();
  const auto second = pager.Next().value();
  EXPECT_TRUE(std::ranges::equal(first, file_.Bytes(ranges[0])));
  EXPECT_TRUE(std::ranges::equal(second, file_.Bytes(ranges[1])));
  ASSERT_TRUE(pager.Release().ok());
  EXPECT_TRUE(std::ranges::equal(pager.Next().value(), file_.Bytes(ranges[2])));
}

TEST_P(PagerTest, APassMayBeDroppedInTheMiddle) {
  const std::vector<StreamRange> ranges = MixedRanges(kFileBytes);
  AlignedBuffer ring = AlignedBuffer::Create(Pager::MinRingBytes(30000)).value();
  auto reader = Open(ring.span());
  Pager pager(reader.get(), ring.span(), {file_.path(), VerifyMode::kFirst, {}});
  for (size_t used : {0, 1, 17}) {
    ASSERT_TRUE(pager.Begin(ranges).ok());
    for (size_t i = 0; i < used; ++i) {
      ASSERT_TRUE(pager.Next().ok());
      ASSERT_TRUE(pager.Release().ok());
    }
  }
  ASSERT_TRUE(pager.Begin(ranges).ok());
  EXPECT_TRUE(std::ranges::equal(pager.Next().value(), file_.Bytes(ranges[0])));
}

TEST_P(PagerTest, AWrongChecksumIsAnErrorThatNamesPathAndOffset) {
  std::vector<StreamRange> ranges = {{4096, 8192, 0, 4096}};
  std::vector<uint64_t> checksums = {ChecksumOf(file_.Bytes({4096, 4096, -1, 0})), 12345};
  AlignedBuffer ring = AlignedBuffer::Create(16 * 4096).value();
  auto reader = Open(ring.span());
  Pager pager(reader.get(), ring.span(), {file_.path(), VerifyMode::kFirst, checksums});
  ASSERT_TRUE(pager.Begin(ranges).ok());
  const auto bytes = pager.Next();
  ASSERT_FALSE(bytes.ok());
  EXPECT_EQ(bytes.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(bytes.status().message()),
              testing::AllOf(testing::HasSubstr(file_.path()), testing::HasSubstr("offset 8192")));
  EXPECT_GT(pager.stats().repeated_reads, 0U);
}

TEST_P(PagerTest, AFileCutShortWhileRunningIsAnErrorNotAHang) {
  AlignedBuffer ring = AlignedBuffer::Create(64 * 4096).value();
  auto reader = Open(ring.span());
  Pager pager(reader.get(), ring.span(), {file_.path(), VerifyMode::kFirst, {}});
  ASSERT_EQ(truncate(file_.path().c_str(), 100000), 0);
  const std::vector<StreamRange> ranges = {{0, 4096, -1, 0}, {500000, 4096, -1, 0}};
  ASSERT_TRUE(pager.Begin(ranges).ok());
  ASSERT_TRUE(pager.Next().ok());
  EXPECT_FALSE(pager.Next().ok());
}

TEST_P(PagerTest, AStalledDiskIsToldOnceAndWaitedFor) {
  const std::vector<StreamRange> ranges = {{0, 4096, -1, 0}, {8192, 4096, -1, 0}};
  AlignedBuffer ring = AlignedBuffer::Create(8 * 4096).value();
  auto reader = NewFaultyReader(Open(ring.span()), file_.path(),
                                {.late_probability = 1, .late_by = std::chrono::milliseconds(90)});
  std::vector<std::string> notes;
  Pager::Options options;
  options.path = file_.path();
  options.note = [&](std::string_view note) { notes.emplace_back(note); };
  options.stall_after = std::chrono::milliseconds(20);
  Pager pager(reader.get(), ring.span(), options);
  ASSERT_TRUE(pager.Begin(ranges).ok());
  for (const StreamRange& range : ranges) {
    const auto bytes = pager.Next();
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_TRUE(std::ranges::equal(*bytes, file_.Bytes(range)));
  }
  ASSERT_GE(notes.size(), 2u);
  EXPECT_THAT(notes[0], testing::AllOf(testing::HasSubstr(file_.path()), testing::HasSubstr("has not answered")));
  EXPECT_THAT(notes[1], testing::HasSubstr("answers again"));
}

INSTANTIATE_TEST_SUITE_P(Engines, PagerTest, testing::Values(IoEngine::kAuto, IoEngine::kPread),
                         [](const auto& engine) { return engine.param == IoEngine::kAuto ? "Auto" : "Pread"; });

}  // namespace
}  // namespace dogstar
