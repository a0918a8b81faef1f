// ReadProgress: one request on its way through the kernel; the rules for short reads, interruptions and the end of the
// file that every engine shares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "io/page_reader.h"

namespace dogstar {

class ReadProgress {
 public:
  ReadProgress() = default;
  explicit ReadProgress(const ReadRequest& request) : request_(request) {}

  // What to ask the kernel for next. Always aligned.
  uint64_t offset() const { return request_.offset + resume_at_; }
  std::byte* destination() const { return request_.destination + resume_at_; }
  uint32_t bytes() const { return request_.bytes - resume_at_; }
  uint64_t tag() const { return request_.tag; }

  // Takes what the kernel answered: bytes read, or -errno. Returns how the request ended, or nullopt when the rest must
  // be asked for.
  std::optional<absl::Status> Advance(int64_t result, const std::string& path);

 private:
  absl::Status FileEnds(const std::string& path) const;

  ReadRequest request_;
  uint32_t arrived_ = 0;    // bytes from the request's start
  uint32_t resume_at_ = 0;  // arrived_ rounded down to kIoAlignment: O_DIRECT cannot go on in the middle of a block
  int interruptions_ = 0;   // since the last progress
};

// InvalidArgument for requests that the contract of PageReader does not allow; ResourceExhausted for more than
// `free_depth`. Nothing has been queued then.
absl::Status CheckRequests(std::span<const ReadRequest> requests, size_t free_depth, const std::string& path);

}  // namespace dogstar
