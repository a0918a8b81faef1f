// Pager: streams the ranges of a pass through a ring of memory, in the order of their use, several reads ahead.
//
// The pass is known beforehand, so the ring refills as its oldest range is released and never waits for a decision.
//   pager.Begin(schedule);                        // reads start at once, as far as the ring reaches
//   for (range : schedule) {
//     ASSIGN_OR_RETURN(bytes, pager.Next());      // waits until the oldest range has arrived
//     ... use bytes ...
//     pager.Release();                            // its place is refilled with the next ranges
//   }
// Failed reads and failed checksums are repeated, then reported with path and offset. A disk that does not answer is
// waited for; the wait is told, asleep, not spinning.
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/trace.h"
#include "io/page_reader.h"

namespace dogstar {

// A part of the file that is used as a whole. Any offset; the read covers its aligned surroundings.
struct StreamRange {
  uint64_t offset = 0;
  uint32_t bytes = 0;
  // Pieces with a checksum each: piece i covers bytes [i * piece_bytes, ...) of the range. -1: none.
  int32_t first_piece = -1;
  uint32_t piece_bytes = 0;
};

enum class VerifyMode { kAlways, kFirst, kNever };

struct PagerStats {
  uint64_t bytes_read = 0;  // as asked of the disk, alignment included
  uint64_t reads = 0;
  double wait_seconds = 0;      // time in Next with nothing to give
  uint64_t repeated_reads = 0;  // after an error or a bad checksum
};

class Pager {
 public:
  struct Options {
    std::string path;  // for messages
    VerifyMode verify = VerifyMode::kFirst;
    std::vector<uint64_t> piece_checksums;                         // XXH3-64, by piece number
    std::function<void(std::string_view message)> note = nullptr;  // a stall and its end; may be empty
    std::chrono::milliseconds stall_after{5000};                   // without any read ending, before `note` hears of it
    Trace* trace = nullptr;                                        // reads and waits; may be null
  };

  // `ring` is aligned to kIoAlignment, a multiple of it, and at least MinRingBytes(longest range of any schedule).
  Pager(PageReader* reader, std::span<std::byte> ring, Options options);
  ~Pager();  // waits for reads in flight

  // Room for three ranges with their aligned surroundings: one in use, one arriving, one lost to the ring's end.
  static uint64_t MinRingBytes(uint64_t longest_range_bytes);

  // Starts a pass. What is left of the pass before it is dropped (its reads are waited for).
  absl::Status Begin(std::span<const StreamRange> schedule);
  // The next range of the schedule. REQUIRES: fewer Next than ranges.
  absl::StatusOr<std::span<const std::byte>> Next();
  // The oldest range that Next gave is no longer used.
  absl::Status Release();

  const PagerStats& stats() const { return stats_; }

 private:
  struct Flight {
    size_t range = 0;         // in schedule_
    uint64_t ring_begin = 0;  // aligned start in the ring
    uint64_t ring_bytes = 0;  // aligned length
    uint64_t skipped = 0;     // bytes left unused at the ring's end before this one
    bool done = false;
    absl::Status status;
    int attempts = 1;
    double submitted_at = 0;  // for the trace
  };

  absl::Status Fill();
  bool PlaceNext();
  absl::Status SubmitFlights(size_t first_sequence, size_t count);
  absl::Status WaitFor(size_t sequence);
  absl::Status AwaitArrival(const Flight& wanted);
  absl::Status Collect(size_t min_count);
  absl::Status VerifyRange(const StreamRange& range, std::span<const std::byte> bytes);
  absl::Status Drain();
  Flight& FlightAt(size_t sequence) { return flights_[sequence - first_sequence_]; }
  std::span<const std::byte> BytesOf(const Flight& flight) const;

  PageReader* reader_;
  std::span<std::byte> ring_;
  Options options_;
  std::vector<bool> verified_;
  std::vector<StreamRange> schedule_;
  size_t next_submit_ = 0;      // range of schedule_
  std::deque<Flight> flights_;  // oldest first; sequence numbers from first_sequence_ on
  size_t first_sequence_ = 0;
  size_t next_given_ = 0;   // sequence number that Next gives
  uint64_t ring_tail_ = 0;  // where the next flight goes
  uint64_t ring_used_ = 0;
  std::vector<ReadRequest> requests_;
  std::vector<Completion> completions_;
  PagerStats stats_;
};

}  // namespace dogstar
