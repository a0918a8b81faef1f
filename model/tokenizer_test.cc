#include "model/tokenizer.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/bpe.h"
#include "model/gguf_test_support.h"
#include "model/pre_tokenizer.h"
#include "model/utf8.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GgufBytes Vocabulary() {
  GgufBytes file;
  return AddTinyTokenizer(file);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufBytes& file) {
  ASSIGN_OR_RETURN(const GgufHeader header, ParseBytes(file.File()));
  return Tokenizer::FromGguf(header);
}

std::string ErrorOf(const GgufBytes& file) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Load(file);
  return tokenizer.ok() ? "OK" : std::string(tokenizer.status().message());
}

std::vector<int> Ids(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = {}) {
  std::vector<int> ids;
  for (const TokenId token : tokenizer.Encode(text, options)) ids.push_back(ToInt(token));
  return ids;
}

std::vector<std::string> Pieces(std::string_view pre_tokenizer, std::string_view text) {
  const absl::StatusOr<PreTokenizer> cutter = PreTokenizer::Create(pre_tokenizer);
  std::vector<std::string> pieces;
  cutter->Split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

std::string RandomBytes(SplitMix64* random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random->Next());
  return bytes;
}

double SecondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(PreTokenizerTest, Gpt2KeepsSpacesBeforeWords) {
  EXPECT_THAT(Pieces("gpt-2", "I'll go  there\n\n 12 !?"),
              ElementsAre("I", "'ll", " go", " ", " there", "\n\n", " 12", " !?"));
}

TEST(PreTokenizerTest, SmolLmCutsDigitsOneByOne) {
  EXPECT_THAT(Pieces("smollm", "x 123"), ElementsAre("x", " ", "1", "2", "3"));
}

TEST(PreTokenizerTest, Llama3TakesThreeDigitsAndLineEnds) {
  EXPECT_THAT(Pieces("llama-bpe", "I'LL pay 12345!\n\n  ok"),
              ElementsAre("I", "'LL", " pay", " ", "123", "45", "!\n\n", " ", " ok"));
  EXPECT_THAT(Pieces("qwen2", "12345"), ElementsAre("1", "2", "3", "4", "5"));
}

TEST(PreTokenizerTest, WhiteSpaceIsUnicodes) {
  EXPECT_THAT(Pieces("gpt-2", "a\u3000\u3000b"), ElementsAre("a", "\u3000", "\u3000", "b"));
  EXPECT_THAT(Pieces("gpt-2", "a\u180e!"), ElementsAre("a", "\u180e!"));  // U+180E is no white space
}

TEST(PreTokenizerTest, InvalidBytesMakePiecesAndNothingIsLost) {
  EXPECT_THAT(Pieces("smollm",
                     "ab\xff\xfe"
                     "cd\xe2\x82"),
              ElementsAre("ab", "\xff\xfe", "cd", "\xe2\x82"));
  SplitMix64 random(7);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = RandomBytes(&random, random.Next() % 64);
    for (const char* name : {"smollm", "llama-bpe", "falcon", "deepseek-coder"}) {
      std::string joined;
      for (const std::string& piece : Pieces(name, text)) {
        ASSERT_FALSE(piece.empty());
        joined += piece;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

TEST(PreTokenizerTest, UnknownNameListsKnownOnes) {
  const absl::Status status = PreTokenizer::Create("no-such").status();
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("'no-such'"), HasSubstr("smollm"), HasSubstr("qwen2")));
}

// Merges of random symbols: the definition, without any cleverness.
std::vector<TokenId> MergeSlowly(const std::vector<std::array<int, 3>>& merges, std::vector<TokenId> symbols) {
  while (true) {
    size_t best_rank = merges.size();
    size_t best_position = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (TokenId{merges[rank][0]} == symbols[i] && TokenId{merges[rank][1]} == symbols[i + 1]) {
          best_rank = rank;
          best_position = i;
        }
      }
    }
    if (best_rank == merges.size()) return symbols;
    symbols[best_position] = TokenId{merges[best_rank][2]};
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_position) + 1);
  }
}

TEST(BpeMergesTest, ShortAndLongPiecesFollowTheDefinition) {
  SplitMix64 random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::array<int, 3>> merges;
    for (int rank = 0; rank < 30; ++rank) {
      const int known = 4 + rank;
      merges.push_back({static_cast<int>(random.Next() % known), static_cast<int>(random.Next() % known), known});
    }
    BpeMerges bpe(merges.size());
    for (const auto& [left, right, result] : merges) bpe.Add(TokenId{left}, TokenId{right}, TokenId{result});
    std::vector<TokenId> symbols(random.Next() % 120);
    for (TokenId& symbol : symbols) {
      const int id = static_cast<int>(random.Next() % 40);
      symbol = id < 38 ? TokenId{id % 4} : BpeMerges::kNoToken;
    }
    const std::vector<TokenId> expected = MergeSlowly(merges, symbols);
    bpe.Apply(&symbols);
    ASSERT_EQ(symbols, expected) << round;
  }
}

