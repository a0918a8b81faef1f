// What `dogstar report` reads: results of other commands, each told by what is in it.
#pragma once

#include <string>

#include "base/status.h"
#include "nlohmann/json.hpp"

namespace dogstar {

// {kind, name, data} for the page:
//   bench, simulate, tune, run   the JSON object that the command printed with --json
//   trace                        of `run --trace`: milliseconds of each pass by part
//   statistics                   of `calibrate`: for each layer the mean frequency of its rows in buckets by rank
// NotFound, InvalidArgument: a file that cannot be read, or is none of these.
absl::StatusOr<nlohmann::ordered_json> ReadReportInput(const std::string& path);

}  // namespace dogstar
