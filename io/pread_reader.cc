#include "io/pread_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "fmt/format.h"
#include "io/read_progress.h"

namespace dogstar {
namespace {

// guess: enough for an NVMe disk with reads of 256 KiB and more; each sleeps in the kernel and costs a stack.
constexpr size_t kMaxThreads = 16;

class PreadReader : public PageReader {
 public:
  PreadReader(const ReaderOptions& options, DirectFile file) : file_(std::move(file)), depth_(options.queue_depth) {
    const size_t threads = std::min(depth_, kMaxThreads);
    for (size_t i = 0; i < threads; ++i) workers_.emplace_back([this] { Work(); });
  }
  ~PreadReader() override;

  absl::Status Submit(std::span<const ReadRequest> requests) override;
  absl::Status Reap(size_t min_count, std::vector<Completion>* finished) override;
  absl::StatusOr<bool> Await(std::chrono::milliseconds limit) override;
  size_t in_flight() const override { return in_flight_; }
  size_t free_depth() const override { return depth_ - in_flight_; }
  std::string Describe() const override {
    return fmt::format("pread, {}, depth {}, {} threads", file_.direct() ? "O_DIRECT" : "buffered", depth_,
                       workers_.size());
  }

 private:
  void Work();
  absl::Status Read(const ReadRequest& request) const;

  const DirectFile file_;
  const size_t depth_;
  size_t in_flight_ = 0;  // of the submitting thread: submitted and not reaped

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_arrived_;
  std::condition_variable read_ended_;
  std::deque<ReadRequest> waiting_;
  std::vector<Completion> ended_;
  size_t wanted_ = 0;  // the reaper sleeps until this many have ended
  bool stopping_ = false;

  std::vector<std::thread> workers_;
};

PreadReader::~PreadReader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_arrived_.notify_all();
  for (std::thread& worker : workers_) worker.join();  // a read that has begun ends first
}

absl::Status PreadReader::Submit(std::span<const ReadRequest> requests) {
  RETURN_IF_ERROR(CheckRequests(requests, free_depth(), file_.path()));
  in_flight_ += requests.size();
  {
    std::lock_guard lock(mutex_);
    waiting_.insert(waiting_.end(), requests.begin(), requests.end());
  }
  requests.size() == 1 ? work_arrived_.notify_one() : work_arrived_.notify_all();
  return absl::OkStatus();
}

absl::Status PreadReader::Reap(size_t min_count, std::vector<Completion>* finished) {
  CHECK(min_count <= in_flight_);
  std::unique_lock lock(mutex_);
  wanted_ = min_count;
  read_ended_.wait(lock, [this] { return ended_.size() >= wanted_; });
  in_flight_ -= ended_.size();
  std::move(ended_.begin(), ended_.end(), std::back_inserter(*finished));
  ended_.clear();
  return absl::OkStatus();
}

absl::StatusOr<bool> PreadReader::Await(std::chrono::milliseconds limit) {
  CHECK(in_flight_ > 0);
  std::unique_lock lock(mutex_);
  wanted_ = 1;
  return read_ended_.wait_for(lock, limit, [this] { return !ended_.empty(); });
}

void PreadReader::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_arrived_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    const ReadRequest request = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    absl::Status status = Read(request);
    lock.lock();
    ended_.push_back({.tag = request.tag, .status = std::move(status)});
    if (ended_.size() >= wanted_) read_ended_.notify_one();
  }
}

absl::Status PreadReader::Read(const ReadRequest& request) const {
  ReadProgress read(request);
  while (true) {
    const ssize_t bytes = ::pread(file_.fd(), read.destination(), read.bytes(), static_cast<off_t>(read.offset()));
    std::optional<absl::Status> end = read.Advance(bytes < 0 ? -errno : bytes, file_.path());
    if (end.has_value()) return *std::move(end);
  }
}

}  // namespace

std::unique_ptr<PageReader> NewPreadReader(const ReaderOptions& options, DirectFile file) {
  return std::make_unique<PreadReader>(options, std::move(file));
}

}  // namespace dogstar
