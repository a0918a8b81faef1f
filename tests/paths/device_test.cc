// Runs on a device with memory of its own, here the simulated one: three tiers, staged copies, budgets.
#include <cstdlib>

#include "cuda/cuda_backend.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/devices.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::HasSubstr;
using testing_support::OpenModel;
using testing_support::RunModel;

constexpr char kPrompt[] = "A tiny model says nothing of sense.";

TEST(DevicesTest, NamesAndWhatTheyNeed) {
  EXPECT_EQ(ParseDevice("cuda:2")->index, 2);
  EXPECT_EQ(ParseDevice("simulated:1GiB")->link_bytes_per_second, 1 << 30);
  for (const char* bad :
       {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "simulated:", "simulated:fast", "simulated:1GiB:", "cpu:1"}) {
    EXPECT_FALSE(ParseDevice(bad).ok()) << bad;
  }
  Config config;
  EXPECT_EQ(DeviceOf(config)->kind, DeviceChoice::Kind::kCpu);
  config.device = "simulated";
  EXPECT_THAT(DeviceOf(config).status().message(), HasSubstr("needs budget.vram"));
  config.budget.vram = 1 << 20;
  EXPECT_EQ(DeviceOf(config)->kind, DeviceChoice::Kind::kSimulated);
  config.device = "cpu";
  EXPECT_THAT(DeviceOf(config).status().message(), HasSubstr("leave one of them out"));
  config.device = "auto";
  EXPECT_EQ(DeviceOf(config)->kind, DeviceChoice::Kind::kCuda);
}

// Device memory for such shares of attention and head, and of FFN rows. Batches grow with a budget: what they take is
// asked again.
uint64_t DeviceBytes(Config config, double matrix_share, double ffn_share) {
  const uint64_t room = config.device == "emulated" ? uint64_t{256} << 10 : 0;  // where matrices are not whole
  for (int i = 0; i < 4; ++i) {
    const auto opened = OpenModel(config, 64, 16).value();
    double bytes = matrix_share < 1 ? static_cast<double>(room) : 0;
    for (const PlanLine& line : opened.engine->placement().lines) {
      if (!line.on_device || line.what == "room to make panels") continue;
      const auto total = static_cast<double>(line.total_bytes);
      const bool matrices = line.what.starts_with("attention") || line.what.starts_with("head");
      if (line.what == "FFN rows, prefix") {
        bytes += ffn_share * total;
      } else if (!line.what.starts_with("FFN")) {
        bytes += matrices ? matrix_share * total : static_cast<double>(line.resident_bytes);
      }
    }
    config.budget.vram = static_cast<uint64_t>(bytes);
  }
  return config.budget.vram;
}

class DeviceTest : public testing::TestWithParam<QuantType> {
 protected:
  DeviceTest() {
    config_.model = testing_support::WriteTinyModel(folder_, GetParam(), false);
    config_.threads = 2;
    config_.device = "simulated";
    config_.budget.vram = uint64_t{1} << 30;
    config_.corrector.mode = RunMode::kDense;
    config_.corrector.adaptive = false;
    config_.corrector.period = 6;
  }

  // The same run without a device.
  Config CpuConfig() const {
    Config cpu = config_;
    cpu.device = "cpu";
    cpu.budget.vram = 0;
    return cpu;
  }
  uint64_t DeviceBytesWithout(double share) const { return DeviceBytes(config_, 1, 1 - share); }
  uint64_t DeviceBytesWithMatrices(double share) const { return DeviceBytes(config_, share, 0); }

  testing_support::TestFolder folder_;
  Config config_;
};

