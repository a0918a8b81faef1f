// FFN layers of random weights for the benchmarks of kernels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/ffn_page.h"
#include "device/backend.h"

namespace dogstar {

// Random codes; scales and floats of moderate size, so that no sum overflows.
void FillWeights(QuantType type, std::span<std::byte> data);
// As FillWeights, for whole panels of `cols` columns.
void FillPanels(QuantType type, int64_t cols, std::span<std::byte> panels);

// A layer's packed pages, one after the other.
struct BenchLayer {
  FfnPageLayout layout;
  AlignedBuffer pages, scales;
  std::vector<uint16_t> run_groups;
  FfnParams params() const { return {layout, FfnActivation::kSilu, scales.data(), nullptr}; }
  std::vector<FfnPageRef> Refs() const;
};
BenchLayer MakeBenchLayer(QuantType type, int32_t dim, int32_t ffn_rows, int32_t page_rows, int32_t run_rows);

}  // namespace dogstar
