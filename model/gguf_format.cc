#include "model/gguf_format.h"

#include <bit>
#include <cctype>
#include <limits>

#include "fmt/format.h"
#include "fmt/ranges.h"

namespace dogstar {
namespace {

constexpr size_t kQuotedBytesMax = 120;
// Keeps every size in signed 64 bits, with room for sums.
constexpr uint64_t kTensorBytesMax = uint64_t{1} << 60;

absl::StatusOr<uint64_t> ElementCount(const std::vector<uint64_t>& shape) {
  if (shape.empty() || shape.size() > kGgufMaxDimensions) {
    return absl::InvalidArgumentError(
        fmt::format("has {} dimensions, expected 1 to {}", shape.size(), kGgufMaxDimensions));
  }
  uint64_t count = 1;
  for (const uint64_t dimension : shape) {
    if (dimension == 0) {
      return absl::InvalidArgumentError(fmt::format("has a zero dimension: [{}]", fmt::join(shape, ", ")));
    }
    if (__builtin_mul_overflow(count, dimension, &count) || count > kTensorBytesMax) {
      return absl::InvalidArgumentError(fmt::format("has impossible dimensions: [{}]", fmt::join(shape, ", ")));
    }
  }
  return count;
}

}  // namespace

uint64_t FixedBytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
      return 8;
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return 0;
  }
  return 0;
}

bool IsKnownType(uint32_t number) { return number <= static_cast<uint32_t>(GgufValueType::kFloat64); }

std::string_view TypeName(GgufValueType type) {
  static constexpr std::string_view kNames[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                                "bool",  "string", "array",  "uint64", "int64",  "float64"};
  return kNames[static_cast<uint32_t>(type)];
}

std::string TypeName(const GgufField& field) {
  const auto* array = std::get_if<GgufArray>(&field.value);
  if (array == nullptr) return std::string(TypeName(field.type));
  return fmt::format("array of {}", TypeName(array->element_type));
}

bool IsValidAlignment(uint64_t alignment) { return std::has_single_bit(alignment) && alignment <= kGgufMaxAlignment; }

absl::StatusOr<uint64_t> TensorBytes(uint32_t gguf_type, const std::vector<uint64_t>& shape) {
  const QuantTraits* traits = FindQuantTraits(gguf_type);
  if (traits == nullptr) return absl::InvalidArgumentError(fmt::format("has unknown type number {}", gguf_type));
  ASSIGN_OR_RETURN(const uint64_t elements, ElementCount(shape));
  const uint64_t block_weights = static_cast<uint64_t>(traits->block_weights);
  if (shape[0] % block_weights != 0) {
    return absl::InvalidArgumentError(fmt::format("has rows of {} weights, but type {} needs a multiple of {}",
                                                  shape[0], traits->name, block_weights));
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements / block_weights, static_cast<uint64_t>(traits->block_bytes), &bytes) ||
      bytes > kTensorBytesMax) {
    return absl::InvalidArgumentError(fmt::format("has impossible dimensions: [{}]", fmt::join(shape, ", ")));
  }
  return bytes;
}

std::string Quoted(std::string_view text) {
  const bool cut = text.size() > kQuotedBytesMax;
  std::string quoted = "'";
  for (const char c : text.substr(0, kQuotedBytesMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      quoted += c;
    } else {
      quoted += fmt::format("\\x{:02x}", byte);
    }
  }
  return quoted + (cut ? "...'" : "'");
}

}  // namespace dogstar
