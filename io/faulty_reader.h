// FaultyReader: a double for tests that wraps a PageReader and makes its disk bad: errors, alone or in bursts, reads
// that end early, flipped bits, late and reordered completions. The file itself is never touched, so reading again may
// succeed.
//
// Which read suffers what depends on the seed and the order of submission alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "io/page_reader.h"

namespace dogstar {

struct FaultOptions {
  uint64_t seed = 0;
  double error_probability = 0;    // the read ends with EIO, its destination holding garbage
  uint32_t error_burst = 1;        // so many reads in a row end so, once one does
  double short_probability = 0;    // the read brings a part and ends with DataLoss, as if the file ended there
  double corrupt_probability = 0;  // the read succeeds with one bit of its needed bytes flipped
  double late_probability = 0;     // the completion comes `late_by` after the read has ended
  std::chrono::microseconds late_by{500};
  bool reorder = false;  // completions of one Reap in random order
};

// path: for messages.
std::unique_ptr<PageReader> NewFaultyReader(std::unique_ptr<PageReader> reader, const std::string& path,
                                            const FaultOptions& options);

}  // namespace dogstar
