// ReadLoad: keeps a page reader busy for a while and says how fast it was. The choice of a reader and the benches
// measure with it. Threads: the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "io/page_reader.h"

namespace dogstar {

struct ReadLoad {
  uint64_t offset = 0;  // reads lie in [offset, offset + bytes) of the file
  uint64_t bytes = 0;
  uint32_t read_bytes = 0;  // of each read
  size_t depth = 1;         // reads in flight
  bool random = false;      // places drawn with `seed`; else one after the other, from the start again at the end
  uint64_t seed = 1;
  // No read is begun after so many seconds or bytes; those in flight are waited for and counted.
  double seconds_max = 1;
  uint64_t bytes_max = UINT64_MAX;
  // Called for each read that has ended, while others are in flight: work that goes on beside the reading. May be
  // empty.
  std::function<void()> beside;
};

struct LoadResult {
  uint64_t reads = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  double cpu_seconds = 0;  // of all threads of the process, system time included
  double bytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

// REQUIRES: the reader has no read in flight and at least `depth` free; `buffer` is aligned and has room for `depth`
// reads; offset and read_bytes are multiples of kIoAlignment; the range holds a read. The first failed read
// ends it; others may then still be in flight, so the reader must go before the buffer.
absl::StatusOr<LoadResult> RunLoad(PageReader* reader, std::span<std::byte> buffer, const ReadLoad& load);

}  // namespace dogstar
