// The backend of a GPU: operations of device/backend.h as kernels (products.h, ffn.h, attention.h, elements.h) on a
// Runtime.
//
// Not there: precise mode, overlays, tables of plain rows to gather from.
#pragma once

#include <memory>

#include "gpu/runtime.h"

namespace dogstar {

// memory_bytes: of the device, taken at once; reserved_bytes of them are taken already (a driver's context).
// ResourceExhausted names what is missing.
absl::StatusOr<std::unique_ptr<Backend>> NewGpuBackend(std::unique_ptr<gpu::Runtime> runtime, uint64_t memory_bytes,
                                                       uint64_t reserved_bytes);

// The same on the host's emulation of a GPU: slow, for tests.
absl::StatusOr<std::unique_ptr<Backend>> NewEmulatedGpuBackend(uint64_t memory_bytes);
// For the sizes of things on a GPU that need not be there, a context's included (a guess: half a GiB at most on cards
// of these years).
absl::StatusOr<std::unique_ptr<Backend>> NewGpuBackendForSizes();

}  // namespace dogstar
