#include "cpu/kernels_impl.h"

namespace dogstar {

const KernelTable* PortableKernels() {
  static constexpr KernelTable kTable = DOGSTAR_ISA::MakeTable("portable");
  return &kTable;
}

}  // namespace dogstar
