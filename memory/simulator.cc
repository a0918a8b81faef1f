#include "memory/simulator.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <limits>
#include <mutex>
#include <utility>

#include "base/thread_pool.h"
#include "fmt/format.h"
#include "memory/page_cache.h"
#include "memory/slot_lists.h"

namespace dogstar {
namespace {

constexpr int kLayerShift = 32;  // KeyOf

size_t LayerOf(PageKey key) { return static_cast<size_t>(ToInt(key) >> kLayerShift); }

// Keys -> 0, 1, .. in the order they come.
class Numbering {
 public:
  int32_t Of(PageKey key) {
    int32_t id = index_.Find(key);
    if (id != kNoSlot) return id;
    if (keys_.size() == room_) Grow();
    id = static_cast<int32_t>(keys_.size());
    keys_.push_back(key);
    index_.Insert(key, id);
    return id;
  }
  std::vector<PageKey> TakeKeys() { return std::move(keys_); }

 private:
  void Grow() {
    room_ *= 2;
    index_ = KeyIndex(static_cast<int32_t>(room_));
    for (size_t i = 0; i < keys_.size(); ++i) index_.Insert(keys_[i], static_cast<int32_t>(i));
  }

  size_t room_ = 1 << 12;
  KeyIndex index_{1 << 12};
  std::vector<PageKey> keys_;
};

class RequestCollector final : public AccessVisitor {
 public:
  RequestCollector(const AccessHeader& header, int32_t page_rows) : page_rows_(page_rows) {
    list_.layers = static_cast<int32_t>(header.layers.size());
    list_.keys_of_layer = (header.rows + page_rows - 1) / page_rows;
  }
  void OnPass(AccessPhase phase, int32_t, double) override { phase_ = phase; }
  void OnRequests(LayerIndex layer, std::span<const AccessRequest> requests) override {
    int32_t last = -1;
    for (const AccessRequest& request : requests) {
      const int32_t page = ToInt(request.row) / page_rows_;
      if (page != last) list_.keys.push_back(KeyOf(layer, RowIndex{page}));
      last = page;
    }
  }
  void OnEndToken() override { list_.tokens.push_back({list_.keys.size(), phase_, false}); }
  void OnEndPass() override {
    if (!list_.tokens.empty()) list_.tokens.back().ends_pass = true;
  }
  RequestList Take() {
    // A torn trace may stop within a token.
    const size_t whole = list_.tokens.empty() ? 0 : list_.tokens.back().end;
    if (whole < list_.keys.size()) list_.tokens.push_back({list_.keys.size(), phase_, false});
    list_.Index();
    return std::move(list_);
  }

 private:
  int32_t page_rows_;
  AccessPhase phase_ = AccessPhase::kVerify;
  RequestList list_;
};

// Processor time of this thread: what a core does in a second, whatever else the machine does.
double ThreadSeconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// What every simulated cache does: passes over the list, and counts.
template <typename Cache>
SimulationResult Play(const RequestList& list, const Simulation& simulation, Cache* cache) {
  SimulationResult result;
  result.layer_misses.resize(static_cast<size_t>(list.layers));
  const double start = ThreadSeconds();
  for (int pass = 0; pass < (simulation.warm ? 2 : 1); ++pass) {
    SimulationCounts& counts = pass == 0 ? result.cold : result.warm;
    if (pass > 0) cache->BeginAgain();
    size_t at = 0;
    for (const RequestList::Token& token : list.tokens) {
      const size_t begin = at;
      int64_t misses = 0;
      for (; at < token.end; ++at) {
        if (cache->Ask(at)) continue;
        ++misses;
        if (pass == 0 && list.layers > 0) ++result.layer_misses[LayerOf(list.keys[at])];
        counts.prefetched += cache->AfterMiss(at);
      }
      const int64_t hits = static_cast<int64_t>(at - begin) - misses;
      counts.hits += hits;
      counts.misses += misses;
      if (pass == 0) {
        result.phase_hits[static_cast<size_t>(token.phase)] += hits;
        result.phase_misses[static_cast<size_t>(token.phase)] += misses;
      }
      cache->EndToken(token.ends_pass);
    }
  }
  const double seconds = ThreadSeconds() - start, passes = simulation.warm ? 2 : 1;
  result.requests_per_second = seconds > 0 ? passes * static_cast<double>(list.keys.size()) / seconds : 0;
  return result;
}

PageCache::Options CacheOptions(const Simulation& simulation) {
  PageCache::Options options;
  options.eviction = simulation.eviction;
  options.eviction.kind = *simulation.policy.kind;
  options.slots = simulation.slots;
  return options;
}

class PolicyCache {
 public:
  PolicyCache(const RequestList& list, const Simulation& simulation)
      : list_(list), prefetch_(simulation.prefetch), cache_(CacheOptions(simulation)) {}

