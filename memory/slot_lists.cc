#include "memory/slot_lists.h"

#include <algorithm>

namespace dogstar {

void SlotHeap::Push(int32_t slot, Rank rank) {
  nodes_.emplace_back();
  Up(nodes_.size() - 1, {rank, slot});
}

void SlotHeap::Remove(int32_t slot) {
  const size_t place = PlaceOf(slot);
  const Node last = nodes_.back();
  nodes_.pop_back();
  places_[static_cast<size_t>(slot)] = kNoSlot;
  if (last.slot == slot) return;
  if (place > 0 && last.rank < nodes_[(place - 1) / 4].rank) {
    Up(place, last);
  } else {
    Down(place, last);
  }
}

void SlotHeap::Update(int32_t slot, Rank rank) {
  const size_t place = PlaceOf(slot);
  if (rank < nodes_[place].rank) {
    Up(place, {rank, slot});
  } else {
    Down(place, {rank, slot});
  }
}

int32_t SlotHeap::Lowest(Pins pins) const {
  if (nodes_.empty()) return kNoSlot;
  if (!pins(nodes_.front().slot)) return nodes_.front().slot;
  const Node* lowest = nullptr;
  for (const Node& node : nodes_) {
    if (!pins(node.slot) && (lowest == nullptr || node.rank < lowest->rank)) lowest = &node;
  }
  return lowest != nullptr ? lowest->slot : kNoSlot;
}

void SlotHeap::Up(size_t place, const Node& node) {
  while (place > 0) {
    const size_t parent = (place - 1) / 4;
    if (!(node.rank < nodes_[parent].rank)) break;
    Put(place, nodes_[parent]);
    place = parent;
  }
  Put(place, node);
}

void SlotHeap::Down(size_t place, const Node& node) {
  for (;;) {
    const size_t first = place * 4 + 1, end = std::min(first + 4, nodes_.size());
    if (first >= end) break;
    size_t lowest = first;
    for (size_t child = first + 1; child < end; ++child) {
      if (nodes_[child].rank < nodes_[lowest].rank) lowest = child;
    }
    if (!(nodes_[lowest].rank < node.rank)) break;
    Put(place, nodes_[lowest]);
    place = lowest;
  }
  Put(place, node);
}

GhostList::GhostList(int32_t most_keys)
    : keys_(static_cast<size_t>(most_keys)), lists_(most_keys, 2), index_(most_keys) {
  for (int32_t node = 0; node < most_keys; ++node) lists_.PushFront(kFree, node);
}

void GhostList::Push(PageKey key) {
  if (keys_.empty()) return;
  if (lists_.size(kFree) == 0) DropOldest();
  const int32_t node = lists_.front(kFree);
  lists_.Remove(kFree, node);
  lists_.PushFront(kUsed, node);
  keys_[static_cast<size_t>(node)] = key;
  index_.Insert(key, node);
}

bool GhostList::Take(PageKey key) {
  const int32_t node = index_.Find(key);
  if (node == kNoSlot) return false;
  Drop(node);
  return true;
}

void GhostList::Drop(int32_t node) {
  index_.Erase(keys_[static_cast<size_t>(node)]);
  lists_.Remove(kUsed, node);
  lists_.PushFront(kFree, node);
}

}  // namespace dogstar
