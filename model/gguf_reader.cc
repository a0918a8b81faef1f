// GGUF: parsing of bytes, and reading the header of a file.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "fmt/format.h"
#include "model/gguf.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they lie in the file");

// Sanity limits: far above any real model, low enough that a hostile file cannot make us allocate gigabytes.
constexpr uint64_t kFieldsMax = 1u << 16;
constexpr uint64_t kTensorsMax = 1u << 18;
constexpr uint64_t kArrayStringsMax = 1u << 22;
constexpr uint64_t kKeyBytesMax = 65535;
constexpr uint64_t kTensorNameBytesMax = 1024;
constexpr uint64_t kStringBytesMax = 1u << 26;
constexpr uint64_t kHeaderBytesMax = uint64_t{1} << 30;
constexpr uint64_t kFirstReadBytes = 1u << 20;

// The smallest encodings, for checking counts before anything is allocated.
constexpr uint64_t kStringBytesMin = 8;
constexpr uint64_t kFieldBytesMin = kStringBytesMin + 1 + 4 + 1;
constexpr uint64_t kTensorBytesMin = kStringBytesMin + 1 + 4 + 8 + 4 + 8;

// Walks over the first bytes of a file. Running out of bytes is OutOfRange while the file has more, else DataLoss.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, uint64_t file_bytes)
      : bytes_(bytes.first(std::min<uint64_t>(bytes.size(), file_bytes))), file_bytes_(file_bytes) {}

  uint64_t offset() const { return offset_; }

  absl::Status Need(uint64_t count, uint64_t bytes_each) const {
    const uint64_t left_in_file = file_bytes_ - offset_;
    if (bytes_each != 0 && count > left_in_file / bytes_each) {
      return absl::DataLossError(
          fmt::format("needs {} bytes or more at offset {}, but the file ends at {}: truncated or corrupt",
                      Product(count, bytes_each), offset_, file_bytes_));
    }
    if (count * bytes_each > bytes_.size() - offset_) {
      return absl::OutOfRangeError(fmt::format("header goes on past {} bytes", bytes_.size()));
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Read() {
    RETURN_IF_ERROR(Need(1, sizeof(T)));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::span<const std::byte>> ReadBytes(uint64_t count, uint64_t bytes_each) {
    RETURN_IF_ERROR(Need(count, bytes_each));
    const auto result = bytes_.subspan(offset_, count * bytes_each);
    offset_ += result.size();
    return result;
  }

  absl::StatusOr<std::string> ReadString(uint64_t bytes_max) {
    const uint64_t start = offset_;
    ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>());
    if (length > bytes_max) {
      return absl::InvalidArgumentError(
          fmt::format("string at offset {} is {} bytes long, more than the {} allowed", start, length, bytes_max));
    }
    ASSIGN_OR_RETURN(const auto text, ReadBytes(length, 1));
    return std::string(reinterpret_cast<const char*>(text.data()), text.size());
  }

 private:
  static std::string Product(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? "more than 2^64" : fmt::format("{}", product);
  }

  std::span<const std::byte> bytes_;
  uint64_t file_bytes_;
  uint64_t offset_ = 0;
};

using Value = decltype(GgufField::value);

absl::StatusOr<GgufValueType> ReadType(Cursor& cursor) {
  const uint64_t start = cursor.offset();
  ASSIGN_OR_RETURN(const uint32_t number, cursor.Read<uint32_t>());
  if (!IsKnownType(number)) {
    return absl::InvalidArgumentError(fmt::format("unknown value type {} at offset {}", number, start));
  }
  return static_cast<GgufValueType>(number);
}

template <typename Stored, typename Widened>
absl::StatusOr<Value> ReadNumber(Cursor& cursor) {
  ASSIGN_OR_RETURN(const Stored value, cursor.Read<Stored>());
  return Value(static_cast<Widened>(value));
}

absl::StatusOr<Value> ReadBool(Cursor& cursor) {
  const uint64_t start = cursor.offset();
  ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>());
  if (value > 1) {
    return absl::InvalidArgumentError(fmt::format("bool at offset {} is {}, expected 0 or 1", start, value));
  }
  return Value(value == 1);
}

