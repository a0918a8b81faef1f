#include "tools/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <utility>

#include "base/units.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr auto kFirstLine = std::chrono::seconds(1);
constexpr auto kRedraw = std::chrono::milliseconds(200);
constexpr auto kLogLine = std::chrono::seconds(10);

std::string FormatSeconds(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace

std::string ProgressLine(const std::string& what, uint64_t done_bytes, uint64_t total_bytes, double seconds) {
  const auto done = static_cast<double>(done_bytes), total = static_cast<double>(total_bytes);
  const double percent = total > 0 ? 100 * done / total : 100;
  std::string line =
      fmt::format("{}: {:.0f}%, {} of {}", what, std::floor(percent), FormatSize(done_bytes), FormatSize(total_bytes));
  if (done <= 0 || seconds <= 0) return line;
  const double rate = done / seconds;
  return line +
         fmt::format(", {}/s, {} left", FormatSize(static_cast<uint64_t>(rate)), FormatSeconds((total - done) / rate));
}

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) != 0), start_(Clock::now()), next_(start_ + kFirstLine) {}

ProgressBar::~ProgressBar() {
  // Leaves the line to what is printed next.
  if (terminal_ && drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::Update(uint64_t done_bytes, uint64_t total_bytes) {
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? Clock::duration(kRedraw) : Clock::duration(kLogLine));
  Draw(ProgressLine(what_, done_bytes, total_bytes, seconds()));
}

double ProgressBar::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void ProgressBar::Draw(const std::string& line) {
  drawn_ = true;
  if (terminal_) {
    std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

}  // namespace dogstar
