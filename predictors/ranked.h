// Predictors that take the rows of a layer's largest scores, the same for every token of a text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "predictors/predictor.h"
#include "predictors/selection.h"

namespace dogstar {

// Scores that hold for every text.
class RankedPredictor : public Predictor {
 public:
  // rows: [layers] to take; < 0: all that are available. scores: [layers][rows in RowIndex order]; equal scores: the
  // lower row first.
  RankedPredictor(std::string_view name, std::vector<int32_t> rows, std::vector<std::vector<float>> scores)
      : name_(name), rows_(std::move(rows)), scores_(std::move(scores)) {}

  std::string_view name() const override { return name_; }
  int32_t ListedRows(LayerIndex layer) const override { return rows_[static_cast<size_t>(ToInt(layer))]; }
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override {
    const auto at = static_cast<size_t>(ToInt(layer));
    if (rows_[at] < 0) return nullptr;
    TopRows(scores_[at], available, rows_[at], &scratch_, &chosen_);
    return &chosen_;
  }

 protected:
  bool chooses() const {
    return std::ranges::any_of(rows_, [](int32_t rows) { return rows >= 0; });
  }
  std::vector<float>& scores(LayerIndex layer) { return scores_[static_cast<size_t>(ToInt(layer))]; }

 private:
  std::string_view name_;
  std::vector<int32_t> rows_;
  std::vector<std::vector<float>> scores_;  // [layer][row]
  std::vector<int32_t> scratch_;
  RowSet chosen_;
};

// Scores of each prompt's own ("prompt-static" in "Achieving Sparse Activation in Small Language Models").
class PromptRankedPredictor : public RankedPredictor {
 public:
  using RankedPredictor::RankedPredictor;
  bool needs_prompt_attribution() const override { return chooses(); }
  void SetPromptAttribution(LayerIndex layer, std::span<const float> given) override {
    scores(layer).assign(given.begin(), given.end());
  }
};

}  // namespace dogstar
