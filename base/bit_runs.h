// Runs of equal bits in a mask.
//
// Threads: a const function.
#pragma once

#include <cstdint>

namespace dogstar {

// run(begin, count, set) for each run of bits [first + begin, + count) that are all set or all clear, within `count`
// bits from `first` on. Bit i: bit i % 64 of word i / 64; a null mask has all bits set.
template <typename Run>
void ForBitRuns(const uint64_t* mask, int32_t first, int32_t count, const Run& run) {
  const auto set = [&](int32_t i) {
    return mask == nullptr || (mask[(first + i) / 64] >> ((first + i) % 64) & 1) != 0;
  };
  for (int32_t begin = 0, end = 1; begin < count; begin = end) {
    for (end = begin + 1; end < count && set(end) == set(begin);) ++end;
    run(begin, end - begin, set(begin));
  }
}

}  // namespace dogstar
