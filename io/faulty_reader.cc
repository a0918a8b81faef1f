#include "io/faulty_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/random.h"
#include "fmt/format.h"
#include "io/read_progress.h"

namespace dogstar {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollPause = std::chrono::microseconds(50);

// A read and what will happen to it.
struct Victim {
  ReadRequest request;
  bool fails = false;
  std::optional<uint32_t> ends_after;  // bytes
  bool is_late = false;
  std::optional<uint64_t> flipped_bit;
};

struct HeldCompletion {
  Completion completion;
  Clock::time_point release_time;
};

class FaultyReader : public PageReader {
 public:
  FaultyReader(std::unique_ptr<PageReader> reader, const std::string& path, const FaultOptions& options)
      : reader_(std::move(reader)),
        path_(path),
        options_(options),
        depth_(reader_->free_depth()),
        faults_(options.seed),
        order_(options.seed) {}

  absl::Status Submit(std::span<const ReadRequest> requests) override;
  absl::Status Reap(size_t min_count, std::vector<Completion>* finished) override;
  absl::StatusOr<bool> Await(std::chrono::milliseconds limit) override;
  size_t in_flight() const override { return victims_.size() + held_.size(); }
  size_t free_depth() const override { return depth_ - in_flight(); }
  std::string Describe() const override {
    return fmt::format("faulty (seed {}) over {}", options_.seed, reader_->Describe());
  }

 private:
  Victim Choose(const ReadRequest& request);
  bool Happens(double probability) { return faults_.Uniform() < probability; }
  void Fail(const Victim& victim);
  absl::Status CutShort(const Victim& victim);
  absl::Status TakeArrivals(size_t min_count);
  void Hold(const Victim& victim, absl::Status status);
  size_t Release(std::vector<Completion>* finished);
  absl::Status AwaitSomething(size_t missing);
  Clock::time_point FirstRelease() const;
  void Shuffle(std::span<Completion> completions);

