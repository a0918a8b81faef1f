#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

uint64_t AddressOf(const AlignedBuffer& buffer) { return reinterpret_cast<uintptr_t>(buffer.data()); }

TEST(AlignedBufferTest, MemoryIsAlignedZeroedAndWritable) {
  for (const uint64_t bytes : {1ull, 4096ull, 5000ull, (2ull << 20) - 1, 2ull << 20, (9ull << 20) + 5}) {
    absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Create(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size(), bytes);
    EXPECT_EQ(AddressOf(*buffer) % (bytes >= (2u << 20) ? 2u << 20 : 4096u), 0u);
    EXPECT_TRUE(std::ranges::all_of(buffer->span(), [](std::byte byte) { return byte == std::byte{0}; }));
    std::ranges::fill(buffer->span(), std::byte{1});
  }
}

TEST(AlignedBufferTest, NoBytesGiveAnEmptyBuffer) {
  const absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Create(0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
  EXPECT_TRUE(buffer->span().empty());
}

TEST(AlignedBufferTest, ImpossibleSizesNameTheirBytes) {
  for (const uint64_t bytes : {uint64_t{1} << 60, UINT64_MAX}) {
    const absl::Status status = AlignedBuffer::Create(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(std::to_string(bytes)));
  }
}

TEST(AlignedBufferTest, MovingHandsTheMemoryOver) {
  AlignedBuffer first = *AlignedBuffer::Create(8192);
  std::byte* data = first.data();
  data[100] = std::byte{42};
  AlignedBuffer second = std::move(first);
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(second.data(), data);
  AlignedBuffer third = *AlignedBuffer::Create(4096);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.size(), 8192u);
  EXPECT_EQ(third.data()[100], std::byte{42});
  EXPECT_EQ(second.size(), 0u);
}

TEST(AlignedBufferTest, TouchedMemoryIsResidentAndKeepsItsContent) {
  AlignedBuffer buffer = *AlignedBuffer::Create(64 << 20);
  buffer.data()[12345] = std::byte{7};
  std::vector<unsigned char> resident(buffer.size() / 4096);
  const auto count = [&] {
    EXPECT_EQ(::mincore(buffer.data(), buffer.size(), resident.data()), 0);
    return std::ranges::count_if(resident, [](unsigned char page) { return (page & 1) != 0; });
  };
  EXPECT_LT(count(), std::ssize(resident));
  EXPECT_TRUE(buffer.Touch().ok());
  EXPECT_EQ(count(), std::ssize(resident));
  EXPECT_EQ(buffer.data()[12345], std::byte{7});
  EXPECT_TRUE(AlignedBuffer().Touch().ok());
}

}  // namespace
}  // namespace dogstar
