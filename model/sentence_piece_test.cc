#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf_test_support.h"
#include "model/tokenizer.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

enum : int { kUnknown, kBos, kEnd, kByteC3, kSpace, kA, kB, kC, kAb, kBc, kSpaceAb, kEmoji, kUserSpaces };

// Scores: "bc" is better than "ab"; "▁ab" is best of all, but can only be made of "▁" and "ab".
GgufBytes Vocabulary() {
  GgufBytes file;
  file.String("tokenizer.ggml.model", "llama")
      .Strings("tokenizer.ggml.tokens",
               {"<unk>", "<s>", "</s>", "<0xC3>", "▁", "a", "b", "c", "ab", "bc", "▁ab", "😀", "   "})
      .Float32s("tokenizer.ggml.scores", {0, 0, 0, 0, -9, -9, -9, -9, -2, -1, -0.5f, -9, -1})
      .Int32s("tokenizer.ggml.token_type", {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 4})
      .Uint32("tokenizer.ggml.bos_token_id", kBos)
      .Uint32("tokenizer.ggml.eos_token_id", kEnd)
      .Uint32("tokenizer.ggml.unknown_token_id", kUnknown);
  return file;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufBytes& file) {
  ASSIGN_OR_RETURN(const GgufHeader header, ParseBytes(file.File()));
  return Tokenizer::FromGguf(header);
}

std::vector<int> Ids(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = {.add_bos = false}) {
  std::vector<int> ids;
  for (const TokenId token : tokenizer.Encode(text, options)) ids.push_back(ToInt(token));
  return ids;
}

std::string ErrorOf(const GgufBytes& file) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Load(file);
  return tokenizer.ok() ? "OK" : std::string(tokenizer.status().message());
}

TEST(SentencePieceTest, BestScoreJoinsFirst) {
  const auto tokenizer = *Load(Vocabulary().Bool("tokenizer.ggml.add_space_prefix", false));
  EXPECT_THAT(Ids(*tokenizer, "abc"), ElementsAre(kA, kBc));
  EXPECT_THAT(Ids(*tokenizer, " ab"), ElementsAre(kSpaceAb));
  EXPECT_THAT(Ids(*tokenizer, " abc"), ElementsAre(kSpace, kA, kBc));
  EXPECT_THAT(Ids(*tokenizer, "abab"), ElementsAre(kAb, kAb));
}

TEST(SentencePieceTest, ASpaceComesFirstUnlessTheFileSaysNo) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_THAT(Ids(*tokenizer, "ab"), ElementsAre(kSpaceAb));
  EXPECT_THAT(Ids(*tokenizer, "ab", {.add_bos = true}), ElementsAre(kBos, kSpaceAb));
  EXPECT_THAT(Ids(*tokenizer, "ab", {.add_bos = false, .at_start = false}), ElementsAre(kAb));
  EXPECT_THAT(Ids(*tokenizer, ""), ElementsAre());
}

TEST(SentencePieceTest, CharactersWithoutATokenAreBytesOrUnknown) {
  const auto tokenizer = *Load(Vocabulary().Bool("tokenizer.ggml.add_space_prefix", false));
  EXPECT_THAT(Ids(*tokenizer, "a\xc3\xa9"), ElementsAre(kA, kByteC3, kUnknown));  // é: 0xa9 has no byte token
  EXPECT_THAT(Ids(*tokenizer, "😀"), ElementsAre(kEmoji));
  EXPECT_THAT(Ids(*tokenizer, "\xff"), ElementsAre(kUnknown));
}

TEST(SentencePieceTest, SpecialTextIsPlainUnlessAskedFor) {
  const auto tokenizer = *Load(Vocabulary().Bool("tokenizer.ggml.add_space_prefix", false));
  EXPECT_THAT(Ids(*tokenizer, "a</s>b", {.add_bos = false, .parse_special = true}), ElementsAre(kA, kEnd, kB));
  for (const int id : Ids(*tokenizer, "a</s>b")) EXPECT_NE(id, kEnd);
  EXPECT_THAT(Ids(*tokenizer, "a   b"), ElementsAre(kA, kUserSpaces, kB));
}

TEST(SentencePieceTest, DecodesSpacesAndBytes) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kSpaceAb}), " ab");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kByteC3}), "\xc3");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kEnd}), "");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kEnd}, true), "</s>");
}

TEST(SentencePieceTest, LongTextsTakeNoQuadraticTime) {
  const auto tokenizer = *Load(Vocabulary());
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "ab";
  EXPECT_EQ(Ids(*tokenizer, text).size(), 200000u);
}

TEST(SentencePieceTest, WrongVocabulariesAreNamed) {
  EXPECT_THAT(ErrorOf(Vocabulary().Drop("tokenizer.ggml.scores")), HasSubstr("tokenizer.ggml.scores"));
  EXPECT_THAT(ErrorOf(Vocabulary().Drop("tokenizer.ggml.scores").Float32s("tokenizer.ggml.scores", {1, 2})),
              AllOf(HasSubstr("2 elements"), HasSubstr("13 tokens")));
  const std::vector<int32_t> types = {2, 3, 3, 6, 1, 6, 1, 1, 1, 1, 1, 1, 4};
  EXPECT_THAT(ErrorOf(Vocabulary().Drop("tokenizer.ggml.token_type").Int32s("tokenizer.ggml.token_type", types)),
              AllOf(HasSubstr("token 5"), HasSubstr("'a'"), HasSubstr("<0x0A>")));
  EXPECT_THAT(
      ErrorOf(Vocabulary().Drop("tokenizer.ggml.unknown_token_id").Uint32("tokenizer.ggml.unknown_token_id", 13)),
      HasSubstr("unknown_token_id is 13"));
}

}  // namespace
}  // namespace dogstar