  std::unique_ptr<PageReader> reader_;
  const std::string path_;
  const FaultOptions options_;
  const size_t depth_;
  SplitMix64 faults_;  // drawn from by Submit only
  SplitMix64 order_;   // by Reap only, whose calls depend on time
  uint32_t burst_left_ = 0;
  uint64_t next_id_ = 0;
  std::unordered_map<uint64_t, Victim> victims_;  // reads inside reader_, by the tag they have there
  std::vector<HeldCompletion> held_;              // ended, not yet handed out
};

absl::Status FaultyReader::Submit(std::span<const ReadRequest> requests) {
  RETURN_IF_ERROR(CheckRequests(requests, free_depth(), path_));
  std::vector<ReadRequest> healthy;
  for (const ReadRequest& request : requests) {
    const Victim victim = Choose(request);
    if (victim.fails) {
      Fail(victim);
      continue;
    }
    healthy.push_back(request);
    healthy.back().tag = next_id_;
    victims_.emplace(next_id_++, victim);
  }
  return healthy.empty() ? absl::OkStatus() : reader_->Submit(healthy);
}

// Always draws the same count of numbers, so that one fault's probability does not move the others.
Victim FaultyReader::Choose(const ReadRequest& request) {
  Victim victim{.request = request};
  if (Happens(options_.error_probability)) burst_left_ = options_.error_burst;
  victim.fails = burst_left_ > 0;
  if (victim.fails) --burst_left_;
  const bool is_corrupt = Happens(options_.corrupt_probability);
  victim.is_late = Happens(options_.late_probability);
  const uint64_t bit = faults_.Next();
  const bool is_short = Happens(options_.short_probability);
  const uint64_t end = faults_.Next();
  if (is_short && request.needed_bytes > 0) victim.ends_after = static_cast<uint32_t>(end % request.needed_bytes);
  if (is_corrupt && request.needed_bytes > 0) victim.flipped_bit = bit % (uint64_t{8} * request.needed_bytes);
  return victim;
}

void FaultyReader::Fail(const Victim& victim) {
  // A disk that fails half-way has written something; nobody may rely on what was there before.
  std::memset(victim.request.destination, 0xA5, victim.request.bytes / 2);
  Hold(victim, ErrnoStatus("read", path_, victim.request.offset, victim.request.bytes, EIO));
}

// As a file that ends inside the read: what lies behind its end stays as it was, or worse.
absl::Status FaultyReader::CutShort(const Victim& victim) {
  const ReadRequest& request = victim.request;
  std::memset(request.destination + *victim.ends_after, 0x5A, request.bytes - *victim.ends_after);
  return absl::DataLossError(
      fmt::format("read {} at offset {} ({} bytes): the file ends after {} of the {} bytes needed", path_,
                  request.offset, request.bytes, *victim.ends_after, request.needed_bytes));
}

void FaultyReader::Hold(const Victim& victim, absl::Status status) {
  const Clock::time_point now = Clock::now();
  held_.push_back({.completion = {.tag = victim.request.tag, .status = std::move(status)},
                   .release_time = victim.is_late ? now + options_.late_by : now});
}

absl::Status FaultyReader::Reap(size_t min_count, std::vector<Completion>* finished) {
  CHECK(min_count <= in_flight());
  const size_t before = finished->size();
  RETURN_IF_ERROR(TakeArrivals(0));
  size_t count = Release(finished);
  while (count < min_count) {
    RETURN_IF_ERROR(AwaitSomething(min_count - count));
    count += Release(finished);
  }
  if (options_.reorder) Shuffle(std::span(*finished).subspan(before));
  return absl::OkStatus();
}

absl::StatusOr<bool> FaultyReader::Await(std::chrono::milliseconds limit) {
  CHECK(in_flight() > 0);
  const Clock::time_point deadline = Clock::now() + limit;
  while (true) {
    RETURN_IF_ERROR(TakeArrivals(0));
    const Clock::time_point now = Clock::now();
    const Clock::time_point due = FirstRelease();
    if (due <= now) return true;
    if (now >= deadline) return false;
    const Clock::time_point until = std::min(due, deadline);
    if (victims_.empty()) {
      std::this_thread::sleep_until(until);
    } else {
      RETURN_IF_ERROR(reader_->Await(std::chrono::ceil<std::chrono::milliseconds>(until - now)).status());
    }
  }
}

// When the next completion may be handed out, of those that are held.
Clock::time_point FaultyReader::FirstRelease() const {
  Clock::time_point first = Clock::time_point::max();
  for (const HeldCompletion& held : held_) first = std::min(first, held.release_time);
  return first;
}

absl::Status FaultyReader::TakeArrivals(size_t min_count) {
  std::vector<Completion> arrived;
  RETURN_IF_ERROR(reader_->Reap(min_count, &arrived));
  for (Completion& completion : arrived) {
    const auto entry = victims_.find(completion.tag);
    CHECK(entry != victims_.end());
    const Victim& victim = entry->second;
    if (completion.status.ok() && victim.ends_after.has_value()) completion.status = CutShort(victim);
    if (completion.status.ok() && victim.flipped_bit.has_value()) {
      victim.request.destination[*victim.flipped_bit / 8] ^= std::byte{1} << (*victim.flipped_bit % 8);
    }
    Hold(victim, std::move(completion.status));
    victims_.erase(entry);
  }
  return absl::OkStatus();
}

// Hands out what is due; returns how many.
size_t FaultyReader::Release(std::vector<Completion>* finished) {
  const Clock::time_point now = Clock::now();
  const auto due = std::stable_partition(held_.begin(), held_.end(),
                                         [now](const HeldCompletion& held) { return held.release_time > now; });
  const auto count = static_cast<size_t>(held_.end() - due);
  for (auto held = due; held != held_.end(); ++held) finished->push_back(std::move(held->completion));
  held_.erase(due, held_.end());
  return count;
}

absl::Status FaultyReader::AwaitSomething(size_t missing) {
  if (held_.empty()) return TakeArrivals(std::min(missing, victims_.size()));
  std::this_thread::sleep_for(kPollPause);  // a held completion or one of the reader below: whichever is first
  return TakeArrivals(0);
}

void FaultyReader::Shuffle(std::span<Completion> completions) {
  for (size_t left = completions.size(); left > 1; --left) {
    std::swap(completions[left - 1], completions[order_.Next() % left]);
  }
}

}  // namespace

std::unique_ptr<PageReader> NewFaultyReader(std::unique_ptr<PageReader> reader, const std::string& path,
                                            const FaultOptions& options) {
  return std::make_unique<FaultyReader>(std::move(reader), path, options);
}

}  // namespace dogstar