TEST_P(DeviceTest, EveryTierGivesTheDenseText) {
  Config cpu = CpuConfig();
  const auto expected = RunModel(cpu, kPrompt, 32);
  ASSERT_TRUE(expected.ok()) << expected.status();
  config_.budget.vram = DeviceBytesWithout(0.6);
  config_.hybrid = 0;
  // Host memory for nothing, for some, and for all of what the device does not hold.
  Config probe = config_;
  const auto all = OpenModel(probe, 64, 16).value();
  const uint64_t host_bytes = all.engine->placement().host_bytes;
  const uint64_t host_planned = all.engine->placement().planned_bytes;
  ASSERT_GT(host_bytes, 0U);
  EXPECT_EQ(all.engine->placement().complement_bytes, 0U);
  int64_t accepted = 0;
  for (const double share : {0.0, 0.5, 1.0}) {
    config_.budget.ram = host_planned - static_cast<uint64_t>((1 - share) * static_cast<double>(host_bytes));
    for (const RunMode mode : {RunMode::kDense, RunMode::kStrict}) {
      config_.corrector.mode = mode;
      const auto found = RunModel(config_, kPrompt, 32);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->result.tokens, expected->result.tokens) << share;
      if (mode == RunMode::kStrict) {
        EXPECT_GT(found->result.draft_steps, 0);
        accepted += found->result.drafts_accepted;
      }
    }
    const auto opened = OpenModel(config_, 64, 16).value();
    const Placement& placement = opened.engine->placement();
    EXPECT_LE(placement.device_planned_bytes, config_.budget.vram);
    EXPECT_LE(opened.engine->backend().device_bytes(), placement.device_planned_bytes);
    EXPECT_GE(opened.engine->backend().device_bytes() + 128 * 1024, placement.device_planned_bytes);
    EXPECT_LE(placement.planned_bytes, *config_.budget.ram);
    EXPECT_EQ(placement.complement_bytes > 0, share < 1);
    EXPECT_EQ(placement.host_bytes > 0, share > 0);
  }
  EXPECT_GT(accepted, 0);
}

// The processor computes some of the pages in host memory, or all: the same text, and less crosses the link.
TEST_P(DeviceTest, TheProcessorsPartChangesNoText) {
  Config cpu = CpuConfig();
  const GenerationOptions options{.max_tokens = 16, .ignore_end = true, .logprobs = 1};
  const auto expected = RunModel(cpu, kPrompt, options).value();
  config_.budget.vram = DeviceBytesWithout(0.6);
  const Placement all = OpenModel(config_, 64, 16).value().engine->placement();
  config_.budget.ram = all.planned_bytes - all.host_bytes / 3;  // a layer's last pages are on the disk
  uint64_t most_crossed = kNoLimit;
  for (const double share : {0.0, 0.4, 1.0}) {
    config_.hybrid = share;
    for (const RunMode mode : {RunMode::kDense, RunMode::kStrict}) {
      config_.corrector.mode = mode;
      const auto opened = OpenModel(config_, 80, 8).value();
      GenerationResult result;
      const std::vector<TokenId> prompt = opened.model->tokenizer().Encode(kPrompt, {});
      ASSERT_TRUE(Generator(opened.engine.get()).Generate(prompt, options, &result).ok());
      EXPECT_EQ(result.tokens, expected.result.tokens) << share;
      for (size_t i = 0; i < result.logprobs.size(); ++i) {
        EXPECT_EQ(result.logprobs[i][0].logprob, expected.result.logprobs[i][0].logprob) << share << ", token " << i;
      }
      EXPECT_EQ(opened.engine->processor_bytes() > 0, share > 0);
      EXPECT_LE(opened.engine->placement().planned_bytes, *config_.budget.ram);
      if (mode == RunMode::kStrict) continue;
      EXPECT_LT(opened.engine->link_bytes(), most_crossed) << share;
      most_crossed = opened.engine->link_bytes();
    }
  }
}

