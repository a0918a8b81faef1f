#include "model/gguf.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf_test_support.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ErrorOf(const GgufBytes& file) {
  const absl::StatusOr<GgufHeader> header = ParseBytes(file.File());
  return header.ok() ? "OK" : std::string(header.status().message());
}

GgufBytes OneTensor(uint32_t type, const std::vector<uint64_t>& shape) {
  return GgufBytes().Tensor("weight", type, shape);
}

// A folder of its own, removed at the end.
class GgufFileTest : public ::testing::Test {
 protected:
  GgufFileTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dogstar_gguf_XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~GgufFileTest() override { std::filesystem::remove_all(folder_); }

  std::string PathOf(std::string_view name) const { return (folder_ / name).string(); }
  void Write(const std::string& path, std::string_view bytes) const { std::ofstream(path, std::ios::binary) << bytes; }
  size_t FilesInFolder() const {
    const std::filesystem::directory_iterator files(folder_);
    return static_cast<size_t>(std::distance(begin(files), end(files)));
  }
  static std::string MessageFor(const std::string& path) {
    const absl::StatusOr<GgufHeader> header = ReadGgufHeader(path);
    return header.ok() ? "OK" : std::string(header.status().message());
  }

  std::filesystem::path folder_;
};

TEST(GgufParseTest, EveryFieldAndTensorIsRead) {
  GgufBytes file;
  file.Field("u8", GgufValueType::kUint8, "\xff")
      .Field("i8", GgufValueType::kInt8, "\xff")
      .Field("u16", GgufValueType::kUint16, GgufBytes::Raw<uint16_t>(65535))
      .Field("i64", GgufValueType::kInt64, GgufBytes::Raw<int64_t>(-5))
      .Field("f64", GgufValueType::kFloat64, GgufBytes::Raw(0.25))
      .Bool("yes", true)
      .String("text", "héllo")
      .Int32s("numbers", {1, -2})
      .Strings("names", {"a", "", "b"})
      .Tensor("first", 0, {3, 2})
      .Tensor("second", 8, {32, 2, 3});
  const absl::StatusOr<GgufHeader> header = ParseBytes(file.File());
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(*header->GetUint("u8"), 255u);
  EXPECT_EQ(*header->GetUint("u16"), 65535u);
  EXPECT_EQ(std::get<int64_t>(header->FindField("i8")->value), -1);
  EXPECT_EQ(*header->GetFloat("f64"), 0.25);
  EXPECT_TRUE(*header->GetBool("yes"));
  EXPECT_EQ(*header->GetString("text"), "héllo");
  EXPECT_EQ((*header->GetArray("numbers", GgufValueType::kInt32))->fixed.size(), 8u);
  EXPECT_THAT((*header->GetArray("names", GgufValueType::kString))->strings, ::testing::ElementsAre("a", "", "b"));
  const GgufTensor* second = header->FindTensor("second");
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->rows(), 6u);
  EXPECT_EQ(second->bytes, 6u * 34);
  EXPECT_EQ(second->offset, header->data_offset() + 32);  // 24 bytes before it, padded
  EXPECT_EQ(header->FindTensor("third"), nullptr);
}

TEST(GgufParseTest, AccessorsNameKeyTypeAndWhatIsWanted) {
  GgufBytes file;
  file.String("text", "x").Field("negative", GgufValueType::kInt32, GgufBytes::Raw<int32_t>(-1)).Int32s("list", {1});
  const GgufHeader header = *ParseBytes(file.File());
  EXPECT_TRUE(absl::IsNotFound(header.GetUint("absent").status()));
  EXPECT_THAT(std::string(header.GetUint("text").status().message()), AllOf(HasSubstr("'text'"), HasSubstr("string")));
  EXPECT_THAT(std::string(header.GetUint("negative").status().message()), HasSubstr("-1"));
  EXPECT_THAT(std::string(header.GetArray("list", GgufValueType::kString).status().message()),
              AllOf(HasSubstr("array of int32"), HasSubstr("array of string")));
}

TEST(GgufParseTest, Version2IsReadOthersAreNamed) {
  EXPECT_EQ(ErrorOf(GgufBytes().Version(2).String("a", "b")), "OK");
  EXPECT_THAT(ErrorOf(GgufBytes().Version(1)), HasSubstr("version 1"));
  EXPECT_THAT(ErrorOf(GgufBytes().Version(4)), HasSubstr("version 4"));
  EXPECT_THAT(ErrorOf(GgufBytes().Version(0x03000000)), HasSubstr("big-endian"));
}

