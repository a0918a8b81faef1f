// Which rows tokens keep: the selection half of FfnAccumulateChosen (device/backend.h has the rule).
#pragma once

#include <cstdint>
#include <span>

#include "cpu/kernels.h"
#include "device/backend.h"

namespace dogstar {

// Rows of `blocks`, by values of `rows` tokens.
struct ChoiceStage {
  std::span<const FfnBlock> blocks;
  FfnChoice choice;
  int32_t rows = 0;
  const float* weight = nullptr;  // [ffn_rows]; null: 1
  int32_t count = 0;              // < 0: by threshold
  float threshold = 0;
  bool shared = false;
};

// The values that tokens choose by are given: of token t and row r at given[t * stride + r]; negative ones count as 0.
void SetValues(const ChoiceStage& stage, const float* given, int64_t stride);
// Every token may keep every used row.
void KeepUsedRows(const ChoiceStage& stage);
// Each token keeps, of the rows its mask has, those that the stage asks for. keys: room for 32 a block.
void KeepBestRows(const ChoiceStage& stage, std::span<uint64_t> keys);
// used = the rows that at least one token keeps.
void UseKeptRows(FfnChoice choice, int32_t rows, std::span<FfnBlock> blocks);

}  // namespace dogstar
