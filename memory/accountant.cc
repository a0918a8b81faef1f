#include "memory/accountant.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/units.h"
#include "fmt/format.h"

namespace dogstar {

ResidentMemory ReadResident() {
  // /proc/self/statm: size resident shared ..., in pages.
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return {};
  unsigned long long size = 0, resident = 0, shared = 0;
  const int fields = std::fscanf(file, "%llu %llu %llu", &size, &resident, &shared);
  std::fclose(file);
  if (fields != 3) return {};
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return {(resident - shared) * page, shared * page};
}

absl::Status Accountant::Reserve(std::string what, uint64_t bytes) {
  if (limit_bytes_ != kNoLimit && bytes > limit_bytes_ - std::min(limit_bytes_, held_bytes_)) {
    return absl::ResourceExhaustedError(fmt::format("{} needs {}, but {} of the budget of {} are taken", what,
                                                    FormatSize(bytes), FormatSize(held_bytes_),
                                                    FormatSize(limit_bytes_)));
  }
  held_bytes_ += bytes;
  entries_.push_back({std::move(what), bytes});
  return absl::OkStatus();
}

uint64_t ResidentBytes() {
  const ResidentMemory now = ReadResident();
  return now.own + now.files;
}

uint64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace dogstar
