// ProgressBar: bytes, rate and time left of a long operation, on stderr.
//
// Silent for the first second. On a terminal one line is redrawn; elsewhere a line is printed every 10 seconds at most,
// so that a log stays short.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dogstar {

class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(uint64_t done_bytes, uint64_t total_bytes);
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  void Draw(const std::string& line);

  const std::string what_;
  const bool terminal_;
  const Clock::time_point start_;
  Clock::time_point next_;  // no line before this
  bool drawn_ = false;
};

// "packing: 42%, 1.2 of 3.9 GiB, 812.0 MiB/s, 3 s left", for ProgressBar.
std::string ProgressLine(const std::string& what, uint64_t done_bytes, uint64_t total_bytes, double seconds);

}  // namespace dogstar
