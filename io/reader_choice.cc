#include "io/reader_choice.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/units.h"
#include "fmt/format.h"
#include "io/direct_file.h"
#include "io/read_load.h"

namespace dogstar {
namespace {

constexpr uint64_t kReadBytes = uint64_t{1} << 20;
// Enough for full bandwidth (docs/decisions.md), and little for a slow disk: 8 MiB are waited for when time is over.
constexpr size_t kDepth = 8;
constexpr size_t kDepthMin = 4;
constexpr int kRuns = 2;
constexpr double kEngineGain = 1.2;
constexpr double kBufferedGain = 1.5;
constexpr double kCachedMax = 0.02;  // share of a part's pages; more, and the page cache would be measured

std::string NameOf(const ReaderCandidate& candidate) {
  return fmt::format("{}, {}", candidate.engine == IoEngine::kPread ? "pread" : "io_uring",
                     candidate.direct ? "O_DIRECT" : "buffered");
}

// Share of the pages of [offset, offset + bytes) that are in the page cache. The kernel tells it to owners of the file;
// to others it says that all are.
double CachedShare(const DirectFile& file, uint64_t offset, uint64_t bytes) {
  void* mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.fd(), static_cast<off_t>(offset));
  if (mapping == MAP_FAILED) return 1;
  std::vector<unsigned char> pages((bytes + kIoAlignment - 1) / kIoAlignment);
  const bool told = ::mincore(mapping, bytes, pages.data()) == 0;
  ::munmap(mapping, bytes);
  if (!told) return 1;
  const auto cached = std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; });
  return static_cast<double>(cached) / static_cast<double>(pages.size());
}

