#include "cpu/isa.h"

namespace dogstar {
namespace {

// GCC's checks include that the system saves the registers.
bool HasAvx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool HasAvx512Vnni() {
#if defined(__x86_64__)
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

const KernelTable* Available(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512Vnni:
      return HasAvx512Vnni() ? Avx512VnniKernels() : nullptr;
    case CpuIsa::kAvx2:
      return HasAvx2() ? Avx2Kernels() : nullptr;
    default:
      return PortableKernels();
  }
}

}  // namespace

absl::StatusOr<const KernelTable*> FindKernels(CpuIsa isa) {
  if (isa == CpuIsa::kAuto) {
    for (const CpuIsa best : {CpuIsa::kAvx512Vnni, CpuIsa::kAvx2}) {
      if (const KernelTable* kernels = Available(best); kernels != nullptr) return kernels;
    }
    return PortableKernels();
  }
  if (const KernelTable* kernels = Available(isa); kernels != nullptr) return kernels;
  return absl::FailedPreconditionError(isa == CpuIsa::kAvx2 ? "this CPU or build has no AVX2 with FMA and F16C"
                                                            : "this CPU or build has no AVX-512 with VNNI");
}

}  // namespace dogstar