absl::StatusOr<GgufArray> ReadStrings(Cursor& cursor, uint64_t count) {
  if (count > kArrayStringsMax) {
    return absl::InvalidArgumentError(fmt::format("array of {} strings at offset {}: more than the {} allowed", count,
                                                  cursor.offset(), kArrayStringsMax));
  }
  RETURN_IF_ERROR(cursor.Need(count, kStringBytesMin));
  GgufArray array{.element_type = GgufValueType::kString, .count = count};
  array.strings.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    absl::StatusOr<std::string> text = cursor.ReadString(kStringBytesMax);
    if (!text.ok()) return Annotate(text.status(), fmt::format("element {}", i));
    array.strings.push_back(*std::move(text));
  }
  return array;
}

absl::StatusOr<GgufArray> ReadArray(Cursor& cursor) {
  const uint64_t start = cursor.offset();
  ASSIGN_OR_RETURN(const GgufValueType element_type, ReadType(cursor));
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>());
  if (element_type == GgufValueType::kArray) {
    return absl::UnimplementedError(fmt::format("array of arrays at offset {} is not supported", start));
  }
  if (element_type == GgufValueType::kString) return ReadStrings(cursor, count);
  ASSIGN_OR_RETURN(const auto bytes, cursor.ReadBytes(count, FixedBytes(element_type)));
  return GgufArray{.element_type = element_type, .count = count, .fixed = {bytes.begin(), bytes.end()}};
}

absl::StatusOr<Value> ReadValue(Cursor& cursor, GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
      return ReadNumber<uint8_t, uint64_t>(cursor);
    case GgufValueType::kInt8:
      return ReadNumber<int8_t, int64_t>(cursor);
    case GgufValueType::kUint16:
      return ReadNumber<uint16_t, uint64_t>(cursor);
    case GgufValueType::kInt16:
      return ReadNumber<int16_t, int64_t>(cursor);
    case GgufValueType::kUint32:
      return ReadNumber<uint32_t, uint64_t>(cursor);
    case GgufValueType::kInt32:
      return ReadNumber<int32_t, int64_t>(cursor);
    case GgufValueType::kUint64:
      return ReadNumber<uint64_t, uint64_t>(cursor);
    case GgufValueType::kInt64:
      return ReadNumber<int64_t, int64_t>(cursor);
    case GgufValueType::kFloat32:
      return ReadNumber<float, double>(cursor);
    case GgufValueType::kFloat64:
      return ReadNumber<double, double>(cursor);
    case GgufValueType::kBool:
      return ReadBool(cursor);
    case GgufValueType::kString: {
      ASSIGN_OR_RETURN(std::string text, cursor.ReadString(kStringBytesMax));
      return Value(std::move(text));
    }
    case GgufValueType::kArray: {
      ASSIGN_OR_RETURN(GgufArray array, ReadArray(cursor));
      return Value(std::move(array));
    }
  }
  return absl::InternalError("value type");
}

absl::StatusOr<GgufField> ReadTypedValue(Cursor& cursor, std::string key) {
  ASSIGN_OR_RETURN(const GgufValueType type, ReadType(cursor));
  ASSIGN_OR_RETURN(Value value, ReadValue(cursor, type));
  return GgufField{.key = std::move(key), .type = type, .value = std::move(value)};
}

absl::StatusOr<GgufField> ReadField(Cursor& cursor, uint64_t index) {
  const uint64_t start = cursor.offset();
  absl::StatusOr<std::string> key = cursor.ReadString(kKeyBytesMax);
  if (!key.ok()) return Annotate(key.status(), fmt::format("metadata key {}", index));
  if (key->empty()) {
    return absl::InvalidArgumentError(fmt::format("metadata key {} at offset {} is empty", index, start));
  }
  absl::StatusOr<GgufField> field = ReadTypedValue(cursor, *key);
  if (!field.ok()) return Annotate(field.status(), fmt::format("metadata key {}", Quoted(*key)));
  return field;
}

