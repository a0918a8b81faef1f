// GGUF: writing version 3 files.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_set.h"
#include "fmt/format.h"
#include "model/gguf.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

constexpr size_t kBufferBytes = 1u << 20;
constexpr mode_t kFileMode = 0644;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(std::string_view text, std::string* out) {
  Put<uint64_t>(text.size(), out);
  out->append(text);
}

void PutArray(const GgufArray& array, std::string* out) {
  Put(static_cast<uint32_t>(array.element_type), out);
  Put(array.count, out);
  if (array.element_type == GgufValueType::kString) {
    CHECK(array.strings.size() == array.count);
    for (const std::string& text : array.strings) PutString(text, out);
    return;
  }
  CHECK(array.fixed.size() == array.count * FixedBytes(array.element_type));
  out->append(reinterpret_cast<const char*>(array.fixed.data()), array.fixed.size());
}

// Little-endian, so the low bytes of a widened integer come first.
template <typename T>
void PutLowBytes(T value, uint64_t bytes, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), bytes);
}

struct ValuePutter {
  GgufValueType type;
  std::string* out;

  void operator()(uint64_t value) const { PutLowBytes(value, FixedBytes(type), out); }
  void operator()(int64_t value) const { PutLowBytes(value, FixedBytes(type), out); }
  void operator()(double value) const {
    if (type == GgufValueType::kFloat32) {
      Put(static_cast<float>(value), out);
    } else {
      Put(value, out);
    }
  }
  void operator()(bool value) const { Put<uint8_t>(value ? 1 : 0, out); }
  void operator()(const std::string& value) const { PutString(value, out); }
  void operator()(const GgufArray& value) const { PutArray(value, out); }
};

void PutField(const GgufField& field, std::string* out) {
  PutString(field.key, out);
  Put(static_cast<uint32_t>(field.type), out);
  std::visit(ValuePutter{field.type, out}, field.value);
}

void PutTensor(const GgufTensor& tensor, std::string* out) {
  PutString(tensor.name, out);
  Put(static_cast<uint32_t>(tensor.shape.size()), out);
  for (const uint64_t dimension : tensor.shape) Put(dimension, out);
  Put(tensor.gguf_type, out);
  Put(tensor.offset, out);
}

std::string DirectoryOf(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

absl::Status SyncDirectory(const std::string& path) {
  const std::string directory = DirectoryOf(path);
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("open", directory, -1, -1, errno);
  const absl::Cleanup close_fd = [fd] { close(fd); };
  // Some file systems cannot sync a directory and say EINVAL; the rename is then as safe as it gets there.
  if (fsync(fd) != 0 && errno != EINVAL) return ErrnoStatus("sync", directory, -1, -1, errno);
  return absl::OkStatus();
}

// A writer holds the lock on its temporary file, so that others can tell one at work from one that was killed.
bool Lock(int fd) { return flock(fd, LOCK_EX | LOCK_NB) == 0; }

bool HasName(int fd) {
  struct stat info;
  return fstat(fd, &info) != 0 || info.st_nlink > 0;
}

bool IsTemporaryOf(const std::string& file_name, const std::string& name) {
  const std::string prefix = file_name + ".tmp.";
  return name.starts_with(prefix) && name.size() > prefix.size() &&
         name.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
}

// Removes temporary files of `path` whose writers are gone. What cannot be looked at stays.
void RemoveLeftovers(const std::string& path) {
  const std::string file_name = std::filesystem::path(path).filename().string();
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(DirectoryOf(path), failed)) {
    if (!IsTemporaryOf(file_name, entry.path().filename().string())) continue;
    const int fd = open(entry.path().c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) continue;
    if (Lock(fd)) unlink(entry.path().c_str());
    close(fd);
  }
}

}  // namespace

