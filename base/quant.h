// Weight formats of GGUF: their numbers, block sizes and exact decoding. The scalar code here is the truth
// that kernels are tested against.
//
// A row of `cols` weights is cols / block_weights blocks, each block_bytes long, without padding.
// F32, F16 and BF16 have one weight a block; the others 32 or 256 (Q2_K to Q6_K): base/quant_codes.h says what is in
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dogstar {

// The numbers are GGUF's: do not renumber.
enum class QuantType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kBF16 = 30,
};

struct QuantTraits {
  std::string_view name;
  uint32_t gguf_type;
  int32_t block_weights;  // weights per block; a row's length is a multiple of it
  int32_t block_bytes;
  bool runnable;  // DequantizeRow and the kernels know it; otherwise only sizes are known
};

// Every type number that GGUF defines (so that files with others can be listed); nullptr for unknown numbers.
const QuantTraits* FindQuantTraits(uint32_t gguf_type);
// REQUIRES: a type of the enum.
const QuantTraits& TraitsOf(QuantType type);
// "Q4_0" -> kQ4_0; InvalidArgument naming the types that run.
absl::StatusOr<QuantType> ParseQuantType(std::string_view name);

// "F32", "F16", ...
std::vector<std::string> RunnableQuantTypes();

// REQUIRES: cols is a multiple of the type's block_weights.
uint64_t RowBytes(QuantType type, int64_t cols);

// row: RowBytes(type, cols) bytes of plain GGUF layout; out: [cols].
void DequantizeRow(QuantType type, const std::byte* row, int64_t cols, float* out);
// Round to nearest, scales from the extremes of each group (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: the choice of the GGUF
// reference quantizers; the others are simpler than theirs); for synthetic models and tests. base/quantize.cc.
void QuantizeRow(QuantType type, const float* values, int64_t cols, std::byte* row);

// IEEE half and bfloat16. ToHalf and ToBfloat16 round to nearest even.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t bits);
uint16_t FloatToBfloat16(float value);

}  // namespace dogstar
