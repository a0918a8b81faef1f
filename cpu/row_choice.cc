#include "cpu/row_choice.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "base/panel.h"

namespace dogstar {
namespace {

constexpr int32_t kBlockRows = kQuantBlock;

uint32_t* MaskOf(const ChoiceStage& stage, const FfnBlock& block, int32_t token) {
  return stage.choice.masks + int64_t{block.choice_block} * stage.rows + token;
}

float ScoreOf(const ChoiceStage& stage, const FfnBlock& block, int32_t token, int n) {
  const float value = stage.choice.values[(int64_t{block.choice_block} * stage.rows + token) * kBlockRows + n];
  const float size = std::fabs(value);
  return stage.weight != nullptr ? size * stage.weight[block.first_row + n] : size;
}

// Tokens [first, first + count) choose one set, by the sum of their scores.
struct Choosers {
  int32_t first, count;
};

float SumOfScores(const ChoiceStage& stage, const FfnBlock& block, Choosers tokens, int n) {
  float sum = 0;
  for (int32_t t = tokens.first; t < tokens.first + tokens.count; ++t) sum += ScoreOf(stage, block, t, n);
  return sum;
}

// Scores are not negative, so their bits order as they do (what is no number counts as 0); the place in the list of
// blocks follows, lower ones first.
uint64_t KeyOf(float score, int32_t place) {
  const float known = score >= 0 ? score : 0.0F;
  return uint64_t{std::bit_cast<uint32_t>(known)} << 32 | (UINT32_MAX - static_cast<uint32_t>(place));
}

void KeepBest(const ChoiceStage& stage, Choosers tokens, std::span<uint64_t> keys) {
  size_t found = 0;
  for (size_t b = 0; b < stage.blocks.size(); ++b) {
    const FfnBlock& block = stage.blocks[b];
    for (uint32_t left = *MaskOf(stage, block, tokens.first); left != 0; left &= left - 1) {
      const int n = std::countr_zero(left);
      keys[found++] = KeyOf(SumOfScores(stage, block, tokens, n), static_cast<int32_t>(b) * kBlockRows + n);
    }
  }
  const size_t kept = std::min(found, static_cast<size_t>(stage.count));
  std::nth_element(keys.begin(), keys.begin() + static_cast<ptrdiff_t>(kept),
                   keys.begin() + static_cast<ptrdiff_t>(found), std::greater<>());
  for (const FfnBlock& block : stage.blocks) {
    for (int32_t t = 0; t < tokens.count; ++t) *MaskOf(stage, block, tokens.first + t) = 0;
  }
  for (size_t i = 0; i < kept; ++i) {
    const auto place = UINT32_MAX - static_cast<uint32_t>(keys[i]);
    const FfnBlock& block = stage.blocks[place / kBlockRows];
    for (int32_t t = 0; t < tokens.count; ++t) {
      *MaskOf(stage, block, tokens.first + t) |= uint32_t{1} << (place % kBlockRows);
    }
  }
}

void KeepReaching(const ChoiceStage& stage, Choosers tokens) {
  for (const FfnBlock& block : stage.blocks) {
    uint32_t keep = 0;
    for (uint32_t left = *MaskOf(stage, block, tokens.first); left != 0; left &= left - 1) {
      const int n = std::countr_zero(left);
      if (SumOfScores(stage, block, tokens, n) >= stage.threshold) keep |= uint32_t{1} << n;
    }
    for (int32_t t = 0; t < tokens.count; ++t) *MaskOf(stage, block, tokens.first + t) = keep;
  }
}

}  // namespace

void SetValues(const ChoiceStage& stage, const float* given, int64_t stride) {
  for (const FfnBlock& block : stage.blocks) {
    for (int32_t t = 0; t < stage.rows; ++t) {
      float* values = stage.choice.values + (int64_t{block.choice_block} * stage.rows + t) * kBlockRows;
      const float* from = given + t * stride + block.first_row;
      for (int n = 0; n < kBlockRows; ++n) {
        values[n] = (block.used >> n & 1) != 0 && from[n] > 0 ? from[n] : 0.0F;
      }
    }
  }
}

void KeepUsedRows(const ChoiceStage& stage) {
  for (const FfnBlock& block : stage.blocks) {
    for (int32_t t = 0; t < stage.rows; ++t) *MaskOf(stage, block, t) = block.used;
  }
}

void KeepBestRows(const ChoiceStage& stage, std::span<uint64_t> keys) {
  const int32_t together = stage.shared ? stage.rows : 1;
  for (int32_t t = 0; t < stage.rows; t += together) {
    if (stage.count >= 0) {
      KeepBest(stage, {t, together}, keys);
    } else {
      KeepReaching(stage, {t, together});
    }
  }
}

void UseKeptRows(FfnChoice choice, int32_t rows, std::span<FfnBlock> blocks) {
  for (FfnBlock& block : blocks) {
    block.used = 0;
    for (int32_t t = 0; t < rows; ++t) block.used |= choice.masks[int64_t{block.choice_block} * rows + t];
  }
}

}  // namespace dogstar
