// Rows that tokens choose while their FFN runs (FfnAccumulateChosen): values of all rows, the largest scores of each
// token, and z of the rows it keeps.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/activation.h"
#include "gpu/arithmetic.h"
#include "gpu/digit_search.h"
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

// values of some blocks, from the products of their panels, [rows][32 * block_count]: activation(gate), or what they
// were times up.
struct ChoiceValuesKernel {
  static constexpr int kThreads = kElementThreads;
  using Shared = Nothing;
  using Local = Nothing;
  ChoiceView all;
  const RowBlock* blocks = nullptr;
  int32_t block_count = 0;
  FfnActivation activation = FfnActivation::kSilu;
  bool is_up = false;
  const float* products = nullptr;

  DOGSTAR_HD int64_t columns() const { return int64_t{block_count} * kBlockColumns; }
  DOGSTAR_HD int64_t Blocks() const { return BlocksOf(all.rows * columns()); }
  DOGSTAR_HD int Phases() const { return 1; }
  DOGSTAR_HD void Run(int, int64_t block, int thread, Shared*, Local*) const {
    const int64_t i = block * kThreads + thread;
    if (i >= all.rows * columns()) return;
    float& value = all.ValueOf(blocks, i / columns(), i % columns());
    value = is_up ? value * products[i] : Activate(activation, products[i]);
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
    for (int i = 0; i < kBlockColumns; ++i) values[i] = (mask >> i & 1) != 0 ? from[i] : 0;
    StoreValues(values, mask, row, b, z, capture == nullptr ? nullptr : capture + row * capture_stride + of.first_row);
  }
};

// Each token keeps, of the rows that its mask has, so many of the largest score or those that reach a threshold. A
// block of threads a set.
struct SelectKernel {
  static constexpr int kThreads = DigitSearch::kThreads;
  struct Shared {
    DigitSearch search;
    int32_t ties[kThreads];  // rows of a thread's part with the last score; then those of the parts before it
  };
  using Local = Nothing;
  ChoiceView all;
  const float* weight = nullptr;  // null: 1; by RowIndex
  int32_t count = 0;              // < 0: those that reach the threshold
  float threshold = 0;
  int32_t tokens_together = 1;  // that choose one set, by the sum of their scores

  DOGSTAR_HD int64_t Blocks() const { return all.block_count == 0 ? 0 : all.rows / tokens_together; }
  DOGSTAR_HD int Phases() const { return count < 0 ? 1 : DigitSearch::kPhases + 3; }
  DOGSTAR_HD void Run(int phase, int64_t set, int thread, Shared* shared, Local*) const {
    const int64_t token = set * tokens_together;
    const int32_t begin = BeginOf(thread), end = BeginOf(thread + 1);
    DigitSearch& search = shared->search;
    if (count < 0) {
      for (int32_t b = begin; b < end; ++b) KeepReaching(token, b);
    } else if (phase < DigitSearch::kPhases) {
      search.Run(phase, thread, count, [&](const auto& add) {
        for (int32_t b = begin; b < end; ++b) ForRows(token, b, [&](int, float score) { add(BitsOf(score)); });
      });
    } else if (phase == DigitSearch::kPhases) {
      shared->ties[thread] = 0;
      for (int32_t b = begin; b < end; ++b) {
        ForRows(token, b, [&](int, float score) { shared->ties[thread] += BitsOf(score) == search.last ? 1 : 0; });
      }
    } else if (phase == DigitSearch::kPhases + 1) {
      if (thread == 0) DigitSearch::SumBefore(shared->ties);
    } else {
      int32_t ties = shared->ties[thread];
      for (int32_t b = begin; b < end; ++b) KeepBest(token, b, search, &ties);
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
  DOGSTAR_HD void KeepBest(int64_t token, int32_t block, const DigitSearch& search, int32_t* ties) const {
    uint32_t kept = 0;
    ForRows(token, block, [&](int n, float score) {
      const uint32_t bits = BitsOf(score);
      bool keep = search.keeps_all != 0 || bits > search.last;
      if (bits == search.last) keep = keep || (*ties)++ < search.left;
      kept |= keep ? uint32_t{1} << n : 0;
    });
    SetMasks(token, block, kept);
  }
};

}  // namespace dogstar::gpu
