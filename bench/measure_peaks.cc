#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "bench/machine_peaks.h"

namespace dogstar {
namespace {

double BestSeconds(int runs, const std::function<void()>& work) {
  double best = 1e30;
  for (int run = 0; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

MachinePeaks MeasureMachinePeaks(int threads, bool small) {
  const int runs = small ? 2 : 40;
  ThreadPool pool(threads);
  AlignedBuffer memory = *AlignedBuffer::Create(small ? 8 << 20 : 1 << 30);
  std::memset(memory.data(), 1, memory.size());
  // In turn, so that no part is still in a cache when it is read again.
  const int64_t part_bytes = static_cast<int64_t>(memory.size()) / 8;
  int64_t at = 0;
  const double read_seconds = BestSeconds(runs, [&] {
    pool.Run([&](int thread) {
      const Range part = PartOf(part_bytes, 4096, thread, pool.size());
      SumBytes(memory.data() + at + part.begin, part.end - part.begin);
    });
    at = (at + part_bytes) % static_cast<int64_t>(memory.size());
  });
  constexpr int64_t kProducts = 1 << 20;
  const double product_seconds = BestSeconds(runs, [&] { pool.Run([&](int) { Int8Products(kProducts); }); });
  return {static_cast<double>(part_bytes) * 1e-9 / read_seconds,
          static_cast<double>(Int8ProductsDone(kProducts)) * pool.size() * 1e-9 / product_seconds};
}

}  // namespace dogstar
