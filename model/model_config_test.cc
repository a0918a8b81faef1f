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
  EXPECT_EQ(config->attention(LayerIndex{0}).window, 0);
  EXPECT_FLOAT_EQ(config->score_scale, 0.25f);
  EXPECT_EQ(config->embedding_scale, 1);
  const std::vector<float>& frequencies = config->attention(LayerIndex{0}).rope_frequencies;
  ASSERT_EQ(frequencies.size(), 8u);
  EXPECT_EQ(frequencies[0], 1);
  EXPECT_FLOAT_EQ(frequencies[3], static_cast<float>(std::pow(10000.0, -6.0 / 16)));
}

TEST(ModelConfigTest, LinearRopeScalingDividesFrequencies) {
  const GgufBytes file =
      TinyModel().String("llama.rope.scaling.type", "linear").Float32("llama.rope.scaling.factor", 4);
  EXPECT_FLOAT_EQ(ConfigOf(file)->attention(LayerIndex{0}).rope_frequencies[0], 0.25f);
  EXPECT_THAT(ErrorOf(TinyModel().String("llama.rope.scaling.type", "yarn")), HasSubstr("'yarn'"));
  EXPECT_THAT(ErrorOf(TinyModel().String("llama.rope.scaling.type", "longrope")), HasSubstr("'longrope'"));
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
  for (const char* name : {"blk.0.attn_output.bias", "blk.0.ffn_down.bias", "output.bias"}) {
    EXPECT_THAT(ErrorOf(TinyModel().Tensor(name, 0, {32})), AllOf(HasSubstr(name), HasSubstr("biases")));
  }
  for (const char* name : {"blk.0.attn_q_norm.weight", "blk.0.post_ffw_norm.weight", "blk.0.attn_sinks.weight"}) {
    EXPECT_THAT(ErrorOf(TinyModel().Tensor(name, 0, {16})), AllOf(HasSubstr(name), HasSubstr("'llama'")));
  }
  EXPECT_THAT(ErrorOf(TinyModel().Tensor("rope_factors_long.weight", 0, {8})),
              AllOf(HasSubstr("'rope_factors_long.weight'"), HasSubstr("longrope")));
  EXPECT_THAT(ErrorOf(TinyModel().Uint32("llama.expert_count", 8)), HasSubstr("expert"));
  EXPECT_EQ(ErrorOf(TinyModel().Uint32("llama.expert_count", 0)), "OK");
  EXPECT_THAT(ErrorOf(TinyModel().String("llama.expert_count", "8")), HasSubstr("not a number"));
  EXPECT_THAT(ErrorOf(TinyModel().Float32("llama.attn_logit_softcapping", 50)),
              AllOf(HasSubstr("llama.attn_logit_softcapping is 50"), HasSubstr("soft cap")));
  EXPECT_THAT(ErrorOf(TinyModel().Float32("llama.final_logit_softcapping", 30)), HasSubstr("soft cap"));
  EXPECT_EQ(ErrorOf(TinyModel().Float32("llama.final_logit_softcapping", 0)), "OK");
}

GgufBytes WithBiases(GgufBytes file) {
  return file.Tensor("blk.0.attn_q.bias", 0, {32})
      .Tensor("blk.0.attn_k.bias", 0, {16})
      .Tensor("blk.0.attn_v.bias", 0, {16});
}

TEST(ModelConfigTest, BiasesOfQueriesKeysAndValuesComeTogether) {
  const absl::StatusOr<ModelConfig> config = ConfigOf(WithBiases(TinyModel()));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_EQ(config->VectorSize(LayerVector::kQueryBias), 32);
  EXPECT_EQ(config->VectorSize(LayerVector::kValueBias), 16);
  EXPECT_EQ(ConfigOf(TinyModel())->VectorSize(LayerVector::kQueryBias), 0);
  for (const char* name : {"blk.0.attn_k.bias", "blk.0.attn_v.bias"}) {
    EXPECT_THAT(ErrorOf(WithBiases(TinyModel()).DropTensor(name)), AllOf(HasSubstr(name), HasSubstr("missing")));
    EXPECT_THAT(ErrorOf(WithBiases(TinyModel()).DropTensor(name).Tensor(name, 0, {32})),
                AllOf(HasSubstr(name), HasSubstr("[16]")));
  }
}

