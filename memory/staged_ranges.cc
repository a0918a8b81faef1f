#include "memory/staged_ranges.h"

namespace dogstar {

absl::StatusOr<DeviceAddress> StagedRanges::Stage(std::span<const std::byte> bytes, bool of_pager) {
  ASSIGN_OR_RETURN(const DeviceAddress data, backend_->Stage(bytes));
  if (!backend_->shares_host_memory()) copied_bytes_ += bytes.size();
  ranges_.push_back({of_pager, {}});
  return data;
}

absl::StatusOr<DeviceAddress> StagedRanges::Next() {
  if (ranges_.size() == kTogether) RETURN_IF_ERROR(GiveBackOldest());
  ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, pager_->Next());
  return Stage(bytes, true);
}

absl::StatusOr<DeviceAddress> StagedRanges::NextOf(std::span<const std::byte> host) {
  if (ranges_.size() == kTogether) RETURN_IF_ERROR(GiveBackOldest());
  return Stage(host, false);
}

absl::Status StagedRanges::Used(Ticket last) {
  CHECK(!ranges_.empty());
  ranges_.back().last = last;
  backend_->Unstage(last);
  // Nothing is gained by waiting where operations read the pager's own bytes.
  return backend_->shares_host_memory() ? GiveBackOldest() : absl::OkStatus();
}

absl::Status StagedRanges::GiveBackOldest() {
  const Range range = ranges_.front();
  ranges_.pop_front();
  backend_->Wait(range.last);  // a slot is refilled only when its kernel is done
  return range.of_pager ? pager_->Release() : absl::OkStatus();
}

absl::Status StagedRanges::Drain() {
  while (!ranges_.empty()) RETURN_IF_ERROR(GiveBackOldest());
  return absl::OkStatus();
}

void StagedRanges::Forget() {
  backend_->Wait(backend_->Now());
  ranges_.clear();
}

}  // namespace dogstar
