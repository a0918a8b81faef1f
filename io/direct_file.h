// DirectFile: owns the descriptor of a regular file that is open for reading, past the page cache (O_DIRECT) where
// that is possible.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/page_reader.h"

namespace dogstar {

class DirectFile {
 public:
  // Tries O_DIRECT with a real read, since some file systems accept the flag and refuse the read. With kAuto a refusal
  // is appended to `notes` (may be null) and the file is read through the page cache; with kAlways it is an error.
  static absl::StatusOr<DirectFile> Open(const std::string& path, DirectMode mode, std::vector<std::string>* notes);
  DirectFile(DirectFile&& other) noexcept;
  DirectFile& operator=(DirectFile&& other) noexcept;
  ~DirectFile();

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // when it was opened
  bool direct() const { return direct_; }

 private:
  DirectFile(int fd, const std::string& path) : fd_(fd), path_(path) {}
  absl::Status CheckKind();
  absl::Status ChooseMode(DirectMode mode, std::vector<std::string>* notes);
  absl::Status TryDirect();
  absl::Status SetFlags(int flags);

  int fd_ = -1;
  std::string path_;
  uint64_t size_ = 0;
  bool direct_ = false;
};

}  // namespace dogstar
