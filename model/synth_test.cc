#include "model/synth.h"

#include <cmath>

#include "gmock/gmock.h"
#include "model/packed_test_support.h"
#include "model/synth_rows.h"
#include "model/tokenizer.h"

namespace dogstar {
namespace {

class SynthTypeTest : public ::testing::TestWithParam<QuantType> {};

TEST_P(SynthTypeTest, PlainFileIsAModelThatRuns) {
  const TestFolder folder;
  const std::string path = folder.File("m.gguf");
  ASSERT_TRUE(WriteSyntheticModel(SmallModel(GetParam()), path, {}).ok());
  const auto header = ReadGgufHeader(path);
  ASSERT_TRUE(header.ok()) << header.status();
  const auto config = ModelConfig::FromGguf(*header);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layer_count, 2);
  EXPECT_EQ(config->dim, SmallModel(GetParam()).shape.dim);
  EXPECT_EQ(config->ffn_rows, SmallModel(GetParam()).shape.ffn_rows);
  EXPECT_EQ(config->name, "synthetic-test");
}

// The packed form differs from a pack of the plain form in its source's identity only.
TEST_P(SynthTypeTest, PackedFormHoldsTheSameWeights) {
  const TestFolder folder;
  SynthOptions options = SmallModel(GetParam());
  ASSERT_TRUE(WriteSyntheticModel(options, folder.File("plain.gguf"), {}).ok());
  ASSERT_TRUE(PackModel(folder.File("plain.gguf"), folder.File("packed.gguf"), {}).ok());
  options.packed = true;
  options.threads = 3;
  ASSERT_TRUE(WriteSyntheticModel(options, folder.File("direct.gguf"), {}).ok());
  EXPECT_EQ(OpenPacked(folder.File("direct.gguf"))->source(), SourceIdentity());

  const auto header = *ReadGgufHeader(folder.File("packed.gguf"));
  const std::vector<std::byte> packed = ReadWholeFile(folder.File("packed.gguf"));
  const std::vector<std::byte> direct = ReadWholeFile(folder.File("direct.gguf"));
  const auto direct_header = *ReadGgufHeader(folder.File("direct.gguf"));
  for (const GgufTensor& tensor : header.tensors()) {
    if (tensor.name.starts_with("dogstar.")) continue;
    const GgufTensor& other = *direct_header.FindTensor(tensor.name);
    ASSERT_EQ(other.bytes, tensor.bytes);
    EXPECT_EQ(0, std::memcmp(&packed[tensor.offset], &direct[other.offset], tensor.bytes)) << tensor.name;
  }
}

TEST_P(SynthTypeTest, WeightsHaveASensibleScale) {
  constexpr int64_t kCols = 1024;
  const SynthRows rows(GetParam(), kCols, 7, "t");
  std::vector<std::byte> row(rows.row_bytes());
  std::vector<float> values(kCols);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < 64; ++i) {
    rows.FillRow(i, row.data());
    DequantizeRow(GetParam(), row.data(), kCols, values.data());
    for (float value : values) {
      sum += value;
      squares += double{value} * value;
    }
  }
  const double expected = 0.6 / std::sqrt(kCols);
  EXPECT_NEAR(sum / (64 * kCols), 0, expected * 0.05);
  EXPECT_NEAR(std::sqrt(squares / (64 * kCols)), expected, expected * 0.1);
}

INSTANTIATE_TEST_SUITE_P(Types, SynthTypeTest,
                         ::testing::Values(QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16,
                                           QuantType::kBF16, QuantType::kF32, QuantType::kQ5_1, QuantType::kQ2_K,
                                           QuantType::kQ4_K, QuantType::kQ6_K, QuantType::kIQ4_NL),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

TEST(SynthTest, SeedAloneDecidesTheFile) {
  const TestFolder folder;
  SynthOptions options = SmallModel(QuantType::kQ4_0);
  const auto write = [&](const char* name) {
    EXPECT_TRUE(WriteSyntheticModel(options, folder.File(name), {}).ok());
    return ReadWholeFile(folder.File(name));
  };
  const auto first = write("a");
  options.threads = 3;
  EXPECT_EQ(write("b"), first);
  options.seed = 2;
  EXPECT_NE(write("c"), first);
}

TEST(SynthTest, OwnVocabularyEncodesEveryByte) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSyntheticModel(SmallModel(QuantType::kQ4_0), folder.File("m.gguf"), {}).ok());
  const auto tokenizer = Tokenizer::FromGguf(*ReadGgufHeader(folder.File("m.gguf")));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::string text = "the cat and the tin ";
  for (int byte = 0; byte < 256; ++byte) text += static_cast<char>(byte);
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(text, {})), text);
}

TEST(SynthTest, TokenizerOfAnotherFileIsCopied) {
  const TestFolder folder;
  SynthOptions options = SmallModel(QuantType::kQ4_0);
  ASSERT_TRUE(WriteSyntheticModel(options, folder.File("a.gguf"), {}).ok());
  options.like = folder.File("a.gguf");
  ASSERT_TRUE(WriteSyntheticModel(options, folder.File("b.gguf"), {}).ok());
  EXPECT_EQ(ReadWholeFile(folder.File("a.gguf")), ReadWholeFile(folder.File("b.gguf")));
  options.like = folder.File("absent.gguf");
  EXPECT_FALSE(WriteSyntheticModel(options, folder.File("c.gguf"), {}).ok());
}

TEST(SynthTest, ImpossibleSizesAndFullDisksAreErrors) {
  const TestFolder folder;
  SynthOptions options = SmallModel(QuantType::kQ4_0);
  options.shape.dim = 50;
  EXPECT_TRUE(absl::IsInvalidArgument(WriteSyntheticModel(options, folder.File("m.gguf"), {})));
  options.shape = {1000000, 8192, 28672, 64, 8};
  options.shape.layers = 9000;
  EXPECT_TRUE(absl::IsResourceExhausted(WriteSyntheticModel(options, folder.File("m.gguf"), {})));
  options.shape.head_count = 0;
  EXPECT_FALSE(WriteSyntheticModel(options, folder.File("m.gguf"), {}).ok());
  EXPECT_EQ(folder.FileCount(), 0u);
  EXPECT_TRUE(FindSynthShape("70b").ok());
  EXPECT_THAT(std::string(FindSynthShape("9b").status().message()), ::testing::HasSubstr("13b"));
}

}  // namespace
}  // namespace dogstar
