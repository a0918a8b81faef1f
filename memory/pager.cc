#include "memory/pager.h"

#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "model/packed_file.h"

namespace dogstar {
namespace {

constexpr int kMaxAttempts = 3;

uint64_t AlignDown(uint64_t value) { return value / kIoAlignment * kIoAlignment; }
uint64_t AlignUp(uint64_t value) { return AlignDown(value + kIoAlignment - 1); }

uint64_t AlignedBytes(const StreamRange& range) {
  return AlignUp(range.offset + range.bytes) - AlignDown(range.offset);
}

}  // namespace

Pager::Pager(PageReader* reader, std::span<std::byte> ring, Options options)
    : reader_(reader), ring_(ring), options_(std::move(options)), verified_(options_.piece_checksums.size()) {
  CHECK(ring_.size() % kIoAlignment == 0);
}

Pager::~Pager() {
  const absl::Status drained = Drain();  // buffers must outlive reads; a failed read no longer matters
  static_cast<void>(drained);
}

uint64_t Pager::MinRingBytes(uint64_t longest_range_bytes) { return 3 * (AlignUp(longest_range_bytes) + kIoAlignment); }

absl::Status Pager::Begin(std::span<const StreamRange> schedule) {
  RETURN_IF_ERROR(Drain());
  schedule_.assign(schedule.begin(), schedule.end());
  next_submit_ = 0;
  flights_.clear();
  first_sequence_ = next_given_ = 0;
  ring_tail_ = ring_used_ = 0;
  return Fill();
}

absl::StatusOr<std::span<const std::byte>> Pager::Next() {
  CHECK(next_given_ < schedule_.size());
  RETURN_IF_ERROR(Fill());
  const size_t sequence = next_given_;
  RETURN_IF_ERROR(WaitFor(sequence));
  const Flight& flight = FlightAt(sequence);
  ++next_given_;
  return BytesOf(flight);
}

absl::Status Pager::Release() {
  CHECK(first_sequence_ < next_given_);
  const Flight& oldest = flights_.front();
  ring_used_ -= oldest.ring_bytes + oldest.skipped;
  flights_.pop_front();
  ++first_sequence_;
  return Fill();
}

std::span<const std::byte> Pager::BytesOf(const Flight& flight) const {
  const StreamRange& range = schedule_[flight.range];
  return ring_.subspan(flight.ring_begin + (range.offset - AlignDown(range.offset)), range.bytes);
}

// Submits as many of the next ranges as the ring and the reader's queue take, in one call.
absl::Status Pager::Fill() {
  const size_t first = first_sequence_ + flights_.size();
  size_t count = 0;
  while (next_submit_ < schedule_.size() && count < reader_->free_depth() && PlaceNext()) ++count;
  return count > 0 ? SubmitFlights(first, count) : absl::OkStatus();
}

// Gives the next range its place in the ring; false when there is no room.
bool Pager::PlaceNext() {
  Flight flight;
  flight.range = next_submit_;
  flight.ring_bytes = AlignedBytes(schedule_[next_submit_]);
  CHECK(flight.ring_bytes <= ring_.size());
  // A range is contiguous: what is left at the ring's end is skipped when it is too small.
  if (ring_tail_ + flight.ring_bytes > ring_.size()) flight.skipped = ring_.size() - ring_tail_;
  if (ring_used_ + flight.skipped + flight.ring_bytes > ring_.size()) return false;
  flight.ring_begin = flight.skipped > 0 ? 0 : ring_tail_;
  ring_tail_ = (flight.ring_begin + flight.ring_bytes) % ring_.size();
  ring_used_ += flight.skipped + flight.ring_bytes;
  flights_.push_back(std::move(flight));
  ++next_submit_;
  return true;
}

absl::Status Pager::SubmitFlights(size_t first_sequence, size_t count) {
  const double now = options_.trace != nullptr ? Now() : 0;
  requests_.clear();
  for (size_t sequence = first_sequence; sequence < first_sequence + count; ++sequence) {
    Flight& flight = FlightAt(sequence);
    const StreamRange& range = schedule_[flight.range];
    ReadRequest request;
    request.offset = AlignDown(range.offset);
    request.destination = ring_.data() + flight.ring_begin;
    request.bytes = static_cast<uint32_t>(flight.ring_bytes);
    request.needed_bytes = static_cast<uint32_t>(range.offset + range.bytes - request.offset);
    request.tag = sequence;
    requests_.push_back(request);
    flight.submitted_at = now;
    stats_.bytes_read += request.bytes;
  }
  stats_.reads += count;
  return reader_->Submit(requests_);
}

// Reaps what is there; at least min_count reads.
absl::Status Pager::Collect(size_t min_count) {
  completions_.clear();
  RETURN_IF_ERROR(reader_->Reap(min_count, &completions_));
  for (Completion& completion : completions_) {
    Flight& flight = FlightAt(completion.tag);
    flight.done = true;
    flight.status = std::move(completion.status);
    if (options_.trace != nullptr) {
      const StreamRange& range = schedule_[flight.range];
      options_.trace->Add(
          Trace::Track::kRead, "read", flight.submitted_at, Now(),
          {.bytes = static_cast<int64_t>(flight.ring_bytes), .offset = static_cast<int64_t>(range.offset)});
    }
  }
  return absl::OkStatus();
}

absl::Status Pager::WaitFor(size_t sequence) {
  for (;;) {
    RETURN_IF_ERROR(Collect(0));
    if (!FlightAt(sequence).done) {
      const double start = Now();
      {
        const TraceScope scope(options_.trace, Trace::Track::kWait, "wait");
        while (!FlightAt(sequence).done) RETURN_IF_ERROR(AwaitArrival(FlightAt(sequence)));
      }
      stats_.wait_seconds += Now() - start;
      RETURN_IF_ERROR(Fill());
    }
    Flight& flight = FlightAt(sequence);
    absl::Status status = std::move(flight.status);
    flight.status = absl::OkStatus();
    if (status.ok()) status = VerifyRange(schedule_[flight.range], BytesOf(flight));
    if (status.ok()) return status;
    if (flight.attempts++ >= kMaxAttempts) {
      return Annotate(status, fmt::format("after {} attempts", kMaxAttempts));
    }
    flight.done = false;
    ++stats_.repeated_reads;
    if (reader_->free_depth() == 0) RETURN_IF_ERROR(Collect(1));
    RETURN_IF_ERROR(SubmitFlights(sequence, 1));
  }
}

// Sleeps until a read ends, however long the disk takes, and says so when it takes long.
absl::Status Pager::AwaitArrival(const Flight& wanted) {
  const double start = Now();
  bool told = false;
  while (true) {
    ASSIGN_OR_RETURN(const bool arrived, reader_->Await(options_.stall_after));
    if (arrived) break;
    if (told || !options_.note) continue;
    const StreamRange& range = schedule_[wanted.range];
    options_.note(
        fmt::format("{}: the disk has not answered for {:.1f} s ({} bytes at offset {}, {} reads in flight); "
                    "waiting",
                    options_.path, Now() - start, range.bytes, range.offset, reader_->in_flight()));
    told = true;
  }
  if (told) options_.note(fmt::format("{}: the disk answers again after {:.1f} s", options_.path, Now() - start));
  return Collect(0);
}

absl::Status Pager::VerifyRange(const StreamRange& range, std::span<const std::byte> bytes) {
  if (range.first_piece < 0 || options_.verify == VerifyMode::kNever) return absl::OkStatus();
  for (size_t begin = 0, piece = static_cast<size_t>(range.first_piece); begin < bytes.size();
       begin += range.piece_bytes, ++piece) {
    if (verified_[piece] && options_.verify == VerifyMode::kFirst) continue;
    const auto part = bytes.subspan(begin, std::min<size_t>(range.piece_bytes, bytes.size() - begin));
    if (ChecksumOf(part) != options_.piece_checksums[piece]) {
      return absl::DataLossError(fmt::format(
          "{}: {} bytes at offset {} do not match their checksum: the file is damaged; pack the model again",
          options_.path, part.size(), range.offset + begin));
    }
    verified_[piece] = true;
  }
  return absl::OkStatus();
}

absl::Status Pager::Drain() {
  while (reader_->in_flight() > 0) RETURN_IF_ERROR(Collect(1));
  return absl::OkStatus();
}

}  // namespace dogstar