TEST(GgufParseTest, WrongMagicSaysWhatIsThere) {
  const absl::Status status = ParseBytes("PK\x03\x04 and so on").status();
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("'PK\\x03\\x04'"), HasSubstr("\"GGUF\"")));
}

TEST(GgufParseTest, HostileCountsAreRefusedBeforeTheyAllocate) {
  const std::string start = "GGUF" + GgufBytes::Raw<uint32_t>(3);
  const uint64_t huge = ~uint64_t{0};
  EXPECT_FALSE(ParseBytes(start + GgufBytes::Raw(huge) + GgufBytes::Raw<uint64_t>(0)).ok());
  EXPECT_FALSE(ParseBytes(start + GgufBytes::Raw<uint64_t>(0) + GgufBytes::Raw(huge)).ok());
  EXPECT_THAT(ErrorOf(GgufBytes().Field("s", GgufValueType::kString, GgufBytes::Raw(huge))), HasSubstr("'s'"));
  for (const GgufValueType type : {GgufValueType::kUint8, GgufValueType::kFloat64, GgufValueType::kString}) {
    for (const uint64_t count : {huge, huge / 8, uint64_t{1} << 33}) {
      const std::string raw = GgufBytes::Raw(static_cast<uint32_t>(type)) + GgufBytes::Raw(count);
      EXPECT_THAT(ErrorOf(GgufBytes().Field("list", GgufValueType::kArray, raw)), HasSubstr("'list'"));
    }
  }
}

TEST(GgufParseTest, MistakesInFieldsAreNamed) {
  EXPECT_THAT(ErrorOf(GgufBytes().Uint32("twice", 1).Uint32("twice", 1)), HasSubstr("'twice'"));
  EXPECT_THAT(ErrorOf(GgufBytes().Field("odd", GgufValueType{13}, "")), AllOf(HasSubstr("13"), HasSubstr("'odd'")));
  EXPECT_THAT(ErrorOf(GgufBytes().Field("maybe", GgufValueType::kBool, "\x02")), HasSubstr("'maybe'"));
  const std::string nested = GgufBytes::Raw<uint32_t>(9) + GgufBytes::Raw<uint64_t>(1);
  EXPECT_THAT(ErrorOf(GgufBytes().Field("nest", GgufValueType::kArray, nested)), HasSubstr("array of arrays"));
  EXPECT_THAT(ErrorOf(GgufBytes().Uint32("", 1)), HasSubstr("empty"));
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    EXPECT_THAT(ErrorOf(GgufBytes().Uint32("general.alignment", alignment)), HasSubstr("power of two"));
  }
}

TEST(GgufParseTest, MistakesInTensorsAreNamed) {
  EXPECT_THAT(ErrorOf(OneTensor(0, {0})), AllOf(HasSubstr("'weight'"), HasSubstr("zero dimension")));
  EXPECT_THAT(ErrorOf(OneTensor(0, {1, 1, 1, 1, 1})), HasSubstr("5 dimensions"));
  EXPECT_THAT(ErrorOf(OneTensor(0, {})), HasSubstr("0 dimensions"));
  EXPECT_THAT(ErrorOf(OneTensor(8, {33, 2})), AllOf(HasSubstr("33"), HasSubstr("Q8_0")));
  EXPECT_THAT(ErrorOf(OneTensor(999, {32})), AllOf(HasSubstr("'weight'"), HasSubstr("type number 999")));
  EXPECT_THAT(ErrorOf(OneTensor(0, {uint64_t{1} << 40, uint64_t{1} << 40})), HasSubstr("impossible"));
  EXPECT_THAT(ErrorOf(OneTensor(0, {~uint64_t{0}})), HasSubstr("impossible"));
  EXPECT_THAT(ErrorOf(GgufBytes().Tensor("a", 0, {8}).Tensor("a", 0, {8})), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf(GgufBytes().Tensor("a", 0, {8}).TensorAt("b", 0, {8}, 0)), HasSubstr("overlap"));
  EXPECT_THAT(ErrorOf(GgufBytes().Tensor("a", 0, {64}).TensorAt("b", 0, {8}, 4)), HasSubstr("multiple"));
  EXPECT_THAT(ErrorOf(GgufBytes().TensorAt("far", 0, {8}, 1 << 20)), AllOf(HasSubstr("'far'"), HasSubstr("end")));
  EXPECT_THAT(ErrorOf(GgufBytes().TensorAt("far", 0, {8}, ~uint64_t{31})), HasSubstr("'far'"));
}

