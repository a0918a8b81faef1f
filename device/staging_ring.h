// StagingRing: places for staged copies in one stretch of memory, given back in the order in which they were taken.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace dogstar {

class StagingRing {
 public:
  static constexpr uint64_t kAlignment = 256;

  explicit StagingRing(uint64_t bytes = 0) : bytes_(bytes) {}
  uint64_t bytes() const { return bytes_; }
  bool empty() const { return places_.empty(); }

  // Where so many bytes go, one stretch, at a multiple of kAlignment; none: there is no room until older ones are given
  // back.
  std::optional<uint64_t> Take(uint64_t bytes) {
    const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (places_.empty()) tail_ = used_ = 0;
    // What is left at the end is skipped when it is too small.
    const bool begins_anew = tail_ + rounded > bytes_;
    const uint64_t skipped = begins_anew ? bytes_ - tail_ : 0;
    if (used_ + skipped + rounded > bytes_) return std::nullopt;
    const uint64_t begin = begins_anew ? 0 : tail_;
    tail_ = begin + rounded;
    used_ += skipped + rounded;
    places_.push_back(skipped + rounded);
    return begin;
  }
  // REQUIRES: not empty.
  void GiveBackOldest() {
    used_ -= places_.front();
    places_.pop_front();
  }

 private:
  uint64_t bytes_;
  uint64_t tail_ = 0, used_ = 0;
  std::deque<uint64_t> places_;  // bytes of each, oldest first, with what was skipped before it
};

}  // namespace dogstar
