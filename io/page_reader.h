// PageReader: asynchronous reads of aligned ranges from one file.
//
// Threads: one thread opens a reader, submits and reaps. Reads may finish in any order. Destinations stay the caller's
// and must live until their completions are reaped; a reader's destructor waits for reads still in the kernel.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace dogstar {

inline constexpr uint64_t kIoAlignment = 4096;  // offset, bytes and destination of every read

struct ReadRequest {
  uint64_t offset = 0;
  std::byte* destination = nullptr;
  uint32_t bytes = 0;
  // The read is complete with this many bytes: less than `bytes` only where the aligned range passes the file's end.
  uint32_t needed_bytes = 0;
  uint64_t tag = 0;  // comes back in the completion
};

struct Completion {
  uint64_t tag = 0;
  absl::Status status;  // OK: all needed bytes have arrived. Otherwise path, offset, bytes and errno are named.
};

class PageReader {
 public:
  virtual ~PageReader() = default;

  // Queues reads and hands them to the kernel; never waits. ResourceExhausted if there are more than free_depth(),
  // InvalidArgument if one is misaligned; on an error none of them is queued.
  virtual absl::Status Submit(std::span<const ReadRequest> requests) = 0;
  // Appends finished reads; waits until min_count are done (0 polls). A completion is whole or an error: short
  // reads, EINTR and EAGAIN are retried inside. REQUIRES: min_count <= reads in flight.
  virtual absl::Status Reap(size_t min_count, std::vector<Completion>* finished) = 0;
  // Sleeps until there is something for Reap(0) to look at (it may still append nothing: a short read goes on), or
  // `limit` has passed: false then. REQUIRES: a read is in flight.
  virtual absl::StatusOr<bool> Await(std::chrono::milliseconds limit) = 0;

  virtual size_t in_flight() const = 0;
  virtual size_t free_depth() const = 0;
  virtual std::string Describe() const = 0;  // "io_uring, O_DIRECT, depth 64, registered buffers"
};

enum class IoEngine { kAuto, kUring, kPread };
enum class DirectMode { kAuto, kAlways, kNever };

struct ReaderOptions {
  IoEngine engine = IoEngine::kAuto;
  DirectMode direct = DirectMode::kAuto;
  size_t queue_depth = 64;
  // Memory that all destinations lie in; registered with the kernel where that is possible. May be empty.
  std::span<std::byte> buffer;
};

// Opens `path` for reading. kAuto tries io_uring, then a pool of pread threads; every fallback and its reason is
// appended to `notes` (may be null), never silent. An engine asked for by name is an error when it is refused.
absl::StatusOr<std::unique_ptr<PageReader>> OpenPageReader(const std::string& path, const ReaderOptions& options,
                                                           std::vector<std::string>* notes);

}  // namespace dogstar
