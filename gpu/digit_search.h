// Which keys are the largest, by a block of threads: digit by digit, from the highest on, they find the key of the last
// that is kept, counting how many have each digit.
//
// Three phases a digit: clear, count, choose. For kPhases of them a kernel calls Run with what enters its keys, then
// keeps keys larger than `last`, and the first `left` of those equal to it.
#pragma once

#include <cstdint>

#include "gpu/arithmetic.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// Of a block of threads, in its shared memory.
struct DigitSearch {
  static constexpr int kThreads = 256;  // of the block
  static constexpr int kDigits = 4, kDigitBits = 8, kDigitValues = 1 << kDigitBits;
  static constexpr int kPhasesOfDigit = 3;
  static constexpr int kPhases = kDigits * kPhasesOfDigit;
  static_assert(kThreads == kDigitValues);

  int32_t counts[kDigitValues];
  uint32_t last;      // the key of the last that is kept, as far as it is known
  int32_t left;       // keys still to be found among those that have these bits
  int32_t keeps_all;  // there are no more keys than are wanted

  // enter(add): calls add(key) for each of the thread's keys. wanted: keys to keep.
  template <typename Enter>
  DOGSTAR_HD void Run(int phase, int thread, int32_t wanted, Enter enter) {
    const int shift = 32 - kDigitBits * (phase / kPhasesOfDigit + 1);
    if (phase == 0 && thread == 0) {
      last = 0;
      left = wanted;
      keeps_all = 0;
    }
    if (phase % kPhasesOfDigit == 0) {
      counts[thread] = 0;
    } else if (phase % kPhasesOfDigit == 1) {
      enter([&](uint32_t key) { Count(key, shift); });
    } else if (thread == 0) {
      Choose(shift);
    }
  }

  // counts[i] = the sum of those before it.
  DOGSTAR_HD static void SumBefore(int32_t (&counts)[kThreads]) {
    int32_t before = 0;
    for (int32_t& count : counts) {
      const int32_t own = count;
      count = before;
      before += own;
    }
  }

 private:
  DOGSTAR_HD void Count(uint32_t key, int shift) {
    const int known = shift + kDigitBits;  // bits from here on
    if (known < 32 && key >> known != last >> known) return;
    AddShared(&counts[key >> shift & (kDigitValues - 1)], 1);
  }
  DOGSTAR_HD void Choose(int shift) {
    int digit = kDigitValues - 1;
    for (; digit > 0 && counts[digit] < left; --digit) left -= counts[digit];
    if (counts[digit] < left) keeps_all = 1;  // of the first digit: of the others there are enough
    last |= static_cast<uint32_t>(digit) << shift;
  }
};

}  // namespace dogstar::gpu
