#include "base/random.h"

#include <array>

namespace dogstar {
namespace {

struct Philox {
  std::array<uint32_t, 4> counter;
  std::array<uint32_t, 2> key;
};

constexpr uint32_t Low(uint64_t value) { return static_cast<uint32_t>(value); }
constexpr uint32_t High(uint64_t value) { return static_cast<uint32_t>(value >> 32); }

// Philox4x32-10; multipliers and key increments: Salmon et al., SC 2011, section 4.
std::array<uint32_t, 4> Philox10(Philox state) {
  for (int round = 0; round < 10; ++round) {
    const auto [c0, c1, c2, c3] = state.counter;
    const uint64_t first = uint64_t{0xD2511F53} * c0;
    const uint64_t second = uint64_t{0xCD9E8D57} * c2;
    state.counter = {High(second) ^ c1 ^ state.key[0], Low(second), High(first) ^ c3 ^ state.key[1], Low(first)};
    state.key[0] += 0x9E3779B9;
    state.key[1] += 0xBB67AE85;
  }
  return state.counter;
}

double UniformOf(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

}  // namespace

double KeyedUniform(uint64_t seed, uint64_t sequence, uint64_t position) {
  const std::array<uint32_t, 4> words = Philox10(
      {.counter = {Low(position), High(position), Low(sequence), High(sequence)}, .key = {Low(seed), High(seed)}});
  return UniformOf(uint64_t{words[1]} << 32 | words[0]);
}

// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014.
uint64_t SplitMix64::Next() {
  state_ += 0x9E3779B97F4A7C15;
  uint64_t z = state_;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return z ^ z >> 31;
}

double SplitMix64::Uniform() { return UniformOf(Next()); }

}  // namespace dogstar
