// Launches kernels by the weights' type.
#pragma once

#include <cstdint>

#include "gpu/runtime.h"

namespace dogstar {

class Launcher {
 public:
  explicit Launcher(gpu::Runtime* runtime) : runtime_(runtime) {}
  gpu::Runtime* runtime() const { return runtime_; }

  template <typename Kernel>
  void Launch(const Kernel& kernel) const {
    if (kernel.Blocks() > 0) runtime_->Launch(kernel);
  }
  // The kernel of the type, with its task.
  template <template <QuantType> typename Kernel, typename Task>
  void LaunchOfType(QuantType type, const Task& task) const {
    if (task.Blocks() == 0) return;
    gpu::WithType(type, [&]<QuantType kType>() {
      Kernel<kType> kernel;
      kernel.task = task;
      runtime_->Launch(gpu::OfEveryType<Kernel>(kernel));
    });
  }
  void Multiply(QuantType type, const gpu::ProductTask& task) const {
    if (task.rows >= gpu::kTiledFromRows) return LaunchOfType<gpu::TiledProduct>(type, task);
    LaunchOfType<gpu::Product>(type, task);
  }

 private:
  gpu::Runtime* runtime_;
};

}  // namespace dogstar
