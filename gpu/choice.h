// Rows that tokens choose while their FFN runs (FfnAccumulateChosen): values of all rows, the largest scores of each
// token, and z of the rows it keeps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/activation.h"
#include "gpu/arithmetic.h"
#include "gpu/ffn.h"
#include "gpu/kernel.h"
#include "gpu/products.h"

namespace dogstar::gpu {

// Of all blocks of the call and its tokens: values that scores are made of, and rows that may still be chosen or are.
struct ChoiceView {
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0, rows = 0;
  float* values = nullptr;    // [rows][block_count * 32]
  uint32_t* masks = nullptr;  // [rows][block_count]

  DOGSTAR_HD int64_t PlaceOf(int64_t token, int64_t block) const {
    return (token * block_count + block) * kBlockColumns;
  }
  // Of a column of some of the blocks, 32 a block.
  DOGSTAR_HD float& ValueOf(const RowBlock* some, int64_t token, int64_t column) const {
    return values[PlaceOf(token, some[column / kBlockColumns].choice_block) + column % kBlockColumns];
  }
  DOGSTAR_HD uint32_t& MaskOf(int64_t token, int64_t block) const { return masks[token * block_count + block]; }
};

// values of some blocks = activation(gate), [rows][32 * block_count].
struct GatesKernel {
  static constexpr int kThreads = kElementThreads;
  using Shared = Nothing;
  using Local = Nothing;
  ChoiceView all;
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0;
  FfnActivation activation = FfnActivation::kSilu;
  const float* gate = nullptr;

  DOGSTAR_HD int64_t columns() const { return int64_t{block_count} * kBlockColumns; }
  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(all.rows * columns()); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t i = block * kThreads + thread;
    if (i >= all.rows * columns()) return;
    all.ValueOf(blocks, i / columns(), i % columns()) = Activate(activation, gate[i]);
  }
};

// values of some blocks *= up, [rows][32 * block_count].
struct TimesUpKernel {
  static constexpr int kThreads = kElementThreads;
  using Shared = Nothing;
  using Local = Nothing;
  ChoiceView all;
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0;
  const float* up = nullptr;

  DOGSTAR_HD int64_t columns() const { return int64_t{block_count} * kBlockColumns; }
  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(all.rows * columns()); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t i = block * kThreads + thread;
    if (i >= all.rows * columns()) return;
    float& value = all.ValueOf(blocks, i / columns(), i % columns());
    value = value * up[i];
  }
};

// z of some blocks, 0 where the token does not keep the row; quantized as activations are.
struct KeepKernel {
  static constexpr int kThreads = 64;
  static constexpr int kBlocksTogether = 8;  // registers for the block's values
  using Shared = Nothing;
  using Local = Nothing;
  ChoiceView all;
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0;
  ActivationView z;
  float* capture = nullptr;  // may be null; [rows][capture_stride], by RowIndex
  int64_t capture_stride = 0;

  DOGSTAR_HD int64_t Blocks() const { return (int64_t{all.rows} * block_count + kThreads - 1) / kThreads; }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t at = block * kThreads + thread;
    if (at >= int64_t{all.rows} * block_count) return;
    const int64_t row = at / block_count, b = at % block_count;
    const RowBlock& of = blocks[b];
    const uint32_t mask = all.MaskOf(row, of.choice_block);
    const float* from = all.values + all.PlaceOf(row, of.choice_block);
    float values[kBlockColumns];
    for (int i = 0; i < kBlockColumns; ++i) {
      const bool kept = (mask >> i & 1) != 0;
      values[i] = kept ? from[i] : 0;
      z.f32[row * z.cols + b * kBlockColumns + i] = values[i];
      if (kept && capture != nullptr) capture[row * capture_stride + of.first_row + i] = values[i];
    }
    QuantizeBlock(values, row, b, z);
  }
};

// Each token keeps, of the rows that its mask has, so many of the largest score or those that reach a threshold. A
// block of threads a set: digit by digit it finds the score of the last row that is kept, counting how many have it,
// then the first of these are kept.
struct SelectKernel {
  static constexpr int kThreads = 256;
  static constexpr int kDigits = 4, kDigitBits = 8, kDigitValues = 1 << kDigitBits;
  static constexpr int kPhasesOfDigit = 3;  // clear, count, choose
  struct Shared {
    int32_t counts[kDigitValues];
    int32_t ties[kThreads];  // rows of a thread's part with the last score; then those of the parts before it
    uint32_t last;           // bits of that score, as far as they are known
    int32_t left;            // rows still to be found among those that have these bits
    int32_t keeps_all;       // there are no more rows than that
  };
  using Local = Nothing;
  ChoiceView all;
  const float* weight = nullptr;  // null: 1; by RowIndex
  int32_t count = 0;              // < 0: those that reach the threshold
  float threshold = 0;
  int32_t tokens_together = 1;  // that choose one set, by the sum of their scores

