// Backends with a GPU's kernels, and bytes in their memory, for tests against the CPU's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/backend.h"

namespace dogstar::testing_support {

// The host's emulation; and a CUDA device, where there is one (with its context, which takes some hundred MiB).
std::vector<std::unique_ptr<Backend>> Devices();

// Bytes of the host in a backend's memory, for as long as the object lives.
class Copies {
 public:
  explicit Copies(Backend* backend) : backend_(backend) {}
  ~Copies();
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
  DeviceAddress Put(std::span<const std::byte> bytes);

 private:
  Backend* backend_;
  std::vector<std::byte*> memory_;
};

}  // namespace dogstar::testing_support
