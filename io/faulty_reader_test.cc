#include "io/faulty_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/aligned_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/test_file.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint32_t kBytes = 16 * 1024;
constexpr size_t kReads = 64;

class FaultyReaderTest : public ::testing::Test {
 protected:
  std::unique_ptr<PageReader> Open(const FaultOptions& options) {
    auto reader = OpenPageReader(file_.path(), {.engine = IoEngine::kPread, .queue_depth = kReads}, nullptr);
    CHECK(reader.ok());
    return NewFaultyReader(*std::move(reader), file_.path(), options);
  }
  ReadRequest Request(size_t i) const {
    return {.offset = i * kBytes,
            .destination = buffer_.data() + i * kBytes,
            .bytes = kBytes,
            .needed_bytes = kBytes,
            .tag = i};
  }
  // Reads the whole file, all reads at once; the statuses by tag. order: tags as they came back.
  std::vector<absl::Status> ReadAll(PageReader* reader, std::vector<uint64_t>* order = nullptr) {
    std::vector<ReadRequest> requests;
    for (size_t i = 0; i < kReads; ++i) requests.push_back(Request(i));
    CHECK(reader->Submit(requests).ok());
    std::vector<Completion> finished;
    CHECK(reader->Reap(kReads, &finished).ok());
    CHECK(finished.size() == kReads);
    std::vector<absl::Status> statuses(kReads);
    for (const Completion& completion : finished) {
      statuses[completion.tag] = completion.status;
      if (order != nullptr) order->push_back(completion.tag);
    }
    return statuses;
  }
  int WrongBits(size_t i) const {
    int count = 0;
    for (uint32_t at = 0; at < kBytes; ++at) {
      const std::byte wrong = buffer_.data()[i * kBytes + at] ^ file_.content()[i * kBytes + at];
      count += std::popcount(std::to_integer<unsigned>(wrong));
    }
    return count;
  }

  const TestFile file_{kReads * kBytes};
  const AlignedBuffer buffer_ = *AlignedBuffer::Create(kReads * kBytes);
};

int CountErrors(const std::vector<absl::Status>& statuses) {
  int errors = 0;
  for (const absl::Status& status : statuses) errors += !status.ok();
  return errors;
}

TEST_F(FaultyReaderTest, WithoutFaultsItReadsAsTheReaderBelow) {
  const std::unique_ptr<PageReader> reader = Open({});
  EXPECT_EQ(CountErrors(ReadAll(reader.get())), 0);
  EXPECT_EQ(std::memcmp(buffer_.data(), file_.content().data(), kReads * kBytes), 0);
}

TEST_F(FaultyReaderTest, ErrorsNamePathOffsetAndBytesAndLeaveOthersWhole) {
  const std::unique_ptr<PageReader> reader = Open({.seed = 1, .error_probability = 0.3});
  const std::vector<absl::Status> statuses = ReadAll(reader.get());
  const int errors = CountErrors(statuses);
  EXPECT_GT(errors, 5);
  EXPECT_LT(errors, 40);
  for (size_t i = 0; i < kReads; ++i) {
    if (statuses[i].ok()) {
      EXPECT_EQ(WrongBits(i), 0);
      continue;
    }
    EXPECT_EQ(statuses[i].code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(statuses[i].message()),
                AllOf(HasSubstr(file_.path()), HasSubstr("offset " + std::to_string(i * kBytes)),
                      HasSubstr("16384 bytes"), HasSubstr("Input/output error")));
    EXPECT_NE(WrongBits(i), 0);
  }
}

TEST_F(FaultyReaderTest, AFailedReadMaySucceedWhenTriedAgain) {
  const std::unique_ptr<PageReader> reader = Open({.seed = 1, .error_probability = 0.5});
  for (int attempt = 0; attempt < 50; ++attempt) {
    const ReadRequest request = Request(0);
    ASSERT_EQ(reader->Submit({&request, 1}), absl::OkStatus());
    std::vector<Completion> finished;
    ASSERT_EQ(reader->Reap(1, &finished), absl::OkStatus());
    if (!finished[0].status.ok()) continue;
    EXPECT_EQ(WrongBits(0), 0);
    return;
  }
  FAIL() << "50 of 50 reads failed";
}

