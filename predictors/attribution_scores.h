// Attribution scores: how much a unit mattered for the loss of one token, from its output and the loss's gradient
// there.
//
// A unit is an FFN neuron (x = activation(gate) * up, what the down projection reads) or an attention head (x = the
// head's context, what the output projection reads, a vector). g = d loss / d x, loss = +cross-entropy of a label.
// Sign: a score is the first-order rise of the loss when the unit is left out, -g * x; larger = more important, and a
// negative one says that the label gains without the unit. The JSON of `dogstar eval` has g * x itself under "gxo".
//
// Formulas: "Achieving Sparse Activation in Small Language Models" and its released code; the norm of the correction
// runs over the units of one layer and one module, at one token. docs/attribution.md.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dogstar {

enum class AttributionMetric {
  kMagnitude,  // |x|
  kGradient,   // -g
  kGxo,        // -g x
  kSnip,       // |g x|
  kFisher,     // (g x)^2
  kCorrected,  // -g x + lambda |x| |g|_2, |g|_2 over the units of layer, module and token
};
std::span<const std::string_view> AttributionMetricNames();  // in the order of the enum
absl::StatusOr<AttributionMetric> ParseAttributionMetric(std::string_view name);

// How the head_dim values of a head become one number.
enum class HeadReduce {
  kSum,   // the exact form: g x = sum_d g_d x_d, |g|_2 over all heads' dimensions
  kMean,  // the released code's: means over d, and |g|_2 = sqrt(sum_h (mean_d g_d)^2)
};

struct ScoreOptions {
  AttributionMetric metric = AttributionMetric::kCorrected;
  double lambda = 0.5;  // the middle of the correction's bounds, as published; 0: GxO; large: the order of magnitudes
  HeadReduce head_reduce = HeadReduce::kSum;
};

// scores[i] of each FFN neuron of a layer, at one token. Integrated gradients are kGxo of the mean gradient along
// the path (runtime/integrated_gradients.h). x, g, scores: [units].
void UnitScores(const ScoreOptions& options, std::span<const float> x, std::span<const float> g,
                std::span<float> scores);
// scores[h] of each head; magnitude is the L2 norm in both reductions. x, g: [heads * head_dim], scores: [heads].
void HeadScores(const ScoreOptions& options, int32_t head_dim, std::span<const float> x, std::span<const float> g,
                std::span<float> scores);

double Norm2(std::span<const float> values);

// The k units with the largest |score| (by_size) or the largest score; equal ones: the lower unit first.
std::vector<int32_t> TopUnits(std::span<const float> scores, int32_t k, bool by_size);

}  // namespace dogstar