TEST(ModelConfigTest, RopeFactorsDivideFrequencies) {
  const GgufBytes file = TinyModel().Tensor("rope_freqs.weight", 0, {8});
  absl::StatusOr<ModelConfig> config = ConfigOf(file);
  ASSERT_TRUE(config.ok()) << config.status();
  std::vector<float> factors(8, 1);
  factors[2] = 8;
  const std::vector<float> before = config->attention(LayerIndex{0}).rope_frequencies;
  ASSERT_TRUE(config->DivideRopeFrequencies(factors).ok());
  const std::vector<float>& after = config->attention(LayerIndex{0}).rope_frequencies;
  EXPECT_EQ(after[1], before[1]);
  EXPECT_EQ(after[2], before[2] / 8);
  factors[3] = 0;
  EXPECT_THAT(std::string(config->DivideRopeFrequencies(factors).message()), HasSubstr("'rope_freqs.weight'"));
  EXPECT_THAT(ErrorOf(TinyModel().Tensor("rope_freqs.weight", 0, {16})),
              AllOf(HasSubstr("'rope_freqs.weight'"), HasSubstr("[16]"), HasSubstr("[8]")));
}

TEST(ModelConfigTest, AWindowIsOfEveryLayerUnlessAPatternSaysOtherwise) {
  EXPECT_EQ(ConfigOf(With("llama.attention.sliding_window", 40))->attention(LayerIndex{0}).window, 40);
  EXPECT_EQ(ConfigOf(With("llama.attention.sliding_window", 0))->attention(LayerIndex{0}).window, 0);
  EXPECT_THAT(ErrorOf(TinyModel().String("llama.attention.sliding_window", "40")), HasSubstr("sliding_window"));
  const GgufBytes every =
      With("llama.attention.sliding_window", 40).Uint32("llama.attention.sliding_window_pattern", 1);
  EXPECT_EQ(ConfigOf(every)->attention(LayerIndex{0}).window, 0);
}

// A model of another architecture with the parts that every one has.
GgufBytes TinyOf(const std::string& architecture, int32_t layers = 1, uint32_t heads = 2) {
  constexpr uint32_t kHeadDim = 16;
  GgufBytes file = TinyModel().Drop("general.architecture").String("general.architecture", architecture);
  const GgufHeader llama = ParseBytes(file.File()).value();
  for (const GgufTensor& tensor : llama.tensors()) {
    if (tensor.name.starts_with("blk.")) file.DropTensor(tensor.name);
  }
  for (int32_t i = 0; i < layers; ++i) {
    const auto add = [&](const char* part, uint32_t type, const std::vector<uint64_t>& shape) {
      file.Tensor(LayerTensorName(i, part), type, shape);
    };
    for (const char* norm : {"attn_norm", "ffn_norm"}) add(norm, 0, {32});
    add("attn_q", kTinyWeightType, {32, heads * kHeadDim});
    for (const char* part : {"attn_k", "attn_v"}) add(part, kTinyWeightType, {32, kHeadDim});
    add("attn_output", kTinyWeightType, {heads * kHeadDim, 32});
    for (const char* part : {"ffn_gate", "ffn_up"}) add(part, kTinyWeightType, {32, 64});
    add("ffn_down", kTinyWeightType, {64, 32});
  }
  const auto key = [&](const char* name) { return architecture + "." + name; };
  return file.Uint32(key("block_count"), static_cast<uint32_t>(layers))
      .Uint32(key("context_length"), 64)
      .Uint32(key("embedding_length"), 32)
      .Uint32(key("feed_forward_length"), 64)
      .Uint32(key("attention.head_count"), heads)
      .Uint32(key("attention.head_count_kv"), 1)
      .Uint32(key("attention.key_length"), kHeadDim)
      .Float32(key("attention.layer_norm_rms_epsilon"), 1e-6f);
}

GgufBytes WithVectors(GgufBytes file, std::initializer_list<const char*> parts, uint64_t size, int32_t layers = 1) {
  for (int32_t i = 0; i < layers; ++i) {
    for (const char* part : parts) file.Tensor("blk." + std::to_string(i) + "." + part, 0, {size});
  }
  return file;
}

GgufBytes TinyGemma(int32_t layers, uint32_t heads = 2) {
  const GgufBytes file =
      WithVectors(TinyOf("gemma3", layers, heads), {"attn_q_norm.weight", "attn_k_norm.weight"}, 16, layers);
  return WithVectors(file, {"post_attention_norm.weight", "post_ffw_norm.weight"}, 32, layers)
      .Float32("gemma3.rope.freq_base", 1e6f);
}

TEST(ModelConfigTest, Qwen2HasBiases) {
  const absl::StatusOr<ModelConfig> config = ConfigOf(WithBiases(TinyOf("qwen2")));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->rope_halves);
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->qk_norm);
  EXPECT_EQ(config->activation, FfnActivation::kSilu);
  EXPECT_THAT(ErrorOf(TinyOf("qwen2")), AllOf(HasSubstr("'blk.0.attn_q.bias'"), HasSubstr("missing")));
}

