#include "io/read_load.h"

#include <sys/resource.h>

#include <vector>

#include "base/clock.h"
#include "base/random.h"

namespace dogstar {
namespace {

double SecondsOf(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

double CpuSeconds() {
  rusage usage;
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return SecondsOf(usage.ru_utime) + SecondsOf(usage.ru_stime);
}

// Where the next read goes.
class Places {
 public:
  explicit Places(const ReadLoad& load) : load_(load), count_(load.bytes / load.read_bytes), random_(load.seed) {
    CHECK(count_ > 0);
  }
  uint64_t Next() {
    const uint64_t place = (load_.random ? random_.Next() : next_++) % count_;
    return load_.offset + place * load_.read_bytes;
  }

 private:
  const ReadLoad load_;
  const uint64_t count_;
  SplitMix64 random_;
  uint64_t next_ = 0;
};

// The parts of the buffer that no read is using, and what fills them.
class Load {
 public:
  Load(PageReader* reader, std::span<std::byte> buffer, const ReadLoad& load)
      : reader_(reader), buffer_(buffer), load_(load), places_(load) {
    CHECK(buffer.size() / load.read_bytes >= load.depth && reader->free_depth() >= load.depth);
    for (uint64_t part = load.depth; part > 0; --part) free_parts_.push_back(part - 1);
  }

  absl::StatusOr<LoadResult> Run() {
    const double start = Now(), cpu_start = CpuSeconds();
    while (Now() - start < load_.seconds_max && submitted_bytes_ < load_.bytes_max) {
      RETURN_IF_ERROR(Submit());
      WorkBeside();
      RETURN_IF_ERROR(Take());
    }
    while (reader_->in_flight() > 0) RETURN_IF_ERROR(Take());
    result_.seconds = Now() - start;
    result_.cpu_seconds = CpuSeconds() - cpu_start;
    return result_;
  }

 private:
  absl::Status Submit() {
    requests_.clear();
    for (; !free_parts_.empty() && submitted_bytes_ < load_.bytes_max; submitted_bytes_ += load_.read_bytes) {
      const uint64_t part = free_parts_.back();
      free_parts_.pop_back();
      requests_.push_back({.offset = places_.Next(),
                           .destination = buffer_.data() + part * load_.read_bytes,
                           .bytes = load_.read_bytes,
                           .needed_bytes = load_.read_bytes,
                           .tag = part});
    }
    return reader_->Submit(requests_);
  }

  // Waits for a read, and takes all that are there.
  absl::Status Take() {
    finished_.clear();
    RETURN_IF_ERROR(reader_->Reap(1, &finished_));
    for (const Completion& completion : finished_) {
      RETURN_IF_ERROR(completion.status);
      free_parts_.push_back(completion.tag);
    }
    result_.reads += finished_.size();
    result_.bytes += finished_.size() * load_.read_bytes;
    return absl::OkStatus();
  }

  // Others are in flight when it begins: a part is filled again first.
  void WorkBeside() {
    if (!load_.beside) return;
    for (size_t i = 0; i < finished_.size(); ++i) load_.beside();
  }

  PageReader* reader_;
  std::span<std::byte> buffer_;
  const ReadLoad load_;
  Places places_;
  std::vector<uint64_t> free_parts_;
  std::vector<ReadRequest> requests_;
  std::vector<Completion> finished_;
  uint64_t submitted_bytes_ = 0;
  LoadResult result_;
};

}  // namespace

absl::StatusOr<LoadResult> RunLoad(PageReader* reader, std::span<std::byte> buffer, const ReadLoad& load) {
  return Load(reader, buffer, load).Run();
}

}  // namespace dogstar
