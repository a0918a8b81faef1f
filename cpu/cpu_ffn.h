// The FFN of the CPU backend: cuts pages into blocks of 32 packed rows and shares them out among the threads.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "cpu/cpu_objects.h"

namespace dogstar {

class CpuFfn {
 public:
  CpuFfn(const KernelTable& kernels, bool precise, ThreadPool& pool)
      : kernels_(kernels), precise_(precise), pool_(pool) {}

  void Begin(const FfnParams& params, const CpuActivations& x, int32_t rows, CpuFfnJob* job) const;
  void AccumulatePages(std::span<const FfnPageRef> pages, CpuFfnJob* job) const;
  FfnUse AccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice, std::span<uint64_t> chosen,
                          CpuFfnJob* job) const;
  void AccumulateOverlay(const FfnOverlayRef& overlay, CpuFfnJob* job) const;

 private:
  // Runs the blocks collected so far, which are whole pages, and empties the list.
  void RunPages(CpuFfnJob* job) const;
  template <typename Kernel>
  void ForBlocks(Kernel kernel, const FfnTask& task, std::span<const FfnBlock> blocks) const;
  // z of blocks whose tokens have chosen, and what it gives.
  void RunKept(const FfnTask& task, std::span<const FfnBlock> blocks, int32_t capacity) const;
  void ComputeValues(const FfnTask& task, const CpuFfnJob& job) const;

  const KernelTable& kernels_;
  const bool precise_;
  ThreadPool& pool_;
};

}  // namespace dogstar
