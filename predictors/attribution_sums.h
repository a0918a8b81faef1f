// AttributionSums: what is kept of units' attribution along many tokens, so that any of the metrics' static forms can
// be made of it. A signed score cancels over tokens, a size does not: that is why several sums are kept.
//
// x: a unit's output, g: the gradient of the token's loss there. For a head x is its context: |x| is its norm, g x the
// inner product, g the sum over its dimensions, g^2 the squared norm.
//
// Pure data; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dogstar {

enum class AttributionSum {
  kMagnitude,       // |x|
  kSquare,          // x^2
  kGradient,        // g
  kGradientSquare,  // g^2
  kGxo,             // g x
  kSnip,            // |g x|
  kFisher,          // (g x)^2
  kCorrected,       // -g x + |x| |g|_2 / 2, |g|_2 over the units of the layer at the token
};
inline constexpr int kAttributionSums = 8;

struct AttributionSums {
  int32_t units = 0;          // 0: none were gathered
  std::vector<float> values;  // [kAttributionSums, units], over all tokens

  static AttributionSums Of(int32_t units) {
    return {units, std::vector<float>(static_cast<size_t>(units) * kAttributionSums)};
  }
  std::span<const float> operator[](AttributionSum sum) const {
    return std::span(values).subspan(static_cast<size_t>(sum) * static_cast<size_t>(units), static_cast<size_t>(units));
  }
  // Adds one token. x, g: [units].
  void AddUnits(std::span<const float> x, std::span<const float> g);
  // x, g: [units * head_dim].
  void AddHeads(int32_t head_dim, std::span<const float> x, std::span<const float> g);

 private:
  void Add(size_t unit, double magnitude, double gradient, double gradient_square, double gxo, double norm);
};

}  // namespace dogstar
