#include "cuda/cuda_backend.h"

namespace dogstar {
namespace {

absl::Status NoCuda() {
  return absl::UnimplementedError("this build has no CUDA backend (configure with nvcc on PATH, or -DDOGSTAR_CUDA=ON)");
}

}  // namespace

absl::StatusOr<std::vector<CudaDevice>> ListCudaDevices() { return NoCuda(); }
absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(const CudaOptions&) { return NoCuda(); }

}  // namespace dogstar
