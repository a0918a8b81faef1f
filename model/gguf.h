// GGUF version 2 and 3: reading from bytes, and writing.
//
// Parsing takes bytes, apart from opening files, so that it can be fuzzed. Every length, offset and type is checked
// before it is used; errors are InvalidArgument or DataLoss and name the field or tensor and its offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/quant.h"
#include "base/status.h"

namespace dogstar {

// The numbers are GGUF's: do not renumber.
enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Array elements as stored: fixed-size ones little-endian and back to back; strings with their lengths.
struct GgufArray {
  GgufValueType element_type = GgufValueType::kUint8;
  uint64_t count = 0;
  std::vector<std::byte> fixed;      // element_type other than kString
  std::vector<std::string> strings;  // kString
};

struct GgufField {
  std::string key;
  GgufValueType type = GgufValueType::kUint32;
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;  // integers widened, floats as double
};

struct GgufTensor {
  std::string name;
  uint32_t gguf_type = 0;       // a number FindQuantTraits knows
  std::vector<uint64_t> shape;  // GGUF's order: shape[0] is the row length (cols); 1 to 4 dimensions
  uint64_t offset = 0;          // from the start of the file
  uint64_t bytes = 0;
  uint64_t cols() const { return shape[0]; }
  uint64_t rows() const;  // product of the other dimensions
};

// The header of a GGUF file: metadata and tensor table. Holds no tensor data.
class GgufHeader {
 public:
  // `bytes`: the first bytes of a file of `file_bytes` bytes. OutOfRange when the header goes on past `bytes` while
  // the file is longer (pass more); InvalidArgument/DataLoss for anything wrong.
  static absl::StatusOr<GgufHeader> Parse(std::span<const std::byte> bytes, uint64_t file_bytes);

  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  uint64_t header_bytes() const { return header_bytes_; }  // metadata and table, before padding
  uint64_t data_offset() const { return data_offset_; }
  uint64_t file_bytes() const { return file_bytes_; }
  const std::vector<GgufField>& fields() const { return fields_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  const GgufField* FindField(std::string_view key) const;
  const GgufTensor* FindTensor(std::string_view name) const;
  // NotFound names the key; InvalidArgument names key, its type and the type wanted. Any integer type is accepted
  // for integers where the value fits.
  absl::StatusOr<uint64_t> GetUint(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<const GgufArray*> GetArray(std::string_view key, GgufValueType element_type) const;

  // Moves the fields out, leaving the tensor table (memory: a vocabulary takes megabytes as strings).
  std::vector<GgufField> TakeFields();

 private:
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  uint64_t header_bytes_ = 0;
  uint64_t data_offset_ = 0;
  uint64_t file_bytes_ = 0;
  std::vector<GgufField> fields_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint32_t> tensors_by_name_;  // indices into tensors_
};

// Reads and parses the header of the file at `path` (a directory, an empty file, a wrong magic: a clear error).
absl::StatusOr<GgufHeader> ReadGgufHeader(const std::string& path);

// Writes a GGUF v3 file: declare everything, then write the tensors' data in the order of declaration.
// The file appears under its name only after Finish: no name until then (a temporary one beside it where the file
// system knows no nameless files), fsync, rename. An unfinished writer leaves nothing when it is destroyed; what a
// killed one left, the next writer of the same path removes.
class GgufWriter {
 public:
  static absl::StatusOr<GgufWriter> Create(const std::string& path, uint64_t alignment);
  GgufWriter(GgufWriter&& other) noexcept;
  GgufWriter& operator=(GgufWriter&& other) noexcept;
  ~GgufWriter();

  // A key declared again replaces the earlier value. general.alignment is the writer's own: one declared here is
  // ignored.
  void AddField(GgufField field);
  void AddUint32(std::string key, uint32_t value);
  void AddUint64(std::string key, uint64_t value);
  void AddFloat32(std::string key, float value);
  void AddBool(std::string key, bool value);
  void AddString(std::string key, std::string value);
  void AddUint32Array(std::string key, std::span<const uint32_t> values);
  // shape in GGUF's order. bytes is derived from type and shape.
  absl::Status AddTensor(std::string name, uint32_t gguf_type, std::vector<uint64_t> shape);

  // Bytes of the finished file as declared so far.
  uint64_t TotalBytes() const;
  // All bytes before the first tensor's data, as declared so far.
  std::string HeaderBytes() const;
  // Checks free disk space (ResourceExhausted names needed and free bytes), writes metadata and table.
  absl::Status BeginData();
  // Appends bytes to the current tensor; tensors follow each other in order of declaration.
  absl::Status WriteData(std::span<const std::byte> bytes);
  // Pads and closes the current tensor (error when its bytes are not complete).
  absl::Status EndTensor();
  // Bytes of a tensor that is closed, from `offset` on.
  absl::Status ReadBack(std::string_view tensor, uint64_t offset, std::span<std::byte> bytes);
  absl::Status Finish();

 private:
  struct State;
  explicit GgufWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace dogstar
