// HostRuntime: kernels on the host, a thread of a block after the other. It is what tests the kernels' code where no
// GPU is at hand, and is slow. What is staged happens as late as it may, so that a caller who overwrites it early is
// found.
#pragma once

#include <memory>

#include "gpu/runtime.h"

namespace dogstar::gpu {

std::unique_ptr<Runtime> NewHostRuntime();

}  // namespace dogstar::gpu
