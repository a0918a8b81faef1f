// Random weight rows for synthetic models.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/quant.h"
#include "base/random.h"

namespace dogstar {

// Rows of one matrix. A row's bytes depend on (seed, tensor name, row) only.
// Threads: FillRow may be called from any thread.
class SynthRows {
 public:
  SynthRows(QuantType type, int64_t cols, uint64_t seed, std::string_view tensor);
  uint64_t row_bytes() const { return RowBytes(type_, cols_); }
  // out: row_bytes() bytes.
  void FillRow(int64_t row, std::byte* out) const;

 private:
  static constexpr size_t kScales = 256;
  static constexpr size_t kSamples = 4096;
  static constexpr size_t kSampleBlocks = 512;

  void MakeScales();
  void MakeSamples(uint64_t seed);
  void MakeSampleBlocks(uint64_t seed);
  void FillBlocks(SplitMix64* random, std::byte* out) const;
  void FillSampleBlocks(SplitMix64* random, std::byte* out) const;
  template <size_t kBytes>
  void FillFloats(SplitMix64* random, std::byte* out) const;

  QuantType type_;
  int64_t cols_;
  uint64_t key_;
  double deviation_;                                       // standard deviation of the weights
  std::array<std::array<uint16_t, 2>, kScales> scales_{};  // half d, m: scales vary, as in a real model
  std::vector<std::byte> samples_;  // [kSamples] normal values, or kSampleBlocks blocks of them, in the type
};

}  // namespace dogstar