struct GgufWriter::State {
  std::string path;
  std::string temporary_path;
  bool anonymous = false;  // the file has no name until Publish
  int fd = -1;
  uint64_t alignment = kGgufDefaultAlignment;
  std::vector<GgufField> fields;
  std::vector<GgufTensor> tensors;  // offsets relative to the data section
  absl::flat_hash_set<std::string> tensor_names;
  bool data_begun = false;
  size_t current = 0;            // tensor being written
  uint64_t current_written = 0;  // bytes of it
  uint64_t file_written = 0;     // bytes in the file, without `buffer`
  std::string buffer;

  ~State() {
    if (fd < 0) return;
    close(fd);
    if (!anonymous) unlink(temporary_path.c_str());
  }

  // A file without a name where the file system has such: then even a killed process leaves nothing behind.
  absl::Status OpenTemporary() {
    if (access("/proc/self/fd", X_OK) == 0) {  // the way to name it later
      fd = open(DirectoryOf(path).c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, kFileMode);
    }
    anonymous = fd >= 0;
    if (anonymous) {
      Lock(fd);  // where locks are not known, nobody removes leftovers
      return absl::OkStatus();
    }
    do {
      if (fd >= 0) close(fd);
      fd = open(temporary_path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, kFileMode);
      if (fd < 0) return ErrnoStatus("create", temporary_path, -1, -1, errno);
    } while (Lock(fd) && !HasName(fd));  // taken for a leftover before it was locked
    return absl::OkStatus();
  }

  // Gives an anonymous file its temporary name; a link cannot replace a file, as the rename after it can.
  absl::Status NameTemporary() {
    if (!anonymous) return absl::OkStatus();
    const std::string link = fmt::format("/proc/self/fd/{}", fd);
    unlink(temporary_path.c_str());
    if (linkat(AT_FDCWD, link.c_str(), AT_FDCWD, temporary_path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return ErrnoStatus("create", temporary_path, -1, -1, errno);
    }
    anonymous = false;
    return absl::OkStatus();
  }

  // Metadata and tensor table, padded to the start of the data.
  std::string Header() const {
    std::string header(kGgufMagic, 4);
    Put(kGgufVersion, &header);
    Put<uint64_t>(tensors.size(), &header);
    Put<uint64_t>(fields.size(), &header);
    for (const GgufField& field : fields) PutField(field, &header);
    for (const GgufTensor& tensor : tensors) PutTensor(tensor, &header);
    header.resize(AlignUp(header.size(), alignment), '\0');
    return header;
  }

  uint64_t DataBytes() const {
    return tensors.empty() ? 0 : AlignUp(tensors.back().offset + tensors.back().bytes, alignment);
  }

  absl::Status WriteError(uint64_t bytes, int error_number) const {
    const absl::Status status = ErrnoStatus("write", temporary_path, static_cast<int64_t>(file_written),
                                            static_cast<int64_t>(bytes), error_number);
    struct statvfs info;
    if (status.code() != absl::StatusCode::kResourceExhausted || fstatvfs(fd, &info) != 0) return status;
    return absl::ResourceExhaustedError(fmt::format("{}; {} bytes are needed in all, {} are free",
                                                    std::string(status.message()), Header().size() + DataBytes(),
                                                    static_cast<uint64_t>(info.f_bavail) * info.f_frsize));
  }

  absl::Status WriteOut(const char* data, uint64_t bytes) {
    while (bytes > 0) {
      const ssize_t written = pwrite(fd, data, bytes, static_cast<off_t>(file_written));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return WriteError(bytes, errno);
      data += written;
      bytes -= static_cast<uint64_t>(written);
      file_written += static_cast<uint64_t>(written);
    }
    return absl::OkStatus();
  }

  absl::Status ReadAt(uint64_t offset, std::span<std::byte> bytes) const {
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t count = pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        const auto at = static_cast<int64_t>(offset + done), left = static_cast<int64_t>(bytes.size() - done);
        return ErrnoStatus("read back", path, at, left, count < 0 ? errno : EIO);
      }
      done += static_cast<size_t>(count);
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    RETURN_IF_ERROR(WriteOut(buffer.data(), buffer.size()));
    buffer.clear();
    return absl::OkStatus();
  }

