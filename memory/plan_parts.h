// Parts of a model as the planner walks them. Not for others.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "base/panel.h"
#include "memory/model_shape.h"
#include "memory/planner.h"

namespace dogstar::plan {

inline constexpr double kRounding = 1e-9;  // of shares that are whole numbers of pages

inline int32_t RoundDown(int64_t value, int32_t step) { return static_cast<int32_t>(value / step * step); }
inline int32_t RoundUp(int64_t value, int32_t step) { return RoundDown(value + step - 1, step); }

// A layer's matrices with their places, attention first.
using Part = std::pair<const MatrixShape*, MatrixPlacement*>;
inline std::array<Part, 4> AttentionParts(const LayerShape& layer, LayerPlacement* place) {
  return {Part{&layer.query, &place->query}, Part{&layer.key, &place->key}, Part{&layer.value, &place->value},
          Part{&layer.output, &place->output}};
}
inline std::array<Part, 3> PlainFfnParts(const LayerShape& layer, LayerPlacement* place) {
  return {Part{&layer.gate, &place->gate}, Part{&layer.up, &place->up}, Part{&layer.down, &place->down}};
}

// Rows that a matrix is cut into: as its checksums cut it, or panels.
inline int32_t StepRows(const MatrixShape& matrix) { return matrix.chunk_rows > 0 ? matrix.chunk_rows : kPanelRows; }

}  // namespace dogstar::plan
