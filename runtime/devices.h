// Which device computes, as the configuration says: the CPU, a CUDA device, or the simulated one that takes a GPU's
// place where none is at hand (device/simulated_device.h).
#pragma once

#include <memory>
#include <string_view>

#include "base/status.h"
#include "device/backend.h"
#include "runtime/config.h"

namespace dogstar {

struct DeviceChoice {
  enum class Kind {
    kCpu,
    kCuda,
    kEmulated,   // the GPU's kernels on the host: slow, for tests
    kSimulated,  // the CPU's operations behind a link
  };
  Kind kind = Kind::kCpu;
  int index = 0;                     // kCuda
  double link_bytes_per_second = 0;  // kSimulated; 0: unlimited
  uint64_t host_bytes = UINT64_MAX;  // kSimulated: page-locked memory that it grants
};
// Of Config::device: auto, cpu, cuda, cuda:N, emulated, simulated, simulated:SIZE (bytes a second of its link),
// simulated:SIZE:SIZE (and the page-locked memory that it grants).
// InvalidArgument says what is allowed.
absl::StatusOr<DeviceChoice> ParseDevice(std::string_view text);

// auto: CUDA where budget.vram is given, else the CPU. InvalidArgument: a device without budget.vram, or budget.vram
// without a device.
absl::StatusOr<DeviceChoice> DeviceOf(const Config& config);

// Memory of the device is none of the host's: the budget of tier 0 is budget.vram.
bool HasDeviceMemory(const Config& config);
// Bytes of the memory in which a run computes: budget.vram, else budget.ram.
std::optional<uint64_t> FastBudget(const Config& config);

absl::StatusOr<std::unique_ptr<Backend>> NewBackend(const Config& config);
// For sizes alone: a GPU is not touched, and need not be there.
absl::StatusOr<std::unique_ptr<Backend>> NewBackendForSizes(const Config& config);

// Of a device, where the machine's rates are kept: "cuda:0".
absl::StatusOr<std::string> DeviceNameOf(const Config& config);

}  // namespace dogstar
