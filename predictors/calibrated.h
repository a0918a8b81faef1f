// Predictors that rest on a model's statistics (statistics.h, `dogstar calibrate`).
//
//   hot        the rows that are most often important, the same for every token
//   attribution   the rows of the largest corrected attribution (attribution_sums.h), the same for every token
//   threshold  rows whose |activation(gate)| reaches the layer's calibrated threshold (CATS, arXiv 2404.08763): as many
//              as the token has, `density` of them on average
//   low-rank   the rows that the layer's map scores highest from the FFN's input: no weight of a row that is not chosen
//              is read
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "predictors/predictor.h"
#include "predictors/statistics.h"

namespace dogstar {

bool NeedsStatistics(std::string_view predictor);

// FailedPrecondition without statistics.
absl::StatusOr<std::unique_ptr<Predictor>> NewCalibratedPredictor(const PredictorOptions& options, int32_t layers,
                                                                  int32_t ffn_rows);

// The statistics with rows as a packed file has them: row i of a layer is neuron order[layer][i] of the source.
// REQUIRES: every order is a permutation of the rows.
Statistics InRowOrder(Statistics statistics, const std::vector<std::vector<NeuronIndex>>& orders);

// Corrected attribution of each layer's units, [layers][units]. units: &LayerStatistics::ffn_sums or ::head_sums.
// REQUIRES: statistics.attributed > 0.
std::vector<std::vector<float>> CorrectedSums(const Statistics& statistics, AttributionSums LayerStatistics::*units);

// |activation(gate)| that a share `density` of rows reaches, between the thresholds of the grid.
float ThresholdOf(const std::vector<float>& thresholds, double density);

// Densities of layers whose mean is `mean`, by the statistics' losses (AllocateDensities).
std::vector<double> CalibratedDensities(const Statistics& statistics, double mean);

}  // namespace dogstar
