// ModelShape: the sizes of a model's parts, without a file behind them. Planning needs nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ffn_page.h"
#include "base/quant.h"
#include "model/model_file.h"

namespace dogstar {

struct MatrixShape {
  QuantType type = QuantType::kF32;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t chunk_rows = 0;  // rows that are read and checked as a whole; 0: any number
  uint64_t row_bytes() const { return RowBytes(type, cols); }
  uint64_t bytes() const { return row_bytes() * static_cast<uint64_t>(rows); }
  // Bytes of the first `row_count` rows as panels in memory.
  uint64_t PanelBytesOf(int32_t row_count) const;
  uint64_t panel_bytes() const { return PanelBytesOf(rows); }
};

struct LayerShape {
  MatrixShape query, key, value, output;
  // Plain files: the FFN as matrices. Packed files: pages, and the down-scale table [planes * groups, dim] of half
  // numbers (rows 0: none).
  MatrixShape gate, up, down;
  FfnPageLayout pages;
  bool low_planes = false;           // the file has them once more: pages may be resident without
  uint64_t attention_low_bytes = 0;  // the same of the four attention matrices together; 0: it has none
  MatrixShape down_scales;

  // Of a page that keeps its high plane; all of it where it is not cut.
  uint64_t high_bytes() const { return low_planes ? pages.high.bytes : pages.page_bytes; }
  uint64_t pages_bytes() const { return static_cast<uint64_t>(pages.page_count()) * pages.page_bytes; }
};

struct ModelShape {
  std::string name;  // for messages
  bool packed = false;
  bool tied_head = false;
  std::vector<LayerShape> layers;
  MatrixShape head;
};

MatrixShape ShapeOf(const MatrixSource& matrix);
ModelShape ShapeOf(const ModelFile& model);

// A layer's down-scale table as a matrix, [planes * groups, dim] half, with its checksums.
MatrixSource DownScaleTable(const PackedFile& packed, int32_t layer);

}  // namespace dogstar
