#include "memory/model_shape.h"

#include "base/panel.h"
#include "model/packed_format.h"

namespace dogstar {
namespace {

void ShapeFfn(const ModelFile& model, size_t index, LayerShape* layer) {
  const PackedLayer& pages = model.packed()->layers()[index];
  layer->pages = pages.layout;
  layer->low_planes = pages.low_offset > 0;
  if (pages.down_scales_bytes > 0) {
    layer->down_scales = ShapeOf(DownScaleTable(*model.packed(), static_cast<int32_t>(index)));
  }
}

}  // namespace

uint64_t MatrixShape::PanelBytesOf(int32_t row_count) const { return PanelMatrixBytes(type, row_count, cols); }

MatrixShape ShapeOf(const MatrixSource& matrix) {
  return {matrix.type, matrix.rows, matrix.cols, matrix.checksums != nullptr ? matrix.checksums->chunk_rows : 0};
}

ModelShape ShapeOf(const ModelFile& model) {
  ModelShape shape;
  shape.name = model.path();
  shape.packed = model.packed() != nullptr;
  shape.tied_head = model.config().tied_head;
  shape.head = ShapeOf(model.head());
  for (size_t i = 0; i < model.layers().size(); ++i) {
    const LayerSource& source = model.layers()[i];
    LayerShape& layer = shape.layers.emplace_back();
    layer.query = ShapeOf(source.query);
    layer.key = ShapeOf(source.key);
    layer.value = ShapeOf(source.value);
    layer.output = ShapeOf(source.output);
    if (source.attention_low) layer.attention_low_bytes = source.attention_low->bytes;
    if (shape.packed) {
      ShapeFfn(model, i, &layer);
    } else {
      layer.gate = ShapeOf(*source.gate);
      layer.up = ShapeOf(*source.up);
      layer.down = ShapeOf(*source.down);
    }
  }
  return shape;
}

MatrixSource DownScaleTable(const PackedFile& packed, int32_t index) {
  const PackedLayer& layer = packed.layers()[static_cast<size_t>(index)];
  MatrixSource table;
  table.tensor = packed::LayerTensor(static_cast<size_t>(index), packed::kDownScalesPart);
  table.type = QuantType::kF16;
  table.cols = layer.layout.dim;
  table.rows = static_cast<int32_t>(layer.down_scales_bytes / table.row_bytes());
  table.offset = layer.down_scales_offset;
  table.checksums = packed.FindChecksums(table.tensor);
  return table;
}

}  // namespace dogstar
