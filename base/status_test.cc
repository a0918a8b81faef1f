#include "base/status.h"

#include <cerrno>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(StatusTest, ErrnoStatusNamesEverything) {
  const absl::Status status = ErrnoStatus("read", "model.gguf", 4096, 65536, EIO);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(std::string(status.message()), "read model.gguf at offset 4096 (65536 bytes): Input/output error");
}

TEST(StatusTest, OffsetAndBytesCanBeLeftOut) {
  EXPECT_EQ(std::string(ErrnoStatus("open", "x", -1, -1, ENOENT).message()), "open x: No such file or directory");
}

TEST(StatusTest, AnnotateKeepsTheCode) {
  const absl::Status status = Annotate(absl::NotFoundError("no file"), "layer 3");
  EXPECT_EQ(status, absl::NotFoundError("layer 3: no file"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "layer 3").ok());
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  ASSIGN_OR_RETURN(const int half, Half(value));
  return Half(half);
}

TEST(StatusTest, AssignOrReturnPassesErrorsOn) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status(), absl::InvalidArgumentError("odd"));
  EXPECT_FALSE(Quarter(7).ok());
}

}  // namespace
}  // namespace dogstar
