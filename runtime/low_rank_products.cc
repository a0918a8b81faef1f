#include "runtime/low_rank_products.h"

#include <cstring>

#include "base/panel.h"
#include "predictors/statistics.h"

namespace dogstar {
namespace {

constexpr QuantType kType = QuantType::kQ8_0;

}  // namespace

uint64_t LowRankProducts::MapBytes(const LowRankMap& map) { return LowRankBytes(map.rank, map.dim, map.rows); }

uint64_t LowRankProducts::TensorBytes(const LowRankMap& map, const Backend& backend, int32_t rows) {
  return backend.TensorBytes(rows, map.rank) + backend.TensorBytes(rows, map.rows) +
         backend.ActivationsBytes(rows, map.rank);
}

absl::StatusOr<std::unique_ptr<LowRankProducts>> LowRankProducts::Create(std::span<const LowRankMap* const> maps,
                                                                         float shift, Backend* backend, int32_t rows) {
  CHECK(!maps.empty());
  auto products = std::unique_ptr<LowRankProducts>(new LowRankProducts(backend));
  const LowRankMap& first = *maps.front();
  ASSIGN_OR_RETURN(products->hidden_, backend->NewTensor(rows, first.rank));
  ASSIGN_OR_RETURN(products->hidden_act_, backend->NewActivations(rows, first.rank));
  ASSIGN_OR_RETURN(products->output_, backend->NewTensor(rows, first.rows));
  for (const LowRankMap* map : maps) {
    RETURN_IF_ERROR(products->Load(*map, shift, &products->maps_.emplace_back()));
  }
  return products;
}

absl::StatusOr<MatrixView> LowRankProducts::Matrix(std::span<const float> weights, int32_t rows, int32_t cols) {
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

absl::Status LowRankProducts::Load(const LowRankMap& map, float shift, Map* to) {
  ASSIGN_OR_RETURN(to->hidden, Matrix(map.hidden, map.rank, map.dim));
  ASSIGN_OR_RETURN(to->output, Matrix(map.output, map.rows, map.rank));
  ASSIGN_OR_RETURN(std::byte* const bias, backend_->AllocateMemory(map.bias.size() * sizeof(float)));
  std::vector<float> shifted = map.bias;
  for (float& value : shifted) value += shift;
  RETURN_IF_ERROR(backend_->WriteMemory(std::as_bytes(std::span<const float>(shifted)), bias));
  to->bias = bias;
  return absl::OkStatus();
}

const Tensor& LowRankProducts::Multiply(LayerIndex layer, const Activations& x, int32_t rows) {
  const Map& map = maps_[static_cast<size_t>(ToInt(layer))];
  backend_->MatMul(map.hidden, x, rows, 0, hidden_.get());
  backend_->Prepare(*hidden_, rows, hidden_act_.get());
  backend_->MatMul(map.output, *hidden_act_, rows, 0, output_.get());
  backend_->AddBias(map.bias, rows, output_.get());
  return *output_;
}

}  // namespace dogstar