// Advice: what is mapped or dirty stays.
void DropFromCache(const DirectFile& file, uint64_t offset, uint64_t bytes) {
  ::posix_fadvise(file.fd(), static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

class Measurement {
 public:
  Measurement(const DirectFile& file, const ReaderOptions& options, const ChoiceLimits& limits,
              std::span<std::byte> buffer)
      : file_(file), options_(options), limits_(limits), buffer_(buffer) {}

  // Most wanted first. An engine that is refused is left out, unless it is asked for by name.
  absl::Status AddCandidates() {
    std::vector<IoEngine> engines;
    if (options_.engine != IoEngine::kPread) {
      const ReaderOptions probe = {.engine = IoEngine::kUring, .direct = options_.direct, .queue_depth = 1};
      const absl::Status status = OpenPageReader(file_.path(), probe, nullptr).status();
      const bool refused = status.code() == absl::StatusCode::kUnavailable && options_.engine == IoEngine::kAuto;
      if (!refused) RETURN_IF_ERROR(status);
      if (!refused) engines.push_back(IoEngine::kUring);
    }
    if (options_.engine != IoEngine::kUring) engines.push_back(IoEngine::kPread);
    for (const bool direct : {true, false}) {
      if (direct ? !file_.direct() : options_.direct == DirectMode::kAlways) continue;
      for (const IoEngine engine : engines) candidates_.push_back({engine, direct, {}});
    }
    return absl::OkStatus();
  }

  absl::Status Run() {
    const double start = Now();
    const size_t parts = kRuns * candidates_.size();
    const uint64_t part_bytes = file_.size() / parts / kReadBytes * kReadBytes;
    if (part_bytes == 0) return absl::InvalidArgumentError(fmt::format("{} is too small to measure", file_.path()));
    const double seconds = limits_.seconds / static_cast<double>(parts);
    for (int run = 0; run < kRuns; ++run) {
      for (size_t i = 0; i < candidates_.size(); ++i) {
        if (Now() - start > limits_.seconds && !candidates_[0].bytes_per_second.empty()) break;
        const size_t part = static_cast<size_t>(run) * candidates_.size() + i;
        RETURN_IF_ERROR(RunOne(part * part_bytes, part_bytes, seconds, &candidates_[i]));
      }
    }
    seconds_ = Now() - start;
    // One that time did not suffice for has nothing to be compared with.
    const size_t runs = candidates_[0].bytes_per_second.size();
    std::erase_if(candidates_, [runs](const auto& candidate) { return candidate.bytes_per_second.size() < runs; });
    return absl::OkStatus();
  }

  ReaderChoice Choose() const {
    const ReaderCandidate& picked = candidates_[PickReader(candidates_)];
    ReaderChoice choice{options_.engine, options_.direct, picked.best(), {}};
    const bool both_engines = candidates_[0].engine == IoEngine::kUring;
    if (picked.engine == IoEngine::kPread && both_engines) choice.engine = IoEngine::kPread;
    if (!picked.direct && candidates_[0].direct) choice.direct = DirectMode::kNever;
    choice.reason = Reason(picked);
    return choice;
  }

 private:
  absl::Status RunOne(uint64_t offset, uint64_t bytes, double seconds, ReaderCandidate* candidate) {
    ReaderOptions options = options_;
    options.engine = candidate->engine;
    options.direct = candidate->direct ? DirectMode::kAlways : DirectMode::kNever;
    options.queue_depth = std::min<size_t>(buffer_.size() / kReadBytes, kDepth);
    options.buffer = buffer_;
    const uint64_t span = std::min(bytes, limits_.bytes);
    if (!candidate->direct) {
      DropFromCache(file_, offset, span);
      // Where the page cache is the only way, it is measured as it is.
      if (file_.direct() && CachedShare(file_, offset, span) > kCachedMax) return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<PageReader> reader, OpenPageReader(file_.path(), options, nullptr));
    ASSIGN_OR_RETURN(const LoadResult result, RunLoad(reader.get(), buffer_,
                                                      {.offset = offset,
                                                       .bytes = span,
                                                       .read_bytes = kReadBytes,
                                                       .depth = options.queue_depth,
                                                       .seconds_max = seconds,
                                                       .bytes_max = span}));
    candidate->bytes_per_second.push_back(result.bytes_per_second());
    bytes_ += result.bytes;
    if (!candidate->direct && file_.direct()) DropFromCache(file_, offset, span);
    return absl::OkStatus();
  }

  std::string Reason(const ReaderCandidate& picked) const {
    std::string text = fmt::format("{} at {:.2f} GB/s", NameOf(picked), picked.best() / 1e9);
    const char* before = " (";
    for (const ReaderCandidate& candidate : candidates_) {
      if (&candidate == &picked) continue;
      text += fmt::format("{}{} {:.2f}", before, NameOf(candidate), candidate.best() / 1e9);
      before = "; ";
    }
    if (*before == ';') text += ")";
    return text + fmt::format(", measured with {} in {:.0f} ms", FormatSize(bytes_), seconds_ * 1e3);
  }

  const DirectFile& file_;
  const ReaderOptions options_;
  const ChoiceLimits limits_;
  const std::span<std::byte> buffer_;
  std::vector<ReaderCandidate> candidates_;
  uint64_t bytes_ = 0;
  double seconds_ = 0;
};

}  // namespace

double ReaderCandidate::best() const {
  return bytes_per_second.empty() ? 0 : *std::ranges::max_element(bytes_per_second);
}

size_t PickReader(std::span<const ReaderCandidate> candidates) {
  size_t picked = 0;
  for (size_t i = 1; i < candidates.size(); ++i) {
    const ReaderCandidate& now = candidates[picked];
    const ReaderCandidate& other = candidates[i];
    const double gain = now.direct && !other.direct ? kBufferedGain : kEngineGain;
    const size_t runs = std::min(now.bytes_per_second.size(), other.bytes_per_second.size());
    bool wins = runs > 0;
    for (size_t run = 0; run < runs; ++run) {
      wins = wins && other.bytes_per_second[run] >= gain * now.bytes_per_second[run];
    }
    if (wins) picked = i;
  }
  return picked;
}

absl::StatusOr<ReaderChoice> ChooseReader(const std::string& path, const ReaderOptions& options,
                                          const ChoiceLimits& limits) {
  ASSIGN_OR_RETURN(const DirectFile file, DirectFile::Open(path, options.direct, nullptr));
  if (file.size() < limits.file_bytes_min) {
    return ReaderChoice{options.engine, options.direct, 0,
                        fmt::format("not measured: {} is a small file", FormatSize(file.size()))};
  }
  std::span<std::byte> buffer = options.buffer;
  AlignedBuffer own;
  if (buffer.size() < kDepthMin * kReadBytes) {
    ASSIGN_OR_RETURN(own, AlignedBuffer::Create(kDepth * kReadBytes));
    buffer = own.span();
  }
  Measurement measurement(file, options, limits, buffer);
  RETURN_IF_ERROR(measurement.AddCandidates());
  RETURN_IF_ERROR(measurement.Run());
  return measurement.Choose();
}

}  // namespace dogstar
