#include "model/packed_writer.h"

#include "gmock/gmock.h"
#include "model/packed_layer.h"
#include "model/packed_test_support.h"

namespace dogstar {
namespace {

TEST(PackedWriterTest, AnUnfinishedWriterLeavesNoFile) {
  const TestFolder folder;
  ThreadPool pool(1);
  PackedPlan plan;
  plan.plain = {{.name = "t", .gguf_type = 0, .shape = {64, 3}}};
  plan.layers = {*FfnPageLayout::Make(QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 64, 64, 32, 8)};
  {
    auto writer = PackedWriter::Create(folder.File("packed.gguf"), plan, &pool, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_EQ(writer->NextPlainBytes(), 64u * 3 * 4);
    ASSERT_TRUE(writer->WritePlain(std::vector<std::byte>(writer->NextPlainBytes())).ok());
    EXPECT_EQ(writer->NextPlainBytes(), 0u);
    EXPECT_FALSE(std::filesystem::exists(folder.File("packed.gguf")));
  }
  EXPECT_EQ(folder.FileCount(), 0u);
}

TEST(PackedWriterTest, AFullDiskNamesNeededAndFreeBytes) {
  const TestFolder folder;
  ThreadPool pool(1);
  PackedPlan plan;
  plan.plain = {{.name = "t", .gguf_type = 0, .shape = {uint64_t{1} << 20, uint64_t{1} << 30}}};
  plan.layers = {*FfnPageLayout::Make(QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 64, 64, 32, 8)};
  const auto writer = PackedWriter::Create(folder.File("packed.gguf"), plan, &pool, {});
  EXPECT_TRUE(absl::IsResourceExhausted(writer.status())) << writer.status();
  EXPECT_THAT(std::string(writer.status().message()), ::testing::HasSubstr("free"));
  EXPECT_EQ(folder.FileCount(), 0u);
}

TEST(ChoosePageRowsTest, PagesAreLargeAndWasteLittle) {
  const auto choose = [](QuantType type, int64_t dim, int64_t ffn) {
    return *ChoosePageRows(type, type, type, dim, ffn, 8);
  };
  EXPECT_EQ(choose(QuantType::kQ4_1, 576, 1536), 64);    // SmolLM2-135M: 64512 of 65536 bytes
  EXPECT_EQ(choose(QuantType::kQ4_0, 4096, 14336), 32);  // 8B: 212992 bytes exactly
  EXPECT_EQ(choose(QuantType::kQ4_0, 8192, 28672), 32);  // 70B
  EXPECT_EQ(choose(QuantType::kQ4_0, 64, 96), 96);       // smaller than a page
}

}  // namespace
}  // namespace dogstar
