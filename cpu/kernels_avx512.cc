#include "cpu/kernels.h"

#if defined(__AVX512VNNI__)
#include "cpu/kernels_impl.h"
#endif

namespace dogstar {

const KernelTable* Avx512VnniKernels() {
#if defined(__AVX512VNNI__)
  static constexpr KernelTable kTable = DOGSTAR_ISA::MakeTable("avx512-vnni");
  return &kTable;
#else
  return nullptr;
#endif
}

}  // namespace dogstar