TEST(ModelConfigTest, Qwen3NormsQueriesAndKeys) {
  const GgufBytes file = WithVectors(TinyOf("qwen3"), {"attn_q_norm.weight", "attn_k_norm.weight"}, 16);
  const absl::StatusOr<ModelConfig> config = ConfigOf(file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->rope_halves);
  EXPECT_TRUE(config->qk_norm);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_FALSE(config->post_norms);
  EXPECT_EQ(config->VectorSize(LayerVector::kKeyNorm), 16);
  EXPECT_THAT(ErrorOf(TinyOf("qwen3")), AllOf(HasSubstr("'blk.0.attn_q_norm.weight'"), HasSubstr("missing")));
  EXPECT_THAT(ErrorOf(WithVectors(TinyOf("qwen3"), {"attn_q_norm.weight", "attn_k_norm.weight"}, 32)),
              AllOf(HasSubstr("[32]"), HasSubstr("[16]")));
}

TEST(ModelConfigTest, Gemma3HasLocalAndGlobalLayers) {
  GgufBytes file = TinyGemma(7).Uint32("gemma3.attention.sliding_window", 12);
  file.String("gemma3.rope.scaling.type", "linear").Float32("gemma3.rope.scaling.factor", 8);
  const absl::StatusOr<ModelConfig> config = ConfigOf(file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->activation, FfnActivation::kGeluTanh);
  EXPECT_TRUE(config->rope_halves && config->qk_norm && config->post_norms && config->tied_head);
  EXPECT_FLOAT_EQ(config->embedding_scale, std::sqrt(32.0f));
  EXPECT_FLOAT_EQ(config->score_scale, 0.25f);
  for (int32_t i = 0; i < 7; ++i) {
    const AttentionKind& attention = config->attention(LayerIndex{i});
    EXPECT_EQ(attention.window, i == 5 ? 0 : 12) << i;
    EXPECT_FLOAT_EQ(attention.rope_frequencies[0], i == 5 ? 0.125f : 1) << i;
    EXPECT_FLOAT_EQ(attention.rope_frequencies[4], i == 5 ? 1e-3f / 8 : 1e-2f) << i;
  }
}

TEST(ModelConfigTest, Gemma3Of27BScalesScoresByTheHeadsShareOfTheHiddenSize) {
  EXPECT_FLOAT_EQ(ConfigOf(TinyGemma(61, 4))->score_scale, 1 / std::sqrt(16.0f));
  EXPECT_FLOAT_EQ(ConfigOf(TinyGemma(62, 4))->score_scale, 1 / std::sqrt(8.0f));
}

TEST(ModelConfigTest, Gemma3FollowsThePatternOfTheMetadata) {
  const auto with_window = [] { return TinyGemma(3).Uint32("gemma3.attention.sliding_window", 12); };
  const absl::StatusOr<ModelConfig> every = ConfigOf(
      with_window().Uint32("gemma3.attention.sliding_window_pattern", 2).Float32("gemma3.rope.freq_base_swa", 100));
  EXPECT_EQ(every->attention(LayerIndex{0}).window, 12);
  EXPECT_FLOAT_EQ(every->attention(LayerIndex{0}).rope_frequencies[4], 0.1f);
  EXPECT_EQ(every->attention(LayerIndex{1}).window, 0);
  const auto bools = [](std::initializer_list<int> values) {
    std::string raw =
        GgufBytes::Raw(static_cast<uint32_t>(GgufValueType::kBool)) + GgufBytes::Raw<uint64_t>(values.size());
    for (const int value : values) raw += static_cast<char>(value);
    return raw;
  };
  constexpr char kPattern[] = "gemma3.attention.sliding_window_pattern";
  const absl::StatusOr<ModelConfig> listed =
      ConfigOf(with_window().Field(kPattern, GgufValueType::kArray, bools({0, 1, 1})));
  EXPECT_EQ(listed->attention(LayerIndex{0}).window, 0);
  EXPECT_EQ(listed->attention(LayerIndex{2}).window, 12);
  EXPECT_THAT(ErrorOf(with_window().Field(kPattern, GgufValueType::kArray, bools({0, 1}))),
              AllOf(HasSubstr(kPattern), HasSubstr("2 values"), HasSubstr("3 layers")));
  EXPECT_EQ(ConfigOf(TinyGemma(3))->attention(LayerIndex{0}).window, 0);  // no window, no local layers
}

TEST(ModelConfigTest, Gemma3NeedsItsNorms) {
  for (const char* part : {"attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"}) {
    const std::string name = LayerTensorName(1, part);
    EXPECT_THAT(ErrorOf(TinyGemma(2).DropTensor(name)), AllOf(HasSubstr(name), HasSubstr("missing")));
  }
  EXPECT_THAT(ErrorOf(TinyGemma(2).Float32("gemma3.final_logit_softcapping", 30)), HasSubstr("soft cap"));
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
