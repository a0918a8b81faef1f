// Time as the project measures it.
#pragma once

#include <chrono>

namespace dogstar {

// Seconds of a clock that never goes back. Its zero means nothing.
inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace dogstar
