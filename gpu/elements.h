// Kernels around products: norms, rotary positions, sums of tensors, what is looked for in a row of logits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/activation.h"
#include "device/backend.h"
#include "gpu/arithmetic.h"
#include "gpu/digit_search.h"
#include "gpu/kernel.h"

namespace dogstar::gpu {

// x = x + y
struct AddKernel {
  const float* y = nullptr;
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = x[i] + y[i]; }
};

// x[t] = x[t] + bias
struct AddBiasKernel {
  const float* bias = nullptr;
  int32_t cols = 0;
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = x[i] + bias[i % cols]; }
};

struct ScaleKernel {
  float factor = 1;
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = x[i] * factor; }
};

struct ClearKernel {
  float* x = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { x[i] = 0; }
};

struct GatedKernel {
  FfnActivation activation = FfnActivation::kSilu;
  const float* gate = nullptr;
  const float* up = nullptr;
  float* z = nullptr;
  int64_t count = 0;
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const { z[i] = Activate(activation, gate[i]) * up[i]; }
};

// Pairs of the heads of all rows, in place. table: of each row rotary_dims / 2 cosines, then as many sines.
struct RopeKernel {
  RopePairing pairing = RopePairing::kAdjacent;
  int32_t head_dim = 0, rotary_dims = 0, cols = 0;
  const float* table = nullptr;
  float* x = nullptr;
  int64_t count = 0;  // rows * heads * rotary_dims / 2
  DOGSTAR_ELEMENT_KERNEL_PARTS
  DOGSTAR_HD void Element(int64_t i) const {
    const int32_t pairs = rotary_dims / 2, heads = cols / head_dim;
    const int64_t pair = i % pairs, head = i / pairs % heads, row = i / pairs / heads;
    const float cosine = table[row * 2 * pairs + pair], sine = table[row * 2 * pairs + pairs + pair];
    const bool adjacent = pairing == RopePairing::kAdjacent;
    float* of_head = x + row * cols + head * head_dim;
    float* first = of_head + (adjacent ? 2 * pair : pair);
    float* second = of_head + (adjacent ? 2 * pair + 1 : pair + pairs);
    const float a = *first, b = *second;
    *first = a * cosine - b * sine;
    *second = a * sine + b * cosine;
  }
};

// A row is normed a block. Its sum is of few lanes, so the row is brought into shared memory by all threads first.
struct RmsNormKernel {
  static constexpr int kThreads = 256;
  static constexpr int kSumLanes = 16;
  static constexpr int32_t kStaged = 4096;  // values at a time
  struct Shared {
    float staged[kStaged];
    float lanes[kSumLanes];
    float scale;
  };
  struct Local {
    float sum;
  };
  const float* x = nullptr;
  const float* weight = nullptr;
  float epsilon = 0;
  int32_t width = 0;
  int64_t rows = 0;
  float* out = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return rows; }
  DOGSTAR_HD int Phases() const { return 2 * Stages() + 2; }
  DOGSTAR_HD void Run(int phase, int64_t row, int thread, Shared* shared, Local* local) const {
    const float* in = x + row * width;
    if (phase < 2 * Stages()) {
      const int32_t begin = phase / 2 * kStaged, count = width - begin < kStaged ? width - begin : kStaged;
      if (phase % 2 == 0) {
        for (int32_t i = thread; i < count; i += kThreads) shared->staged[i] = in[begin + i];
      } else if (thread < kSumLanes) {
        for (int32_t i = thread; i < count; i += kSumLanes) {
          local->sum = Fma(shared->staged[i], shared->staged[i], local->sum);
        }
        shared->lanes[thread] = local->sum;
      }
    } else if (phase == 2 * Stages()) {
      if (thread > 0) return;
      const float mean = SumLanes(shared->lanes) / static_cast<float>(width);
      shared->scale = 1.0f / sqrtf(mean + epsilon);
    } else {
      for (int32_t i = thread; i < width; i += kThreads) out[row * width + i] = (in[i] * shared->scale) * weight[i];
    }
  }

 private:
  DOGSTAR_HD int Stages() const { return (width + kStaged - 1) / kStaged; }
};

