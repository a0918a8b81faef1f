// What a GPU's driver says of its memory before there is a context on it: CUDA's own question makes one, of hundreds of
// MiB. Asked of NVML (libnvidia-ml, part of the driver), which is loaded while running and needs no header.
#pragma once

#include <cstdint>
#include <optional>

namespace dogstar {

struct DriverMemory {
  uint64_t total_bytes = 0, used_bytes = 0;  // by all processes
};

// Of the CUDA device with this number; none: the driver has no NVML, or does not know the device.
std::optional<DriverMemory> ReadDriverMemory(int device);

}  // namespace dogstar