TEST_F(FaultyReaderTest, ErrorsMayComeInBursts) {
  const std::unique_ptr<PageReader> reader = Open({.seed = 3, .error_probability = 0.05, .error_burst = 4});
  const std::vector<absl::Status> statuses = ReadAll(reader.get());
  EXPECT_GT(CountErrors(statuses), 0);
  size_t longest = 0, length = 0;
  for (const absl::Status& status : statuses) {
    length = status.ok() ? 0 : length + 1;
    longest = std::max(longest, length);
  }
  EXPECT_GE(longest, 4u);
}

TEST_F(FaultyReaderTest, ShortReadsAreDataLossAndBringAPart) {
  const std::unique_ptr<PageReader> reader = Open({.seed = 5, .short_probability = 0.5});
  const std::vector<absl::Status> statuses = ReadAll(reader.get());
  EXPECT_GT(CountErrors(statuses), 15);
  EXPECT_LT(CountErrors(statuses), 50);
  for (size_t i = 0; i < kReads; ++i) {
    if (statuses[i].ok()) {
      EXPECT_EQ(WrongBits(i), 0);
      continue;
    }
    EXPECT_EQ(statuses[i].code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(statuses[i].message()),
                AllOf(HasSubstr(file_.path()), HasSubstr("the file ends after"), HasSubstr("16384 bytes needed")));
    EXPECT_NE(WrongBits(i), 0);
  }
}

TEST_F(FaultyReaderTest, CorruptReadsSucceedWithOneWrongBit) {
  const std::unique_ptr<PageReader> reader = Open({.seed = 2, .corrupt_probability = 0.5});
  EXPECT_EQ(CountErrors(ReadAll(reader.get())), 0);
  int corrupt = 0;
  for (size_t i = 0; i < kReads; ++i) {
    EXPECT_LE(WrongBits(i), 1);
    corrupt += WrongBits(i);
  }
  EXPECT_GT(corrupt, 15);
  EXPECT_LT(corrupt, 50);
}

TEST_F(FaultyReaderTest, TheFileItselfStaysAsItWas) {
  ReadAll(Open({.seed = 2, .error_probability = 0.5, .corrupt_probability = 0.5}).get());
  ReadAll(Open({}).get());
  EXPECT_EQ(std::memcmp(buffer_.data(), file_.content().data(), kReads * kBytes), 0);
}

TEST_F(FaultyReaderTest, TheSameSeedHurtsTheSameReads) {
  const FaultOptions options = {.seed = 9, .error_probability = 0.4, .late_probability = 0.5, .reorder = true};
  const std::unique_ptr<PageReader> first = Open(options);
  const std::unique_ptr<PageReader> second = Open(options);
  for (int round = 0; round < 3; ++round) EXPECT_EQ(ReadAll(first.get()), ReadAll(second.get())) << round;
}

TEST_F(FaultyReaderTest, LateCompletionsComeLateAndAreWaitedFor) {
  const std::unique_ptr<PageReader> reader = Open({.late_probability = 1, .late_by = std::chrono::milliseconds(20)});
  const auto start = std::chrono::steady_clock::now();
  const ReadRequest request = Request(0);
  ASSERT_EQ(reader->Submit({&request, 1}), absl::OkStatus());
  std::vector<Completion> finished;
  ASSERT_EQ(reader->Reap(0, &finished), absl::OkStatus());
  EXPECT_TRUE(finished.empty());
  EXPECT_EQ(reader->in_flight(), 1u);
  ASSERT_EQ(reader->Reap(1, &finished), absl::OkStatus());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
  EXPECT_EQ(WrongBits(0), 0);
  EXPECT_EQ(reader->in_flight(), 0u);
}

TEST_F(FaultyReaderTest, CompletionsComeInAnotherOrder) {
  const std::unique_ptr<PageReader> reader = Open({.seed = 4, .reorder = true});
  std::vector<uint64_t> order;
  EXPECT_EQ(CountErrors(ReadAll(reader.get(), &order)), 0);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

}  // namespace
}  // namespace dogstar
