// ThreadPool: fork-join over a fixed number of threads, the caller being thread 0.
//
// Workers spin for a short while after a job, then sleep: jobs of one pass follow each other within microseconds,
// while a pass that waits for the disk must not burn a core.
// Threads: one thread calls Run; the function must not call Run of the same pool.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace dogstar {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // >= 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls function(thread) once on every thread, 0 <= thread < size(), and returns when all have finished. What each
  // call wrote is visible to the caller, and to every thread in the next Run.
  void Run(absl::FunctionRef<void(int thread)> function);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// [begin, end) of `total` items for one of `parts`, in multiples of `grain` (the last part may be shorter).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};
Range PartOf(int64_t total, int64_t grain, int part, int parts);

}  // namespace dogstar