TEST(GgufParseTest, PrefixAsksForMoreUntilTheHeaderIsWhole) {
  const std::string file = TinyModel().File();
  const size_t header_bytes = TinyModel().Header().size();
  for (size_t size = 0; size <= header_bytes + 1; ++size) {
    const absl::Status status = GgufHeader::Parse(std::as_bytes(std::span(file)).first(size), file.size()).status();
    ASSERT_EQ(status.ok(), size >= header_bytes) << size;
    ASSERT_TRUE(status.ok() || absl::IsOutOfRange(status)) << size << status;
  }
}

TEST(GgufParseTest, EveryTruncatedFileIsAnError) {
  const std::string file = TinyModel().File();
  for (size_t size = 0; size < file.size(); ++size) {
    ASSERT_TRUE(absl::IsDataLoss(ParseBytes(std::string_view(file).substr(0, size)).status())) << size;
  }
}

TEST(GgufParseTest, ChangedBytesGiveAnErrorOrARightAnswer) {
  const std::string file = TinyModel().File();
  const size_t header_bytes = TinyModel().Header().size();
  CheckAnyBytes(file);
  SplitMix64 random(1);
  for (int round = 0; round < 10000; ++round) {
    std::string changed = file;
    for (uint64_t flips = 1 + random.Next() % 4; flips > 0; --flips) {
      changed[random.Next() % header_bytes] = static_cast<char>(random.Next());
    }
    CheckAnyBytes(changed);
  }
}

TEST_F(GgufFileTest, HeaderLargerThanTheFirstReadIsRead) {
  GgufBytes file;
  file.String("long", std::string(3 << 20, 'x')).Tensor("weight", 0, {4});
  Write(PathOf("long.gguf"), file.File());
  const absl::StatusOr<GgufHeader> header = ReadGgufHeader(PathOf("long.gguf"));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->GetString("long")->size(), size_t{3 << 20});
}

TEST_F(GgufFileTest, WhatIsNoModelIsNamed) {
  EXPECT_THAT(MessageFor(PathOf("absent.gguf")), AllOf(HasSubstr("absent.gguf"), HasSubstr("No such file")));
  EXPECT_THAT(MessageFor(folder_.string()), HasSubstr("is a directory"));
  Write(PathOf("empty.gguf"), "");
  EXPECT_THAT(MessageFor(PathOf("empty.gguf")), HasSubstr("is empty"));
  Write(PathOf("text.gguf"), "hello world");
  EXPECT_THAT(MessageFor(PathOf("text.gguf")), AllOf(HasSubstr("text.gguf"), HasSubstr("'hell'")));
  EXPECT_THAT(MessageFor("/dev/null"), HasSubstr("not a regular file"));
}

