// InputFile: a file that is read in pieces and watched for changes: the source of a pack, or a packed file's header.
//
// Threads: const after Open; reads may come from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "model/gguf.h"
#include "model/packed_file.h"

namespace dogstar {

class InputFile {
 public:
  static absl::StatusOr<InputFile> Open(const std::string& path);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t mtime_ns() const { return mtime_ns_; }

  // DataLoss when the file ends early.
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> bytes) const;
  // Hints to the kernel: the range is wanted soon; it is not wanted any more (a pack must not push everything else
  // out of the page cache).
  void WillNeed(uint64_t offset, uint64_t bytes) const;
  void Forget(uint64_t offset, uint64_t bytes) const;
  // Aborted when the path no longer holds the file that was opened, as it was.
  absl::Status CheckUnchanged() const;
  // True when `path` names this very file.
  bool IsSameFile(const std::string& path) const;
  // header: the file's own.
  absl::StatusOr<SourceIdentity> Identify(const GgufHeader& header) const;

 private:
  InputFile() = default;

  std::string path_;
  int fd_ = -1;
  uint64_t bytes_ = 0, mtime_ns_ = 0;
  uint64_t device_ = 0, inode_ = 0;
};

}  // namespace dogstar
