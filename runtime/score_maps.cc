#include "runtime/score_maps.h"

#include <utility>

namespace dogstar {
namespace {

// Scores are log odds; choices want numbers that are not negative. Odds of e^-64 are none.
constexpr float kShift = 64;

}  // namespace

uint64_t ScoreMaps::Bytes(const Predictor& predictor, int32_t layers, const Backend& backend, int32_t rows) {
  uint64_t bytes = 0;
  for (int32_t i = 0; i < layers; ++i) {
    const LowRankMap* const map = predictor.ScoreMap(LayerIndex{i});
    if (map == nullptr) return 0;
    // The predictor keeps the map as floats as well.
    bytes +=
        LowRankProducts::MapBytes(*map) + sizeof(float) * (map->hidden.size() + map->output.size() + map->bias.size());
    if (i > 0) continue;
    bytes += LowRankProducts::TensorBytes(*map, backend, rows) +
             sizeof(float) * static_cast<uint64_t>(rows) * static_cast<uint64_t>(map->rows);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<ScoreMaps>> ScoreMaps::Create(const Predictor& predictor, int32_t layers,
                                                             Backend* backend, int32_t rows) {
  if (layers == 0 || predictor.ScoreMap(LayerIndex{0}) == nullptr) return std::unique_ptr<ScoreMaps>();
  auto maps = std::unique_ptr<ScoreMaps>(new ScoreMaps());
  std::vector<const LowRankMap*> of_layers;
  for (int32_t i = 0; i < layers; ++i) of_layers.push_back(predictor.ScoreMap(LayerIndex{i}));
  maps->backend_ = backend;
  maps->stride_ = of_layers.front()->rows;
  ASSIGN_OR_RETURN(maps->products_, LowRankProducts::Create(of_layers, kShift, backend, rows));
  maps->host_.resize(static_cast<size_t>(rows) * static_cast<size_t>(maps->stride_));
  return maps;
}

absl::StatusOr<std::span<const float>> ScoreMaps::Score(LayerIndex layer, const Activations& input, int32_t rows) {
  const Tensor& scores = products_->Multiply(layer, input, rows);
  const std::span<float> values = std::span(host_).first(static_cast<size_t>(rows) * static_cast<size_t>(stride_));
  RETURN_IF_ERROR(backend_->Download(scores, 0, rows, values));
  return std::span<const float>(values);
}

}  // namespace dogstar
