#include "memory/available_memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "memory/accountant.h"

namespace dogstar {
namespace {

std::string ReadSmallFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after `name` at the start of a line, in the unit that stands there; `none` without such a line.
uint64_t NumberAfter(const std::string& text, const std::string& name, uint64_t none) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name)) return std::strtoull(line.c_str() + name.size(), nullptr, 10);
  }
  return none;
}

struct CgroupFiles {
  std::string root;  // where the hierarchy is mounted
  std::string limit, usage;
};

// The group at `path` below the mount and all above it.
uint64_t RoomUpwards(const CgroupFiles& files, std::string path) {
  uint64_t room = kNoLimit;
  while (true) {
    const std::string folder = files.root + path + "/";
    const std::string limit = ReadSmallFile(folder + files.limit);
    if (!limit.empty()) {
      room =
          std::min(room, CgroupRoom(limit, ReadSmallFile(folder + files.usage), ReadSmallFile(folder + "memory.stat")));
    }
    if (path.empty() || path == "/") return room;
    path.erase(path.rfind('/'));
  }
}

}  // namespace

uint64_t AvailableOf(const std::string& meminfo) {
  const uint64_t kib = NumberAfter(meminfo, "MemAvailable:", kNoLimit);
  return kib == kNoLimit ? kNoLimit : kib * 1024;
}

uint64_t CgroupRoom(const std::string& limit, const std::string& usage, const std::string& stat) {
  constexpr uint64_t kUnlimited = uint64_t{1} << 60;
  const uint64_t most = limit.starts_with("max") ? kNoLimit : std::strtoull(limit.c_str(), nullptr, 10);
  if (most >= kUnlimited) return kNoLimit;
  const uint64_t used = std::strtoull(usage.c_str(), nullptr, 10);
  const uint64_t cache = NumberAfter(stat, "inactive_file ", 0) + NumberAfter(stat, "active_file ", 0);
  const uint64_t firm = used - std::min(used, cache);
  return most - std::min(most, firm);
}

uint64_t AvailableMemoryBytes() {
  uint64_t available = AvailableOf(ReadSmallFile("/proc/meminfo"));
  std::istringstream groups(ReadSmallFile("/proc/self/cgroup"));  // "4:memory:/name" (v1), "0::/name" (v2)
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {
      available = std::min(available, RoomUpwards({"/sys/fs/cgroup", "memory.max", "memory.current"}, path));
    } else if (controllers == "memory") {
      available = std::min(
          available, RoomUpwards({"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"}, path));
    }
  }
  return available;
}

}  // namespace dogstar
