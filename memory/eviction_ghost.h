// Eviction with remembered keys (ghosts): 2q, arc, s3fifo. What each does: memory/eviction.h.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/eviction.h"
#include "memory/slot_lists.h"

namespace dogstar {

class TwoQPolicy final : public EvictionPolicy {
 public:
  TwoQPolicy(const EvictionOptions& options, int32_t slots);
  static int32_t Remembered(const EvictionOptions& options, int32_t slots);
  void Use(int32_t slot, double uses) override;
  void Prepare(PageKey key) override { returns_ = out_.Take(key); }
  int32_t Victim(Pins pins) override;
  void Evict(int32_t slot) override;
  void Remove(int32_t slot) override;
  void Insert(int32_t slot, PageKey key, double uses) override;

 private:
  static constexpr int32_t kIn = 0, kMain = 1;  // A1in, Am

  int32_t in_slots_;
  SlotLists queues_;
  GhostList out_;  // A1out
  std::vector<PageKey> keys_;
  std::vector<uint8_t> queue_of_;
  bool returns_ = false;  // the key of the last Prepare was remembered
};

class ArcPolicy final : public EvictionPolicy {
 public:
  explicit ArcPolicy(int32_t slots);
  void Use(int32_t slot, double uses) override;
  void Prepare(PageKey key) override;
  int32_t Victim(Pins pins) override;
  void Evict(int32_t slot) override;
  void Remove(int32_t slot) override;
  void Insert(int32_t slot, PageKey key, double uses) override;

 private:
  static constexpr int32_t kOnce = 0, kAgain = 1;  // T1, T2
  enum class Ghost { kNone, kOnce, kAgain };
  void MakeRoomForGhost();

  int32_t slots_;
  double target_ = 0;  // of T1, the paper's p
  SlotLists queues_;
  GhostList once_ghosts_, again_ghosts_;  // B1, B2
  std::vector<PageKey> keys_;
  std::vector<uint8_t> queue_of_;
  Ghost incoming_ = Ghost::kNone;  // where the key of the last Prepare was
};

class S3FifoPolicy final : public EvictionPolicy {
 public:
  S3FifoPolicy(const EvictionOptions& options, int32_t slots);
  static int32_t Remembered(const EvictionOptions& options, int32_t slots);
  void Use(int32_t slot, double uses) override;
  void Prepare(PageKey key) override { returns_ = ghosts_.Take(key); }
  int32_t Victim(Pins pins) override;
  void Evict(int32_t slot) override;
  void Remove(int32_t slot) override;
  void Insert(int32_t slot, PageKey key, double uses) override;

 private:
  static constexpr int32_t kSmall = 0, kMain = 1;
  int32_t SmallVictim(Pins pins);
  int32_t MainVictim(Pins pins);
  void Enter(int32_t queue, int32_t slot);

  int32_t small_slots_, main_slots_, threshold_;
  SlotLists queues_;
  GhostList ghosts_;
  std::vector<PageKey> keys_;
  std::vector<uint8_t> queue_of_;
  std::vector<uint8_t> uses_;  // [slots], since it entered its queue
  bool returns_ = false;       // the key of the last Prepare was remembered
  bool evicted_ = false;       // until then, what the small queue has no room for fills the main one
};

}  // namespace dogstar
