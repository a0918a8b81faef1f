// What memory a process can still get: the system's, and that of the cgroups it lives in.
#pragma once

#include <cstdint>
#include <string>

namespace dogstar {

// The least of MemAvailable and what each enclosing cgroup (v1 or v2) leaves, page cache that could be dropped counted
// as free; kNoLimit when nothing of it can be read.
uint64_t AvailableMemoryBytes();

// Parts of it, for tests. `meminfo`: text of /proc/meminfo; kNoLimit without a MemAvailable line.
uint64_t AvailableOf(const std::string& meminfo);
// One cgroup's limit less what it uses that cannot be dropped; `limit` "max" or above 2^60: kNoLimit.
uint64_t CgroupRoom(const std::string& limit, const std::string& usage, const std::string& stat);

}  // namespace dogstar
