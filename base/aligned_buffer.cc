#include "base/aligned_buffer.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/units.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr uint64_t kSmallPage = 4096;
constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr char kHugePageSwitch[] = "/sys/kernel/mm/transparent_hugepage/enabled";
constexpr uint64_t kMaxBytes = uint64_t{1} << 62;

uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

absl::Status NoMemory(uint64_t bytes, int error_number) {
  return absl::ResourceExhaustedError(
      fmt::format("cannot map {} bytes ({}) of memory: {}", bytes, FormatSize(bytes), std::strerror(error_number)));
}

void* Map(uint64_t bytes) { return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

// Gives back what a mapping of `mapped` bytes has before and after the aligned part that is kept.
std::byte* Trim(void* mapping, uint64_t mapped, uint64_t kept) {
  const uint64_t address = reinterpret_cast<uintptr_t>(mapping);
  const uint64_t skip = RoundUp(address, kHugePage) - address;
  std::byte* begin = static_cast<std::byte*>(mapping);
  if (skip != 0) ::munmap(begin, skip);
  if (mapped - skip != kept) ::munmap(begin + skip + kept, mapped - skip - kept);
  return begin + skip;
}

}  // namespace

absl::StatusOr<AlignedBuffer> AlignedBuffer::Create(uint64_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  if (bytes > kMaxBytes) return NoMemory(bytes, ENOMEM);
  const bool huge = bytes >= kHugePage;
  const uint64_t kept = RoundUp(bytes, kSmallPage);
  const uint64_t mapped = huge ? kept + kHugePage : kept;
  void* mapping = Map(mapped);
  if (mapping == MAP_FAILED) return NoMemory(bytes, errno);
  buffer.data_ = huge ? Trim(mapping, mapped, kept) : static_cast<std::byte*>(mapping);
  buffer.size_ = bytes;
  if (huge) ::madvise(buffer.data_, kept, MADV_HUGEPAGE);  // advice only: a kernel without huge pages refuses it
  return buffer;
}

absl::Status AlignedBuffer::Touch() {
  const uint64_t bytes = RoundUp(size_, kSmallPage);
#ifdef MADV_POPULATE_WRITE
  if (bytes == 0 || ::madvise(data_, bytes, MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno != EINVAL) return NoMemory(size_, errno);
#endif
  // Kernels before 5.14: a write to each page.
  for (uint64_t at = 0; at < bytes; at += kSmallPage) {
    volatile std::byte* place = data_ + at;
    *place = *place;
  }
  return absl::OkStatus();
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  if (this == &other) return *this;
  AlignedBuffer old(std::move(*this));  // freed here, not when `other` happens to go
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) ::munmap(data_, RoundUp(size_, kSmallPage));
}

std::string HugePageRefusal() {
  if (::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1) return "they are switched off for this process";
  std::ifstream file(kHugePageSwitch);
  std::string modes;
  if (!std::getline(file, modes)) return "this kernel has none";
  return modes.find("[never]") != std::string::npos ? fmt::format("{} says never", kHugePageSwitch) : std::string();
}

}  // namespace dogstar
