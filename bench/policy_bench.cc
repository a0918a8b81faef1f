// Eviction policies on a trace: hits, misses and requests a second.
//
//   policy_bench TRACE [--policies lru,sieve] [--slots 100,1000] [--token-requests 1000] [--json]
//   policy_bench --small        a trace of its own, for the tests
//
// TRACE has one key (an integer) a line. A line of the output is one policy at one size; --json prints an array.
// lfu-aged counts a token, and least-stale a pass, after so many requests. Without --policies: all.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "CLI/CLI.hpp"
#include "base/clock.h"
#include "base/random.h"
#include "memory/page_cache.h"
#include "nlohmann/json.hpp"

namespace dogstar {
namespace {

struct Measured {
  std::string policy;
  int32_t slots = 0;
  int64_t hits = 0, misses = 0;
  double requests_per_second = 0;
};

std::vector<PageKey> ReadTrace(const std::string& path) {
  std::vector<PageKey> trace;
  std::ifstream file(path);
  for (uint64_t key = 0; file >> key;) trace.push_back(PageKey{key});
  return trace;
}

// Keys k with probability about 1 / (k + 1), k < 2^16: the exponent of the inverse is uniform.
std::vector<PageKey> SmallTrace() {
  SplitMix64 random(1);
  std::vector<PageKey> trace;
  for (int i = 0; i < 100000; ++i) trace.push_back(PageKey{static_cast<uint64_t>(std::exp2(16 * random.Uniform()))});
  return trace;
}

Measured Simulate(std::span<const PageKey> trace, EvictionKind kind, int32_t slots, int64_t token_requests) {
  PageCache::Options options;
  options.eviction.kind = kind;
  // Keys of a trace are no rows: the smaller, the hotter.
  options.eviction.hotness = [](PageKey key) { return -static_cast<double>(ToInt(key)); };
  options.slots = {slots};
  PageCache cache(options);
  const double start = Now();
  int64_t left = token_requests;
  for (PageKey key : trace) {
    if (cache.Request(key) == kNoCacheSlot) cache.Admit(key);
    if (--left == 0) {
      left = token_requests;
      cache.EndToken();
      cache.EndPass();
    }
  }
  const double seconds = Now() - start;
  return {std::string(EvictionName(kind)), slots, cache.stats().hits, cache.stats().misses,
          static_cast<double>(trace.size()) / seconds};
}

int Main(int argc, char** argv) {
  CLI::App app{"Eviction policies on a trace of keys"};
  std::string path;
  std::vector<std::string> names(EvictionNames().begin(), EvictionNames().end());
  std::vector<int32_t> sizes = {100, 1000};
  int64_t token_requests = 1000;
  bool json = false, small = false;
  app.add_option("trace", path, "file with one key a line");
  app.add_option("--policies", names, "names, separated by commas")->delimiter(',')->check(CLI::IsMember(names));
  app.add_option("--slots", sizes, "sizes, separated by commas")->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--token-requests", token_requests, "requests of a token")->check(CLI::PositiveNumber);
  app.add_flag("--json", json, "an array of objects");
  app.add_flag("--small", small, "a small trace of its own");
  CLI11_PARSE(app, argc, argv);
  const std::vector<PageKey> trace = small ? SmallTrace() : ReadTrace(path);
  if (trace.empty()) {
    std::fprintf(stderr, "no keys in \"%s\"; give a file with one integer a line\n", path.c_str());
    return 1;
  }
  nlohmann::json rows = nlohmann::json::array();
  for (int32_t slots : sizes) {
    for (size_t kind = 0; kind < EvictionNames().size(); ++kind) {
      if (std::find(names.begin(), names.end(), EvictionNames()[kind]) == names.end()) continue;
      const Measured row = Simulate(trace, static_cast<EvictionKind>(kind), slots, token_requests);
      rows.push_back({{"policy", row.policy},
                      {"slots", row.slots},
                      {"hits", row.hits},
                      {"misses", row.misses},
                      {"requests_s", row.requests_per_second}});
      if (json) continue;
      std::printf("%-12s %8d slots  %10lld hits  %10lld misses  %.1f%%  %.1f M requests/s\n", row.policy.c_str(),
                  row.slots, static_cast<long long>(row.hits), static_cast<long long>(row.misses),
                  100.0 * static_cast<double>(row.hits) / static_cast<double>(trace.size()),
                  row.requests_per_second / 1e6);
    }
  }
  if (json) std::printf("%s\n", rows.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) { return dogstar::Main(argc, argv); }