  bool Ask(size_t at) { return cache_.Request(list_.keys[at]) != kNoCacheSlot; }
  int64_t AfterMiss(size_t at) {
    cache_.Admit(list_.keys[at]);
    return prefetch_ > 0 ? Prefetch(list_.keys[at]) : 0;
  }
  void EndToken(bool ends_pass) {
    cache_.EndToken();
    if (ends_pass) cache_.EndPass();
  }
  void BeginAgain() {}

 private:
  int64_t Prefetch(PageKey key) {
    int64_t fetched = 0;
    for (int32_t i = 1; i <= prefetch_; ++i) {
      const PageKey next{ToInt(key) + static_cast<uint64_t>(i)};
      const auto in_layer = static_cast<int64_t>(ToInt(next) & 0xFFFFFFFF);
      if (list_.keys_of_layer > 0 && in_layer >= list_.keys_of_layer) break;
      if (cache_.Find(next) == kNoCacheSlot && cache_.Admit(next) != kNoCacheSlot) ++fetched;
    }
    return fetched;
  }

  const RequestList& list_;
  int32_t prefetch_;
  PageCache cache_;
};

// A heap a partition with the farthest next request on top.
class BeladyCache {
 public:
  BeladyCache(const RequestList& list, const Simulation& simulation)
      : list_(list), bypass_(simulation.policy.bypass), slot_of_(list.distinct.size(), kNoSlot) {
    for (int32_t slots : simulation.slots) partitions_.emplace_back(slots);
  }

  bool Ask(size_t at) {
    const int32_t slot = slot_of_[Id(at)];
    if (slot == kNoSlot) return false;
    PartitionOf(at).heap.Update(slot, RankAt(at));
    return true;
  }
  int64_t AfterMiss(size_t at) {
    Partition& partition = PartitionOf(at);
    if (partition.ids.empty()) return 0;
    int32_t slot = partition.held;
    if (slot == static_cast<int32_t>(partition.ids.size())) {
      slot = partition.heap.Lowest({});
      if (bypass_ && partition.heap.rank(slot).value >= RankAt(at).value) return 0;
      partition.heap.Remove(slot);
      slot_of_[static_cast<size_t>(partition.ids[static_cast<size_t>(slot)])] = kNoSlot;
    } else {
      ++partition.held;
    }
    partition.ids[static_cast<size_t>(slot)] = list_.ids[at];
    slot_of_[Id(at)] = slot;
    partition.heap.Push(slot, RankAt(at));
    return 0;
  }
  void EndToken(bool) {}
  // What is held is worth what the list's beginning makes of it.
  void BeginAgain() {
    for (Partition& partition : partitions_) {
      for (int32_t slot = 0; slot < partition.held; ++slot) {
        const auto id = static_cast<size_t>(partition.ids[static_cast<size_t>(slot)]);
        partition.heap.Update(slot, RankOf(list_.first_use[id]));
      }
    }
  }

 private:
  struct Partition {
    explicit Partition(int32_t slots) : heap(slots), ids(static_cast<size_t>(slots)) {}
    SlotHeap heap;
    std::vector<int32_t> ids;  // [slots] what they hold
    int32_t held = 0;
  };
  size_t Id(size_t at) const { return static_cast<size_t>(list_.ids[at]); }
  Partition& PartitionOf(size_t at) { return partitions_[partitions_.size() == 1 ? 0 : LayerOf(list_.keys[at])]; }
  SlotHeap::Rank RankAt(size_t at) { return RankOf(list_.next_use[at]); }
  // The lower, the farther.
  SlotHeap::Rank RankOf(uint32_t next_use) {
    const double distance = next_use == RequestList::kNever ? std::numeric_limits<double>::infinity() : next_use;
    return {-distance, ++order_};
  }

