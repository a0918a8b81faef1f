// No fmt in files that nvcc compiles: its consteval format strings do not pass nvcc's front end (fmt 9, CUDA 13.0).
#include "cuda/cuda_backend.h"

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "cuda/cuda_runtime.h"
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
    RETURN_IF_ERROR(CudaStatus(cudaSetDevice(index), "choose a CUDA device"));
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "read the free memory of a CUDA device"));
    devices.push_back({index, properties.name, total_bytes, free_bytes});
  }
  return devices;
}

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
  ASSIGN_OR_RETURN(std::unique_ptr<gpu::Runtime> runtime, NewCudaRuntime(options, device.name));
  return NewGpuBackend(std::move(runtime), options.memory_bytes > 0 ? options.memory_bytes : device.free_bytes);
}

}  // namespace dogstar
