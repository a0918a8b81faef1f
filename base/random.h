// Random numbers that depend on what they are for, not on when they are drawn: the number for (seed, sequence,
// position) is the same in every mode, period and tree, which is what keeps sampled text identical.
// Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cstdint>

namespace dogstar {

// Uniform in [0, 1), 53 bits.
double KeyedUniform(uint64_t seed, uint64_t sequence, uint64_t position);

// A stream for tests and synthetic data (SplitMix64).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  double Uniform();  // [0, 1)

 private:
  uint64_t state_;
};

}  // namespace dogstar
