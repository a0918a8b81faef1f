// TopRowsFinder: the k values of largest magnitude without sorting all: a count by exponent and leading bits, then an
// exact choice among those at the border. Equal magnitudes: the lower index.
//
// Threads: one. Memory: allocated once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dogstar {

class TopRowsFinder {
 public:
  explicit TopRowsFinder(int32_t ffn_rows);
  static uint64_t Bytes(int32_t ffn_rows);
  // mask: [(values.size() + 63) / 64] words, overwritten; bit i of word i / 64. REQUIRES: values.size() <= ffn_rows.
  void Find(std::span<const float> values, int32_t k, std::span<uint64_t> mask);

 private:
  struct Border {
    uint32_t magnitude;
    int32_t index;
  };
  void AddBorder(std::span<const float> values, size_t bucket, int32_t left, std::span<uint64_t> mask);

  std::vector<int32_t> counts_;  // by the leading bits of the magnitude, in lanes
  std::vector<Border> border_;
};

// A share of a whole, 0 < share <= 1, in one byte: about 12 steps an octave, from 2^-21 up. Within 5%.
uint8_t EncodeShare(float share);
float DecodeShare(uint8_t code);

}  // namespace dogstar
