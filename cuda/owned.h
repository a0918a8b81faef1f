// Owners of CUDA things: Stream, Event, DeviceBuffer, PageLockedBuffer. Move-only, made by Create; borrow with get()
// or data(). Only files under cuda/ include this header.
//
// Destructors never fail: what cannot be released is counted (ReleaseErrorCount) and named once on stderr;
// cudaErrorCudartUnloading (the process is ending and the driver is gone already) counts as success.
// A buffer must outlive the work enqueued on it: wait for an event or a stream first.
// Threads: an object belongs to one thread at a time. Every thread that creates one must have chosen its device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/status.h"
#include "cuda_runtime_api.h"

namespace dogstar {

// OK for cudaSuccess; otherwise "allocate 1.50 GiB of GPU memory: out of memory (cudaErrorMemoryAllocation)", and the
// thread's last error is cleared, so that a later launch does not report this one again.
// ResourceExhausted: out of memory; Unavailable: no device or driver that fits; Internal: everything else.
absl::Status CudaStatus(cudaError_t error, std::string_view operation);

// How many releases have failed in this process.
uint64_t ReleaseErrorCount();

namespace cuda_internal {

void StreamRelease(cudaStream_t stream);
void EventRelease(cudaEvent_t event);
void DeviceRelease(std::byte* memory);
void PageLockedRelease(std::byte* memory);

// The one handle of an owner: moves by exchange, releases what is not null.
template <typename Handle, void (*kRelease)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) {
      if (handle_ != nullptr) kRelease(handle_);
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) kRelease(handle_);
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

}  // namespace cuda_internal

// A stream that does not synchronise with the default one (cudaStreamNonBlocking).
class Stream {
 public:
  static absl::StatusOr<Stream> Create();
  cudaStream_t get() const { return handle_.get(); }
  absl::Status Wait() const;  // waits until everything enqueued so far is done

 private:
  explicit Stream(cudaStream_t stream) : handle_(stream) {}
  cuda_internal::Owned<cudaStream_t, cuda_internal::StreamRelease> handle_;
};

// A point in a stream. Without timing, which makes recording and waiting cheaper.
class Event {
 public:
  static absl::StatusOr<Event> Create();
  cudaEvent_t get() const { return handle_.get(); }
  absl::Status Record(const Stream& stream) const;
  absl::StatusOr<bool> IsDone() const;              // never waits
  absl::Status Wait() const;                        // the calling thread waits
  absl::Status WaitOn(const Stream& stream) const;  // the stream waits, the thread does not

 private:
  explicit Event(cudaEvent_t event) : handle_(event) {}
  cuda_internal::Owned<cudaEvent_t, cuda_internal::EventRelease> handle_;
};

// GPU memory, 256-byte aligned, not initialised. bytes == 0 gives an empty buffer.
class DeviceBuffer {
 public:
  static absl::StatusOr<DeviceBuffer> Create(uint64_t bytes);
  std::byte* data() const { return handle_.get(); }
  uint64_t size() const { return size_; }

 private:
  DeviceBuffer(std::byte* memory, uint64_t bytes) : handle_(memory), size_(bytes) {}
  cuda_internal::Owned<std::byte*, cuda_internal::DeviceRelease> handle_;
  uint64_t size_;
};

// Host memory that the GPU copies from and to at full speed, and that kernels may read (cudaHostAllocPortable and
// Mapped), 4096-aligned. bytes == 0 gives an empty buffer.
class PageLockedBuffer {
 public:
  static absl::StatusOr<PageLockedBuffer> Create(uint64_t bytes);
  std::byte* data() const { return handle_.get(); }
  uint64_t size() const { return size_; }
  std::span<std::byte> span() const { return {data(), size_}; }

 private:
  PageLockedBuffer(std::byte* memory, uint64_t bytes) : handle_(memory), size_(bytes) {}
  cuda_internal::Owned<std::byte*, cuda_internal::PageLockedRelease> handle_;
  uint64_t size_;
};

}  // namespace dogstar