absl::StatusOr<std::vector<uint64_t>> ReadShape(Cursor& cursor) {
  const uint64_t start = cursor.offset();
  ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>());
  if (dimensions == 0 || dimensions > kGgufMaxDimensions) {
    return absl::InvalidArgumentError(
        fmt::format("has {} dimensions at offset {}, expected 1 to {}", dimensions, start, kGgufMaxDimensions));
  }
  std::vector<uint64_t> shape(dimensions);
  for (uint64_t& dimension : shape) {
    ASSIGN_OR_RETURN(dimension, cursor.Read<uint64_t>());
  }
  return shape;
}

// Everything after the name. `offset` is still relative to the data section.
absl::Status ReadTensorInfo(Cursor& cursor, GgufTensor* tensor) {
  ASSIGN_OR_RETURN(tensor->shape, ReadShape(cursor));
  ASSIGN_OR_RETURN(tensor->gguf_type, cursor.Read<uint32_t>());
  ASSIGN_OR_RETURN(tensor->offset, cursor.Read<uint64_t>());
  ASSIGN_OR_RETURN(tensor->bytes, TensorBytes(tensor->gguf_type, tensor->shape));
  return absl::OkStatus();
}

absl::StatusOr<GgufTensor> ReadTensor(Cursor& cursor, uint64_t index) {
  const uint64_t start = cursor.offset();
  GgufTensor tensor;
  absl::StatusOr<std::string> name = cursor.ReadString(kTensorNameBytesMax);
  if (!name.ok()) return Annotate(name.status(), fmt::format("name of tensor {}", index));
  if (name->empty()) {
    return absl::InvalidArgumentError(fmt::format("tensor {} at offset {} has no name", index, start));
  }
  tensor.name = *std::move(name);
  const absl::Status status = ReadTensorInfo(cursor, &tensor);
  if (!status.ok()) {
    return Annotate(status, fmt::format("tensor {} (described at offset {})", Quoted(tensor.name), start));
  }
  return tensor;
}

std::string PrintableMagic(uint32_t magic) {
  char bytes[4];
  std::memcpy(bytes, &magic, sizeof(bytes));
  return Quoted(std::string_view(bytes, sizeof(bytes)));
}

absl::StatusOr<uint32_t> ReadMagicAndVersion(Cursor& cursor) {
  absl::StatusOr<uint32_t> magic = cursor.Read<uint32_t>();
  if (!magic.ok()) return Annotate(magic.status(), "magic number \"GGUF\"");
  if (std::memcmp(&*magic, kGgufMagic, 4) != 0) {
    return absl::InvalidArgumentError(
        fmt::format("not a GGUF file: it starts with {}, a GGUF file with \"GGUF\"", PrintableMagic(*magic)));
  }
  absl::StatusOr<uint32_t> version = cursor.Read<uint32_t>();
  if (!version.ok()) return Annotate(version.status(), "GGUF version");
  if (*version == 2 || *version == kGgufVersion) return *version;
  if (*version != 0 && (*version & 0xffff) == 0) {
    return absl::UnimplementedError("big-endian GGUF files are not supported; convert the model again");
  }
  return absl::UnimplementedError(
      fmt::format("GGUF version {} is not supported; versions 2 and 3 are. Convert the model again", *version));
}

// `count` things of at least bytes_min each have to fit the rest of the file.
absl::StatusOr<uint64_t> CheckedCount(const Cursor& cursor, std::string_view what, uint64_t count, uint64_t bytes_min,
                                      uint64_t count_max) {
  if (count > count_max) {
    return absl::InvalidArgumentError(fmt::format("{} count {} is more than the {} allowed", what, count, count_max));
  }
  const absl::Status status = cursor.Need(count, bytes_min);
  if (!status.ok()) return Annotate(status, fmt::format("{} {}s", count, what));
  return count;
}

