#include "runtime/devices.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <thread>

#include "base/units.h"
#include "cpu/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "device/simulated_device.h"
#include "fmt/format.h"
#include "gpu/gpu_backend.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

absl::Status BadDevice(std::string_view text) {
  return absl::InvalidArgumentError(fmt::format(
      "\"{}\" is no device; allowed are auto, cpu, cuda, cuda:NUMBER, emulated, simulated, simulated:SIZE such as "
      "simulated:8GiB (bytes a second of its link)",
      text));
}

}  // namespace

absl::StatusOr<DeviceChoice> ParseDevice(std::string_view text) {
  using Kind = DeviceChoice::Kind;
  const std::string_view name = text.substr(0, text.find(':'));
  const std::string_view rest = name.size() == text.size() ? "" : text.substr(name.size() + 1);
  if (name.size() != text.size() && rest.empty()) return BadDevice(text);
  if (text == "auto" || text == "cpu") return DeviceChoice{};
  if (text == "emulated") return DeviceChoice{.kind = Kind::kEmulated};
  if (name == "cuda") {
    DeviceChoice choice{.kind = Kind::kCuda};
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), choice.index);
    const bool is_number = error == std::errc{} && end == rest.data() + rest.size() && choice.index >= 0;
    if (!rest.empty() && !is_number) return BadDevice(text);
    return choice;
  }
  if (name != "simulated") return BadDevice(text);
  DeviceChoice choice{.kind = Kind::kSimulated};
  if (rest.empty()) return choice;
  const std::string_view first = rest.substr(0, rest.find(':'));
  const absl::StatusOr<uint64_t> link = ParseSize(first);
  if (!link.ok() || *link == 0) return BadDevice(text);
  choice.link_bytes_per_second = static_cast<double>(*link);
  if (first.size() == rest.size()) return choice;
  const absl::StatusOr<uint64_t> host = ParseSize(rest.substr(first.size() + 1));
  if (!host.ok() || *host == 0) return BadDevice(text);
  choice.host_bytes = *host;
  return choice;
}

absl::StatusOr<DeviceChoice> DeviceOf(const Config& config) {
  if (config.device == "auto" && config.budget.vram > 0) return DeviceChoice{.kind = DeviceChoice::Kind::kCuda};
  ASSIGN_OR_RETURN(const DeviceChoice choice, ParseDevice(config.device));
  const bool is_cpu = choice.kind == DeviceChoice::Kind::kCpu;
  if (!is_cpu && config.budget.vram == 0) {
    return absl::InvalidArgumentError(
        fmt::format("device {} needs budget.vram (--vram): how much of its memory a run may take", config.device));
  }
  if (is_cpu && config.budget.vram > 0) {
    return absl::InvalidArgumentError(
        "budget.vram (--vram) is memory of a GPU, and device is cpu: leave one of them out");
  }
  return choice;
}

bool HasDeviceMemory(const Config& config) { return config.budget.vram > 0; }

std::optional<uint64_t> FastBudget(const Config& config) {
  return HasDeviceMemory(config) ? std::optional<uint64_t>(config.budget.vram) : config.budget.ram;
}

absl::StatusOr<std::unique_ptr<Backend>> NewBackendForSizes(const Config& config) {
  ASSIGN_OR_RETURN(const DeviceChoice choice, DeviceOf(config));
  return choice.kind == DeviceChoice::Kind::kCuda ? NewGpuBackendForSizes() : NewBackend(config);
}

absl::StatusOr<std::string> DeviceNameOf(const Config& config) {
  ASSIGN_OR_RETURN(const DeviceChoice choice, DeviceOf(config));
  return choice.kind == DeviceChoice::Kind::kCuda ? fmt::format("cuda:{}", choice.index) : config.device;
}

absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const Config& config) {
  ASSIGN_OR_RETURN(const DeviceChoice choice, DeviceOf(config));
  if (config.precise && choice.kind != DeviceChoice::Kind::kCpu && choice.kind != DeviceChoice::Kind::kSimulated) {
    return absl::UnimplementedError("precise: float32 activations are the CPU's; leave budget.vram out");
  }
  if (choice.kind == DeviceChoice::Kind::kEmulated) return NewEmulatedGpuBackend(config.budget.vram);
  if (choice.kind == DeviceChoice::Kind::kCuda) {
    return NewCudaBackend(
        {.device = choice.index, .memory_bytes = config.budget.vram, .pinned_bytes = config.budget.pinned});
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Backend> cpu, NewCpuBackend({.threads = ThreadsOf(config),
                                                                .precise = config.precise,
                                                                .touch_memory = config.budget.ram.has_value()}));
  if (choice.kind == DeviceChoice::Kind::kCpu) return cpu;
  return NewSimulatedDevice(std::move(cpu), {config.budget.vram, choice.link_bytes_per_second, choice.host_bytes});
}

}  // namespace dogstar
