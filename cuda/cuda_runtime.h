// gpu::Runtime on a CUDA device: a stream for kernels, one for staged copies, events between them. No call waits for
// the whole device.
#pragma once

#include <memory>

#include "cuda/cuda_backend.h"
#include "gpu/runtime.h"

namespace dogstar {

// REQUIRES: the device exists.
absl::StatusOr<std::unique_ptr<gpu::Runtime>> NewCudaRuntime(const CudaOptions& options, const std::string& name);

}  // namespace dogstar