// High planes on the device, low ones in host memory as far as it goes, then on the disk; attention too.
TEST_P(DeviceTest, PlanesOnEveryTierGiveTheDenseText) {
  Config cpu = CpuConfig();
  const auto expected = RunModel(cpu, kPrompt, 24).value();
  config_.budget.vram = DeviceBytesWithout(0.3);
  config_.corrector.mode = RunMode::kStrict;
  config_.draft.planes = 1;
  config_.draft.attention_planes = 1;
  config_.io.ring_bytes = 4 << 20;  // whatever the budget
  config_.hybrid = 0;
  const Placement all = OpenModel(config_, 64, 16).value().engine->placement();
  EXPECT_EQ(all.complement_bytes, 0U);
  int64_t accepted = 0;
  for (const double share : {0.0, 0.5, 1.0}) {
    config_.budget.ram = all.planned_bytes - static_cast<uint64_t>((1 - share) * static_cast<double>(all.host_bytes));
    const auto found = RunModel(config_, kPrompt, 24);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->result.tokens, expected.result.tokens) << share;
    accepted += found->result.drafts_accepted;
    const auto opened = OpenModel(config_, 64, 16).value();
    int32_t planes = 0, in_host = 0, attention_in_host = 0;
    for (const LayerPlacement& layer : opened.engine->placement().layers) {
      EXPECT_TRUE(layer.attention_planes);
      planes += layer.plane_pages;
      in_host += layer.host_low_pages;
      attention_in_host += layer.host_attention_low ? 1 : 0;
    }
    EXPECT_GT(planes, 0);
    EXPECT_EQ(in_host == planes, share == 1) << share;
    EXPECT_EQ(attention_in_host > 0, share > 0) << share;
  }
  EXPECT_GT(accepted, 0);
}

// What does not fit of attention and head is in host memory, and drafts take it from there.
TEST_P(DeviceTest, MatricesInHostMemoryServeDrafts) {
  Config cpu = CpuConfig();
  const auto expected = RunModel(cpu, kPrompt, 24).value();
  config_.corrector.mode = RunMode::kStrict;
  config_.budget.vram = DeviceBytesWithMatrices(0.4);
  const auto opened = OpenModel(config_, 64, 16).value();
  const Placement& placement = opened.engine->placement();
  EXPECT_GT(placement.host_matrix_bytes, 0U);
  EXPECT_TRUE(placement.drafts_need_no_disk);
  const auto found = RunModel(config_, kPrompt, 24);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->result.tokens, expected.result.tokens);
  EXPECT_GT(found->result.draft_steps, 0);
}

// Page-locked memory is bounded: what it does not hold is read from the disk.
TEST_P(DeviceTest, PinnedMemoryIsBounded) {
  config_.budget.vram = DeviceBytesWithout(0.6);
  const auto whole = OpenModel(config_, 64, 16).value();
  const Placement& all = whole.engine->placement();
  config_.budget.pinned = all.ring_bytes + all.host_bytes / 2;
  const auto bounded = OpenModel(config_, 64, 16).value();
  const Placement& half = bounded.engine->placement();
  EXPECT_LE(half.host_bytes + half.ring_bytes, config_.budget.pinned);
  EXPECT_GT(half.host_bytes, 0U);
  EXPECT_GT(half.complement_bytes, 0U);
  EXPECT_TRUE(RunModel(config_, kPrompt, 4).ok());
}

// Of page-locked memory that the system does not grant, less is used, and said.
TEST_P(DeviceTest, LessPageLockedMemoryIsUsedWhereNoMoreIsGranted) {
  Config cpu = CpuConfig();
  const auto expected = RunModel(cpu, kPrompt, 8).value();
  config_.budget.vram = DeviceBytesWithout(0.6);
  config_.hybrid = 0;
  const Placement all = OpenModel(config_, 64, 16).value().engine->placement();
  constexpr uint64_t kGranted = 7000 << 10;
  ASSERT_LE(all.ring_bytes, kGranted);
  ASSERT_GT(all.ring_bytes + all.host_bytes, kGranted);
  config_.device = "simulated:1TiB:7000KiB";
  const auto opened = OpenModel(config_, 64, 16);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Placement& placement = opened->engine->placement();
  EXPECT_LE(placement.ring_bytes + placement.host_bytes, kGranted);
  EXPECT_GT(placement.host_bytes, 0U);
  EXPECT_GT(placement.complement_bytes, 0U);
  EXPECT_EQ(RunModel(config_, kPrompt, 8)->result.tokens, expected.result.tokens);
}

