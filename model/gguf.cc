// Lookups in a parsed header; reading is gguf_reader.cc, writing is gguf_writer.cc.
#include "model/gguf.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

absl::Status WrongType(const GgufField& field, std::string_view wanted) {
  return absl::InvalidArgumentError(
      fmt::format("metadata key {} has type {}, expected {}", Quoted(field.key), TypeName(field), wanted));
}

absl::Status MissingKey(std::string_view key) {
  return absl::NotFoundError(fmt::format("metadata key {} is missing", Quoted(key)));
}

}  // namespace

uint64_t GgufTensor::rows() const {
  uint64_t product = 1;
  for (size_t i = 1; i < shape.size(); ++i) product *= shape[i];
  return product;
}

const GgufField* GgufHeader::FindField(std::string_view key) const {
  const auto found = std::find_if(fields_.begin(), fields_.end(), [&](const GgufField& f) { return f.key == key; });
  return found == fields_.end() ? nullptr : &*found;
}

const GgufTensor* GgufHeader::FindTensor(std::string_view name) const {
  const auto found = std::lower_bound(tensors_by_name_.begin(), tensors_by_name_.end(), name,
                                      [&](uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  if (found == tensors_by_name_.end() || tensors_[*found].name != name) return nullptr;
  return &tensors_[*found];
}

absl::StatusOr<uint64_t> GgufHeader::GetUint(std::string_view key) const {
  const GgufField* field = FindField(key);
  if (field == nullptr) return MissingKey(key);
  if (const auto* value = std::get_if<uint64_t>(&field->value)) return *value;
  const auto* value = std::get_if<int64_t>(&field->value);
  if (value == nullptr) return WrongType(*field, "an unsigned integer");
  if (*value < 0) {
    return absl::InvalidArgumentError(
        fmt::format("metadata key {} is {}, expected an unsigned integer", Quoted(key), *value));
  }
  return static_cast<uint64_t>(*value);
}

absl::StatusOr<double> GgufHeader::GetFloat(std::string_view key) const {
  const GgufField* field = FindField(key);
  if (field == nullptr) return MissingKey(key);
  if (const auto* value = std::get_if<double>(&field->value)) return *value;
  return WrongType(*field, "a float");
}

absl::StatusOr<bool> GgufHeader::GetBool(std::string_view key) const {
  const GgufField* field = FindField(key);
  if (field == nullptr) return MissingKey(key);
  if (const auto* value = std::get_if<bool>(&field->value)) return *value;
  return WrongType(*field, "bool");
}

absl::StatusOr<std::string_view> GgufHeader::GetString(std::string_view key) const {
  const GgufField* field = FindField(key);
  if (field == nullptr) return MissingKey(key);
  if (const auto* value = std::get_if<std::string>(&field->value)) return std::string_view(*value);
  return WrongType(*field, "string");
}

absl::StatusOr<const GgufArray*> GgufHeader::GetArray(std::string_view key, GgufValueType element_type) const {
  const GgufField* field = FindField(key);
  if (field == nullptr) return MissingKey(key);
  const auto* array = std::get_if<GgufArray>(&field->value);
  if (array == nullptr || array->element_type != element_type) {
    return WrongType(*field, fmt::format("array of {}", TypeName(element_type)));
  }
  return array;
}

std::vector<GgufField> GgufHeader::TakeFields() { return std::exchange(fields_, {}); }

}  // namespace dogstar
