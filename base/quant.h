// Weight formats of GGUF: their numbers, block sizes and exact decoding. The scalar code here is the truth
// that kernels are tested against.
//
// A row of `cols` weights is cols / block_weights blocks, each block_bytes long, without padding.
// Formats (block layouts as published in the GGUF specification of ggml; d and m are IEEE half floats):
//   F32, F16, BF16   one weight a block
//   Q8_0             d, 32 x int8:            w = d * code
//   Q4_0             d, 16 bytes of nibbles:  w = d * (code - 8); low nibbles are weights 0..15, high 16..31
//   Q4_1             d, m, 16 bytes:          w = d * code + m; nibbles as Q4_0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/status.h"

namespace dogstar {

// The numbers are GGUF's: do not renumber.
enum class QuantType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
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

// REQUIRES: cols is a multiple of the type's block_weights.
uint64_t RowBytes(QuantType type, int64_t cols);

// row: RowBytes(type, cols) bytes of plain GGUF layout; out: [cols].
void DequantizeRow(QuantType type, const std::byte* row, int64_t cols, float* out);
// Round to nearest with the scale choice of the GGUF reference quantizers; for synthetic models and tests.
void QuantizeRow(QuantType type, const float* values, int64_t cols, std::byte* row);

// IEEE half and bfloat16. ToHalf and ToBfloat16 round to nearest even.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t bits);
uint16_t FloatToBfloat16(float value);

}  // namespace dogstar
