// StagedRanges: streamed weights on their way through operations. Each range is staged, read by operations, and given
// back in order; where the backend has memory of its own, the next one is copied there while operations read this one.
//
//   ASSIGN_OR_RETURN(const DeviceAddress data, ranges.Next());    // of the pager's schedule
//   const Ticket done = backend->...(data);
//   RETURN_IF_ERROR(ranges.Used(done));
//
// Threads: one.
#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "base/status.h"
#include "device/backend.h"
#include "memory/pager.h"

namespace dogstar {

class StagedRanges {
 public:
  // Room that ReserveStaging needs for ranges of so many bytes: as many as are staged at a time.
  static uint64_t StagingBytes(uint64_t longest_range_bytes) {
    return kTogether * (longest_range_bytes + kIoAlignment);
  }
  // Ranges of the pager that may be in use at a time: its ring must have room for them beside what arrives.
  static constexpr uint64_t kTogether = 2;

  StagedRanges(Backend* backend, Pager* pager) : backend_(backend), pager_(pager) {}

  // The pager's next range; valid until Used.
  absl::StatusOr<DeviceAddress> Next();
  // Bytes that are in host memory for good.
  absl::StatusOr<DeviceAddress> NextOf(std::span<const std::byte> host);
  // What was given last is read by no operation after `last`.
  absl::Status Used(Ticket last);
  // Waits until all ranges are given back.
  absl::Status Drain();
  // Copied to a device's memory so far.
  uint64_t copied_bytes() const { return copied_bytes_; }
  // Drops what a pass that failed has left; the pager starts anew.
  void Forget();

 private:
  struct Range {
    bool of_pager = false;
    Ticket last;
  };
  absl::Status GiveBackOldest();
  absl::StatusOr<DeviceAddress> Stage(std::span<const std::byte> bytes, bool of_pager);

  Backend* backend_;
  Pager* pager_;
  uint64_t copied_bytes_ = 0;
  std::deque<Range> ranges_;  // oldest first; the last may be unused yet
};

}  // namespace dogstar
