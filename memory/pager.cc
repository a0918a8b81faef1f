#include "memory/pager.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "fmt/format.h"
#include "model/packed_file.h"

namespace dogstar {
namespace {

constexpr int kMaxAttempts = 3;

uint64_t AlignDown(uint64_t value) { return value / kIoAlignment * kIoAlignment; }
uint64_t AlignUp(uint64_t value) { return AlignDown(value + kIoAlignment - 1); }

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

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

// Submits as many of the next ranges as the ring and the reader's queue take.
absl::Status Pager::Fill() {
  while (next_submit_ < schedule_.size() && reader_->free_depth() > 0) {
    Flight flight;
    flight.range = next_submit_;
    flight.ring_bytes = AlignedBytes(schedule_[next_submit_]);
    CHECK(flight.ring_bytes <= ring_.size());
    // A range is contiguous: what is left at the ring's end is skipped when it is too small.
    if (ring_tail_ + flight.ring_bytes > ring_.size()) flight.skipped = ring_.size() - ring_tail_;
    if (ring_used_ + flight.skipped + flight.ring_bytes > ring_.size()) return absl::OkStatus();
    flight.ring_begin = flight.skipped > 0 ? 0 : ring_tail_;
    ring_tail_ = (flight.ring_begin + flight.ring_bytes) % ring_.size();
    ring_used_ += flight.skipped + flight.ring_bytes;
    flights_.push_back(flight);
    ++next_submit_;
    RETURN_IF_ERROR(SubmitFlight(first_sequence_ + flights_.size() - 1, flights_.back()));
  }
  return absl::OkStatus();
}

absl::Status Pager::SubmitFlight(size_t sequence, const Flight& flight) {
  const StreamRange& range = schedule_[flight.range];
  ReadRequest request;
  request.offset = AlignDown(range.offset);
  request.destination = ring_.data() + flight.ring_begin;
  request.bytes = static_cast<uint32_t>(flight.ring_bytes);
  request.needed_bytes = static_cast<uint32_t>(range.offset + range.bytes - request.offset);
  request.tag = sequence;
  stats_.bytes_read += request.bytes;
  ++stats_.reads;
  return reader_->Submit({&request, 1});
}

// Reaps what is there; at least min_count reads.
absl::Status Pager::Collect(size_t min_count) {
  completions_.clear();
  RETURN_IF_ERROR(reader_->Reap(min_count, &completions_));
  for (Completion& completion : completions_) {
    Flight& flight = FlightAt(completion.tag);
    flight.done = true;
    flight.status = std::move(completion.status);
  }
  return absl::OkStatus();
}

absl::Status Pager::WaitFor(size_t sequence) {
  for (;;) {
    while (!FlightAt(sequence).done) {
      RETURN_IF_ERROR(Collect(0));
      if (FlightAt(sequence).done) break;
      const double start = Now();
      RETURN_IF_ERROR(Collect(1));
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
    RETURN_IF_ERROR(SubmitFlight(sequence, flight));
  }
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
