#include "cpu/kernels.h"

#if defined(__AVX2__)
#include "cpu/kernels_impl.h"
#endif

namespace dogstar {

const KernelTable* Avx2Kernels() {
#if defined(__AVX2__)
  static constexpr KernelTable kTable = DOGSTAR_ISA::MakeTable("avx2");
  return &kTable;
#else
  return nullptr;
#endif
}

}  // namespace dogstar
