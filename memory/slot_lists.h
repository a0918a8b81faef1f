// What eviction policies are made of: linked lists, a heap and remembered keys, all in arrays that never grow.
//
//   SlotLists  doubly linked lists; a slot is in one of them at most. The back is the older end everywhere.
//   SlotHeap   the slot with the lowest rank.
//   GhostList  keys whose pages have left, the oldest forgotten first.
//
// Threads: one. Memory: all of it in the constructor.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "memory/eviction.h"
#include "memory/key_index.h"

namespace dogstar {

class SlotLists {
 public:
  SlotLists(int32_t slots, int32_t lists)
      : slots_(slots), links_(static_cast<size_t>(slots + lists)), sizes_(static_cast<size_t>(lists)) {
    for (int32_t i = 0; i < lists; ++i) At(slots_ + i) = {slots_ + i, slots_ + i};
  }
  static uint64_t Bytes(int32_t slots, int32_t lists) {
    return static_cast<uint64_t>(slots + lists) * sizeof(Link) + static_cast<uint64_t>(lists) * sizeof(int32_t);
  }

  int32_t size(int32_t list) const { return sizes_[static_cast<size_t>(list)]; }
  // kNoSlot at the ends and in empty lists.
  int32_t front(int32_t list) const { return SlotAt(At(slots_ + list).next); }
  int32_t back(int32_t list) const { return SlotAt(At(slots_ + list).prev); }
  int32_t TowardsFront(int32_t slot) const { return SlotAt(At(slot).prev); }
  int32_t TowardsBack(int32_t slot) const { return SlotAt(At(slot).next); }

  void PushFront(int32_t list, int32_t slot) {
    const int32_t head = slots_ + list, first = At(head).next;
    At(slot) = {head, first};
    At(first).prev = slot;
    At(head).next = slot;
    ++sizes_[static_cast<size_t>(list)];
  }
  void Remove(int32_t list, int32_t slot) {
    const Link link = At(slot);
    At(link.prev).next = link.next;
    At(link.next).prev = link.prev;
    --sizes_[static_cast<size_t>(list)];
  }
  void MoveToFront(int32_t list, int32_t slot) {
    Remove(list, slot);
    PushFront(list, slot);
  }
  // The oldest slot of a list that is not pinned, or kNoSlot.
  int32_t Oldest(int32_t list, Pins pins) const {
    int32_t slot = back(list);
    while (slot != kNoSlot && pins(slot)) slot = TowardsFront(slot);
    return slot;
  }

 private:
  struct Link {
    int32_t prev = 0, next = 0;  // a slot, or slots_ + list for the list's head
  };
  Link& At(int32_t index) { return links_[static_cast<size_t>(index)]; }
  const Link& At(int32_t index) const { return links_[static_cast<size_t>(index)]; }
  int32_t SlotAt(int32_t index) const { return index < slots_ ? index : kNoSlot; }

  int32_t slots_;
  std::vector<Link> links_;
  std::vector<int32_t> sizes_;
};

// Four children a node: half the depth of a binary heap, and siblings share cache lines.
class SlotHeap {
 public:
  struct Rank {
    double value = 0;
    uint64_t order = 0;  // decides between equal values; no two slots share it
    bool operator<(const Rank& other) const { return value != other.value ? value < other.value : order < other.order; }
  };

  explicit SlotHeap(int32_t slots) : places_(static_cast<size_t>(slots), kNoSlot) {
    nodes_.reserve(static_cast<size_t>(slots));
  }
  static uint64_t Bytes(int32_t slots) { return static_cast<uint64_t>(slots) * (sizeof(Node) + sizeof(int32_t)); }

  void Push(int32_t slot, Rank rank);
  void Remove(int32_t slot);
  void Update(int32_t slot, Rank rank);
  Rank rank(int32_t slot) const { return nodes_[PlaceOf(slot)].rank; }
  // The lowest that is not pinned, or kNoSlot.
  int32_t Lowest(Pins pins) const;
  // Multiplies all values; their order must stay.
  void ScaleValues(double factor) {
    for (Node& node : nodes_) node.rank.value *= factor;
  }

 private:
  struct Node {
    Rank rank;
    int32_t slot = kNoSlot;
  };
  size_t PlaceOf(int32_t slot) const { return static_cast<size_t>(places_[static_cast<size_t>(slot)]); }
  void Put(size_t place, const Node& node) {
    nodes_[place] = node;
    places_[static_cast<size_t>(node.slot)] = static_cast<int32_t>(place);
  }
  void Up(size_t place, const Node& node);
  void Down(size_t place, const Node& node);

  std::vector<Node> nodes_;
  std::vector<int32_t> places_;  // [slots]
};

class GhostList {
 public:
  explicit GhostList(int32_t most_keys);
  static uint64_t Bytes(int32_t most_keys) {
    return KeyIndex::Bytes(most_keys) + SlotLists::Bytes(most_keys, 2) +
           static_cast<uint64_t>(most_keys) * sizeof(PageKey);
  }

  int32_t size() const { return lists_.size(kUsed); }
  // Remembers a key that is not here; forgets the oldest when full.
  void Push(PageKey key);
  // Forgets the key; false when it was not here.
  bool Take(PageKey key);
  void DropOldest() { Drop(lists_.back(kUsed)); }

 private:
  static constexpr int32_t kUsed = 0, kFree = 1;
  void Drop(int32_t node);

  std::vector<PageKey> keys_;
  SlotLists lists_;
  KeyIndex index_;
};

}  // namespace dogstar
