#include "predictors/attribution_sums.h"

#include <array>
#include <cmath>

#include "base/status.h"
#include "predictors/attribution_scores.h"

namespace dogstar {

void AttributionSums::Add(size_t unit, double magnitude, double gradient, double gradient_square, double gxo,
                          double norm) {
  const std::array<double, kAttributionSums> terms = {
      magnitude, magnitude * magnitude, gradient,  gradient_square,
      gxo,       std::fabs(gxo),        gxo * gxo, -gxo + magnitude * norm / 2};
  for (size_t i = 0; i < terms.size(); ++i) {
    values[i * static_cast<size_t>(units) + unit] += static_cast<float>(terms[i]);
  }
}

void AttributionSums::AddUnits(std::span<const float> x, std::span<const float> g) {
  CHECK(x.size() == g.size() && x.size() == static_cast<size_t>(units));
  const double norm = Norm2(g);
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = x[i], gradient = g[i];
    Add(i, std::fabs(value), gradient, gradient * gradient, gradient * value, norm);
  }
}

void AttributionSums::AddHeads(int32_t head_dim, std::span<const float> x, std::span<const float> g) {
  const auto width = static_cast<size_t>(head_dim);
  CHECK(x.size() == g.size() && x.size() == static_cast<size_t>(units) * width);
  const double norm = Norm2(g);
  for (size_t h = 0; h < static_cast<size_t>(units); ++h) {
    double sum = 0, square = 0, gxo = 0;
    for (size_t i = h * width; i < (h + 1) * width; ++i) {
      sum += double{g[i]};
      square += double{g[i]} * double{g[i]};
      gxo += double{g[i]} * double{x[i]};
    }
    Add(h, Norm2(x.subspan(h * width, width)), sum, square, gxo, norm);
  }
}

}  // namespace dogstar
