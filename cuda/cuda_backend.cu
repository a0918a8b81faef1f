// No fmt in files that nvcc compiles: its consteval format strings do not pass nvcc's front end (fmt 9, CUDA 13.0).
#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "cuda/cuda_runtime.h"
#include "cuda/driver_memory.h"
#include "cuda/owned.h"
#include "gpu/gpu_backend.h"

namespace dogstar {

absl::StatusOr<std::vector<CudaDevice>> ListCudaDevices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    return std::vector<CudaDevice>();  // no GPU, or no driver that could use one
  }
  RETURN_IF_ERROR(CudaStatus(error, "count CUDA devices"));
  std::vector<CudaDevice> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, index), "read the properties of a CUDA device"));
    const uint64_t total = properties.totalGlobalMem, used = UsedDeviceBytes(index).value_or(0);
    devices.push_back({index, properties.name, total, total - std::min(total, used)});
  }
  return devices;
}

namespace {

// A context on the device. The bytes of it: what the driver has used since before it, or, where the driver does not
// say, all that is used now, other processes' included.
absl::StatusOr<uint64_t> MakeContext(int device) {
  // Code of kernels is part of a context: all of it now, or the budget would be exceeded later.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  const std::optional<uint64_t> before = UsedDeviceBytes(device);
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device), "choose a CUDA device"));
  RETURN_IF_ERROR(CudaStatus(cudaFree(nullptr), "make a context on a CUDA device"));
  size_t free_bytes = 0, total_bytes = 0;
  RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "read the free memory of a CUDA device"));
  const std::optional<uint64_t> after = before ? UsedDeviceBytes(device) : std::nullopt;
  if (after) return *after - std::min(*after, *before);
  return total_bytes - free_bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(const CudaOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<CudaDevice> devices, ListCudaDevices());
  if (devices.empty()) return absl::UnavailableError("no CUDA device was found on this machine");
  if (options.device < 0 || static_cast<size_t>(options.device) >= devices.size()) {
    return absl::InvalidArgumentError(absl::StrCat("CUDA device ", options.device, " does not exist; there are ",
                                                   devices.size(), ", numbered from 0"));
  }
  const CudaDevice& device = devices[options.device];
  if (options.memory_bytes > device.free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("budget.vram of ", FormatSize(options.memory_bytes), ": ",
                                                     device.name, " has ", FormatSize(device.free_bytes), " free of ",
                                                     FormatSize(device.memory_bytes), "; give a budget within that"));
  }
  const uint64_t budget = options.memory_bytes > 0 ? options.memory_bytes : device.free_bytes;
  ASSIGN_OR_RETURN(const uint64_t context, MakeContext(options.device));
  if (context > budget) {
    return absl::ResourceExhaustedError(absl::StrCat("budget.vram of ", FormatSize(budget), ": the context on ",
                                                     device.name, " alone takes ", FormatSize(context)));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<gpu::Runtime> runtime, NewCudaRuntime(options, device.name));
  return NewGpuBackend(std::move(runtime), budget, context);
}

}  // namespace dogstar
