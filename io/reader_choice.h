// ReaderChoice: how a file is best read, by a short measurement on the file itself.
//
// What the settings leave open is tried: io_uring and threads in pread, O_DIRECT and the page cache. Each candidate
// reads parts of the file that no other one reads. The page cache takes part only where O_DIRECT is refused, or with
// parts that are not cached, and must win clearly: the memory it fills counts against a limit of the process, and what
// it seems to save is not there in a run that has no such memory to spare.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/page_reader.h"

namespace dogstar {

// What to open the file with, and why.
struct ReaderChoice {
  // As asked for, unless the measurement speaks for another one: kAuto still tries io_uring and O_DIRECT first, and
  // notes why they are refused.
  IoEngine engine = IoEngine::kAuto;
  DirectMode direct = DirectMode::kAuto;
  double bytes_per_second = 0;  // sequential reads of 1 MiB with this choice; 0: not measured
  std::string reason;           // one line with the figures, or why there are none
};

struct ChoiceLimits {
  double seconds = 0.15;                          // for all candidates; the run that passes it is the last
  uint64_t bytes = uint64_t{32} << 20;            // of a run; each candidate has two
  uint64_t file_bytes_min = uint64_t{512} << 20;  // smaller files are loaded in less time than measuring takes
};

// Measures unless the file is small. Uses options.buffer where it holds four reads, else memory of its own (8 MiB,
// given back). Errors: the file cannot be opened or read, or an engine asked for by name is refused.
absl::StatusOr<ReaderChoice> ChooseReader(const std::string& path, const ReaderOptions& options,
                                          const ChoiceLimits& limits = {});

// A way to read, and how fast its runs were.
struct ReaderCandidate {
  IoEngine engine = IoEngine::kUring;
  bool direct = true;
  std::vector<double> bytes_per_second;  // run i of all candidates was at nearly the same time; none: not measured
  double best() const;
};

// The rule: an earlier candidate stays unless a later one is faster in every run, by 1.2, or by 1.5 if it gives up
// O_DIRECT. Disks are noisy: a smaller gain is none. REQUIRES: the first candidate is measured.
size_t PickReader(std::span<const ReaderCandidate> candidates);

}  // namespace dogstar
