#include "io/read_progress.h"

#include <cerrno>
#include <limits>

#include "fmt/format.h"

namespace dogstar {
namespace {

// guess: no healthy system interrupts one read this often; an error is better than trying for ever.
constexpr int kMaxInterruptions = 10'000;
constexpr uint64_t kMaxOffset = std::numeric_limits<int64_t>::max();

bool IsAllowed(const ReadRequest& request) {
  return request.destination != nullptr && request.bytes > 0 && request.needed_bytes <= request.bytes &&
         request.offset % kIoAlignment == 0 && request.bytes % kIoAlignment == 0 &&
         reinterpret_cast<uintptr_t>(request.destination) % kIoAlignment == 0 &&
         request.offset <= kMaxOffset - request.bytes;
}

}  // namespace

std::optional<absl::Status> ReadProgress::Advance(int64_t result, const std::string& path) {
  if (result == -EINTR || result == -EAGAIN) {
    if (++interruptions_ < kMaxInterruptions) return std::nullopt;
  }
  if (result < 0) return ErrnoStatus("read", path, request_.offset, request_.bytes, static_cast<int>(-result));
  const uint64_t arrived = resume_at_ + static_cast<uint64_t>(result);
  if (arrived >= request_.needed_bytes) return absl::OkStatus();
  // A short read is followed by another; only one that brings nothing new means that the file ends here.
  if (arrived <= arrived_) return FileEnds(path);
  arrived_ = static_cast<uint32_t>(arrived);
  resume_at_ = static_cast<uint32_t>(arrived / kIoAlignment * kIoAlignment);
  interruptions_ = 0;
  return std::nullopt;
}

absl::Status ReadProgress::FileEnds(const std::string& path) const {
  return absl::DataLossError(
      fmt::format("read {} at offset {} ({} bytes): the file ends after {} of the {} bytes needed", path,
                  request_.offset, request_.bytes, arrived_, request_.needed_bytes));
}

absl::Status CheckRequests(std::span<const ReadRequest> requests, size_t free_depth, const std::string& path) {
  if (requests.size() > free_depth) {
    return absl::ResourceExhaustedError(
        fmt::format("{} reads of {} submitted, room for {}", requests.size(), path, free_depth));
  }
  for (const ReadRequest& request : requests) {
    if (IsAllowed(request)) continue;
    return absl::InvalidArgumentError(fmt::format(
        "read {} at offset {} ({} bytes, {} needed) to {}: offset, bytes and destination must be multiples "
        "of {}",
        path, request.offset, request.bytes, request.needed_bytes, fmt::ptr(request.destination), kIoAlignment));
  }
  return absl::OkStatus();
}

}  // namespace dogstar