  absl::Status Append(const char* data, uint64_t bytes) {
    if (buffer.size() + bytes > kBufferBytes) RETURN_IF_ERROR(Flush());
    if (bytes >= kBufferBytes) return WriteOut(data, bytes);
    buffer.append(data, bytes);
    return absl::OkStatus();
  }

  absl::Status CheckFreeSpace(uint64_t needed) const {
    struct statvfs info;
    if (fstatvfs(fd, &info) != 0) return ErrnoStatus("examine the file system of", path, -1, -1, errno);
    const uint64_t free_bytes = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
    if (free_bytes >= needed) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        fmt::format("write {}: {} bytes are needed, {} are free on the disk", path, needed, free_bytes));
  }

  absl::Status Publish() {
    if (fsync(fd) != 0) return ErrnoStatus("sync", temporary_path, -1, -1, errno);
    RETURN_IF_ERROR(NameTemporary());
    if (rename(temporary_path.c_str(), path.c_str()) != 0) return ErrnoStatus("rename to", path, -1, -1, errno);
    const int closing = std::exchange(fd, -1);
    if (close(closing) != 0) return ErrnoStatus("close", path, -1, -1, errno);
    return SyncDirectory(path);
  }
};

GgufWriter::GgufWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufWriter::GgufWriter(GgufWriter&& other) noexcept = default;
GgufWriter& GgufWriter::operator=(GgufWriter&& other) noexcept = default;
GgufWriter::~GgufWriter() = default;

absl::StatusOr<GgufWriter> GgufWriter::Create(const std::string& path, uint64_t alignment) {
  if (!IsValidAlignment(alignment)) {
    return absl::InvalidArgumentError(
        fmt::format("write {}: alignment {} is no power of two up to {}", path, alignment, kGgufMaxAlignment));
  }
  auto state = std::make_unique<State>();
  state->path = path;
  state->temporary_path = fmt::format("{}.tmp.{}", path, getpid());
  state->alignment = alignment;
  RemoveLeftovers(path);
  RETURN_IF_ERROR(state->OpenTemporary());
  GgufWriter writer(std::move(state));
  writer.state_->fields.push_back({.key = kAlignmentKey, .type = GgufValueType::kUint32, .value = alignment});
  return writer;
}

void GgufWriter::AddField(GgufField field) {
  CHECK(!state_->data_begun);
  if (field.key == kAlignmentKey) return;
  auto& fields = state_->fields;
  const auto same = std::find_if(fields.begin(), fields.end(), [&](const GgufField& f) { return f.key == field.key; });
  if (same != fields.end()) {
    *same = std::move(field);
  } else {
    fields.push_back(std::move(field));
  }
}

void GgufWriter::AddUint32(std::string key, uint32_t value) {
  AddField({.key = std::move(key), .type = GgufValueType::kUint32, .value = uint64_t{value}});
}

void GgufWriter::AddUint64(std::string key, uint64_t value) {
  AddField({.key = std::move(key), .type = GgufValueType::kUint64, .value = value});
}

void GgufWriter::AddFloat32(std::string key, float value) {
  AddField({.key = std::move(key), .type = GgufValueType::kFloat32, .value = double{value}});
}

void GgufWriter::AddBool(std::string key, bool value) {
  AddField({.key = std::move(key), .type = GgufValueType::kBool, .value = value});
}

void GgufWriter::AddString(std::string key, std::string value) {
  AddField({.key = std::move(key), .type = GgufValueType::kString, .value = std::move(value)});
}

void GgufWriter::AddUint32Array(std::string key, std::span<const uint32_t> values) {
  const auto bytes = std::as_bytes(values);
  GgufArray array{
      .element_type = GgufValueType::kUint32, .count = values.size(), .fixed = {bytes.begin(), bytes.end()}};
  AddField({.key = std::move(key), .type = GgufValueType::kArray, .value = std::move(array)});
}

