// The FFN of the CPU backend: cuts pages into blocks of 32 packed rows and shares them out among the threads.
#pragma once

#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "cpu/cpu_objects.h"

namespace dogstar {

class CpuFfn {
 public:
  // scratch: a buffer of each thread, there when a job begins; it grows when a cut page's panels are larger.
  CpuFfn(const KernelTable& kernels, bool precise, ThreadPool& pool, std::vector<AlignedBuffer>& scratch)
      : kernels_(kernels), precise_(precise), pool_(pool), scratch_(scratch) {}

  void Begin(const FfnParams& params, const CpuActivations& x, int32_t rows, CpuFfnJob* job) const;
  void AccumulatePages(std::span<const FfnPageRef> pages, CpuFfnJob* job) const;
  FfnUse AccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice, std::span<uint64_t> chosen,
                          CpuFfnJob* job) const;
  void AccumulateOverlay(const FfnOverlayRef& overlay, CpuFfnJob* job) const;
  static void AccumulateSum(const CpuTensor& sum, CpuFfnJob* job);

 private:
  // Runs the blocks collected so far, which are whole pages, and empties the list.
  void RunPages(CpuFfnJob* job) const;
  template <typename Kernel>
  void ForBlocks(Kernel kernel, const FfnTask& task, std::span<const FfnBlock> blocks) const;
  // z of blocks whose tokens have chosen, and what it gives.
  void RunKept(FfnTask task, std::span<const FfnBlock> blocks, CpuFfnJob* job) const;
  // The down part of blocks whose z is there.
  template <typename Kernel>
  void Down(Kernel kernel, const FfnTask& task, std::span<const FfnBlock> blocks, CpuFfnJob* job) const;
  void ComputeValues(const FfnTask& task, const CpuFfnJob& job) const;

  void MakeRoomForPlanes(const FfnTask& task) const;
  JoinedMemory JoinedMemoryOf(const FfnTask& task, int thread) const;

  const KernelTable& kernels_;
  const bool precise_;
  ThreadPool& pool_;
  std::vector<AlignedBuffer>& scratch_;  // [thread]
};

}  // namespace dogstar
