// Random tensors and matrices for the tests of the CPU backend, and the configurations each test runs in.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/panel.h"
#include "base/random.h"
#include "cpu/cpu_backend.h"
#include "device/reference.h"
#include "gtest/gtest.h"

namespace dogstar {

inline constexpr QuantType kAllTypes[] = {QuantType::kQ4_0, QuantType::kQ4_1,  QuantType::kQ8_0, QuantType::kF16,
                                          QuantType::kBF16, QuantType::kF32,   QuantType::kQ5_0, QuantType::kQ5_1,
                                          QuantType::kQ2_K, QuantType::kQ3_K,  QuantType::kQ4_K, QuantType::kQ5_K,
                                          QuantType::kQ6_K, QuantType::kIQ4_NL};

// The least multiple of the type's block that is at least `cols`.
inline int32_t WholeBlocks(QuantType type, int32_t cols) {
  const int32_t block = TraitsOf(type).block_weights;
  return (cols + block - 1) / block * block;
}

inline std::vector<CpuIsa> AvailableIsas() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512Vnni}) {
    if (NewCpuBackend({.threads = 1, .isa = isa}).ok()) isas.push_back(isa);
  }
  return isas;
}

// Every instruction set of this machine, with 1, 2 and 3 threads.
inline std::vector<CpuOptions> AllOptions(bool precise) {
  std::vector<CpuOptions> all;
  for (const CpuIsa isa : AvailableIsas()) {
    for (const int threads : {1, 2, 3}) all.push_back({.threads = threads, .precise = precise, .isa = isa});
  }
  return all;
}

inline std::unique_ptr<Backend> MakeBackend(const CpuOptions& options) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = NewCpuBackend(options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// Roughly normal, so that blocks have small and large values.
inline std::vector<float> RandomFloats(uint64_t seed, int64_t count, float scale = 1) {
  SplitMix64 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    double sum = -3;
    for (int i = 0; i < 6; ++i) sum += random.Uniform();
    value = static_cast<float>(sum) * scale;
  }
  return values;
}

// Activation rows whose blocks of 32 take turns through the cases of int8 activations: plain; one value 3, 40, 600 or
// 5000 times larger (the last beyond what is kept apart); the largest value alone or shared; all zero.
inline std::vector<float> RandomActivations(uint64_t seed, int64_t count) {
  std::vector<float> values = RandomFloats(seed, count);
  SplitMix64 random(seed + 1000);
  for (int64_t b = 0; b + kQuantBlock <= count; b += kQuantBlock) {
    float* block = values.data() + b;
    float& chosen = block[random.Next() % kQuantBlock];
    const uint64_t turn = random.Next() % 12;
    float most = 0;
    for (int i = 0; i < kQuantBlock; ++i) most = std::max(most, std::fabs(block[i]));
    if (turn < 4)
      chosen = (random.Next() % 2 == 0 ? 1.0f : -1.0f) * most * std::array{3.0f, 40.0f, 600.0f, 5000.0f}[turn];
    if (turn == 4) std::fill_n(block, kQuantBlock, 0.0f);
    if (turn == 5) {
      std::fill_n(block, kQuantBlock, 0.0f);
      chosen = 1.5f;
    }
    if (turn == 6) block[random.Next() % kQuantBlock] = block[random.Next() % kQuantBlock] = -7.0f;
    if (turn == 7) {  // exactly twice the next
      for (int i = 0; i < kQuantBlock; ++i) block[i] = block[i] < 0 ? -1.0f : 1.0f;
      chosen = 2.0f;
    }
  }
  return values;
}

// A weight matrix in both layouts, in aligned memory.
struct TestMatrix {
  QuantType type;
  int32_t rows, cols;
  AlignedBuffer plain, panels;

  const std::byte* row(int64_t r) const { return plain.data() + r * RowBytes(type, cols); }
  MatrixView view(MatrixLayout layout) const {
    return {type, layout, rows, cols, layout == MatrixLayout::kPanels ? panels.data() : plain.data()};
  }
};

inline void PackMatrix(QuantType type, const std::byte* plain, int32_t rows, int32_t cols, std::byte* panels) {
  for (int32_t first = 0; first < rows; first += kPanelRows) {
    std::array<const std::byte*, kPanelRows> pointers = {};
    for (int32_t r = first; r < std::min(rows, first + kPanelRows); ++r) {
      pointers[r - first] = plain + r * RowBytes(type, cols);
    }
    PackPanel(type, pointers, cols, panels + first / kPanelRows * PanelBytes(type, cols));
  }
}

inline TestMatrix MakeMatrix(QuantType type, int32_t rows, int32_t cols, uint64_t seed) {
  TestMatrix matrix{.type = type, .rows = rows, .cols = cols, .plain = {}, .panels = {}};
  matrix.plain = *AlignedBuffer::Create(rows * RowBytes(type, cols));
  matrix.panels = *AlignedBuffer::Create(PanelMatrixBytes(type, rows, cols));
  for (int32_t r = 0; r < rows; ++r) {
    QuantizeRow(type, RandomFloats(seed * 1000 + r, cols).data(), cols, matrix.plain.data() + r * RowBytes(type, cols));
  }
  PackMatrix(type, matrix.plain.data(), rows, cols, matrix.panels.data());
  return matrix;
}

inline std::unique_ptr<Tensor> MakeTensor(Backend& backend, int32_t rows, int32_t cols,
                                          std::span<const float> values = {}) {
  std::unique_ptr<Tensor> tensor = *backend.NewTensor(rows, cols);
  backend.Upload(values, 0, tensor.get());
  return tensor;
}

inline std::vector<float> ValuesOf(Backend& backend, const Tensor& tensor) {
  std::vector<float> values(int64_t{tensor.rows()} * tensor.cols());
  EXPECT_TRUE(backend.Download(tensor, 0, tensor.rows(), values).ok());
  return values;
}

// The product of a matrix and `rows` rows of x.
inline std::vector<float> ProductOf(Backend& backend, const MatrixView& w, int32_t rows, const std::vector<float>& x) {
  auto tensor = MakeTensor(backend, rows, w.cols, x);
  auto activations = *backend.NewActivations(rows, w.cols);
  auto out = MakeTensor(backend, rows, w.rows);
  backend.Prepare(*tensor, rows, activations.get());
  backend.MatMul(w, *activations, rows, 0, out.get());
  return ValuesOf(backend, *out);
}

// Equal to the bit, except that zeros of both signs are equal; names the first difference.
inline ::testing::AssertionResult SameValues(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) continue;
    return ::testing::AssertionFailure() << "value " << i << ": " << a[i] << " and " << b[i];
  }
  return ::testing::AssertionSuccess();
}

inline std::span<const float> RowOf(const std::vector<float>& values, int64_t row, int64_t cols) {
  return std::span<const float>(values).subspan(row * cols, cols);
}

}  // namespace dogstar
