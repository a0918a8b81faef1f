// Worker: a thread that does one thing at a time beside its owner.
//
// Threads: one thread calls it. What a task wrote is visible after Wait.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace dogstar {

class Worker {
 public:
  Worker() : thread_([this] { Work(); }) {}
  ~Worker();  // waits for what is under way
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // REQUIRES: nothing is under way.
  void Start(std::function<void()> task);
  // Until nothing is under way.
  void Wait();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;  // under way; empty: none
  bool ending_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace dogstar
