#include "predictors/attribution_scores.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "fmt/format.h"
#include "fmt/ranges.h"

namespace dogstar {
namespace {

constexpr std::string_view kMetricNames[] = {"magnitude", "gradient", "gxo", "snip", "fisher", "corrected"};

// The score of a unit from its |x|, its gradient, g x and the |g| of its layer.
double Score(const ScoreOptions& options, double magnitude, double gradient, double gxo, double gradient_norm) {
  switch (options.metric) {
    case AttributionMetric::kMagnitude:
      return magnitude;
    case AttributionMetric::kGradient:
      return -gradient;
    case AttributionMetric::kGxo:
      return -gxo;
    case AttributionMetric::kSnip:
      return std::fabs(gxo);
    case AttributionMetric::kFisher:
      return gxo * gxo;
    case AttributionMetric::kCorrected:
      return -gxo + options.lambda * magnitude * gradient_norm;
  }
  return 0;
}

double Sum(std::span<const float> values) { return std::accumulate(values.begin(), values.end(), 0.0); }

double DotOf(std::span<const float> a, std::span<const float> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// |g|_2 of the heads, as the reduction has it.
double HeadGradientNorm(HeadReduce reduce, size_t head_dim, std::span<const float> g) {
  if (reduce == HeadReduce::kSum) return Norm2(g);
  double sum = 0;
  for (size_t at = 0; at < g.size(); at += head_dim) {
    const double mean = Sum(g.subspan(at, head_dim)) / static_cast<double>(head_dim);
    sum += mean * mean;
  }
  return std::sqrt(sum);
}

}  // namespace

std::span<const std::string_view> AttributionMetricNames() { return kMetricNames; }

absl::StatusOr<AttributionMetric> ParseAttributionMetric(std::string_view name) {
  const auto* found = std::find(std::begin(kMetricNames), std::end(kMetricNames), name);
  if (found != std::end(kMetricNames)) return static_cast<AttributionMetric>(found - std::begin(kMetricNames));
  return absl::InvalidArgumentError(
      fmt::format("no attribution metric is called {}; allowed: {}", name, fmt::join(kMetricNames, ", ")));
}

double Norm2(std::span<const float> values) { return std::sqrt(DotOf(values, values)); }

void UnitScores(const ScoreOptions& options, std::span<const float> x, std::span<const float> g,
                std::span<float> scores) {
  CHECK(x.size() == g.size() && x.size() == scores.size());
  const double norm = Norm2(g);
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = x[i], gradient = g[i];
    scores[i] = static_cast<float>(Score(options, std::fabs(value), gradient, gradient * value, norm));
  }
}

void HeadScores(const ScoreOptions& options, int32_t head_dim, std::span<const float> x, std::span<const float> g,
                std::span<float> scores) {
  const auto width = static_cast<size_t>(head_dim);
  CHECK(x.size() == g.size() && x.size() == scores.size() * width);
  const double norm = HeadGradientNorm(options.head_reduce, width, g);
  const double share = options.head_reduce == HeadReduce::kMean ? 1.0 / static_cast<double>(width) : 1.0;
  for (size_t h = 0; h < scores.size(); ++h) {
    const auto head_x = x.subspan(h * width, width), head_g = g.subspan(h * width, width);
    scores[h] =
        static_cast<float>(Score(options, Norm2(head_x), share * Sum(head_g), share * DotOf(head_g, head_x), norm));
  }
}

std::vector<int32_t> TopUnits(std::span<const float> scores, int32_t k, bool by_size) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int32_t unit) {
    const float score = scores[static_cast<size_t>(unit)];
    return by_size ? std::fabs(score) : score;
  };
  const auto count = static_cast<size_t>(std::clamp(k, 0, static_cast<int32_t>(order.size())));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](int32_t a, int32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
  order.resize(count);
  return order;
}

}  // namespace dogstar
