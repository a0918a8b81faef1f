#include "tests/support/gpu_devices.h"

#include "cuda/cuda_backend.h"
#include "gpu/gpu_backend.h"
#include "gtest/gtest.h"

namespace dogstar::testing_support {

std::vector<std::unique_ptr<Backend>> Devices() {
  constexpr uint64_t kBytes = uint64_t{64} << 20, kContext = uint64_t{1} << 30;
  std::vector<std::unique_ptr<Backend>> devices;
  devices.push_back(*NewEmulatedGpuBackend(kBytes));
  const auto found = ListCudaDevices();
  if (found.ok() && !found->empty()) devices.push_back(*NewCudaBackend({.memory_bytes = kBytes + kContext}));
  return devices;
}

Copies::~Copies() {
  for (std::byte* memory : memory_) backend_->FreeMemory(memory);
}

DeviceAddress Copies::Put(std::span<const std::byte> bytes) {
  std::byte* const memory = *backend_->AllocateMemory(bytes.size());
  EXPECT_TRUE(backend_->WriteMemory(bytes, memory).ok());
  memory_.push_back(memory);
  return memory;
}

}  // namespace dogstar::testing_support
