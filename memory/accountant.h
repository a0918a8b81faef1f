// Accountant: who holds how much of the fast memory. Every large allocation is entered before it is made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace dogstar {

inline constexpr uint64_t kNoLimit = UINT64_MAX;

class Accountant {
 public:
  struct Entry {
    std::string what;
    uint64_t bytes = 0;
  };

  explicit Accountant(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // ResourceExhausted names what, asked, held and the limit.
  absl::Status Reserve(std::string what, uint64_t bytes);

  uint64_t limit_bytes() const { return limit_bytes_; }
  uint64_t held_bytes() const { return held_bytes_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  uint64_t limit_bytes_;
  uint64_t held_bytes_ = 0;
  std::vector<Entry> entries_;
};

// Resident memory of this process, now and at its highest.
struct ResidentMemory {
  uint64_t own = 0;
  uint64_t files = 0;  // mirrors files: code and constants
};
ResidentMemory ReadResident();
uint64_t ResidentBytes();
uint64_t PeakResidentBytes();

}  // namespace dogstar