absl::Status GgufWriter::AddTensor(std::string name, uint32_t gguf_type, std::vector<uint64_t> shape) {
  if (state_->data_begun) return absl::FailedPreconditionError("AddTensor after BeginData");
  const absl::StatusOr<uint64_t> bytes = TensorBytes(gguf_type, shape);
  if (!bytes.ok()) return Annotate(bytes.status(), fmt::format("tensor {}", Quoted(name)));
  if (name.empty() || !state_->tensor_names.insert(name).second) {
    return absl::InvalidArgumentError(fmt::format("tensor {} is declared twice or has no name", Quoted(name)));
  }
  const uint64_t offset = state_->DataBytes();
  state_->tensors.push_back(
      {.name = std::move(name), .gguf_type = gguf_type, .shape = std::move(shape), .offset = offset, .bytes = *bytes});
  return absl::OkStatus();
}

uint64_t GgufWriter::TotalBytes() const { return state_->Header().size() + state_->DataBytes(); }

std::string GgufWriter::HeaderBytes() const { return state_->Header(); }

absl::Status GgufWriter::BeginData() {
  if (state_->data_begun) return absl::FailedPreconditionError("BeginData twice");
  const std::string header = state_->Header();
  RETURN_IF_ERROR(state_->CheckFreeSpace(header.size() + state_->DataBytes()));
  state_->data_begun = true;
  state_->buffer.reserve(kBufferBytes);
  return state_->Append(header.data(), header.size());
}

absl::Status GgufWriter::WriteData(std::span<const std::byte> bytes) {
  State& state = *state_;
  if (!state.data_begun || state.current == state.tensors.size()) {
    return absl::FailedPreconditionError("WriteData without a tensor to write");
  }
  const GgufTensor& tensor = state.tensors[state.current];
  if (bytes.size() > tensor.bytes - state.current_written) {
    return absl::InvalidArgumentError(fmt::format("tensor {} has {} bytes, {} too many were written",
                                                  Quoted(tensor.name), tensor.bytes,
                                                  state.current_written + bytes.size() - tensor.bytes));
  }
  state.current_written += bytes.size();
  return state.Append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::Status GgufWriter::EndTensor() {
  State& state = *state_;
  if (!state.data_begun || state.current == state.tensors.size()) {
    return absl::FailedPreconditionError("EndTensor without a tensor to write");
  }
  const GgufTensor& tensor = state.tensors[state.current];
  if (state.current_written != tensor.bytes) {
    return absl::FailedPreconditionError(fmt::format("tensor {} has {} bytes, only {} were written",
                                                     Quoted(tensor.name), tensor.bytes, state.current_written));
  }
  const std::string padding(AlignUp(tensor.bytes, state.alignment) - tensor.bytes, '\0');
  ++state.current;
  state.current_written = 0;
  return state.Append(padding.data(), padding.size());
}

absl::Status GgufWriter::ReadBack(std::string_view tensor, uint64_t offset, std::span<std::byte> bytes) {
  State& state = *state_;
  const auto closed = std::span(state.tensors).first(state.current);
  const auto found = std::ranges::find(closed, tensor, &GgufTensor::name);
  if (found == closed.end() || offset + bytes.size() > found->bytes) {
    return absl::FailedPreconditionError(fmt::format("read back {}: it is not written yet", Quoted(tensor)));
  }
  RETURN_IF_ERROR(state.Flush());
  return state.ReadAt(state.Header().size() + found->offset + offset, bytes);
}

absl::Status GgufWriter::Finish() {
  State& state = *state_;
  if (!state.data_begun) RETURN_IF_ERROR(BeginData());
  if (state.fd < 0) return absl::FailedPreconditionError("Finish twice");
  if (state.current != state.tensors.size()) {
    return absl::FailedPreconditionError(
        fmt::format("{} of {} tensors were written", state.current, state.tensors.size()));
  }
  RETURN_IF_ERROR(state.Flush());
  return state.Publish();
}

}  // namespace dogstar
