// The CPU implementation of device/backend.h.
#pragma once

#include <memory>

#include "device/backend.h"

namespace dogstar {

enum class CpuIsa { kAuto, kPortable, kAvx2, kAvx512Vnni };

struct CpuOptions {
  int threads = 1;
  bool precise = false;        // float32 activations: slow, the reference of the kernels
  bool touch_memory = false;   // New... and AllocateMemory take all of their memory from the system at once
  CpuIsa isa = CpuIsa::kAuto;  // the best that this CPU has; a named one is an error where it is missing
};

absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(const CpuOptions& options);

}  // namespace dogstar
