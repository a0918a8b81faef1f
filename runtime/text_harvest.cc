#include "runtime/text_harvest.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dogstar {
namespace {

int32_t LayerRows(const Weights& weights) { return weights.ffn(LayerIndex{0}).layer->layout.ffn_rows; }

int32_t PrefixRows(const FfnPart& part) {
  int32_t rows = 0;
  part.ForEachDraftPage([&](const FfnPageRef& page) { rows += page.row_count; });
  return rows;
}

template <typename Visit>
void ForEachRow(std::span<const uint64_t> mask, Visit visit) {
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      visit(static_cast<int32_t>(word * 64) + std::countr_zero(bits));
    }
  }
}

}  // namespace

TextHarvest::TextHarvest(const Weights* weights, Predictor* predictor, RowScores* scores, Overlay* overlay,
                         const Options& options)
    : predictor_(predictor),
      scores_(scores),
      overlay_(overlay),
      accesses_(options.accesses),
      ffn_rows_(LayerRows(*weights)),
      words_(static_cast<size_t>(ffn_rows_ + 63) / 64),
      finder_(ffn_rows_) {
  for (int32_t i = 0; i < weights->layer_count(); ++i) {
    Layer& layer = layers_.emplace_back();
    layer.prefix_rows = PrefixRows(weights->ffn(LayerIndex{i}));
    const int32_t resident = layer.prefix_rows + (overlay != nullptr ? overlay->places(LayerIndex{i}) : 0);
    const int32_t wanted =
        options.density < 0 ? resident : static_cast<int32_t>(std::floor(options.density * ffn_rows_));
    layer.top_rows = std::clamp(wanted, 1, ffn_rows_);
    layer.wanted = RowSet(ffn_rows_);
    layer.masks.resize(static_cast<size_t>(options.pass_rows) * words_);
    layer.shares.resize(static_cast<size_t>(options.pass_rows) * static_cast<size_t>(layer.top_rows));
  }
}

uint64_t TextHarvest::TableBytes(int32_t layers, int32_t ffn_rows, int32_t pass_rows, double density) {
  const uint64_t mask_bytes = static_cast<uint64_t>(ffn_rows + 63) / 64 * sizeof(uint64_t);
  const uint64_t share_bytes = static_cast<uint64_t>(std::ceil((density < 0 ? 1 : density) * ffn_rows));
  const uint64_t row_bytes = mask_bytes + share_bytes;
  return static_cast<uint64_t>(layers) * (row_bytes * static_cast<uint64_t>(pass_rows) + mask_bytes + sizeof(Layer)) +
         TopRowsFinder::Bytes(ffn_rows);
}

void TextHarvest::BeginText(int32_t prompt_tokens) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerIndex index{static_cast<int32_t>(i)};
    layers_[i].wanted.Clear();
    scores_->BeginText(index, prompt_tokens, layers_[i].top_rows);
    std::span<const int32_t> held;
    if (overlay_ != nullptr) held = overlay_->BeginText(index, scores_->Of(index));
    if (accesses_ == nullptr) continue;
    accesses_->Text({index, overlay_ != nullptr ? overlay_->places(index) : 0, layers_[i].top_rows, held,
                     scores_->Of(index).subspan(static_cast<size_t>(layers_[i].prefix_rows))});
  }
}

void TextHarvest::OnStreamedPages(LayerIndex index, std::span<const FfnPageRef> pages, std::span<const float>, int32_t,
                                  int32_t) {
  if (overlay_ == nullptr) return;
  const Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
  const std::span<const float> scores = scores_->Of(index);
  for (const FfnPageRef& page : pages) {
    for (int32_t first = 0; first < page.row_count; first += 64) {
      uint64_t wanted = layer.wanted.Bits(page.first_row + first);
      if (page.row_count - first < 64) wanted &= (uint64_t{1} << (page.row_count - first)) - 1;
      for (; wanted != 0; wanted &= wanted - 1) overlay_->Admit(index, page, first + std::countr_zero(wanted), scores);
    }
  }
}

void TextHarvest::OnLayer(LayerIndex index, std::span<const float> z, int32_t rows, int32_t stride) {
  Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
  for (int32_t row = 0; row < rows; ++row) {
    const auto values =
        z.subspan(static_cast<size_t>(row) * static_cast<size_t>(stride), static_cast<size_t>(ffn_rows_));
    const std::span<uint64_t> mask = MaskOf(&layer, row);
    finder_.Find(values, layer.top_rows, mask);
    float energy = 1e-30F;  // a silent layer divides by nothing
    for (float value : values) energy += value * value;
    uint8_t* share = layer.shares.data() + static_cast<size_t>(row) * static_cast<size_t>(layer.top_rows);
    ForEachRow(mask, [&](int32_t top) {
      const float value = values[static_cast<size_t>(top)];
      *share++ = EncodeShare(value * value / energy);
    });
  }
}

void TextHarvest::EndPass(std::span<const int32_t> verified_rows) {
  for (Layer& layer : layers_) layer.wanted.Clear();
  for (const int32_t row : verified_rows) {
    for (size_t i = 0; i < layers_.size(); ++i) {
      Replay(LayerIndex{static_cast<int32_t>(i)}, row);
      if (accesses_ != nullptr) Record(LayerIndex{static_cast<int32_t>(i)}, row);
    }
    if (overlay_ != nullptr) overlay_->EndToken();
    if (accesses_ != nullptr) accesses_->EndToken();
  }
  if (overlay_ != nullptr) overlay_->EndPass();
  if (accesses_ != nullptr) accesses_->EndPass();
}

// One verified token in one layer.
void TextHarvest::Replay(LayerIndex index, int32_t pass_row) {
  Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
  const std::span<const uint64_t> mask = MaskOf(&layer, pass_row);
  const bool cached = overlay_ != nullptr && overlay_->places(index) > 0;
  const uint8_t* share = layer.shares.data() + static_cast<size_t>(pass_row) * static_cast<size_t>(layer.top_rows);
  predictor_->ObserveToken(index, mask, layer.top_rows);
  scores_->Decay(index);
  ForEachRow(mask, [&](int32_t top) {
    const RowIndex row{top};
    const float uses = DecodeShare(*share++) * static_cast<float>(layer.top_rows);
    scores_->Add(index, row, uses);
    if (!cached || top < layer.prefix_rows) return;  // the prefix stays: no affair of the cache
    if (!overlay_->Request(index, row, uses)) layer.wanted.Insert(row);
  });
}

void TextHarvest::Record(LayerIndex index, int32_t pass_row) {
  Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
  const uint8_t* share = layer.shares.data() + static_cast<size_t>(pass_row) * static_cast<size_t>(layer.top_rows);
  accesses_->BeginRequests(index);
  ForEachRow(MaskOf(&layer, pass_row), [&](int32_t top) {
    if (top >= layer.prefix_rows) accesses_->Request(RowIndex{top}, *share);
    ++share;
  });
  accesses_->EndRequests();
}

}  // namespace dogstar
