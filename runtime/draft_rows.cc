#include "runtime/draft_rows.h"

#include <algorithm>

#include "base/row_set.h"

namespace dogstar {
namespace {

void FindAvailableRows(const FfnPart& part, const Overlay* overlay, LayerIndex layer, RowSet* rows) {
  rows->Reset(part.layer->layout.ffn_rows);
  part.ForEachDraftPage([&](const FfnPageRef& page) {
    for (int32_t i = 0; i < page.row_count; ++i) rows->Insert(RowIndex{page.first_row + i});
  });
  if (overlay != nullptr) overlay->AddTo(layer, rows);
}

// Pages with their masks; pages without a chosen row are left out.
void MaskPages(const FfnPart& part, const RowSet& chosen, DraftLayer* out) {
  const size_t words = static_cast<size_t>(part.layer->layout.page_rows + 63) / 64;
  out->page_masks.resize(part.draft_page_count() * words);
  out->pages.clear();
  out->pages.reserve(part.draft_page_count());
  uint64_t* mask = out->page_masks.data();
  part.ForEachDraftPage([&](FfnPageRef page) {
    uint64_t any = 0;
    for (size_t w = 0; w < words; ++w) {
      mask[w] = chosen.Bits(page.first_row + static_cast<int32_t>(w) * 64);
      const int32_t rows_here = page.row_count - static_cast<int32_t>(w) * 64;
      if (rows_here < 64) mask[w] &= rows_here <= 0 ? 0 : (uint64_t{1} << rows_here) - 1;
      any |= mask[w];
    }
    if (any == 0) return;
    page.row_mask = mask;
    out->pages.push_back(page);
    mask += words;
  });
}

void MaskOverlay(const RowSet& chosen, DraftLayer* out) {
  out->overlay_mask.reserve(static_cast<size_t>(out->overlay.row_capacity + 63) / 64);
  out->overlay_mask.assign(static_cast<size_t>(out->overlay.row_count + 63) / 64, 0);
  for (int32_t i = 0; i < out->overlay.row_count; ++i) {
    if (chosen.Contains(RowIndex{out->overlay.row_index[i]})) {
      out->overlay_mask[static_cast<size_t>(i) / 64] |= uint64_t{1} << (i % 64);
    }
  }
  out->overlay.row_mask = out->overlay_mask.data();
}

}  // namespace

void DraftLayer::AddTo(std::span<uint64_t> mask) const {
  const auto add = [&](int32_t row) { mask[static_cast<size_t>(row) / 64] |= uint64_t{1} << (row % 64); };
  const auto has = [](const uint64_t* rows, int32_t i) { return rows == nullptr || ((rows[i / 64] >> (i % 64)) & 1); };
  for (const FfnPageRef& page : pages) {
    for (int32_t i = 0; i < page.row_count; ++i) {
      if (has(page.row_mask, i)) add(page.row_index != nullptr ? page.row_index[i] : page.first_row + i);
    }
  }
  for (int32_t i = 0; i < overlay.row_count; ++i) {
    if (has(overlay.row_mask, i)) add(overlay.row_index[i]);
  }
}

DraftRows DraftRows::Build(const DraftSources& sources) {
  DraftRows rows;
  const Weights& weights = *sources.weights;
  const int32_t layers = weights.packed() ? weights.layer_count() : 0;
  rows.layers_.resize(static_cast<size_t>(layers));
  for (int32_t i = 0; i < layers; ++i) {
    rows.Update(LayerIndex{i}, sources);
    rows.all_rows_ += weights.ffn(LayerIndex{i}).layer->layout.ffn_rows;
  }
  return rows;
}

void DraftRows::Update(LayerIndex layer, const DraftSources& sources) {
  const FfnPart& part = sources.weights->ffn(layer);
  const Overlay* const overlay = sources.overlay;
  DraftLayer& out = layers_[static_cast<size_t>(ToInt(layer))];
  used_rows_ -= out.rows_used;
  out.layout = &part.layer->layout;
  if (sources.heads != nullptr) out.heads = sources.heads->Choose(layer);
  if (overlay != nullptr) out.overlay = overlay->Ref(layer);
  FindAvailableRows(part, overlay, layer, &available_);
  const RowSet* chosen = sources.predictor->Choose(layer, available_);
  out.choice = sources.predictor->TokenChoice(layer);
  if (chosen == nullptr) {
    out.pages.clear();
    part.ForEachDraftPage([&](const FfnPageRef& page) { out.pages.push_back(page); });
    out.rows_used = available_.count();
    if (out.choice != nullptr) {
      const int32_t kept = out.choice->value_count >= 0 ? out.choice->value_count : out.choice->count;
      if (kept >= 0) out.rows_used = std::min(out.rows_used, kept);
    }
  } else if (sources.gathered != nullptr) {
    sources.gathered->Gather(layer, part.layer->run_groups, part.resident, *chosen);
    const std::span<const FfnPageRef> pages = sources.gathered->Pages(layer);
    out.pages.assign(pages.begin(), pages.end());
    out.layout = &sources.gathered->layout(layer);
    out.rows_used = chosen->count();
  } else {
    MaskPages(part, *chosen, &out);
    MaskOverlay(*chosen, &out);
    out.rows_used = chosen->count();
  }
  used_rows_ += out.rows_used;
}

}  // namespace dogstar
