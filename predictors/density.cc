#include "predictors/density.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dogstar {
namespace {

constexpr double kRounding = 1e-9;  // 0.3 * 10 is 2.9999999999999996

int32_t Floor(double rows) { return static_cast<int32_t>(std::floor(rows + kRounding)); }

struct Step {
  size_t layer = 0;
  double to = 0;
  double gain = -std::numeric_limits<double>::infinity();  // loss avoided per row
};

}  // namespace

int32_t RowsOf(double density, int32_t rows) { return density < 0 ? rows : std::clamp(Floor(density * rows), 0, rows); }

int32_t ImportantRows(double density, int32_t rows) { return std::clamp(RowsOf(density, rows), 1, rows); }

int32_t RowsLeft(double density, int32_t rows) {
  return density < 0 ? rows : rows - std::clamp(Floor((1 - density) * rows), 0, rows);
}

std::vector<int32_t> RowsByLayer(double density, std::span<const double> layer_densities, int32_t layers,
                                 int32_t ffn_rows) {
  std::vector<int32_t> rows(static_cast<size_t>(layers), density < 0 ? -1 : RowsOf(density, ffn_rows));
  for (size_t i = 0; i < layer_densities.size(); ++i) rows[i] = RowsOf(layer_densities[i], ffn_rows);
  return rows;
}

std::vector<double> AllocateDensities(const std::vector<std::vector<float>>& sensitivity, std::span<const double> grid,
                                      double mean) {
  std::vector<double> densities(sensitivity.size(), mean);
  if (grid.empty() || mean <= grid.front() || mean >= 1) return densities;
  std::fill(densities.begin(), densities.end(), grid.front());
  std::vector<size_t> at(sensitivity.size(), 0);  // index of the layer's density; grid.size(): all rows
  const auto density = [&](size_t i) { return i < grid.size() ? grid[i] : 1.0; };
  const auto loss = [&](size_t layer, size_t i) -> double { return i < grid.size() ? sensitivity[layer][i] : 0; };
  double left = (mean - grid.front()) * static_cast<double>(sensitivity.size());
  while (left > kRounding) {
    Step best;
    size_t best_index = 0;
    for (size_t layer = 0; layer < sensitivity.size(); ++layer) {
      for (size_t next = at[layer] + 1; next <= grid.size(); ++next) {
        const double gain = (loss(layer, at[layer]) - loss(layer, next)) / (density(next) - density(at[layer]));
        if (gain > best.gain) {
          best = {layer, density(next), gain};
          best_index = next;
        }
      }
    }
    if (best.to == 0) break;  // every layer has all its rows
    const double rows = std::min(left, best.to - densities[best.layer]);
    densities[best.layer] += rows;
    left -= rows;
    at[best.layer] = best_index;
  }
  return densities;
}

}  // namespace dogstar
