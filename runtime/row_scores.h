// RowScores: how much each FFN row of a model mattered lately.
//
// A token's use of a row is the row's share of the layer's energy, z^2 over the sum of z^2 (Griffin's statistic), times
// the number of rows a token is said to use: the uses of a token add up to that number. A row's score is the sum of its
// uses, each halved every half-life; the tokens of a prompt count alike, as they are read together. Before the prompt
// stand `prior` tokens that used rows as the packed file's order, which is one of importance, lets expect.
//
// Threads: one. Memory: allocated once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"

namespace dogstar {

class RowScores {
 public:
  struct Options {
    double half_life = 32;  // tokens
    double prior = 32;      // tokens
  };
  RowScores(int32_t layers, int32_t ffn_rows, const Options& options);
  static uint64_t Bytes(int32_t layers, int32_t ffn_rows) {
    return static_cast<uint64_t>(layers) * static_cast<uint64_t>(ffn_rows) * sizeof(float);
  }

  // A new prompt. Until BeginText scores are sums of shares.
  void BeginPrompt();
  // z: [tokens, stride], RowIndex order, the first ffn_rows columns.
  void AddPrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride);
  // The prompt had so many tokens, and a token uses top_rows rows of this layer: scores become sums of uses.
  void BeginText(LayerIndex layer, int32_t prompt_tokens, int32_t top_rows);
  // Scores of the rows from `first` on as they were (a recorded text).
  void Restore(LayerIndex layer, RowIndex first, std::span<const float> scores);
  // A token passes; its uses are added after that.
  void Decay(LayerIndex layer);
  void Add(LayerIndex layer, RowIndex row, float uses) { Mutable(layer)[static_cast<size_t>(ToInt(row))] += uses; }

  // [ffn_rows]
  std::span<const float> Of(LayerIndex layer) const { return layers_[static_cast<size_t>(ToInt(layer))]; }

 private:
  std::span<float> Mutable(LayerIndex layer) { return layers_[static_cast<size_t>(ToInt(layer))]; }

  float decay_;       // of a token
  double most_uses_;  // what a row that every token uses once comes to
  double prior_;
  std::vector<std::vector<float>> layers_;
};

}  // namespace dogstar
