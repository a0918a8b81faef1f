// The texts that `dogstar calibrate` uses when it is given none: prose, talk, code, sums, instructions. Written for
// this project.
#pragma once

#include <span>
#include <string_view>

namespace dogstar {

std::span<const std::string_view> CalibrationTexts();

}  // namespace dogstar
