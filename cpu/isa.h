// Which kernels this CPU can run.
#pragma once

#include "cpu/cpu_backend.h"
#include "cpu/kernels.h"

namespace dogstar {

// kAuto: the best there is. FailedPrecondition names what the CPU or the build lacks.
absl::StatusOr<const KernelTable*> FindKernels(CpuIsa isa);

}  // namespace dogstar