TEST(TokenizerTest, MergesFollowRanks) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_THAT(Ids(*tokenizer, "hello world"), ElementsAre(kTinyHello, kTinyWorld));
  EXPECT_THAT(Ids(*tokenizer, "hell"), ElementsAre(258));
  EXPECT_THAT(Ids(*tokenizer, ""), IsEmpty());
  EXPECT_THAT(Ids(*tokenizer, "A\n"), ElementsAre('A', '\n'));
}

TEST(TokenizerTest, EveryByteSurvives) {
  const auto tokenizer = *Load(Vocabulary());
  SplitMix64 random(5);
  for (int round = 0; round < 1000; ++round) {
    const std::string text = RandomBytes(&random, random.Next() % 100);
    ASSERT_EQ(tokenizer->Decode(tokenizer->Encode(text, {})), text);
  }
}

TEST(TokenizerTest, SpecialTokensNeedTheOption) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_THAT(Ids(*tokenizer, "hello<|im_end|>", {.parse_special = true}), ElementsAre(kTinyHello, kTinyImEnd));
  // Without the option the user-defined token inside it is still found, and the rest is text.
  EXPECT_THAT(Ids(*tokenizer, "<|im_end|>"), ElementsAre(kTinyUserDefined, 'e', 'n', 'd', '|', '>'));
  EXPECT_THAT(Ids(*tokenizer, "<|im_x", {.parse_special = true}), ElementsAre(kTinyUserDefined, 'x'));
  EXPECT_THAT(Ids(*tokenizer, "a     b"), ElementsAre('a', kTinyFourSpaces, ' ', 'b'));
}

TEST(TokenizerTest, ControlTokensAreHiddenUnlessAskedFor) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kTinyImEnd}), "");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kTinyImEnd}, true), "<|im_end|>");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kTinyWorld}), " world");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{-1}), "");
  EXPECT_EQ(tokenizer->TokenBytes(TokenId{kTinyVocab}, true), "");
}

TEST(TokenizerTest, BosFollowsFileThenFamily) {
  const auto plain = *Load(Vocabulary());
  EXPECT_EQ(plain->bos(), TokenId{kTinyImStart});
  EXPECT_THAT(Ids(*plain, "A"), ElementsAre('A'));
  const auto asked =
      *Load(Vocabulary().Drop("tokenizer.ggml.add_bos_token").Bool("tokenizer.ggml.add_bos_token", true));
  EXPECT_THAT(Ids(*asked, "A"), ElementsAre(kTinyImStart, 'A'));
  EXPECT_THAT(Ids(*asked, "A", {.add_bos = false}), ElementsAre('A'));
  const auto family = *Load(Vocabulary()
                                .Drop("tokenizer.ggml.add_bos_token")
                                .Drop("tokenizer.ggml.pre")
                                .String("tokenizer.ggml.pre", "llama-bpe"));
  EXPECT_THAT(Ids(*family, "A"), ElementsAre(kTinyImStart, 'A'));
}

TEST(TokenizerTest, EndTokensAreEosAndKnownControlTokens) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_THAT(tokenizer->end_tokens(), ElementsAre(TokenId{kTinyImEnd}, TokenId{kTinyEndOfText}));
  EXPECT_TRUE(tokenizer->IsEnd(TokenId{kTinyImEnd}));
  EXPECT_FALSE(tokenizer->IsEnd(TokenId{kTinyImStart}));
}

TEST(TokenizerTest, WrongVocabulariesAreNamed) {
  const auto without = [](const char* key) { return Vocabulary().Drop(key); };
  for (const char* key :
       {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    EXPECT_THAT(ErrorOf(without(key)), HasSubstr(key));
  }
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.model").String("tokenizer.ggml.model", "t5")), HasSubstr("'t5'"));
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.tokens").Int32s("tokenizer.ggml.tokens", {1})), HasSubstr("int32"));
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.tokens")
                          .Drop("tokenizer.ggml.token_type")
                          .Strings("tokenizer.ggml.tokens", {"a", "b"})),
              HasSubstr("byte 0x20"));
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.token_type").Int32s("tokenizer.ggml.token_type", {1})),
              HasSubstr("token_type"));
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.merges").Strings("tokenizer.ggml.merges", {"q z"})), HasSubstr("'qz'"));
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.merges").Strings("tokenizer.ggml.merges", {"qz"})), HasSubstr("'qz'"));
  EXPECT_THAT(ErrorOf(without("tokenizer.ggml.eos_token_id").Uint32("tokenizer.ggml.eos_token_id", 270)),
              AllOf(HasSubstr("eos_token_id"), HasSubstr("270")));
}

