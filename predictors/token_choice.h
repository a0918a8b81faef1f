// Predictors that choose rows for each token while its FFN runs, from values of that token.
//
//   gate           |activation(gate_j)|, "FSparse" (Sirius, arXiv 2409.03856; CATS, arXiv 2404.08763, by count instead
//                  of a threshold): floor((1 - density) * rows) are left out; the others keep floor(density * rows)
//   gate-weighted  |activation(gate_j)| rms(u_j) |d_j|: an estimate of the row's contribution |z_j| |d_j| before up is
//                  read. u = up x, its rms over the tokens of all prompts so far (with statistics: theirs, which no
//                  prompt changes); |d_j|: the norm of the down part
//   two-stage      gate-weighted, then of the rows chosen those of largest contribution keep their down part
//   magnitude      |z_j|: gate and up of all rows are computed
//   contribution   |z_j| |d_j|
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "predictors/predictor.h"

namespace dogstar {

class TokenChoicePredictor : public Predictor {
 public:
  enum class Kind { kGate, kGateWeighted, kTwoStage, kMagnitude, kContribution };
  struct Options {
    double density = -1;                      // < 0: every resident row, without a choice
    std::span<const double> layer_densities;  // instead, where not empty
    double value_density = -1;  // kTwoStage, of rows whose down part is used; < 0: 4/7 of density, as measured best
    bool shared = false;        // one set for all tokens of a pass
    int32_t layers = 0, ffn_rows = 0;
    const Statistics* statistics = nullptr;  // rms(u) before the first prompt; null: every row's alike
  };
  TokenChoicePredictor(Kind kind, std::string_view name, const Options& options);

  std::string_view name() const override { return name_; }
  bool observes_prompt() const override { return observes_up(); }
  bool observes_up() const override {
    return chooses_ && calibrated_.empty() && (kind_ == Kind::kGateWeighted || kind_ == Kind::kTwoStage);
  }
  void ObserveUp(LayerIndex layer, std::span<const float> up, int32_t tokens, int32_t stride) override;
  void EndPrompt() override;
  bool needs_row_norms() const override { return kind_ != Kind::kGate && kind_ != Kind::kMagnitude; }
  void SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float> down) override;
  const RowChoice* TokenChoice(LayerIndex layer) const override {
    return chooses_ ? &choices_[static_cast<size_t>(ToInt(layer))] : nullptr;
  }
  bool chooses_by_token() const override { return chooses_; }

 private:
  Kind kind_;
  std::string_view name_;
  bool chooses_;
  std::vector<std::vector<float>> calibrated_;  // [layer][row] rms(u) of statistics; empty: none
  std::vector<RowChoice> choices_;              // [layer]
  std::vector<int64_t> tokens_;                 // [layer] that were observed
  std::vector<std::vector<float>> up_squares_;  // [layer][row] sum of u^2 over them
  std::vector<std::vector<float>> weights_;     // [layer][row] of the first stage, or of values
  std::vector<std::vector<float>> down_norm_;   // [layer][row]
};

}  // namespace dogstar
