// The scalar truth of each operation of device/backend.h: plain functions over host memory, simple loops, the
// documented order of summation. Kernels are tested against this, to the bit where the order is documented.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/backend.h"

namespace dogstar::reference {

// One activation row as int8 codes in blocks of 32; an outlier's code, larger than an int8, stands at its column.
struct Int8Row {
  std::vector<int32_t> codes;
  std::vector<float> scales;  // d of each block
};
Int8Row QuantizeActivations(std::span<const float> x);

// Product of a plain weight row (base/quant.h) with an activation row. Float types take the f32 row in either mode.
float Dot(QuantType type, const std::byte* row, std::span<const float> x, bool precise);

float Exp(float x);
float Activate(FfnActivation activation, float gate);
// Sum of 16 lanes: 8 apart, 4, 2, 1.
float SumLanes(std::span<const float, 16> lanes);

void RmsNorm(std::span<const float> x, std::span<const float> weight, float epsilon, std::span<float> out);
// One row of heads.
void Rope(const RopeParams& params, TokenPos position, std::span<float> x);

// One query head over keys and values [count][head_dim] in the order of the mask. out: [head_dim].
void AttentionHead(std::span<const float> q, std::span<const float> keys, std::span<const float> values,
                   float score_scale, std::span<float> out);

// FFN pages and overlays, on one activation row: y += what the page gives.
// z of every used row goes to capture[row] where capture is not empty.
void FfnPage(const FfnParams& params, const FfnPageRef& page, std::span<const float> x, bool precise,
             std::span<float> y, std::span<float> capture);
void FfnOverlay(const FfnParams& params, const FfnOverlayRef& overlay, std::span<const float> x, bool precise,
                std::span<float> y, std::span<float> capture);

}  // namespace dogstar::reference