// Trees, sampling and streamed attention on the device.
TEST_P(DeviceTest, TreesSamplingAndSmallDevices) {
  Config cpu = CpuConfig();
  for (const double temperature : {0.0, 0.8}) {
    cpu.sampling.temperature = config_.sampling.temperature = temperature;
    const auto expected = RunModel(cpu, kPrompt, 24);
    for (const uint64_t bytes : {DeviceBytesWithout(0.5), DeviceBytesWithMatrices(0.5)}) {
      Config device = config_;
      device.budget.vram = bytes;
      device.corrector.mode = RunMode::kStrict;
      device.draft.tree = TreeShape::kBest;
      device.draft.nodes = 8;
      device.threads = 1;
      const auto found = RunModel(device, kPrompt, 24);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->result.tokens, expected->result.tokens) << bytes;
    }
  }
}

TEST_P(DeviceTest, ASlowLinkChangesTimesAlone) {
  Config cpu = CpuConfig();
  const auto expected = RunModel(cpu, kPrompt, 8);
  config_.budget.vram = DeviceBytesWithout(0.5);
  config_.device = "simulated:64MiB";
  const auto found = RunModel(config_, kPrompt, 8);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->result.tokens, expected->result.tokens);
}

TEST_P(DeviceTest, TooLittleDeviceMemoryNamesWhatWorks) {
  config_.budget.vram = 64 << 10;
  const absl::Status status = RunModel(config_, kPrompt, 4).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("of device memory are too few"));
  EXPECT_THAT(status.message(), HasSubstr("the smallest that works is"));
  config_.budget.vram = 1 << 30;
  config_.corrector.mode = RunMode::kStrict;
  config_.cache.harvest = HarvestMode::kPrompt;
  EXPECT_TRUE(absl::IsUnimplemented(RunModel(config_, kPrompt, 4).status()));
}

// The GPU's kernels, run on the host and, where there is one, on a GPU: to the bit what the CPU computes.
void ExpectTheCpusTextAndProbabilities(const char* device, QuantType type, uint64_t vram_bytes) {
  testing_support::TestFolder folder;
  Config cpu;
  cpu.model = testing_support::WriteTinyModel(folder, type, false);
  cpu.threads = 2;
  cpu.corrector.adaptive = false;
  cpu.corrector.period = 4;
  cpu.corrector.mode = RunMode::kDense;
  Config gpu = cpu;
  gpu.device = device;
  gpu.budget.vram = vram_bytes;  // some pages stay in host memory
  gpu.hybrid = 0.5;
  const GenerationOptions options{.max_tokens = 6, .ignore_end = true, .logprobs = 3};
  const auto expected = RunModel(cpu, kPrompt, options);
  ASSERT_TRUE(expected.ok()) << expected.status();
  if (gpu.device == "emulated") {
    EXPECT_TRUE(OpenModel(gpu, 64, 8)->engine->placement().host_tables);
  }
  for (const RunMode mode : {RunMode::kDense, RunMode::kStrict}) {
    gpu.corrector.mode = mode;
    gpu.draft.density = 0.5;
    gpu.draft.tree = mode == RunMode::kStrict ? TreeShape::kBest : TreeShape::kChain;
    gpu.draft.nodes = 6;
    const auto found = RunModel(gpu, kPrompt, options);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->result.tokens, expected->result.tokens);
    ASSERT_EQ(found->result.logprobs.size(), expected->result.logprobs.size());
    for (size_t i = 0; i < expected->result.logprobs.size(); ++i) {
      for (size_t j = 0; j < expected->result.logprobs[i].size(); ++j) {
        EXPECT_EQ(found->result.logprobs[i][j].token, expected->result.logprobs[i][j].token);
        EXPECT_EQ(found->result.logprobs[i][j].logprob, expected->result.logprobs[i][j].logprob) << i;
      }
    }
  }
}

