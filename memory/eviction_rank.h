// Eviction by a rank of each page, the lowest first: lfu, lfu-aged, least-stale, static-hot. What each does:
// memory/eviction.h.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "memory/eviction.h"
#include "memory/slot_lists.h"

namespace dogstar {

class LfuPolicy final : public EvictionPolicy {
 public:
  explicit LfuPolicy(int32_t slots) : heap_(slots) {}
  void Use(int32_t slot, double) override { heap_.Update(slot, {heap_.rank(slot).value + 1, ++requests_}); }
  int32_t Victim(Pins pins) override { return heap_.Lowest(pins); }
  void Remove(int32_t slot) override { heap_.Remove(slot); }
  void Insert(int32_t slot, PageKey, double) override { heap_.Push(slot, {1, ++requests_}); }

 private:
  SlotHeap heap_;
  uint64_t requests_ = 0;
};

// Instead of lowering all counts with time, later uses weigh more: the order is the same.
class LfuAgedPolicy final : public EvictionPolicy {
 public:
  LfuAgedPolicy(const EvictionOptions& options, int32_t slots);
  void Use(int32_t slot, double uses) override {
    heap_.Update(slot, {heap_.rank(slot).value + uses * weight_, ++requests_});
  }
  int32_t Victim(Pins pins) override { return heap_.Lowest(pins); }
  void Remove(int32_t slot) override { heap_.Remove(slot); }
  void Insert(int32_t slot, PageKey, double uses) override { heap_.Push(slot, {uses * weight_, ++requests_}); }
  void EndToken() override;

 private:
  double growth_;      // of the weight, a token
  double weight_ = 1;  // of a use now
  SlotHeap heap_;
  uint64_t requests_ = 0;
};

class LeastStalePolicy final : public EvictionPolicy {
 public:
  explicit LeastStalePolicy(int32_t slots) : heap_(slots) {}
  void Use(int32_t slot, double uses) override;
  int32_t Victim(Pins pins) override { return heap_.Lowest(pins); }
  void Remove(int32_t slot) override { heap_.Remove(slot); }
  void Insert(int32_t slot, PageKey, double) override { heap_.Push(slot, {FirstUse(), ++requests_}); }
  void EndPass() override { ++pass_; }

 private:
  // value = pass * kUses + uses in it, exact in a double for 2^32 passes
  static constexpr double kUses = 1 << 20;
  double FirstUse() const { return static_cast<double>(pass_) * kUses + 1; }

  SlotHeap heap_;
  int64_t pass_ = 0;
  uint64_t requests_ = 0;
};

class StaticHotPolicy final : public EvictionPolicy {
 public:
  StaticHotPolicy(const EvictionOptions& options, int32_t slots);
  void Use(int32_t, double) override {}
  void Prepare(PageKey key) override { incoming_ = hotness_(key); }
  int32_t Victim(Pins pins) override;
  void Remove(int32_t slot) override { heap_.Remove(slot); }
  void Insert(int32_t slot, PageKey key, double) override { heap_.Push(slot, {hotness_(key), ++requests_}); }

 private:
  std::function<double(PageKey)> hotness_;
  double incoming_ = 0;
  SlotHeap heap_;
  uint64_t requests_ = 0;
};

}  // namespace dogstar
