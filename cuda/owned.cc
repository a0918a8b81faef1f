#include "cuda/owned.h"

#include <atomic>
#include <cstdio>
#include <string>

#include "base/units.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

std::atomic<uint64_t> release_errors = 0;

// For destructors: nothing can be done about a failed release but to say so, once.
void CountRelease(cudaError_t error, const char* operation) {
  if (error == cudaSuccess || error == cudaErrorCudartUnloading) return;
  cudaGetLastError();
  if (release_errors.fetch_add(1) == 0) {
    std::fprintf(stderr, "dogstar: %s failed: %s (said once)\n", operation, cudaGetErrorString(error));
  }
}

absl::StatusCode CodeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:
    case cudaErrorInvalidDevice:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status CudaStatus(cudaError_t error, std::string_view operation) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();
  return absl::Status(CodeOf(error),
                      fmt::format("{}: {} ({})", operation, cudaGetErrorString(error), cudaGetErrorName(error)));
}

uint64_t ReleaseErrorCount() { return release_errors.load(); }

namespace cuda_internal {

void StreamRelease(cudaStream_t stream) { CountRelease(cudaStreamDestroy(stream), "cudaStreamDestroy"); }
void EventRelease(cudaEvent_t event) { CountRelease(cudaEventDestroy(event), "cudaEventDestroy"); }
void DeviceRelease(std::byte* memory) { CountRelease(cudaFree(memory), "cudaFree"); }
void PageLockedRelease(std::byte* memory) { CountRelease(cudaFreeHost(memory), "cudaFreeHost"); }

}  // namespace cuda_internal

absl::StatusOr<Stream> Stream::Create() {
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a CUDA stream"));
  return Stream(stream);
}

absl::Status Stream::Wait() const { return CudaStatus(cudaStreamSynchronize(get()), "wait for a CUDA stream"); }

absl::StatusOr<Event> Event::Create() {
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "create a CUDA event"));
  return Event(event);
}

absl::Status Event::Record(const Stream& stream) const {
  return CudaStatus(cudaEventRecord(get(), stream.get()), "record a CUDA event");
}

absl::StatusOr<bool> Event::IsDone() const {
  const cudaError_t error = cudaEventQuery(get());
  if (error == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  RETURN_IF_ERROR(CudaStatus(error, "query a CUDA event"));
  return true;
}

absl::Status Event::Wait() const { return CudaStatus(cudaEventSynchronize(get()), "wait for a CUDA event"); }

absl::Status Event::WaitOn(const Stream& stream) const {
  return CudaStatus(cudaStreamWaitEvent(stream.get(), get(), 0), "make a CUDA stream wait for an event");
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(uint64_t bytes) {
  void* memory = nullptr;
  if (bytes > 0) {
    RETURN_IF_ERROR(
        CudaStatus(cudaMalloc(&memory, bytes), fmt::format("allocate {} of GPU memory", FormatSize(bytes))));
  }
  return DeviceBuffer(static_cast<std::byte*>(memory), bytes);
}

absl::StatusOr<PageLockedBuffer> PageLockedBuffer::Create(uint64_t bytes) {
  void* memory = nullptr;
  if (bytes > 0) {
    RETURN_IF_ERROR(CudaStatus(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped),
                               fmt::format("allocate {} of page-locked host memory", FormatSize(bytes))));
  }
  return PageLockedBuffer(static_cast<std::byte*>(memory), bytes);
}

}  // namespace dogstar
