// Probe: measures what this machine gives, for the planner: reading memory, our own kernels on weights that come from
// memory, reading a disk by size and depth. Seconds, not minutes; nothing is written but a file to read where none is
// given.
//
// Threads: one; kernels use the backend's.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "device/backend.h"
#include "io/page_reader.h"
#include "memory/machine_rates.h"

namespace dogstar {

// Called before each measurement; may be empty. False stops the probe (Cancelled).
using ProbeProgress = std::function<bool(std::string_view what, int done, int total)>;

struct KernelProbe {
  int threads = 1;
  uint64_t bytes = uint64_t{256} << 20;  // of weights per measurement: more than any cache holds
  double seconds = 0.06;                 // per measurement, at least
};
// Fills machine, threads, memory and kernels of `rates`.
absl::Status ProbeKernels(const KernelProbe& probe, const ProbeProgress& progress, MachineRates* rates);

// A device with memory of its own: its kernels on weights there (bytes: at most half of what it may take), and its
// link. REQUIRES: `device` does not share host memory; nothing is on it. All but the name.
absl::StatusOr<DeviceRates> ProbeDevice(const KernelProbe& probe, Backend* device, const ProbeProgress& progress);

// Bytes per second of staged copies of `host` in pieces of so many bytes, two under way at a time as in a pass
// (memory/staged_ranges.h); what is left at the end is not copied. Of runs that take `seconds` together, at least two,
// the best. REQUIRES: the device's staging has room for two pieces, and nothing is staged.
absl::StatusOr<double> StagedCopyRate(std::span<const std::byte> host, uint64_t piece, double seconds, Backend* device);

struct DiskProbe {
  std::string path;  // a file of at least 64 MiB; it is read, never written
  IoEngine engine = IoEngine::kAuto;
  DirectMode direct = DirectMode::kAuto;
  double seconds = 0.25;        // per size and depth
  double stream_seconds = 1.5;  // of neighbouring 1 MiB reads with a little computing beside, and again with much
  int threads = 1;              // that compute
};
absl::StatusOr<DiskRates> ProbeDisk(const DiskProbe& probe, const ProbeProgress& progress);

// Makes a file of `bytes` that no file system can shrink, for ProbeDisk, in `folder`. The path is returned; the caller
// removes it. ResourceExhausted names what is free where that is too little.
absl::StatusOr<std::string> MakeProbeFile(const std::string& folder, uint64_t bytes);

}  // namespace dogstar