  DOGSTAR_HD int64_t Blocks() const { return all.block_count == 0 ? 0 : all.rows / tokens_together; }
  DOGSTAR_HD int Phases() const { return count < 0 ? 1 : kDigits * kPhasesOfDigit + 3; }
  DOGSTAR_HD void Run(int phase, int64_t set, int thread, Shared* shared, Local*) const {
    const int64_t token = set * tokens_together;
    const int32_t begin = BeginOf(thread), end = BeginOf(thread + 1);
    const int digit = phase / kPhasesOfDigit, shift = 32 - kDigitBits * (digit + 1);
    if (count < 0) {
      for (int32_t b = begin; b < end; ++b) KeepReaching(token, b);
    } else if (digit < kDigits) {
      if (phase == 0 && thread == 0) {
        shared->last = 0;
        shared->left = count;
        shared->keeps_all = 0;
      }
      if (phase % kPhasesOfDigit == 0) {
        for (int i = thread; i < kDigitValues; i += kThreads) shared->counts[i] = 0;
      } else if (phase % kPhasesOfDigit == 1) {
        for (int32_t b = begin; b < end; ++b) CountDigit(token, b, shift, shared);
      } else if (thread == 0) {
        ChooseDigit(shift, shared);
      }
    } else if (phase == kDigits * kPhasesOfDigit) {
      shared->ties[thread] = 0;
      for (int32_t b = begin; b < end; ++b) {
        ForRows(token, b, [&](int, float score) { shared->ties[thread] += BitsOf(score) == shared->last ? 1 : 0; });
      }
    } else if (phase == kDigits * kPhasesOfDigit + 1) {
      if (thread > 0) return;
      int32_t before = 0;
      for (int32_t& ties : shared->ties) {
        const int32_t own = ties;
        ties = before;
        before += own;
      }
    } else {
      int32_t ties = shared->ties[thread];
      for (int32_t b = begin; b < end; ++b) KeepBest(token, b, *shared, &ties);
    }
  }

 private:
  DOGSTAR_HD int32_t BeginOf(int thread) const {
    return static_cast<int32_t>(int64_t{all.block_count} * thread / kThreads);
  }

  // function(row of the block, score) for the rows that may be chosen.
  template <typename Function>
  DOGSTAR_HD void ForRows(int64_t token, int32_t block, Function function) const {
    const uint32_t mask = all.MaskOf(token, block);
    for (int n = 0; n < kBlockColumns; ++n) {
      if ((mask >> n & 1) == 0) continue;
      const float row_weight = weight == nullptr ? 1.0f : weight[all.blocks[block].first_row + n];
      float score = 0;
      for (int64_t t = token; t < token + tokens_together; ++t) {
        const float size = Magnitude(all.values[all.PlaceOf(t, block) + n]);
        score = score + (weight == nullptr ? size : size * row_weight);
      }
      function(n, score);
    }
  }
  // Scores are not negative, so their bits order as they do; what is no number counts as 0.
  DOGSTAR_HD static uint32_t BitsOf(float score) { return score >= 0 ? BitsOfFloat(score) : 0; }

  DOGSTAR_HD void SetMasks(int64_t token, int32_t block, uint32_t kept) const {
    for (int64_t t = token; t < token + tokens_together; ++t) all.MaskOf(t, block) = kept;
  }
  DOGSTAR_HD void KeepReaching(int64_t token, int32_t block) const {
    uint32_t kept = 0;
    ForRows(token, block, [&](int n, float score) { kept |= score >= threshold ? uint32_t{1} << n : 0; });
    SetMasks(token, block, kept);
  }
  DOGSTAR_HD void CountDigit(int64_t token, int32_t block, int shift, Shared* shared) const {
    const int known = shift + kDigitBits;  // bits from here on
    ForRows(token, block, [&](int, float score) {
      const uint32_t bits = BitsOf(score);
      if (known < 32 && bits >> known != shared->last >> known) return;
      AddShared(&shared->counts[bits >> shift & (kDigitValues - 1)], 1);
    });
  }
  DOGSTAR_HD void ChooseDigit(int shift, Shared* shared) const {
    int digit = kDigitValues - 1;
    int32_t larger = 0;
    for (; digit > 0 && larger + shared->counts[digit] < shared->left; --digit) larger += shared->counts[digit];
    // Only of the first digit: of the others there are enough.
    if (larger + shared->counts[digit] < shared->left) shared->keeps_all = 1;
    shared->last |= static_cast<uint32_t>(digit) << shift;
    shared->left -= larger;
  }
  DOGSTAR_HD void KeepBest(int64_t token, int32_t block, const Shared& shared, int32_t* ties) const {
    uint32_t kept = 0;
    ForRows(token, block, [&](int n, float score) {
      const uint32_t bits = BitsOf(score);
      bool keep = shared.keeps_all != 0 || bits > shared.last;
      if (bits == shared.last) keep = keep || (*ties)++ < shared.left;
      kept |= keep ? uint32_t{1} << n : 0;
    });
    SetMasks(token, block, kept);
  }
};

}  // namespace dogstar::gpu
