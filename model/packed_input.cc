#include "model/packed_input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "fmt/format.h"

namespace dogstar {
namespace {

uint64_t MtimeNs(const struct stat& info) {
  return static_cast<uint64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(info.st_mtim.tv_nsec);
}

}  // namespace

InputFile::InputFile(InputFile&& other) noexcept { *this = std::move(other); }

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  std::swap(mtime_ns_, other.mtime_ns_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  return *this;
}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  InputFile file;
  file.path_ = path;
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd_ < 0) return ErrnoStatus("open", path, -1, -1, errno);
  struct stat info {};
  if (fstat(file.fd_, &info) != 0) return ErrnoStatus("examine", path, -1, -1, errno);
  file.bytes_ = static_cast<uint64_t>(info.st_size);
  file.mtime_ns_ = MtimeNs(info);
  file.device_ = info.st_dev;
  file.inode_ = info.st_ino;
  return file;
}

absl::Status InputFile::ReadAt(uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoStatus("read", path_, static_cast<int64_t>(offset), static_cast<int64_t>(bytes.size()), errno);
    }
    if (got == 0) {
      return absl::DataLossError(
          fmt::format("read {} at offset {} ({} bytes): the file ends here", path_, offset, bytes.size()));
    }
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

void InputFile::WillNeed(uint64_t offset, uint64_t bytes) const {
  posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void InputFile::Forget(uint64_t offset, uint64_t bytes) const {
  posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

absl::Status InputFile::CheckUnchanged() const {
  struct stat info {};
  if (stat(path_.c_str(), &info) != 0) return ErrnoStatus("examine again", path_, -1, -1, errno);
  if (info.st_dev == device_ && info.st_ino == inode_ && static_cast<uint64_t>(info.st_size) == bytes_ &&
      MtimeNs(info) == mtime_ns_) {
    return absl::OkStatus();
  }
  return absl::AbortedError(
      fmt::format("{} changed while it was being read ({} bytes before, {} now); try again when it is complete", path_,
                  bytes_, info.st_size));
}

bool InputFile::IsSameFile(const std::string& path) const {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_;
}

absl::StatusOr<SourceIdentity> InputFile::Identify(const GgufHeader& header) const {
  if (header.file_bytes() != bytes_) {
    return absl::AbortedError(fmt::format("{} changed while it was being opened", path_));
  }
  std::vector<std::byte> header_bytes(header.header_bytes());
  RETURN_IF_ERROR(ReadAt(0, header_bytes));
  return SourceIdentity{.bytes = bytes_, .mtime_ns = mtime_ns_, .header_hash = ChecksumOf(header_bytes)};
}

absl::StatusOr<SourceIdentity> IdentifySource(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(path));
  ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  return file.Identify(header);
}

}  // namespace dogstar