class SmallGpuTest : public testing::TestWithParam<QuantType> {};

// Little memory of the device: rows in planes, matrices in host memory, plain files, rows that tokens choose.
TEST_P(SmallGpuTest, EmulatedGivesTheCpusText) {
  const testing_support::TestFolder folder;
  Config cpu;
  cpu.model = testing_support::WriteTinyModel(folder, GetParam(), false);
  cpu.threads = 2;
  cpu.corrector.mode = RunMode::kDense;
  cpu.corrector.adaptive = false;
  cpu.corrector.period = 4;
  const auto expected = RunModel(cpu, kPrompt, 6).value();
  Config gpu = cpu;
  gpu.device = "emulated";
  gpu.corrector.mode = RunMode::kStrict;
  gpu.budget.vram = uint64_t{64} << 20;
  gpu.budget.vram = DeviceBytes(gpu, 0.3, 0);
  const auto check = [&](const char* what, const std::function<void(Config*)>& set) {
    Config config = gpu;
    set(&config);
    const auto found = RunModel(config, kPrompt, 6);
    ASSERT_TRUE(found.ok()) << what << ": " << found.status();
    EXPECT_EQ(found->result.tokens, expected.result.tokens) << what;
  };
  EXPECT_GT(OpenModel(gpu, 64, 8)->engine->placement().host_matrix_bytes, 0U);
  check("drafts", [](Config*) {});
  check("by token", [](Config* c) { c->draft.predictor = "gate-weighted"; });
  check("dense", [](Config* c) { c->corrector.mode = RunMode::kDense; });
  gpu.budget.vram = DeviceBytes(gpu, 1, 0.5) + (uint64_t{1} << 20);
  check("planes", [](Config* c) { c->draft.planes = c->draft.attention_planes = 1; });

  cpu.model = testing_support::WriteTinyModel(folder, GetParam(), true);
  Config plain = cpu;
  plain.device = "emulated";
  for (const uint64_t bytes : {uint64_t{64} << 20, gpu.budget.vram}) {
    plain.budget.vram = bytes;
    const auto found = RunModel(plain, kPrompt, 6);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->result.tokens, RunModel(cpu, kPrompt, 6)->result.tokens) << bytes;
  }
}

class GpuTest : public testing::TestWithParam<QuantType> {};

TEST_P(GpuTest, EmulatedGivesTheCpusBits) {
  const bool wide = GetParam() == QuantType::kF32;
  ExpectTheCpusTextAndProbabilities("emulated", GetParam(), uint64_t{wide ? 16U : 12U} << 20);
}

TEST_P(GpuTest, CudaGivesTheCpusBits) {
  const auto devices = ListCudaDevices();
  if (!devices.ok()) GTEST_SKIP() << devices.status().message();
  if (devices->empty()) GTEST_SKIP() << "no CUDA device was found on this machine";
  ExpectTheCpusTextAndProbabilities("cuda", GetParam(), uint64_t{1} << 30);
}

INSTANTIATE_TEST_SUITE_P(Types, SmallGpuTest, testing::Values(QuantType::kQ4_1, QuantType::kQ6_K, QuantType::kQ8_0),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

INSTANTIATE_TEST_SUITE_P(Types, GpuTest,
                         testing::Values(QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ5_0, QuantType::kQ5_1,
                                         QuantType::kQ8_0, QuantType::kQ2_K, QuantType::kQ3_K, QuantType::kQ4_K,
                                         QuantType::kQ5_K, QuantType::kQ6_K, QuantType::kIQ4_NL, QuantType::kF16,
                                         QuantType::kBF16, QuantType::kF32),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

INSTANTIATE_TEST_SUITE_P(Types, DeviceTest, testing::Values(QuantType::kQ4_0, QuantType::kQ8_0, QuantType::kQ4_K),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

}  // namespace
}  // namespace dogstar
