#include "runtime/score_maps.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/panel.h"
#include "predictors/calibrated.h"
#include "predictors/low_rank.h"
#include "runtime/calibration.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

constexpr QuantType kType = QuantType::kQ8_0;
// Scores are log odds; choices want numbers that are not negative. Odds of e^-64 are none.
constexpr float kShift = 64;

}  // namespace

uint64_t ScoreMaps::Bytes(const Predictor& predictor, int32_t layers, const Backend& backend, int32_t rows) {
  uint64_t bytes = 0;
  for (int32_t i = 0; i < layers; ++i) {
    const LowRankMap* const map = predictor.ScoreMap(LayerIndex{i});
    if (map == nullptr) return 0;
    // The predictor keeps the map as floats as well.
    bytes += LowRankBytes(map->rank, map->dim, map->rows) +
             sizeof(float) * (map->hidden.size() + map->output.size() + map->bias.size());
    if (i > 0) continue;
    bytes += backend.TensorBytes(rows, map->rank) + backend.TensorBytes(rows, map->rows) +
             backend.ActivationsBytes(rows, map->rank) +
             sizeof(float) * static_cast<uint64_t>(rows) * static_cast<uint64_t>(map->rows);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<ScoreMaps>> ScoreMaps::Create(const Predictor& predictor, int32_t layers,
                                                             Backend* backend, int32_t rows) {
  if (layers == 0 || predictor.ScoreMap(LayerIndex{0}) == nullptr) return std::unique_ptr<ScoreMaps>();
  auto maps = std::unique_ptr<ScoreMaps>(new ScoreMaps(backend));
  const LowRankMap& first = *predictor.ScoreMap(LayerIndex{0});
  maps->stride_ = first.rows;
  ASSIGN_OR_RETURN(maps->hidden_, backend->NewTensor(rows, first.rank));
  ASSIGN_OR_RETURN(maps->hidden_act_, backend->NewActivations(rows, first.rank));
  ASSIGN_OR_RETURN(maps->scores_, backend->NewTensor(rows, first.rows));
  maps->host_.resize(static_cast<size_t>(rows) * static_cast<size_t>(first.rows));
  for (int32_t i = 0; i < layers; ++i) {
    RETURN_IF_ERROR(maps->Load(*predictor.ScoreMap(LayerIndex{i}), &maps->maps_.emplace_back()));
  }
  return maps;
}

absl::StatusOr<MatrixView> ScoreMaps::Matrix(std::span<const float> weights, int32_t rows, int32_t cols) {
  const uint64_t row_bytes = RowBytes(kType, cols);
  std::vector<std::byte> plain(static_cast<size_t>(rows) * row_bytes);
  for (int32_t i = 0; i < rows; ++i) {
    QuantizeRow(kType, weights.data() + static_cast<size_t>(i) * static_cast<size_t>(cols), cols,
                plain.data() + static_cast<size_t>(i) * row_bytes);
  }
  ASSIGN_OR_RETURN(std::byte* const panels, backend_->AllocateMemory(PanelMatrixBytes(kType, rows, cols)));
  backend_->PackPanels({kType, MatrixLayout::kPlain, rows, cols, plain.data()}, panels);
  return MatrixView{kType, MatrixLayout::kPanels, rows, cols, panels};
}

absl::Status ScoreMaps::Load(const LowRankMap& map, Map* to) {
  ASSIGN_OR_RETURN(to->hidden, Matrix(map.hidden, map.rank, map.dim));
  ASSIGN_OR_RETURN(to->output, Matrix(map.output, map.rows, map.rank));
  ASSIGN_OR_RETURN(std::byte* const bias, backend_->AllocateMemory(map.bias.size() * sizeof(float)));
  std::vector<float> shifted = map.bias;
  for (float& value : shifted) value += kShift;
  std::memcpy(bias, shifted.data(), shifted.size() * sizeof(float));
  to->bias = bias;
  return absl::OkStatus();
}

absl::StatusOr<std::span<const float>> ScoreMaps::Score(LayerIndex layer, const Activations& input, int32_t rows) {
  const Map& map = maps_[static_cast<size_t>(ToInt(layer))];
  backend_->MatMul(map.hidden, input, rows, 0, hidden_.get());
  backend_->Prepare(*hidden_, rows, hidden_act_.get());
  backend_->MatMul(map.output, *hidden_act_, rows, 0, scores_.get());
  backend_->AddBias(map.bias, rows, scores_.get());
  const std::span<float> scores = std::span(host_).first(static_cast<size_t>(rows) * static_cast<size_t>(stride_));
  RETURN_IF_ERROR(backend_->Download(*scores_, 0, rows, scores));
  return std::span<const float>(scores);
}

absl::StatusOr<std::unique_ptr<Predictor>> MakePredictor(const Config& config, const ModelFile& model) {
  PredictorOptions options = PredictorOptionsOf(config);
  const int32_t layers = model.config().layer_count, ffn_rows = model.config().ffn_rows;
  if (config.draft.statistics.empty() && config.draft.calibrated_layers) {
    return absl::FailedPreconditionError(
        "draft.per_layer calibrated needs draft.statistics: a file that dogstar calibrate has written for this model");
  }
  // Plain files make no drafts.
  if (config.draft.statistics.empty() || model.packed() == nullptr) return NewPredictor(options, layers, ffn_rows);
  ASSIGN_OR_RETURN(Statistics statistics, ReadStatistics(config.draft.statistics));
  ASSIGN_OR_RETURN(const ModelIdentity identity, IdentityOf(model));
  RETURN_IF_ERROR(CheckStatistics(statistics, identity, config.draft.statistics));
  std::vector<std::vector<NeuronIndex>> orders;
  for (const PackedLayer& layer : model.packed()->layers()) orders.push_back(layer.row_order);
  statistics = InRowOrder(std::move(statistics), orders);
  options.statistics = &statistics;
  const bool one_density = options.density >= 0 && options.layer_densities.empty();
  if (config.draft.calibrated_layers && one_density) {
    options.layer_densities = CalibratedDensities(statistics, options.density);
  }
  return NewPredictor(options, layers, ffn_rows);
}

}  // namespace dogstar
