// Facts of the GGUF format that reader and writer share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/gguf.h"

namespace dogstar {

inline constexpr char kGgufMagic[] = "GGUF";  // the first four bytes
inline constexpr uint32_t kGgufVersion = 3;   // written; 2 and 3 are read (they differ in nothing that we use)
inline constexpr uint64_t kGgufDefaultAlignment = 32;
inline constexpr uint64_t kGgufMaxAlignment = 1u << 24;
inline constexpr char kAlignmentKey[] = "general.alignment";
inline constexpr size_t kGgufMaxDimensions = 4;

// Bytes of one value; 0 for strings, arrays and unknown numbers.
uint64_t FixedBytes(GgufValueType type);
bool IsKnownType(uint32_t number);
std::string_view TypeName(GgufValueType type);
std::string TypeName(const GgufField& field);  // "array of string"

bool IsValidAlignment(uint64_t alignment);
// REQUIRES: alignment is a power of two and the sum does not overflow.
constexpr uint64_t AlignUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

// Bytes of a tensor's data. InvalidArgument (without the tensor's name) for dimensions that are zero, too many or too
// large, rows that are no multiple of a block, and types that FindQuantTraits does not know.
absl::StatusOr<uint64_t> TensorBytes(uint32_t gguf_type, const std::vector<uint64_t>& shape);

// Text from a file for a message: in quotes, escaped, cut where it is long.
std::string Quoted(std::string_view text);

}  // namespace dogstar