TEST(TokenizerTest, AMegabyteWithoutCutsTakesSeconds) {
  const auto tokenizer = *Load(Vocabulary());
  constexpr size_t kBytes = 1 << 20;
  for (const std::string& text : {std::string(kBytes, 'l'), std::string(kBytes, ' ') + "x", std::string(kBytes, '\n'),
                                  std::string(kBytes, '\xff'), std::string(kBytes, '<')}) {
    const double seconds = SecondsOf([&] { tokenizer->Encode(text, {.parse_special = true}); });
    EXPECT_LT(seconds, 20) << text.substr(0, 1);  // generous: sanitizers; quadratic time would be minutes
  }
}

TEST(TokenizerTest, MemoryIsThatOfFlatArrays) {
  const auto tokenizer = *Load(Vocabulary());
  EXPECT_GT(tokenizer->memory_bytes(), 1000u);
  EXPECT_LT(tokenizer->memory_bytes(), 64u << 10);
}

TEST(Utf8StreamTest, HoldsBackHalfCharacters) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xe2\x82"), "a");
  EXPECT_EQ(stream.Push("\xac!\xf0\x9f"), "\xe2\x82\xac!");
  EXPECT_EQ(stream.Push("\xa6"), "");
  EXPECT_EQ(stream.Push("\x99"), "\xf0\x9f\xa6\x99");
  EXPECT_EQ(stream.Push("\xff"), "\xff");
  EXPECT_EQ(stream.Push("\xe2"), "");
  EXPECT_EQ(stream.Flush(), "\xe2");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8StreamTest, WholeCharactersComeOutForAnyCuts) {
  SplitMix64 random(9);
  const std::string text = "aé€🦙\n日本 x";
  for (int round = 0; round < 500; ++round) {
    Utf8Stream stream;
    std::string joined;
    for (size_t at = 0; at < text.size();) {
      const size_t bytes = 1 + random.Next() % 4;
      const std::string part = stream.Push(text.substr(at, bytes));
      ASSERT_EQ(ValidUtf8Bytes(part), part.size());
      joined += part;
      at += bytes;
    }
    ASSERT_EQ(joined + stream.Flush(), text);
  }
}

// The first prompts of the golden values: transformers' token ids.
TEST(TokenizerGoldenTest, SmolLm2TokensAreTransformers) {
  const char* path = std::getenv("DOGSTAR_SMOLLM2");
  if (path == nullptr) GTEST_SKIP() << "set DOGSTAR_SMOLLM2 to the path of SmolLM2-135M-Instruct.Q4_1.gguf";
  const absl::StatusOr<GgufHeader> header = ReadGgufHeader(path);
  ASSERT_TRUE(header.ok()) << header.status();
  const auto tokenizer = Tokenizer::FromGguf(*header);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "The capital of France is"), ElementsAre(504, 3575, 282, 4649, 314));
  EXPECT_THAT(Ids(**tokenizer, "def fibonacci(n):\n    "), ElementsAre(1604, 3987, 46477, 24, 94, 727, 2367));
  EXPECT_THAT(Ids(**tokenizer,
                  "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How "
                  "many clips did she sell altogether?"),
              ElementsAre(62, 6927, 542, 3459, 23026, 288, 216, 36, 40, 282, 874, 2428, 281, 4124, 28, 284, 965, 1041,
                          3459, 2745, 347, 800, 23026, 281, 2405, 30, 1073, 800, 23026, 1250, 1041, 5948, 13587, 47));
  EXPECT_THAT(Ids(**tokenizer, "El zorro marrón salta — naïve café, 東京, 🙂 and 3.14159!"),
              ElementsAre(13793, 1892, 270, 291, 1831, 98, 12814, 2431, 4165, 1841, 15486, 46494, 37366, 28, 17097, 247,
                          126, 16736, 122, 28, 47526, 284, 216, 35, 30, 33, 36, 33, 37, 41, 17));
  EXPECT_LT((*tokenizer)->memory_bytes(), 4u << 20);
}

}  // namespace
}  // namespace dogstar
