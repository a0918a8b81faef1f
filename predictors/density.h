// How many rows a density stands for, and how one budget of rows is divided among layers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dogstar {

// floor(density * rows): what CSparse keeps (Sirius, CSparse). A product that misses a whole number by less than
// rounding errors counts as that number. density in [0, 1]; < 0: all rows.
int32_t RowsOf(double density, int32_t rows);
// The same, but at least one row: how many count as a token's important ones.
int32_t ImportantRows(double density, int32_t rows);
// rows - floor((1 - density) * rows): what FSparse keeps, which drops so many (Sirius, FSparse).
int32_t RowsLeft(double density, int32_t rows);

// Rows of each layer, by its own density where layer_densities has them; -1: all.
std::vector<int32_t> RowsByLayer(double density, std::span<const double> layer_densities, int32_t layers,
                                 int32_t ffn_rows);

// Densities of layers whose mean is `mean`, so that the sum of the layers' losses is small.
//   sensitivity[layer][i]: loss when this layer alone has density grid[i], the others all rows; without any row left
//   out the loss is 0. grid: ascending, in (0, 1).
// Greedy: every layer starts with grid[0]; then the step of the largest loss avoided per row goes first, a step being
// one to any higher density, so that a flat piece before a steep one hides nothing. The last step is taken in part. A
// mean of at most grid[0] or of 1 is the same for every layer: nothing was measured there.
std::vector<double> AllocateDensities(const std::vector<std::vector<float>>& sensitivity, std::span<const double> grid,
                                      double mean);

}  // namespace dogstar
