#include "runtime/layer_statistics.h"

#include <algorithm>
#include <cmath>

#include "device/functions.h"
#include "predictors/density.h"
#include "predictors/selection.h"

namespace dogstar {
namespace {

// Tokens whose layers are computed again with fewer rows; and values that thresholds are taken from.
constexpr int32_t kLossTokens = LayerRunner::kOwnRows;
constexpr size_t kThresholdSample = size_t{1} << 20;

float ActivationOf(FfnActivation activation, float gate) {
  if (activation == FfnActivation::kSilu) return gate / (1 + std::exp(-gate));
  const float v = gate * (1 + kGeluCubic * gate * gate) * kGeluScale;
  return gate / (1 + std::exp(-v));
}

// Off the starts of texts, whose first token is unlike all others.
size_t SampledToken(int32_t i, int32_t sample, int32_t tokens) {
  return static_cast<size_t>(2 * i + 1) * static_cast<size_t>(tokens) / (2 * static_cast<size_t>(sample));
}

}  // namespace

uint64_t LayerValues::Bytes(const ModelConfig& config, int32_t tokens) {
  return sizeof(float) * static_cast<uint64_t>(tokens) *
         (static_cast<uint64_t>(config.dim) + static_cast<uint64_t>(config.ffn_rows));
}

LayerValues::LayerValues(const ModelConfig& config, int32_t tokens)
    : tokens_(tokens),
      dim_(config.dim),
      rows_(config.ffn_rows),
      inputs_(static_cast<size_t>(tokens) * static_cast<size_t>(config.dim)),
      z_(static_cast<size_t>(tokens) * static_cast<size_t>(config.ffn_rows)) {}

absl::Status LayerValues::Fetch(LayerRunner* runner) {
  RETURN_IF_ERROR(runner->backend().Download(runner->ffn_input(), 0, tokens_, inputs_));
  return runner->backend().Download(runner->ffn_values(), 0, tokens_, z_);
}

void LayerValues::Weigh(std::span<const float> down_norms, ThreadPool* pool) {
  const auto rows = static_cast<size_t>(rows_);
  pool->Run([&](int thread) {
    const Range part = PartOf(tokens_, 1, thread, pool->size());
    for (auto t = static_cast<size_t>(part.begin); t < static_cast<size_t>(part.end); ++t) {
      for (size_t j = 0; j < rows; ++j) z_[t * rows + j] = std::fabs(z_[t * rows + j]) * down_norms[j];
    }
  });
}

RankedTokens LayerValues::Ranked(int32_t first, int32_t count) const {
  const auto part = [&](const std::vector<float>& values, int32_t width) {
    return std::span(values).subspan(static_cast<size_t>(first) * static_cast<size_t>(width),
                                     static_cast<size_t>(count) * static_cast<size_t>(width));
  };
  return {count, dim_, rows_, part(inputs_, dim_), part(z_, rows_)};
}

std::vector<float> DownNormsSquared(const MatrixSource& down, std::span<const std::byte> bytes) {
  std::vector<float> row(static_cast<size_t>(down.cols)), norms(static_cast<size_t>(down.cols));
  for (int32_t i = 0; i < down.rows; ++i) {
    DequantizeRow(down.type, bytes.data() + static_cast<uint64_t>(i) * down.row_bytes(), down.cols, row.data());
    for (size_t j = 0; j < row.size(); ++j) norms[j] += row[j] * row[j];
  }
  return norms;
}

std::vector<float> DownNorms(const MatrixSource& down, std::span<const std::byte> bytes) {
  std::vector<float> norms = DownNormsSquared(down, bytes);
  for (float& norm : norms) norm = std::sqrt(norm);
  return norms;
}

void CountImportant(const RankedTokens& tokens, const TextLengths& lengths, double density, LayerStatistics* layer) {
  const auto rows = static_cast<size_t>(tokens.rows);
  const auto count = static_cast<size_t>(ImportantRows(density, tokens.rows));
  std::vector<int32_t> order;
  std::vector<uint8_t> before(rows), now(rows);
  std::vector<int32_t> important(rows), followed(rows), kept(rows);
  std::vector<double> sums(rows);
  int32_t token = 0;
  for (const int32_t length : lengths) {
    for (int32_t i = 0; i < length; ++i, ++token) {
      const std::span<const float> scores = tokens.Scores(token);
      FindTopRows(scores, count, &order);
      std::fill(now.begin(), now.end(), uint8_t{0});
      for (size_t k = 0; k < count; ++k) now[static_cast<size_t>(order[k])] = 1;
      for (size_t j = 0; j < rows; ++j) {
        sums[j] += double{scores[j]};
        important[j] += now[j];
        if (i == 0) continue;
        followed[j] += before[j];
        kept[j] += before[j] & now[j];
      }
      before.swap(now);
    }
  }
  const double share = 1.0 / std::max(1, token);
  layer->frequency.resize(rows);
  layer->persistence.resize(rows);
  layer->contribution.resize(rows);
  for (size_t j = 0; j < rows; ++j) {
    layer->frequency[j] = static_cast<float>(important[j] * share);
    layer->persistence[j] = followed[j] > 0 ? static_cast<float>(kept[j]) / static_cast<float>(followed[j]) : 0.0F;
    layer->contribution[j] = static_cast<float>(sums[j] * share);
  }
}

std::vector<float> ColumnRms(std::span<const float> values, int32_t tokens, int32_t rows) {
  std::vector<double> squares(static_cast<size_t>(rows));
  for (size_t at = 0; at < values.size(); at += squares.size()) {
    for (size_t j = 0; j < squares.size(); ++j) squares[j] += double{values[at + j]} * values[at + j];
  }
  std::vector<float> rms(squares.size());
  for (size_t j = 0; j < rms.size(); ++j) rms[j] = static_cast<float>(std::sqrt(squares[j] / std::max(1, tokens)));
  return rms;
}

std::vector<float> GateThresholds(std::span<const float> gates, FfnActivation activation) {
  const size_t step = std::max<size_t>(1, gates.size() / kThresholdSample) | 1;  // odd: visits every column
  std::vector<float> sizes;
  sizes.reserve(gates.size() / step + 1);
  for (size_t i = 0; i < gates.size(); i += step) sizes.push_back(std::fabs(ActivationOf(activation, gates[i])));
  std::vector<float> thresholds;
  for (const double density : kDensityGrid) {
    const size_t at =
        std::min(sizes.size() - 1, static_cast<size_t>((1 - density) * static_cast<double>(sizes.size())));
    std::nth_element(sizes.begin(), sizes.begin() + static_cast<ptrdiff_t>(at), sizes.end());
    thresholds.push_back(sizes[at]);
  }
  return thresholds;
}

absl::StatusOr<std::vector<float>> LossesOfLayer(LayerRunner* runner, std::span<const float> z,
                                                 std::span<const float> down_norms, int32_t rows, int32_t dim) {
  const int32_t sample = std::min(kLossTokens, runner->tokens());
  const auto width = static_cast<size_t>(rows), columns = static_cast<size_t>(dim);
  std::vector<float> stream(static_cast<size_t>(runner->tokens()) * columns);
  RETURN_IF_ERROR(runner->backend().Download(runner->stream(), 0, runner->tokens(), stream));
  std::vector<float> left_out(static_cast<size_t>(sample) * width), lost(static_cast<size_t>(sample) * columns);
  std::vector<float> scores(width), losses;
  std::vector<int32_t> order;
  for (const double density : kDensityGrid) {
    const auto count = static_cast<size_t>(ImportantRows(density, rows));
    for (int32_t i = 0; i < sample; ++i) {
      const size_t token = SampledToken(i, sample, runner->tokens());
      const std::span<const float> values = z.subspan(token * width, width);
      const std::span<float> rest = std::span(left_out).subspan(static_cast<size_t>(i) * width, width);
      for (size_t j = 0; j < width; ++j) scores[j] = std::fabs(values[j]) * down_norms[j];
      FindTopRows(scores, count, &order);
      std::copy(values.begin(), values.end(), rest.begin());
      for (size_t k = 0; k < count; ++k) rest[static_cast<size_t>(order[k])] = 0;
    }
    RETURN_IF_ERROR(runner->MultiplyDown(left_out, sample, lost));
    double loss = 0;
    for (int32_t i = 0; i < sample; ++i) {
      const size_t token = SampledToken(i, sample, runner->tokens());
      double gone = 0, all = 1e-30;
      for (size_t k = 0; k < columns; ++k) {
        gone += std::pow(double{lost[static_cast<size_t>(i) * columns + k]}, 2);
        all += std::pow(double{stream[token * columns + k]}, 2);
      }
      loss += gone / all;
    }
    losses.push_back(static_cast<float>(loss / sample));
  }
  return losses;
}

}  // namespace dogstar
