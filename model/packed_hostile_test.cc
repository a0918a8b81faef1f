// Damaged and hostile packed files: an error or a right answer, never a crash, a hang or a huge allocation.
#include <fcntl.h>
#include <unistd.h>

#include "base/random.h"
#include "gmock/gmock.h"
#include "model/packed_format.h"
#include "model/packed_test_support.h"

namespace dogstar {
namespace {

// A small packed file that tests damage.
class PackedHostileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SynthOptions model = SmallModel(QuantType::kQ4_1);
    model.packed = true;
    model.page_rows = 64;
    path_ = folder_.File("packed.gguf");
    ASSERT_TRUE(WriteSyntheticModel(model, path_, {}).ok());
    good_ = ReadWholeFile(path_);
    header_ = *ReadGgufHeader(path_);
    fd_ = open(path_.c_str(), O_WRONLY);
    ASSERT_GE(fd_, 0);
  }
  void TearDown() override { close(fd_); }

  void Put(uint64_t offset, std::span<const std::byte> bytes) {
    ASSERT_EQ(pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset)), static_cast<ssize_t>(bytes.size()));
  }
  void Restore(uint64_t offset, uint64_t bytes) { Put(offset, std::span(good_).subspan(offset, bytes)); }
  const GgufTensor& Tensor(const std::string& name) const { return *header_.FindTensor(name); }

  // Makes the header's checksum that of `bytes`, so that the checks before it are what is tested.
  void PutHeaderChecksum(std::span<const std::byte> bytes) {
    const uint64_t checksum = ChecksumOf(bytes.first(header_.data_offset()));
    Put(Tensor(packed::kHeaderChecksumTensor).offset, std::as_bytes(std::span(&checksum, 1)));
  }

  // What is opened is usable: every number that a reader would index with is in its bounds.
  void ExpectSound(const PackedFile& packed) const {
    for (const PackedLayer& layer : packed.layers()) {
      const FfnPageLayout& layout = layer.layout;
      EXPECT_EQ(layer.row_order.size(), static_cast<size_t>(layout.ffn_rows));
      EXPECT_EQ(layer.page_checksums.size(), static_cast<size_t>(layout.page_count()));
      const uint64_t pages_end = layer.pages_offset + layout.page_bytes * static_cast<uint64_t>(layout.page_count());
      EXPECT_LE(pages_end, good_.size());
      if (layer.low_offset > 0) {
        EXPECT_GT(layout.low.bytes, 0U);
        EXPECT_EQ(layer.low_checksums.size(), static_cast<size_t>(layout.page_count()));
        EXPECT_LE(layer.low_offset + layout.low.bytes * static_cast<uint64_t>(layout.page_count()), good_.size());
      }
      EXPECT_LE(layer.down_scales_offset + layer.down_scales_bytes, good_.size());
      for (uint16_t group : layer.run_groups) EXPECT_LT(group, std::max(layout.group_count(), 1));
    }
  }

  TestFolder folder_;
  std::string path_;
  std::vector<std::byte> good_;
  GgufHeader header_;
  int fd_ = -1;
};

TEST_F(PackedHostileTest, EveryPrefixIsRefused) {
  const uint64_t header_bytes = header_.header_bytes();
  const uint64_t data_end = Tensor(packed::kHeaderChecksumTensor).offset + sizeof(uint64_t);  // padding follows
  for (uint64_t length = 0; length < data_end; length += length < header_bytes ? 1 : 997) {
    // The parser sees the prefix as the whole file.
    const auto header = GgufHeader::Parse(std::span(good_).first(length), length);
    ASSERT_FALSE(header.ok()) << length;
  }
  // A file that shrank after its header was read.
  for (uint64_t length = 0; length < data_end; length += 1009) {
    ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(length)), 0);
    ASSERT_FALSE(PackedFile::Open(path_, header_).ok()) << length;
  }
}

TEST_F(PackedHostileTest, EveryFlippedBitOfTheHeaderIsNoticed) {
  SplitMix64 random(1);
  for (int i = 0; i < 10000; ++i) {
    const uint64_t at = random.Next() % header_.data_offset();
    const std::byte bad = good_[at] ^ std::byte{static_cast<uint8_t>(1u << random.Next() % 8)};
    Put(at, {&bad, 1});
    ASSERT_FALSE(OpenPacked(path_).ok()) << "offset " << at;
    Restore(at, 1);
  }
  EXPECT_TRUE(OpenPacked(path_).ok());
}

TEST_F(PackedHostileTest, AHeaderThatWasChangedOnPurposeIsRefusedOrSound) {
  SplitMix64 random(2);
  int accepted = 0;
  for (int i = 0; i < 10000; ++i) {
    std::vector<std::byte> bad(good_.begin(), good_.begin() + static_cast<int64_t>(header_.data_offset()));
    const uint64_t flips = 1 + random.Next() % 3;
    for (uint64_t flip = 0; flip < flips; ++flip) {
      bad[random.Next() % bad.size()] = std::byte{static_cast<uint8_t>(random.Next())};
    }
    Put(0, bad);
    PutHeaderChecksum(bad);
    const auto packed = OpenPacked(path_);
    if (packed.ok()) ExpectSound(*packed);
    accepted += packed.ok() ? 1 : 0;
  }
  EXPECT_GT(accepted, 0);  // changes of names in the vocabulary, say
}

TEST_F(PackedHostileTest, DamagedOrdersAndChecksumTablesAreNoticedOrHarmless) {
  SplitMix64 random(3);
  const GgufTensor& order = Tensor("blk.1.ffn_row_order");
  for (uint64_t at = order.offset; at < order.offset + order.bytes; ++at) {
    const std::byte bad = good_[at] ^ std::byte{static_cast<uint8_t>(1u << random.Next() % 8)};
    Put(at, {&bad, 1});
    ASSERT_FALSE(OpenPacked(path_).ok()) << "offset " << at;
    Restore(at, 1);
  }
  // A permutation that keeps the runs' groups, but is not the one that was written.
  std::vector<std::byte> swapped(good_.begin() + static_cast<int64_t>(order.offset),
                                 good_.begin() + static_cast<int64_t>(order.offset + order.bytes));
  std::swap_ranges(swapped.begin(), swapped.begin() + 4, swapped.begin() + 4);
  Put(order.offset, swapped);
  EXPECT_THAT(std::string(OpenPacked(path_).status().message()), ::testing::HasSubstr("checksum"));
}

TEST_F(PackedHostileTest, AWrongHeaderForTheFileIsRefused) {
  SynthOptions other = SmallModel(QuantType::kQ8_0);
  other.packed = true;
  const std::string path = folder_.File("other.gguf");
  ASSERT_TRUE(WriteSyntheticModel(other, path, {}).ok());
  EXPECT_FALSE(PackedFile::Open(path, header_).ok());
  EXPECT_FALSE(PackedFile::Open(folder_.File("absent.gguf"), header_).ok());
}

TEST_F(PackedHostileTest, ANewerVersionSaysSo) {
  const std::string key = packed::kVersionKey;
  const auto found = std::search(good_.begin(), good_.end(), std::as_bytes(std::span(key)).begin(),
                                 std::as_bytes(std::span(key)).end());
  ASSERT_NE(found, good_.end());
  const uint64_t at = static_cast<uint64_t>(found - good_.begin()) + key.size() + 4;  // past the value's type
  const std::byte version{2};
  Put(at, {&version, 1});
  const absl::Status status = OpenPacked(path_).status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("version 2"));
}

}  // namespace
}  // namespace dogstar
