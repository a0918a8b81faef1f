#include "io/direct_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/aligned_buffer.h"
#include "fmt/format.h"

namespace dogstar {

absl::StatusOr<DirectFile> DirectFile::Open(const std::string& path, DirectMode mode, std::vector<std::string>* notes) {
  // O_NONBLOCK keeps the open of a pipe from waiting for a writer. It goes before the first read: io_uring would
  // answer EAGAIN instead of waiting for the disk.
  int fd;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus("open", path, -1, -1, errno);
  DirectFile file(fd, path);
  RETURN_IF_ERROR(file.CheckKind());
  RETURN_IF_ERROR(file.ChooseMode(mode, notes));
  return file;
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      size_(std::exchange(other.size_, 0)),
      direct_(other.direct_) {}

DirectFile& DirectFile::operator=(DirectFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  std::swap(direct_, other.direct_);
  return *this;
}

DirectFile::~DirectFile() {
  if (fd_ >= 0) ::close(fd_);  // opened for reading only: nothing is lost if this fails
}

absl::Status DirectFile::CheckKind() {
  struct stat info;
  if (::fstat(fd_, &info) != 0) return ErrnoStatus("stat", path_, -1, -1, errno);
  if (S_ISDIR(info.st_mode)) return ErrnoStatus("open", path_, -1, -1, EISDIR);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("open {}: not a regular file", path_));
  }
  size_ = static_cast<uint64_t>(info.st_size);
  return absl::OkStatus();
}

absl::Status DirectFile::ChooseMode(DirectMode mode, std::vector<std::string>* notes) {
  if (mode != DirectMode::kNever) {
    const absl::Status refusal = TryDirect();
    if (refusal.ok()) return absl::OkStatus();
    if (mode == DirectMode::kAlways) return refusal;
    if (notes != nullptr) {
      notes->push_back(fmt::format("{}; reading through the page cache", std::string(refusal.message())));
    }
  }
  RETURN_IF_ERROR(SetFlags(0));
  // Pages are asked for by name and in no order; guessing ahead would read what nobody wants. Advice may be ignored.
  ::posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM);
  return absl::OkStatus();
}

absl::Status DirectFile::TryDirect() {
  if (::fcntl(fd_, F_SETFL, O_DIRECT) != 0) return ErrnoStatus("set O_DIRECT for", path_, -1, -1, errno);
  ASSIGN_OR_RETURN(const AlignedBuffer probe, AlignedBuffer::Create(kIoAlignment));
  ssize_t result;
  do {
    result = ::pread(fd_, probe.data(), probe.size(), 0);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return ErrnoStatus("O_DIRECT read of", path_, 0, kIoAlignment, errno);
  direct_ = true;
  return absl::OkStatus();
}

absl::Status DirectFile::SetFlags(int flags) {
  if (::fcntl(fd_, F_SETFL, flags) != 0) return ErrnoStatus("set flags of", path_, -1, -1, errno);
  return absl::OkStatus();
}

}  // namespace dogstar
