// What a GPU's driver says of its memory before there is a context on it: CUDA's own question makes one, of hundreds of
// MiB. Asked of NVML (libnvidia-ml, part of the driver), which is loaded while running and needs no header.
#pragma once

#include <cstdint>
#include <optional>

namespace dogstar {

// Bytes in use on the CUDA device with this number, by all processes; none: the driver has no NVML, or does not know
// the device.
std::optional<uint64_t> UsedDeviceBytes(int device);

}  // namespace dogstar
