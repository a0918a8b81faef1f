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
