// AlignedBuffer: an owner of anonymous memory from mmap, 4096-aligned (2 MiB-aligned and advised for huge pages from
// 2 MiB on), zeroed. Memory that was never touched costs nothing; freeing gives it back to the system at once.
//
// Huge pages lie inside the buffer only, so it never takes more than its size rounded up to 4096. They matter most to
// reads: a disk fills one long piece of memory instead of hundreds of short ones (docs/decisions.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace dogstar {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // ResourceExhausted names the bytes. bytes == 0 gives an empty buffer.
  static absl::StatusOr<AlignedBuffer> Create(uint64_t bytes);
  // Takes all of its memory from the system now, so that none is missing later. ResourceExhausted names the bytes where
  // the system says no (a cgroup may kill the process instead).
  absl::Status Touch();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  ~AlignedBuffer();

  std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::span<std::byte> span() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

// Why large buffers get no huge pages from this kernel or in this process; empty where they do.
std::string HugePageRefusal();

}  // namespace dogstar
