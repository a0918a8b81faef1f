// Lists and ranges of values on the command line.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dogstar {

// "lru,s3fifo", "100,1000", "30%..90%+10%", "1GiB..4GiB+512MiB" and mixtures: commas part them, a range has a first and
// a last value and a step, numbers with the same unit; the last value belongs to it where a step meets it. Anything
// else is a value as it stands. InvalidArgument: a range that has no end or makes no sense.
absl::StatusOr<std::vector<std::string>> ExpandValues(std::string_view text);

}  // namespace dogstar
