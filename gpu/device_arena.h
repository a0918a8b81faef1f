// DeviceArena: which parts of one stretch of memory are taken. A GPU's driver gives memory in pieces of 2 MiB and more;
// a budget that is taken at once and shared out here is honoured to the byte.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <optional>

namespace dogstar {

class DeviceArena {
 public:
  explicit DeviceArena(uint64_t bytes = 0) {
    if (bytes > 0) free_[0] = bytes;
  }

  // The first place that fits, at a multiple of `alignment`; none: there is no such place.
  std::optional<uint64_t> Take(uint64_t bytes, uint64_t alignment) {
    for (auto at = free_.begin(); at != free_.end(); ++at) {
      const auto [begin, length] = *at;
      const uint64_t place = (begin + alignment - 1) / alignment * alignment, end = begin + length;
      if (place > end || bytes > end - place) continue;
      free_.erase(at);
      if (place > begin) free_[begin] = place - begin;
      if (place + bytes < end) free_[place + bytes] = end - place - bytes;
      return place;
    }
    return std::nullopt;
  }

  // REQUIRES: these bytes were taken.
  void GiveBack(uint64_t place, uint64_t bytes) {
    if (bytes == 0) return;
    auto at = free_.emplace(place, bytes).first;
    if (const auto next = std::next(at); next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at == free_.begin()) return;
    const auto before = std::prev(at);
    if (before->first + before->second != at->first) return;
    before->second += at->second;
    free_.erase(at);
  }

 private:
  std::map<uint64_t, uint64_t> free_;  // bytes of each free stretch; neighbours are one
};

}  // namespace dogstar
