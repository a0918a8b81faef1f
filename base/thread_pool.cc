#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/status.h"

namespace dogstar {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the gap between two jobs of a pass, shorter than a read from the disk. A sleep and its wake-up cost
// some 5 to 50 us.
constexpr auto kSpinTime = std::chrono::microseconds(40);
constexpr int kPausesPerClockRead = 16;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old` and returns what it is: spins for `spin_time`, then sleeps.
uint32_t AwaitChange(const std::atomic<uint32_t>& value, uint32_t old, Clock::duration spin_time) {
  uint32_t now = value.load(std::memory_order_acquire);
  if (now != old) return now;
  const Clock::time_point give_up = Clock::now() + spin_time;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      Pause();
    }
  } while (Clock::now() < give_up);
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

// Each atomic has a cache line of its own: workers poll `job` while others count `unfinished` down.
struct ThreadPool::State {
  alignas(64) std::atomic<uint32_t> job = 0;         // number of the current job; wraps around
  alignas(64) std::atomic<uint32_t> unfinished = 0;  // workers that have not finished it
  // Written before `job` changes, read after it has.
  alignas(64) const absl::FunctionRef<void(int)>* function = nullptr;  // nullptr: stop
  Clock::duration spin_time = kSpinTime;
  std::vector<std::thread> workers;

  void Start(const absl::FunctionRef<void(int)>* next) {
    function = next;
    unfinished.store(static_cast<uint32_t>(workers.size()), std::memory_order_relaxed);
    // Sequentially consistent: notify_all looks whether anybody sleeps, and must not look before this is seen.
    job.fetch_add(1, std::memory_order_seq_cst);
    job.notify_all();
  }

  void Work(int thread) {
    uint32_t last_job = 0;
    while (true) {
      // The caller starts no job before this thread has finished the last one, so none is ever skipped.
      last_job = AwaitChange(job, last_job, spin_time);
      if (function == nullptr) return;
      (*function)(thread);
      if (unfinished.fetch_sub(1, std::memory_order_seq_cst) == 1) unfinished.notify_one();
    }
  }

  void AwaitWorkers() {
    uint32_t left = unfinished.load(std::memory_order_acquire);
    while (left != 0) left = AwaitChange(unfinished, left, spin_time);
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  CHECK(threads >= 1);
  // With fewer processors than threads, a thread that spins keeps the one it waits for from running.
  const unsigned processors = std::thread::hardware_concurrency();
  if (processors != 0 && static_cast<unsigned>(threads) > processors) state_->spin_time = Clock::duration::zero();
  for (int thread = 1; thread < threads; ++thread) {
    state_->workers.emplace_back([state = state_.get(), thread] { state->Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  state_->Start(nullptr);
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::Run(absl::FunctionRef<void(int thread)> function) {
  if (state_->workers.empty()) return function(0);
  state_->Start(&function);
  function(0);
  state_->AwaitWorkers();
}

Range PartOf(int64_t total, int64_t grain, int part, int parts) {
  CHECK(total >= 0 && grain >= 1 && parts >= 1 && part >= 0 && part < parts);
  const int64_t grains = total / grain + (total % grain != 0);
  const int64_t each = grains / parts;
  const int64_t longer = grains % parts;  // this many parts, the first ones, have one grain more
  const int64_t first = each * part + std::min<int64_t>(part, longer);
  const int64_t count = each + (part < longer);
  return {.begin = std::min(first * grain, total), .end = std::min((first + count) * grain, total)};
}

}  // namespace dogstar
