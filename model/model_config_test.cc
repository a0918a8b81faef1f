#include "model/model_config.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf_test_support.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<ModelConfig> ConfigOf(const GgufBytes& file) {
  ASSIGN_OR_RETURN(const GgufHeader header, ParseBytes(file.File()));
  return ModelConfig::FromGguf(header);
}

std::string ErrorOf(const GgufBytes& file) {
  const absl::StatusOr<ModelConfig> config = ConfigOf(file);
  return config.ok() ? "OK" : std::string(config.status().message());
}

GgufBytes With(std::string_view key, uint32_t value) { return TinyModel().Drop(key).Uint32(key, value); }

TEST(ModelConfigTest, EveryFieldFollowsTheMetadata) {
  const absl::StatusOr<ModelConfig> config = ConfigOf(TinyModel());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "tiny");
  EXPECT_EQ(config->layer_count, 1);
  EXPECT_EQ(config->dim, 32);
  EXPECT_EQ(config->ffn_rows, 64);
  EXPECT_EQ(config->head_count, 2);
  EXPECT_EQ(config->kv_head_count, 1);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab_size, 270);
  EXPECT_EQ(config->context_length, 64);
  EXPECT_FLOAT_EQ(config->rms_epsilon, 1e-5f);
  EXPECT_FALSE(config->rope_halves);
  EXPECT_TRUE(config->tied_head);
  ASSERT_EQ(config->rope_frequencies.size(), 8u);
  EXPECT_EQ(config->rope_frequencies[0], 1);
  EXPECT_FLOAT_EQ(config->rope_frequencies[3], static_cast<float>(std::pow(10000.0, -6.0 / 16)));
}

TEST(ModelConfigTest, LinearRopeScalingDividesFrequencies) {
  const GgufBytes file =
      TinyModel().String("llama.rope.scaling.type", "linear").Float32("llama.rope.scaling.factor", 4);
  EXPECT_FLOAT_EQ(ConfigOf(file)->rope_frequencies[0], 0.25f);
  EXPECT_THAT(ErrorOf(TinyModel().String("llama.rope.scaling.type", "yarn")), HasSubstr("'yarn'"));
}

TEST(ModelConfigTest, UntiedHeadIsChecked) {
  EXPECT_FALSE(ConfigOf(TinyModel().Tensor("output.weight", kTinyWeightType, {32, kTinyVocab}))->tied_head);
  EXPECT_THAT(ErrorOf(TinyModel().Tensor("output.weight", kTinyWeightType, {32, 4})),
              AllOf(HasSubstr("'output.weight'"), HasSubstr("[32, 4]"), HasSubstr("[32, 270]")));
}

TEST(ModelConfigTest, UnknownArchitectureIsNamedWithTheSupportedOnes) {
  const GgufBytes file = TinyModel().Drop("general.architecture").String("general.architecture", "mamba");
  EXPECT_TRUE(absl::IsUnimplemented(ConfigOf(file).status()));
  EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("'mamba'"), HasSubstr("llama")));
}

TEST(ModelConfigTest, MissingKeysAreNamed) {
  for (const char* key :
       {"general.architecture", "llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.context_length", "llama.attention.layer_norm_rms_epsilon"}) {
    EXPECT_THAT(ErrorOf(TinyModel().Drop(key)), HasSubstr(key));
  }
}

TEST(ModelConfigTest, ImpossibleSizesAreRefused) {
  EXPECT_THAT(ErrorOf(With("llama.block_count", 0)), HasSubstr("llama.block_count is 0"));
  EXPECT_THAT(ErrorOf(With("llama.block_count", 20000)), HasSubstr("10000"));
  EXPECT_THAT(ErrorOf(With("llama.block_count", 2)), HasSubstr("'blk.1.attn_norm.weight'"));
  EXPECT_THAT(ErrorOf(With("llama.embedding_length", 48)), HasSubstr("multiple of a block of weights (32)"));
  EXPECT_THAT(ErrorOf(With("llama.feed_forward_length", 65)), HasSubstr("multiple of a block of weights (32)"));
  EXPECT_THAT(ErrorOf(With("llama.attention.head_count", 3)), HasSubstr("head_count"));
  EXPECT_THAT(ErrorOf(With("llama.attention.head_count_kv", 3)), HasSubstr("head_count_kv"));
  EXPECT_THAT(ErrorOf(With("llama.rope.dimension_count", 15)), HasSubstr("rope.dimension_count"));
  EXPECT_THAT(ErrorOf(With("llama.rope.dimension_count", 18)), HasSubstr("rope.dimension_count"));
  EXPECT_THAT(ErrorOf(With("llama.attention.value_length", 8)), HasSubstr("value_length"));
  EXPECT_THAT(ErrorOf(TinyModel().Drop("llama.rope.freq_base").Float32("llama.rope.freq_base", -1)),
              HasSubstr("rope.freq_base"));
}

TEST(ModelConfigTest, TensorsAreCheckedByNameShapeAndType) {
  for (const char* name :
       {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight",
        "blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
        "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"}) {
    EXPECT_THAT(ErrorOf(TinyModel().DropTensor(name)), AllOf(HasSubstr(name), HasSubstr("missing")));
  }
  EXPECT_THAT(ErrorOf(TinyModel().DropTensor("blk.0.ffn_down.weight").Tensor("blk.0.ffn_down.weight", 8, {32, 64})),
              AllOf(HasSubstr("'blk.0.ffn_down.weight'"), HasSubstr("[32, 64]"), HasSubstr("[64, 32]")));
  EXPECT_THAT(ErrorOf(TinyModel().DropTensor("blk.0.attn_q.weight").Tensor("blk.0.attn_q.weight", 26, {32, 32})),
              AllOf(HasSubstr("'blk.0.attn_q.weight'"), HasSubstr("I32")));
}

TEST(ModelConfigTest, PartsThatCannotRunAreNamed) {
  EXPECT_THAT(ErrorOf(TinyModel().Tensor("blk.0.attn_q.bias", 0, {32})), HasSubstr("'blk.0.attn_q.bias'"));
  EXPECT_THAT(ErrorOf(TinyModel().Tensor("rope_freqs.weight", 0, {8})), HasSubstr("'rope_freqs.weight'"));
  EXPECT_THAT(ErrorOf(TinyModel().Tensor("blk.0.attn_q_norm.weight", 0, {16})), HasSubstr("attn_q_norm"));
  EXPECT_THAT(ErrorOf(TinyModel().Uint32("llama.expert_count", 8)), HasSubstr("expert"));
}

TEST(ModelConfigTest, PackedFileNeedsNoFfnMatrices) {
  GgufBytes file = TinyModel();
  for (const char* name : {"blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"}) {
    file.DropTensor(name);
  }
  EXPECT_THAT(ErrorOf(file), HasSubstr("ffn_gate"));
  EXPECT_EQ(ErrorOf(file.Uint32("dogstar.packed.version", 1)), "OK");
}

TEST(ModelConfigTest, VocabularyLargerThanTheEmbeddingIsRefused) {
  const GgufBytes file =
      TinyModel().DropTensor("token_embd.weight").Tensor("token_embd.weight", kTinyWeightType, {32, 64});
  EXPECT_THAT(ErrorOf(file), AllOf(HasSubstr("270"), HasSubstr("64 rows")));
}

}  // namespace
}  // namespace dogstar
