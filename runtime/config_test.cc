#include "runtime/config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string ErrorOf(std::string_view yaml) {
  Config config;
  return std::string(ReadYamlConfig(yaml, "run.yaml", &config).message());
}

TEST(ConfigTest, ReadsEverySection) {
  Config config;
  ASSERT_TRUE(ReadYamlConfig(R"(model: smollm2.gguf
threads: 2
budget: {ram: 64MiB, vram: 0}
draft: {predictor: griffin, density: 0.5}
io: {engine: pread, queue_depth: 32, direct: never, verify: always}
corrector: {mode: sirius, period: 24, adaptive: false, threshold: 0.05}
sampling: {temperature: 0.8, top_k: 40, top_p: 0.9, seed: 7}
)",
                             "run.yaml", &config)
                  .ok());
  EXPECT_EQ(config.model, "smollm2.gguf");
  EXPECT_EQ(config.budget.ram, 64U << 20);
  EXPECT_EQ(config.draft.predictor, "griffin");
  EXPECT_EQ(config.io.engine, IoEngine::kPread);
  EXPECT_EQ(config.corrector.mode, RunMode::kSirius);
  EXPECT_EQ(config.corrector.period, 24);
  EXPECT_EQ(config.corrector.adaptive, false);
  EXPECT_EQ(config.sampling.seed, 7U);
}

TEST(ConfigTest, ReadsHowPredictorsChoose) {
  Config config;
  ASSERT_TRUE(ReadYamlConfig("draft: {predictor: lag, selection: topk_sample, prior: 16, refresh: 4, shared: true,"
                             " layer_densities: \"0.25,1,0\"}\n",
                             "run.yaml", &config)
                  .ok());
  EXPECT_EQ(config.draft.selection, "topk_sample");
  EXPECT_EQ(config.draft.prior, 16);
  EXPECT_EQ(config.draft.refresh, 4);
  EXPECT_TRUE(config.draft.shared);
  EXPECT_EQ(config.draft.layer_densities, (std::vector<double>{0.25, 1, 0}));
  EXPECT_THAT(ErrorOf("draft: {selection: best}"), AllOf(HasSubstr("draft.selection"), HasSubstr("topk_sample")));
  EXPECT_THAT(ErrorOf("draft: {layer_densities: \"0.5,2\"}"), AllOf(HasSubstr("layer_densities"), HasSubstr("0 to 1")));
  EXPECT_THAT(ErrorOf("draft: {refresh: 0}"), AllOf(HasSubstr("draft.refresh"), HasSubstr("1 to 100000")));
}

TEST(ConfigTest, ReadsThePolicyOfTheOverlayAndItsParameters) {
  Config config;
  EXPECT_FALSE(config.cache.harvest.has_value());
  ASSERT_TRUE(ReadYamlConfig("cache: {policy: s3fifo, s3fifo_small: 0.2, s3fifo_ghost: 1.5, capacity: global,"
                             " harvest: text, hysteresis: 0, share: 0.25, 2q_in: 0.5, clock_bits: 2, prior: 8}\n",
                             "run.yaml", &config)
                  .ok());
  EXPECT_EQ(config.cache.eviction.kind, EvictionKind::kS3Fifo);
  EXPECT_EQ(config.cache.eviction.s3fifo_small, 0.2);
  EXPECT_EQ(config.cache.eviction.s3fifo_ghost, 1.5);
  EXPECT_EQ(config.cache.eviction.two_q_in, 0.5);
  EXPECT_EQ(config.cache.eviction.clock_bits, 2);
  EXPECT_EQ(config.cache.capacity, CacheCapacity::kGlobal);
  EXPECT_EQ(config.cache.harvest, HarvestMode::kText);
  EXPECT_EQ(config.cache.hysteresis, 0);
  EXPECT_EQ(config.draft.overlay, 0.25);  // one setting, two names
  for (std::string_view name : EvictionNames()) {
    ASSERT_TRUE(SetConfigKey("cache.policy", name, &config).ok());
    EXPECT_EQ(EvictionName(config.cache.eviction.kind), name);
  }
}

TEST(ConfigTest, ABadPolicyListsAllOfThem) {
  EXPECT_THAT(ErrorOf("cache: {policy: mru}\n"),
              AllOf(HasSubstr("cache.policy"), HasSubstr("fifo, lru, lfu, lfu-aged"), HasSubstr("static-hot")));
  EXPECT_THAT(ErrorOf("cache: {slru_segments: 0}\n"), HasSubstr("1 to 16"));
  EXPECT_THAT(ErrorOf("cache: {lfu_half_life: 0}\n"), HasSubstr("cache.lfu_half_life"));
  EXPECT_THAT(ErrorOf("cache: {harvest: always}\n"), HasSubstr("off, prompt, text"));
}

TEST(ConfigTest, AnUnknownKeyNamesFileLineKeyAndTheNearest) {
  EXPECT_THAT(ErrorOf("threads: 2\ncorrector:\n  peroid: 4\n"),
              AllOf(HasSubstr("run.yaml:3:"), HasSubstr("\"corrector.peroid\""), HasSubstr("corrector.period")));
}

TEST(ConfigTest, ABadValueNamesLineKeyAndWhatIsAllowed) {
  EXPECT_THAT(ErrorOf("budget: {ram: 64Mib}\ncorrector: {mode: strikt}\n"),
              AllOf(HasSubstr("run.yaml:2:"), HasSubstr("corrector.mode"), HasSubstr("\"strikt\""),
                    HasSubstr("dense, sparse")));
  EXPECT_THAT(ErrorOf("budget: {ram: 64 apples}\n"),
              AllOf(HasSubstr("run.yaml:1:"), HasSubstr("budget.ram"), HasSubstr("64 apples")));
  EXPECT_THAT(ErrorOf("corrector: {period: 2.5}\n"), AllOf(HasSubstr("corrector.period"), HasSubstr("1 to 256")));
  EXPECT_THAT(ErrorOf("sampling: {temperature: nan}\n"), HasSubstr("sampling.temperature"));
}

TEST(ConfigTest, MalformedYamlIsAnErrorWithItsLine) {
  EXPECT_THAT(ErrorOf("a: [1, 2\nb: }"), HasSubstr("run.yaml:"));
  EXPECT_THAT(ErrorOf("- just\n- a list\n"), HasSubstr("list of keys"));
  EXPECT_THAT(ErrorOf("threads: 1\nthreads: 2\n"), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf("threads: [1, 2]\n"), HasSubstr("needs one value"));
}

TEST(ConfigTest, LaterSourcesWin) {
  Config config;
  ASSERT_TRUE(ReadYamlConfig("threads: 2\ncontext: 100\n", "run.yaml", &config).ok());
  ASSERT_TRUE(
      ReadEnvironment([](const std::string& name) { return name == "DOGSTAR_THREADS" ? "3" : nullptr; }, &config).ok());
  EXPECT_EQ(config.threads, 3);
  ASSERT_TRUE(SetConfigFromAssignment("threads=4", &config).ok());
  EXPECT_EQ(config.threads, 4);
  EXPECT_EQ(config.context, 100);
  EXPECT_THAT(std::string(SetConfigFromAssignment("threads", &config).message()), HasSubstr("key=value"));
}

}  // namespace
}  // namespace dogstar
