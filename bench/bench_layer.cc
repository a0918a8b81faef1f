#include "bench/bench_layer.h"

#include <cstring>

#include "base/panel.h"
#include "base/quant.h"
#include "base/random.h"

namespace dogstar {
namespace {

constexpr float kScale = 0.01f;

void FillHalves(std::span<std::byte> data) {
  const uint16_t scale = FloatToHalf(kScale);
  for (size_t at = 0; at + 2 <= data.size(); at += 2) std::memcpy(data.data() + at, &scale, 2);
}

}  // namespace

void FillWeights(QuantType type, std::span<std::byte> data) {
  SplitMix64 random(1);
  for (size_t at = 0; at + 8 <= data.size(); at += 8) {
    uint64_t bits = random.Next();
    if (TraitsOf(type).block_weights == 1) bits &= 0x3bff3bff3bff3bff;
    std::memcpy(data.data() + at, &bits, 8);
  }
}

void FillPanels(QuantType type, int64_t cols, std::span<std::byte> panels) {
  FillWeights(type, panels);
  const uint64_t panel_bytes = PanelBytes(type, cols), scales = PanelScalesOffset(type, cols);
  if (scales == 0) return;
  for (uint64_t at = 0; at < panels.size(); at += panel_bytes) {
    FillHalves(panels.subspan(at + scales, panel_bytes - scales));
  }
}

BenchLayer MakeBenchLayer(QuantType type, int32_t dim, int32_t ffn_rows, int32_t page_rows, int32_t run_rows) {
  BenchLayer layer;
  layer.layout = *FfnPageLayout::Make(type, type, type, dim, ffn_rows, page_rows, run_rows);
  const uint64_t page_bytes = layer.layout.page_bytes;
  layer.pages = *AlignedBuffer::Create(static_cast<uint64_t>(layer.layout.page_count()) * page_bytes);
  FillWeights(type, layer.pages.span());
  for (uint64_t page = 0; page < layer.pages.size(); page += page_bytes) {
    FillPanels(type, dim, layer.pages.span().subspan(page, layer.layout.down_offset));
  }
  layer.scales = *AlignedBuffer::Create(layer.layout.down_table_bytes());
  FillHalves(layer.scales.span());
  // Neurons ordered by importance: neighbouring runs come from anywhere.
  SplitMix64 random(3);
  layer.run_groups.resize(static_cast<size_t>(ffn_rows / run_rows));
  for (uint16_t& group : layer.run_groups) {
    group = static_cast<uint16_t>(random.Next() % static_cast<uint64_t>(layer.layout.group_count()));
  }
  return layer;
}

std::vector<FfnPageRef> BenchLayer::Refs() const {
  std::vector<FfnPageRef> refs(static_cast<size_t>(layout.page_count()));
  for (size_t p = 0; p < refs.size(); ++p) {
    refs[p].data = pages.data() + p * layout.page_bytes;
    refs[p].first_row = static_cast<int32_t>(p) * layout.page_rows;
    refs[p].row_count = layout.page_rows;
    refs[p].run_groups = run_groups.data() + p * static_cast<size_t>(layout.page_rows / layout.run_rows);
  }
  return refs;
}

}  // namespace dogstar
