#include "io/read_progress.h"

#include <cerrno>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ReadProgressTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kBytes = 4 * kIoAlignment;
  // Only their addresses count.
  alignas(kIoAlignment) std::byte memory_[kIoAlignment];
  ReadRequest request_ = {
      .offset = 8 * kIoAlignment, .destination = memory_, .bytes = kBytes, .needed_bytes = kBytes, .tag = 5};
};

TEST_F(ReadProgressTest, WholeReadIsDone) {
  ReadProgress read(request_);
  EXPECT_EQ(read.offset(), request_.offset);
  EXPECT_EQ(read.bytes(), kBytes);
  EXPECT_EQ(read.tag(), 5u);
  EXPECT_EQ(read.Advance(kBytes, "f"), absl::OkStatus());
}

TEST_F(ReadProgressTest, NeededBytesAreEnough) {
  request_.needed_bytes = 100;
  ReadProgress read(request_);
  EXPECT_EQ(read.Advance(100, "f"), absl::OkStatus());
}

TEST_F(ReadProgressTest, ShortReadGoesOnAtAnAlignedPlace) {
  ReadProgress read(request_);
  EXPECT_EQ(read.Advance(kIoAlignment + 10, "f"), std::nullopt);
  EXPECT_EQ(read.offset(), 9 * kIoAlignment);
  EXPECT_EQ(read.destination(), memory_ + kIoAlignment);
  EXPECT_EQ(read.bytes(), 3 * kIoAlignment);
  EXPECT_EQ(read.Advance(3 * kIoAlignment, "f"), absl::OkStatus());
}

TEST_F(ReadProgressTest, InterruptionsAreTriedAgain) {
  ReadProgress read(request_);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(read.Advance(-EINTR, "f"), std::nullopt);
    EXPECT_EQ(read.Advance(-EAGAIN, "f"), std::nullopt);
  }
  EXPECT_EQ(read.Advance(kBytes, "f"), absl::OkStatus());
}

TEST_F(ReadProgressTest, EndlessInterruptionsEndInAnError) {
  ReadProgress read(request_);
  std::optional<absl::Status> end;
  for (int i = 0; i < 20'000 && !end.has_value(); ++i) end = read.Advance(-EAGAIN, "f");
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->code(), absl::StatusCode::kUnavailable);
}

TEST_F(ReadProgressTest, EndOfFileIsDataLossAndNamesTheBytes) {
  ReadProgress read(request_);
  EXPECT_EQ(read.Advance(kIoAlignment + 10, "some.gguf"), std::nullopt);
  const std::optional<absl::Status> end = read.Advance(10, "some.gguf");
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(end->message()),
              AllOf(HasSubstr("some.gguf"), HasSubstr("offset 32768"), HasSubstr("4106 of the 16384 bytes")));
}

TEST_F(ReadProgressTest, ErrorsNamePathOffsetAndBytes) {
  ReadProgress read(request_);
  const std::optional<absl::Status> end = read.Advance(-EIO, "some.gguf");
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(end->message()), AllOf(HasSubstr("some.gguf"), HasSubstr("offset 32768"),
                                                 HasSubstr("16384 bytes"), HasSubstr("Input/output error")));
}

}  // namespace
}  // namespace dogstar