TEST_F(GgufFileTest, WrittenFileReadsBackAndAppearsOnlyWhenFinished) {
  const std::string path = PathOf("out.gguf");
  absl::StatusOr<GgufWriter> writer = GgufWriter::Create(path, 4096);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const GgufHeader source = *ParseBytes(TinyModel().File());
  for (const GgufField& field : source.fields()) writer->AddField(field);
  writer->AddUint32("general.alignment", 32);  // ignored: the writer's own counts
  writer->AddUint32("extra", 1);
  writer->AddUint32("extra", 2);
  writer->AddUint64("big", uint64_t{1} << 40);
  writer->AddUint32Array("list", std::vector<uint32_t>{1, 2, 3});
  ASSERT_TRUE(writer->AddTensor("a", 0, {3}).ok());
  ASSERT_TRUE(writer->AddTensor("b", 8, {32, 3}).ok());
  const uint64_t total_bytes = writer->TotalBytes();
  ASSERT_TRUE(writer->BeginData().ok());
  const std::string a(12, 'a');
  ASSERT_TRUE(writer->WriteData(std::as_bytes(std::span(a)).first(5)).ok());
  EXPECT_FALSE(writer->EndTensor().ok());
  ASSERT_TRUE(writer->WriteData(std::as_bytes(std::span(a)).subspan(5)).ok());
  EXPECT_FALSE(writer->WriteData(std::as_bytes(std::span(a))).ok());
  ASSERT_TRUE(writer->EndTensor().ok());
  EXPECT_FALSE(writer->Finish().ok());
  const std::string b(3 * 34, 'b');
  ASSERT_TRUE(writer->WriteData(std::as_bytes(std::span(b))).ok());
  ASSERT_TRUE(writer->EndTensor().ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_EQ(FilesInFolder(), 1u);

  const absl::StatusOr<GgufHeader> header = ReadGgufHeader(path);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->file_bytes(), total_bytes);
  EXPECT_EQ(header->alignment(), 4096u);
  EXPECT_EQ(*header->GetUint("extra"), 2u);
  EXPECT_EQ(*header->GetUint("big"), uint64_t{1} << 40);
  EXPECT_EQ((*header->GetArray("tokenizer.ggml.tokens", GgufValueType::kString))->strings,
            (*source.GetArray("tokenizer.ggml.tokens", GgufValueType::kString))->strings);
  EXPECT_EQ(*header->GetFloat("llama.rope.freq_base"), 10000);
  EXPECT_EQ(header->FindTensor("b")->offset % 4096, 0u);
  std::ifstream in(path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(header->FindTensor("b")->offset));
  std::string read(b.size(), '\0');
  in.read(read.data(), static_cast<std::streamsize>(read.size()));
  EXPECT_EQ(read, b);
}

TEST_F(GgufFileTest, UnfinishedWriterLeavesNothing) {
  {
    absl::StatusOr<GgufWriter> writer = GgufWriter::Create(PathOf("out.gguf"), 32);
    ASSERT_TRUE(writer.ok()) << writer.status();
    GgufWriter moved = *std::move(writer);
    ASSERT_TRUE(moved.AddTensor("a", 0, {3}).ok());
    ASSERT_TRUE(moved.BeginData().ok());
  }
  EXPECT_EQ(FilesInFolder(), 0u);
}

TEST_F(GgufFileTest, WhatIsWrittenCanBeReadBack) {
  GgufWriter writer = GgufWriter::Create(PathOf("out.gguf"), 32).value();
  ASSERT_TRUE(writer.AddTensor("a", 24, {100}).ok() && writer.AddTensor("b", 24, {3}).ok());
  ASSERT_TRUE(writer.BeginData().ok());
  std::vector<std::byte> bytes(100), part(30);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  ASSERT_TRUE(writer.WriteData(bytes).ok());
  EXPECT_FALSE(writer.ReadBack("a", 0, part).ok());  // it is not complete
  ASSERT_TRUE(writer.EndTensor().ok());
  ASSERT_TRUE(writer.ReadBack("a", 60, part).ok());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), bytes.begin() + 60));
  EXPECT_FALSE(writer.ReadBack("a", 71, part).ok());
  EXPECT_FALSE(writer.ReadBack("b", 0, part).ok());
  ASSERT_TRUE(writer.WriteData(std::span(bytes).first(3)).ok() && writer.EndTensor().ok() && writer.Finish().ok());
}

TEST_F(GgufFileTest, WriterRefusesWhatItCannotWrite) {
  EXPECT_FALSE(GgufWriter::Create(PathOf("out.gguf"), 33).ok());
  EXPECT_TRUE(absl::IsNotFound(GgufWriter::Create(PathOf("no/such/folder.gguf"), 32).status()));
  absl::StatusOr<GgufWriter> writer = GgufWriter::Create(PathOf("out.gguf"), 32);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_FALSE(writer->AddTensor("a", 8, {31}).ok());
  EXPECT_FALSE(writer->AddTensor("a", 999, {32}).ok());
  ASSERT_TRUE(writer->AddTensor("a", 0, {uint64_t{1} << 50}).ok());
  EXPECT_FALSE(writer->AddTensor("a", 0, {32}).ok());
  const absl::Status status = writer->BeginData();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("needed"), HasSubstr("free")));
}

}  // namespace
}  // namespace dogstar
