#include "cuda/driver_memory.h"

#include <dlfcn.h>

#include "cuda_runtime_api.h"

namespace dogstar {
namespace {

// As NVML's reference manual has them.
using NvmlDevice = void*;
struct NvmlMemory {
  unsigned long long total, free, used;
};
using InitFn = int (*)();
using ByBusFn = int (*)(const char* bus_id, NvmlDevice* device);
using MemoryFn = int (*)(NvmlDevice device, NvmlMemory* memory);
constexpr int kNvmlSuccess = 0;

class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    const auto init = Find<InitFn>("nvmlInit_v2");
    shutdown_ = Find<InitFn>("nvmlShutdown");
    by_bus_ = Find<ByBusFn>("nvmlDeviceGetHandleByPciBusId_v2");
    memory_ = Find<MemoryFn>("nvmlDeviceGetMemoryInfo");
    ready_ =
        init != nullptr && shutdown_ != nullptr && by_bus_ != nullptr && memory_ != nullptr && init() == kNvmlSuccess;
  }
  ~Nvml() {
    if (ready_) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::optional<uint64_t> UsedBytes(const char* bus_id) const {
    NvmlDevice device = nullptr;
    NvmlMemory memory{};
    if (!ready_ || by_bus_(bus_id, &device) != kNvmlSuccess || memory_(device, &memory) != kNvmlSuccess) {
      return std::nullopt;
    }
    return memory.used;
  }

 private:
  template <typename Function>
  Function Find(const char* name) const {
    return reinterpret_cast<Function>(dlsym(library_, name));
  }

  void* library_;
  InitFn shutdown_ = nullptr;
  ByBusFn by_bus_ = nullptr;
  MemoryFn memory_ = nullptr;
  bool ready_ = false;
};

}  // namespace

std::optional<uint64_t> UsedDeviceBytes(int device) {
  char bus_id[32] = {};
  if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device) != cudaSuccess) {
    cudaGetLastError();
    return std::nullopt;
  }
  return Nvml().UsedBytes(bus_id);
}

}  // namespace dogstar