  const RequestList& list_;
  bool bypass_;
  std::vector<int32_t> slot_of_;  // [distinct]
  std::vector<Partition> partitions_;
  uint64_t order_ = 0;
};

}  // namespace

void RequestList::Index() {
  CHECK(keys.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  Numbering numbering;
  ids.resize(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) ids[i] = numbering.Of(keys[i]);
  distinct = numbering.TakeKeys();
  std::vector<uint32_t> later(distinct.size(), kNever);
  next_use.resize(keys.size());
  for (size_t i = keys.size(); i-- > 0;) {
    next_use[i] = std::exchange(later[static_cast<size_t>(ids[i])], static_cast<uint32_t>(i));
  }
  first_use = std::move(later);
}

RequestList RequestsOf(const AccessTrace& trace, int32_t page_rows) {
  RequestCollector collector(trace.header, page_rows);
  VisitAccesses(trace, &collector);
  return collector.Take();
}

absl::StatusOr<RequestList> ParseRequests(std::string_view text, std::string_view file, int64_t token_requests,
                                          int64_t page_ids) {
  RequestList list;
  int64_t line = 0;
  while (!text.empty()) {
    ++line;
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view id = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!id.empty() && id.back() == '\r') id.remove_suffix(1);
    if (id.empty()) continue;
    uint64_t value = 0;
    const auto [stop, error] = std::from_chars(id.data(), id.data() + id.size(), value);
    if (error != std::errc() || stop != id.data() + id.size()) {
      return absl::InvalidArgumentError(fmt::format("{}:{}: \"{}\" is no page id; one integer from 0 to {} a line",
                                                    file, line, id.substr(0, 40), UINT64_MAX));
    }
    list.keys.push_back(PageKey{value / static_cast<uint64_t>(page_ids)});
    const bool ends = static_cast<int64_t>(list.keys.size()) % token_requests == 0;
    if (ends) list.tokens.push_back({list.keys.size(), AccessPhase::kVerify, true});
    if (list.keys.size() == static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
      return absl::InvalidArgumentError(fmt::format("{}:{}: more than 2^31 requests; cut the list", file, line));
    }
  }
  if (list.keys.empty()) return absl::InvalidArgumentError(fmt::format("{} has no page ids; one a line", file));
  if (list.tokens.empty() || list.tokens.back().end < list.keys.size()) {
    list.tokens.push_back({list.keys.size(), AccessPhase::kVerify, true});
  }
  list.Index();
  return list;
}

std::span<const SimulatedPolicy> SimulatedPolicies() {
  static const std::vector<SimulatedPolicy> policies = [] {  // immutable
    std::vector<SimulatedPolicy> all;
    for (size_t i = 0; i < EvictionNames().size(); ++i) {
      all.push_back({EvictionNames()[i], static_cast<EvictionKind>(i), false});
    }
    all.push_back({"belady", std::nullopt, false});
    all.push_back({"belady-bypass", std::nullopt, true});
    return all;
  }();
  return policies;
}

SimulationResult Simulate(const RequestList& list, const Simulation& simulation) {
  CHECK(list.ids.size() == list.keys.size());
  CHECK(simulation.slots.size() == 1 || simulation.slots.size() == static_cast<size_t>(list.layers));
  if (simulation.policy.kind) {
    PolicyCache cache(list, simulation);
    return Play(list, simulation, &cache);
  }
  BeladyCache cache(list, simulation);
  return Play(list, simulation, &cache);
}

std::vector<SimulationResult> SimulateAll(const RequestList& list, std::span<const Simulation> simulations, int threads,
                                          const std::function<bool(int done, int total)>& on_done) {
  std::vector<SimulationResult> results(simulations.size());
  const int total = static_cast<int>(simulations.size());
  std::atomic<int> next{0};
  std::atomic<bool> stop{false};
  std::mutex reporting;
  int done = 0;
  ThreadPool pool(std::clamp(threads, 1, std::max(total, 1)));
  pool.Run([&](int) {
    for (int i = next++; i < total && !stop; i = next++) {
      results[static_cast<size_t>(i)] = Simulate(list, simulations[static_cast<size_t>(i)]);
      const std::lock_guard lock(reporting);
      if (on_done && !on_done(++done, total)) stop = true;
    }
  });
  return results;
}

}  // namespace dogstar