absl::StatusOr<uint64_t> AlignmentOf(const std::vector<GgufField>& fields) {
  for (const GgufField& field : fields) {
    if (field.key != kAlignmentKey) continue;
    const auto* value = std::get_if<uint64_t>(&field.value);
    if (value == nullptr || !IsValidAlignment(*value)) {
      return absl::InvalidArgumentError(fmt::format("{} must be a power of two up to {}{}", kAlignmentKey,
                                                    kGgufMaxAlignment,
                                                    value == nullptr ? "" : fmt::format(", not {}", *value)));
    }
    return *value;
  }
  return kGgufDefaultAlignment;
}

absl::Status CheckKeysDiffer(const std::vector<GgufField>& fields) {
  std::vector<std::string_view> keys;
  for (const GgufField& field : fields) keys.push_back(field.key);
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice == keys.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("metadata key {} is there twice", Quoted(*twice)));
}

// Indices of `tensors` sorted by a field.
template <typename Projection>
std::vector<uint32_t> SortedBy(const std::vector<GgufTensor>& tensors, Projection projection) {
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return projection(tensors[a]) < projection(tensors[b]); });
  return order;
}

absl::Status CheckNamesDiffer(const std::vector<GgufTensor>& tensors, const std::vector<uint32_t>& by_name) {
  for (size_t i = 1; i < by_name.size(); ++i) {
    if (tensors[by_name[i]].name == tensors[by_name[i - 1]].name) {
      return absl::InvalidArgumentError(fmt::format("tensor {} is there twice", Quoted(tensors[by_name[i]].name)));
    }
  }
  return absl::OkStatus();
}

// Turns an offset into the data section into one into the file.
absl::Status PlaceTensor(uint64_t data_offset, uint64_t alignment, uint64_t file_bytes, GgufTensor* tensor) {
  if (tensor->offset % alignment != 0) {
    return absl::InvalidArgumentError(fmt::format("tensor {} has data offset {}, no multiple of the alignment {}",
                                                  Quoted(tensor->name), tensor->offset, alignment));
  }
  uint64_t start = 0;
  uint64_t end = 0;
  if (__builtin_add_overflow(tensor->offset, data_offset, &start) ||
      __builtin_add_overflow(start, tensor->bytes, &end) || end > file_bytes) {
    return absl::DataLossError(
        fmt::format("tensor {} ({} bytes at data offset {}, data starts at {}) ends after the end of the file "
                    "({} bytes): truncated or corrupt",
                    Quoted(tensor->name), tensor->bytes, tensor->offset, data_offset, file_bytes));
  }
  tensor->offset = start;
  return absl::OkStatus();
}

absl::Status CheckNoOverlap(const std::vector<GgufTensor>& tensors) {
  const auto by_offset = SortedBy(tensors, [](const GgufTensor& tensor) { return tensor.offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const GgufTensor& first = tensors[by_offset[i - 1]];
    const GgufTensor& second = tensors[by_offset[i]];
    if (first.offset + first.bytes > second.offset) {
      return absl::InvalidArgumentError(fmt::format("tensors {} and {} overlap at offset {}", Quoted(first.name),
                                                    Quoted(second.name), second.offset));
    }
  }
  return absl::OkStatus();
}

struct Counts {
  uint64_t tensors = 0;
  uint64_t fields = 0;
};

absl::StatusOr<Counts> ReadCounts(Cursor& cursor) {
  Counts counts;
  ASSIGN_OR_RETURN(counts.tensors, cursor.Read<uint64_t>());
  ASSIGN_OR_RETURN(counts.fields, cursor.Read<uint64_t>());
  ASSIGN_OR_RETURN(counts.fields, CheckedCount(cursor, "metadata field", counts.fields, kFieldBytesMin, kFieldsMax));
  ASSIGN_OR_RETURN(counts.tensors, CheckedCount(cursor, "tensor", counts.tensors, kTensorBytesMin, kTensorsMax));
  return counts;
}

absl::StatusOr<std::vector<GgufField>> ReadFields(Cursor& cursor, uint64_t count) {
  std::vector<GgufField> fields;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(GgufField field, ReadField(cursor, i));
    fields.push_back(std::move(field));
  }
  RETURN_IF_ERROR(CheckKeysDiffer(fields));
  return fields;
}

