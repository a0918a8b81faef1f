// Factory of the CUDA implementation of device/backend.h. No CUDA header is needed to include this one; without
// CUDA, no_cuda.cc offers the same functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/backend.h"

namespace dogstar {

struct CudaDevice {
  int index = 0;
  std::string name;
  uint64_t memory_bytes = 0;
  uint64_t free_bytes = 0;  // as the driver says; all, where it does not
};

struct CudaOptions {
  int device = 0;
  uint64_t memory_bytes = 0;  // of the device, the context included, taken at once; 0: all that is free
  uint64_t pinned_bytes = 0;  // page-locked host memory at most; 0: as much as is asked for
};

// The devices of this machine. Unimplemented in a build without CUDA; an empty list where there is no GPU.
absl::StatusOr<std::vector<CudaDevice>> ListCudaDevices();
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(const CudaOptions& options);

}  // namespace dogstar