// RowPeak of a row a block.
struct PeakKernel {
  static constexpr int kThreads = kPeakLanes;
  struct Shared {
    float values[kThreads];
    int32_t cols[kThreads];
    float weights[kThreads];
  };
  using Local = Nothing;
  const float* x = nullptr;  // the first row
  int64_t stride = 0;
  int32_t cols = 0, rows = 0;
  float scale = 1;
  RowPeak* peaks = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return rows; }
  DOGSTAR_HD int Phases() const { return 4; }
  DOGSTAR_HD void Run(int phase, int64_t row, int thread, Shared* shared, Local*) const {
    const float* in = x + row * stride;
    const float lowest = -FloatOfBits(0x7f800000u);
    if (phase == 0) {
      float most = lowest;
      int32_t at = cols;
      ForColumns(in, thread, [&](int32_t i, float logit) {
        if (!(logit > most)) return;
        most = logit;
        at = i;
      });
      shared->values[thread] = most;
      shared->cols[thread] = at;
    } else if (phase == 1) {
      if (thread > 0) return;
      for (int i = 1; i < kThreads; ++i) {
        const bool larger = shared->values[i] > shared->values[0];
        const bool equal_before = shared->values[i] == shared->values[0] && shared->cols[i] < shared->cols[0];
        if (!larger && !equal_before) continue;
        shared->values[0] = shared->values[i];
        shared->cols[0] = shared->cols[i];
      }
    } else if (phase == 2) {
      const float value = shared->values[0];
      float sum = 0;
      ForColumns(in, thread, [&](int32_t, float logit) {
        if (logit > lowest) sum = sum + Exp((logit - value) * scale);
      });
      shared->weights[thread] = sum;
    } else if (thread == 0) {
      for (int apart = kThreads / 2; apart >= 1; apart /= 2) {
        for (int i = 0; i < apart; ++i) shared->weights[i] = shared->weights[i] + shared->weights[i + apart];
      }
      const bool found = shared->values[0] > lowest;
      peaks[row] = {found ? shared->cols[0] : 0, shared->values[0], found ? shared->weights[0] : 1.0f};
    }
  }

 private:
  // function(i, in[i]) for the thread's columns in order; several are on their way at a time.
  template <typename Function>
  DOGSTAR_HD void ForColumns(const float* in, int thread, const Function& function) const {
    constexpr int kTogether = 8;
    int32_t i = thread;
    for (; i + (kTogether - 1) * kThreads < cols; i += kTogether * kThreads) {
      float values[kTogether];
      DOGSTAR_UNROLL
      for (int j = 0; j < kTogether; ++j) values[j] = in[i + j * kThreads];
      DOGSTAR_UNROLL
      for (int j = 0; j < kTogether; ++j) function(i + j * kThreads, values[j]);
    }
    for (; i < cols; i += kThreads) function(i, in[i]);
  }
};

// The first entries of a row, in any order: the larger ones, and the first of those that equal the last.
struct TopKernel {
  static constexpr int kThreads = DigitSearch::kThreads;
  struct Shared {
    DigitSearch search;
    int32_t larger[kThreads], equal[kThreads];  // of a thread's part; then of the parts before it
  };
  using Local = Nothing;
  const float* x = nullptr;
  int32_t cols = 0, count = 0;
  RowEntry* top = nullptr;

  DOGSTAR_HD int64_t Blocks() const { return 1; }
  DOGSTAR_HD int Phases() const { return DigitSearch::kPhases + 3; }
  DOGSTAR_HD void Run(int phase, int64_t, int thread, Shared* shared, Local*) const {
    DigitSearch& search = shared->search;
    if (phase < DigitSearch::kPhases) {
      search.Run(phase, thread, count, [&](const auto& add) {
        for (int32_t i = thread; i < cols; i += kThreads) add(KeyOf(x[i]));
      });
    } else if (phase == DigitSearch::kPhases) {
      int32_t larger = 0, equal = 0;
      for (int32_t i = BeginOf(thread); i < BeginOf(thread + 1); ++i) {
        larger += KeyOf(x[i]) > search.last ? 1 : 0;
        equal += KeyOf(x[i]) == search.last ? 1 : 0;
      }
      shared->larger[thread] = larger;
      shared->equal[thread] = equal;
    } else if (phase == DigitSearch::kPhases + 1) {
      if (thread < 2) DigitSearch::SumBefore(thread == 0 ? shared->larger : shared->equal);
    } else {
      int32_t larger = shared->larger[thread], equal = shared->equal[thread];
      for (int32_t i = BeginOf(thread); i < BeginOf(thread + 1); ++i) {
        const uint32_t key = KeyOf(x[i]);
        if (key > search.last) Store(i, larger++);
        if (key == search.last && equal < search.left) Store(i, count - search.left + equal++);
      }
    }
  }

 private:
  DOGSTAR_HD int32_t BeginOf(int thread) const { return static_cast<int32_t>(int64_t{cols} * thread / kThreads); }
  // Ordered as values are; what is no number as -infinity, both zeros as one.
  DOGSTAR_HD static uint32_t KeyOf(float value) {
    const uint32_t bits = BitsOfFloat(value == value ? value + 0.0f : -FloatOfBits(0x7f800000u));
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  }
  DOGSTAR_HD void Store(int32_t col, int32_t place) const {
    const float value = x[col];
    top[place].value = value == value ? value : -FloatOfBits(0x7f800000u);
    top[place].col = col;
  }
};

}  // namespace dogstar::gpu