absl::StatusOr<std::vector<GgufTensor>> ReadTensors(Cursor& cursor, uint64_t count) {
  std::vector<GgufTensor> tensors;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(GgufTensor tensor, ReadTensor(cursor, i));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

absl::Status PlaceTensors(uint64_t data_offset, uint64_t alignment, uint64_t file_bytes,
                          std::vector<GgufTensor>* tensors) {
  for (GgufTensor& tensor : *tensors) {
    RETURN_IF_ERROR(PlaceTensor(data_offset, alignment, file_bytes, &tensor));
  }
  return CheckNoOverlap(*tensors);
}

// Appends the file's bytes from buffer->size() up to `end`.
absl::Status ReadUpTo(int fd, const std::string& path, uint64_t end, std::vector<std::byte>* buffer) {
  uint64_t done = buffer->size();
  buffer->resize(end);
  while (done < end) {
    const ssize_t got = pread(fd, buffer->data() + done, end - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoStatus("read", path, static_cast<int64_t>(done), static_cast<int64_t>(end - done), errno);
    }
    if (got == 0) {
      return absl::DataLossError(
          fmt::format("read {} at offset {} ({} bytes): the file ended early; it has changed "
                      "since it was opened",
                      path, done, end - done));
    }
    done += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SizeOfRegularFile(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("examine", path, -1, -1, errno);
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{} is a directory; expected a GGUF file", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{} is not a regular file; expected a GGUF file", path));
  }
  if (info.st_size == 0) return absl::DataLossError(fmt::format("{} is empty; expected a GGUF file", path));
  return static_cast<uint64_t>(info.st_size);
}

absl::StatusOr<GgufHeader> ParseGrowingPrefix(int fd, const std::string& path, uint64_t file_bytes) {
  std::vector<std::byte> buffer;
  for (uint64_t prefix = kFirstReadBytes;; prefix *= 2) {
    RETURN_IF_ERROR(ReadUpTo(fd, path, std::min(prefix, file_bytes), &buffer));
    absl::StatusOr<GgufHeader> header = GgufHeader::Parse(buffer, file_bytes);
    if (header.ok()) return header;
    if (!absl::IsOutOfRange(header.status())) return Annotate(header.status(), path);
    if (prefix >= kHeaderBytesMax) {
      return absl::InvalidArgumentError(
          fmt::format("{}: the header is larger than the {} bytes allowed", path, kHeaderBytesMax));
    }
  }
}

}  // namespace

absl::StatusOr<GgufHeader> GgufHeader::Parse(std::span<const std::byte> bytes, uint64_t file_bytes) {
  Cursor cursor(bytes, file_bytes);
  GgufHeader header;
  header.file_bytes_ = file_bytes;
  ASSIGN_OR_RETURN(header.version_, ReadMagicAndVersion(cursor));
  ASSIGN_OR_RETURN(const Counts counts, ReadCounts(cursor));
  ASSIGN_OR_RETURN(header.fields_, ReadFields(cursor, counts.fields));
  ASSIGN_OR_RETURN(header.alignment_, AlignmentOf(header.fields_));
  ASSIGN_OR_RETURN(header.tensors_, ReadTensors(cursor, counts.tensors));
  header.header_bytes_ = cursor.offset();
  header.data_offset_ = AlignUp(header.header_bytes_, header.alignment_);
  RETURN_IF_ERROR(PlaceTensors(header.data_offset_, header.alignment_, file_bytes, &header.tensors_));
  header.tensors_by_name_ =
      SortedBy(header.tensors_, [](const GgufTensor& tensor) { return std::string_view(tensor.name); });
  RETURN_IF_ERROR(CheckNamesDiffer(header.tensors_, header.tensors_by_name_));
  return header;
}

absl::StatusOr<GgufHeader> ReadGgufHeader(const std::string& path) {
  // O_NONBLOCK: opening a pipe must not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus("open", path, -1, -1, errno);
  const absl::Cleanup close_fd = [fd] { close(fd); };
  ASSIGN_OR_RETURN(const uint64_t file_bytes, SizeOfRegularFile(fd, path));
  return ParseGrowingPrefix(fd, path, file_bytes);
}

}  // namespace dogstar
