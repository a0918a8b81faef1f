#include "base/trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <iterator>
#include <utility>

#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr std::array<const char*, 4> kTrackNames = {"passes", "compute", "waits for reads", "reads"};
constexpr double kMicroseconds = 1e6;
constexpr size_t kWriteBytes = 1 << 20;

void AppendArgs(const Trace::Detail& detail, fmt::memory_buffer* out) {
  const std::array<std::pair<const char*, int64_t>, 4> parts = {
      {{"layer", detail.layer}, {"rows", detail.rows}, {"bytes", detail.bytes}, {"offset", detail.offset}}};
  const char* separator = "";
  fmt::format_to(std::back_inserter(*out), ",\"args\":{{");
  for (const auto& [name, value] : parts) {
    if (value < 0) continue;
    fmt::format_to(std::back_inserter(*out), "{}\"{}\":{}", separator, name, value);
    separator = ",";
  }
  fmt::format_to(std::back_inserter(*out), "}}}}");
}

absl::Status WriteAll(int fd, const std::string& path, fmt::memory_buffer* out) {
  for (size_t done = 0; done < out->size();) {
    const ssize_t written = ::write(fd, out->data() + done, out->size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus("write", path, -1, static_cast<int64_t>(out->size() - done), errno);
    done += static_cast<size_t>(written);
  }
  out->clear();
  return absl::OkStatus();
}

}  // namespace

uint64_t Trace::Bytes() { return kMaxEvents * sizeof(Event) + 2 * kWriteBytes; }

absl::StatusOr<std::unique_ptr<Trace>> Trace::Create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus("create trace", path, -1, -1, errno);
  return std::unique_ptr<Trace>(new Trace(fd, path));
}

Trace::Trace(int fd, std::string path) : fd_(fd), path_(std::move(path)) { events_.reserve(kMaxEvents); }

Trace::~Trace() {
  if (fd_ >= 0) ::close(fd_);
}

void Trace::Add(Track track, const char* name, double begin, double end, const Detail& detail) {
  if (events_.size() == kMaxEvents) {
    ++dropped_;
    return;
  }
  events_.push_back({name, begin, end, detail, track});
}

// Chrome's trace event format: complete events ("X") on a thread a track; reads overlap, so they are pairs of
// asynchronous events ("b", "e") that the viewer puts on as many lines as it needs.
absl::Status Trace::Write() {
  fmt::memory_buffer out;
  fmt::format_to(std::back_inserter(out), "{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"dropped_events\":{}}},",
                 dropped_);
  fmt::format_to(std::back_inserter(out), "\"traceEvents\":[\n");
  for (size_t track = 0; track < kTrackNames.size(); ++track) {
    fmt::format_to(std::back_inserter(out),
                   "{}{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{},\"args\":{{\"name\":\"{}\"}}}}",
                   track == 0 ? "" : ",\n", track + 1, kTrackNames[track]);
  }
  size_t id = 0;
  for (const Event& event : events_) {
    const size_t track = static_cast<size_t>(event.track);
    const double begin = (event.begin - start_) * kMicroseconds, end = (event.end - start_) * kMicroseconds;
    const auto common = [&](const char* phase, double at) {
      fmt::format_to(std::back_inserter(out), ",\n{{\"name\":\"{}\",\"ph\":\"{}\",\"pid\":1,\"tid\":{},\"ts\":{:.3f}",
                     event.name, phase, track + 1, at);
    };
    if (event.track == Track::kRead) {
      common("b", begin);
      fmt::format_to(std::back_inserter(out), ",\"cat\":\"read\",\"id\":{}", ++id);
      AppendArgs(event.detail, &out);
      common("e", end);
      fmt::format_to(std::back_inserter(out), ",\"cat\":\"read\",\"id\":{}}}", id);
    } else {
      common("X", begin);
      fmt::format_to(std::back_inserter(out), ",\"dur\":{:.3f}", end - begin);
      AppendArgs(event.detail, &out);
    }
    if (out.size() > kWriteBytes) RETURN_IF_ERROR(WriteAll(fd_, path_, &out));
  }
  fmt::format_to(std::back_inserter(out), "\n]}}\n");
  RETURN_IF_ERROR(WriteAll(fd_, path_, &out));
  const int result = ::close(std::exchange(fd_, -1));
  return result == 0 ? absl::OkStatus() : ErrnoStatus("close", path_, -1, -1, errno);
}

}  // namespace dogstar
