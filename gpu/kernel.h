// Kernels of a GPU as C++ that the host's compiler takes as well, so that a machine without a GPU runs and tests them
// (host_runtime.h); nvcc makes the device's code of the same lines (cuda/).
//
// A kernel is a struct of its parameters with
//   static constexpr int kThreads          threads of a block
//   static constexpr int kBlocksTogether   optional: blocks that a multiprocessor is to hold; bounds registers
//   Shared, Local                          what a block's threads share, and what each keeps; trivial structs
//   int64_t Blocks() const                 of the grid
//   int Phases() const                     the same for all threads of a block
//   void Run(int phase, int64_t block, int thread, Shared*, Local*) const
// All threads of a block end a phase before one begins the next; Local starts as zeros, Shared as anything.
//
// Results are those of device/backend.h to the bit: integer sums are shared out among threads, sums of floats follow
// its order. Nothing here may be contracted into fused operations by a compiler (nvcc: -fmad=false).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DOGSTAR_HD __host__ __device__ inline
#else
#define DOGSTAR_HD inline
#endif

// Before a loop of few steps whose arrays are to be registers; and before one of which two steps are to be under way.
#if defined(__CUDA_ARCH__)
#define DOGSTAR_UNROLL _Pragma("unroll")
#if defined(__clang__)  // which warns of loops that it cannot unroll
#define DOGSTAR_UNROLL_TWICE
#else
#define DOGSTAR_UNROLL_TWICE _Pragma("unroll 2")
#endif
#elif defined(__CUDACC__)
#define DOGSTAR_UNROLL  // nvcc's pass for the host knows neither
#define DOGSTAR_UNROLL_TWICE
#else
#define DOGSTAR_UNROLL _Pragma("GCC unroll 8")
#define DOGSTAR_UNROLL_TWICE
#endif

namespace dogstar::gpu {

struct Nothing {};

// One element for each thread of a grid of blocks.
constexpr int kElementThreads = 256;
DOGSTAR_HD int64_t BlocksOf(int64_t elements) { return (elements + kElementThreads - 1) / kElementThreads; }

// The rest of a kernel whose threads do Element(i) each, i < count.
#define DOGSTAR_ELEMENT_KERNEL_PARTS                                           \
  static constexpr int kThreads = kElementThreads;                             \
  using Shared = Nothing;                                                      \
  using Local = Nothing;                                                       \
  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(count); }                \
  DOGSTAR_HD int Phases() const { return 1; }                                  \
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const { \
    const int64_t i = block * kThreads + thread;                               \
    if (i < count) Element(i);                                                 \
  }

}  // namespace dogstar::gpu
