// Trace: what happened when, as a file for Perfetto (ui.perfetto.dev) or chrome://tracing.
//
// Events are kept in memory and written once, at the end: a trace must not use the disk that it watches. Their number
// is bounded; what comes after the limit is counted and left out.
//
// Threads: one. A null Trace* stands for "no trace" everywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace dogstar {

class Trace {
 public:
  // Tracks of the viewer, from top to bottom.
  enum class Track : uint8_t { kPass, kCompute, kWait, kRead };
  struct Detail {
    int64_t layer = -1;   // -1: none
    int64_t bytes = -1;   // -1: none
    int64_t offset = -1;  // in the file; -1: none
    int64_t rows = -1;    // of the batch; -1: none
  };
  static constexpr size_t kMaxEvents = 1 << 18;
  // Memory that a trace takes at most.
  static uint64_t Bytes();

  // Creates the file at once, so that a path that cannot be written fails before the work.
  static absl::StatusOr<std::unique_ptr<Trace>> Create(const std::string& path);
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  ~Trace();

  // Something that lasted from begin to end, in seconds of Now(). `name` must live as long as the trace (a literal).
  // Events of kRead may overlap each other; those of another track must nest.
  void Add(Track track, const char* name, double begin, double end, const Detail& detail);
  // Writes the file. Call once.
  absl::Status Write();

  size_t event_count() const { return events_.size(); }
  size_t dropped() const { return dropped_; }

 private:
  struct Event {
    const char* name;
    double begin, end;
    Detail detail;
    Track track;
  };
  Trace(int fd, std::string path);

  int fd_;
  std::string path_;
  double start_ = Now();
  std::vector<Event> events_;
  size_t dropped_ = 0;
};

// An event that lasts as long as the object. `trace` may be null.
class TraceScope {
 public:
  TraceScope(Trace* trace, Trace::Track track, const char* name, const Trace::Detail& detail = {})
      : trace_(trace), track_(track), name_(name), detail_(detail), begin_(trace != nullptr ? Now() : 0) {}
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;
  ~TraceScope() {
    if (trace_ != nullptr) trace_->Add(track_, name_, begin_, Now(), detail_);
  }

 private:
  Trace* trace_;
  Trace::Track track_;
  const char* name_;
  Trace::Detail detail_;
  double begin_;
};

}  // namespace dogstar
