#include "memory/kv_cache.h"

#include <algorithm>

#include "fmt/format.h"

namespace dogstar {

AttentionMask ClipToWindow(const AttentionMask& mask, int32_t window) {
  CHECK(window > 0);
  AttentionMask clipped;
  for (const AttentionMask::Row& row : mask.rows) {
    const auto runs =
        std::span(mask.runs).subspan(static_cast<size_t>(row.first_run), static_cast<size_t>(row.run_count));
    int32_t left = window;
    size_t first = runs.size();  // the first run that the row still sees, from its own backwards
    while (first > 0 && left > 0) {
      --first;
      left -= runs[first].end - runs[first].begin;
    }
    const AttentionMask::Row out{static_cast<int32_t>(clipped.runs.size()), static_cast<int32_t>(runs.size() - first)};
    clipped.runs.insert(clipped.runs.end(), runs.begin() + static_cast<ptrdiff_t>(first), runs.end());
    if (left < 0) clipped.runs[static_cast<size_t>(out.first_run)].begin -= left;
    clipped.rows.push_back(out);
  }
  return clipped;
}

namespace {

// Appends a slot to a row's runs, the last of the mask: slots that follow each other are one run.
void AddSlot(KvSlot slot, AttentionMask::Row* row, AttentionMask* mask) {
  if (row->run_count > 0 && mask->runs.back().end == ToInt(slot)) {
    ++mask->runs.back().end;
    return;
  }
  mask->runs.push_back({ToInt(slot), ToInt(slot) + 1});
  ++row->run_count;
}

}  // namespace

KvCache::KvCache(int32_t slots) {
  free_.reserve(static_cast<size_t>(slots));
  for (int32_t slot = slots - 1; slot >= 0; --slot) free_.push_back(KvSlot{slot});
}

std::vector<KvSlot>& KvCache::SlotsOf(SequenceId sequence) {
  const size_t index = static_cast<size_t>(ToInt(sequence));
  if (index >= sequences_.size()) sequences_.resize(index + 1);
  return sequences_[index];
}

int32_t KvCache::length(SequenceId sequence) const {
  const size_t index = static_cast<size_t>(ToInt(sequence));
  return index < sequences_.size() ? static_cast<int32_t>(sequences_[index].size()) : 0;
}

absl::StatusOr<std::vector<KvSlot>> KvCache::Append(SequenceId sequence, int32_t count) {
  ASSIGN_OR_RETURN(std::vector<KvSlot> taken, Take(count));
  Extend(sequence, taken);
  return taken;
}

absl::StatusOr<std::vector<KvSlot>> KvCache::Take(int32_t count) {
  if (count > free_slots()) {
    return absl::ResourceExhaustedError(
        fmt::format("the context is full: {} tokens are needed, {} are left (raise -c)", count, free_slots()));
  }
  std::vector<KvSlot> taken;
  for (int32_t i = 0; i < count; ++i) {
    taken.push_back(free_.back());
    free_.pop_back();
  }
  return taken;
}

void KvCache::GiveBack(std::span<const KvSlot> slots) { free_.insert(free_.end(), slots.rbegin(), slots.rend()); }

void KvCache::Extend(SequenceId sequence, std::span<const KvSlot> slots) {
  std::vector<KvSlot>& held = SlotsOf(sequence);
  held.insert(held.end(), slots.begin(), slots.end());
}

void KvCache::Truncate(SequenceId sequence, int32_t length) {
  std::vector<KvSlot>& slots = SlotsOf(sequence);
  while (static_cast<int32_t>(slots.size()) > length) {
    free_.push_back(slots.back());
    slots.pop_back();
  }
}

AttentionMask KvCache::CausalMask(SequenceId sequence, TokenPos first_position, int32_t rows) const {
  const std::vector<KvSlot>& slots = sequences_[static_cast<size_t>(ToInt(sequence))];
  AttentionMask mask;
  for (int32_t row = 0; row < rows; ++row) {
    const size_t visible = static_cast<size_t>(ToInt(first_position) + row) + 1;
    CHECK(visible <= slots.size());
    AttentionMask::Row out{static_cast<int32_t>(mask.runs.size()), 0};
    for (size_t i = 0; i < visible; ++i) AddSlot(slots[i], &out, &mask);
    mask.rows.push_back(out);
  }
  return mask;
}

void KvCache::AddPathRow(SequenceId sequence, std::span<const KvSlot> path, AttentionMask* mask) const {
  AttentionMask::Row out{static_cast<int32_t>(mask->runs.size()), 0};
  if (length(sequence) > 0) {
    for (KvSlot slot : sequences_[static_cast<size_t>(ToInt(sequence))]) AddSlot(slot, &out, mask);
  }
  for (KvSlot slot : path) AddSlot(slot, &out, mask);
  mask->rows.push_back(out);
}

}  // namespace dogstar
