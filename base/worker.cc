#include "base/worker.h"

#include <utility>

#include "base/status.h"

namespace dogstar {

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Worker::Start(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    CHECK(!task_);
    task_ = std::move(task);
  }
  changed_.notify_all();
}

void Worker::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !task_; });
}

void Worker::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || task_; });
    if (!task_) return;
    lock.unlock();
    task_();  // nobody changes it meanwhile
    lock.lock();
    task_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace dogstar
