// StopStrings: ends a text where one of some strings comes up, also one that spans several tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dogstar {

class StopStrings {
 public:
  // Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> stops);

  // The text that may be shown after `bytes` came: what could be the start of a stop string is held back until it is
  // clear, a stop string and what follows it are never given.
  std::string Push(std::string_view bytes);
  bool stopped() const { return stopped_; }
  // What is held back at the end of a text; "" once stopped.
  std::string Flush();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace dogstar
