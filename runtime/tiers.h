// Tiers: the file in which `dogstar probe` keeps what it measured (tiers.json), for the planner. JSON, so that people
// and other programs can read it:
//
//   {"version": 1, "machine": "...", "threads": 2, "memory_bytes_per_second": 4.0e10,
//    "kernels": [{"type": "Q4_0", "form": "panels", "rows": 1, "bytes_per_second": 3.6e10}, ...],
//    "devices": [{"name": "cuda:0", "is": "...", "memory_bytes_per_second": 9.0e11, "link_bytes_per_second": 2.4e10,
//    "kernels": [...]}, ...], "disks": [{"device": "254:0", "path": "...", "reader": "...", "bytes_per_second": 2.1e9,
//               "in_flight_bytes": 16777216,
//               "reads": [{"bytes": 65536, "depth": 1, "bytes_per_second": 1.2e8}, ...]}, ...]}
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "memory/machine_rates.h"

namespace dogstar {

inline constexpr int kTiersVersion = 1;

std::string FormatTiers(const MachineRates& rates);
// InvalidArgument names `file`, the place in it and what is wrong; unknown fields are skipped.
absl::StatusOr<MachineRates> ParseTiers(std::string_view text, std::string_view file);

// NotFound when there is no such file.
absl::StatusOr<MachineRates> ReadTiersFile(const std::string& path);
// Written beside and renamed: a reader never sees half of it.
absl::Status WriteTiersFile(const MachineRates& rates, const std::string& path);

// "254:0": the device that holds the file or folder.
absl::StatusOr<std::string> DeviceOf(const std::string& path);

}  // namespace dogstar
