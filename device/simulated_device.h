// A device that is not there: another backend's operations on memory of its own, behind a link. It is what runs the
// three-tier placement, staging and budgets where no GPU is at hand.
//
// What it shares with a GPU: its memory is limited and is none of the host's (an operation that is given a host address
// ends the program); bytes cross a link of limited bandwidth, in order, while the host goes on; operations wait for the
// copies that were staged before them. What it does not: operations are done when their call returns.
//
// Threads: one calls it; one of its own copies.
#pragma once

#include <cstdint>
#include <memory>

#include "device/backend.h"

namespace dogstar {

struct SimulatedDeviceOptions {
  uint64_t memory_bytes = UINT64_MAX;
  double link_bytes_per_second = 0;  // 0: as fast as memory is copied
  uint64_t host_bytes = UINT64_MAX;  // page-locked memory that it grants
};

// inner: computes; shares host memory.
std::unique_ptr<Backend> NewSimulatedDevice(std::unique_ptr<Backend> inner, const SimulatedDeviceOptions& options);

}  // namespace dogstar
