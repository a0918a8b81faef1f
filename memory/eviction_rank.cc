#include "memory/eviction_rank.h"

#include <cmath>

namespace dogstar {

LfuAgedPolicy::LfuAgedPolicy(const EvictionOptions& options, int32_t slots)
    : growth_(std::exp2(1 / options.lfu_half_life)), heap_(slots) {}

void LfuAgedPolicy::EndToken() {
  constexpr double kMost = 0x1p500;  // far from the end of doubles, whatever the counts
  weight_ *= growth_;
  if (weight_ < kMost) return;
  heap_.ScaleValues(1 / weight_);
  weight_ = 1;
}

void LeastStalePolicy::Use(int32_t slot, double) {
  const double value = heap_.rank(slot).value;
  const bool used_in_this_pass = value >= FirstUse();
  const bool full = value >= FirstUse() + kUses - 2;
  heap_.Update(slot, {used_in_this_pass ? value + (full ? 0 : 1) : FirstUse(), ++requests_});
}

StaticHotPolicy::StaticHotPolicy(const EvictionOptions& options, int32_t slots)
    : hotness_(options.hotness), heap_(slots) {
  if (!hotness_) hotness_ = [](PageKey key) { return -static_cast<double>(ToInt(RowOf(key))); };
}

int32_t StaticHotPolicy::Victim(Pins pins) {
  const int32_t coldest = heap_.Lowest(pins);
  return coldest != kNoSlot && heap_.rank(coldest).value < incoming_ ? coldest : kNoSlot;
}

}  // namespace dogstar
