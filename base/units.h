// Sizes as people write them: "64MiB", "2.5 GiB", "512k" is refused (say KiB or KB), "70%" where a whole is given.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace dogstar {

// B, KiB, MiB, GiB, TiB (powers of 1024) and KB, MB, GB, TB (powers of 1000), case-insensitive; a bare number is
// bytes. "%" is of `whole` and an error without one. InvalidArgument quotes the text and lists what is allowed.
absl::StatusOr<uint64_t> ParseSize(std::string_view text, std::optional<uint64_t> whole = std::nullopt);
// "84.0 MiB", "1.50 GiB", "512 B".
std::string FormatSize(uint64_t bytes);

}  // namespace dogstar
