#include "runtime/stop_strings.h"

#include <algorithm>
#include <utility>

namespace dogstar {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) { std::erase(stops_, ""); }

std::string StopStrings::Push(std::string_view bytes) {
  if (stopped_) return {};
  held_ += bytes;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return std::exchange(held_, {}).substr(0, first);
  }
  size_t held_back = 0;  // the longest end of the text that begins a stop string
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > held_back; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) held_back = length;
    }
  }
  std::string shown = held_.substr(0, held_.size() - held_back);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopStrings::Flush() { return stopped_ ? std::string() : std::exchange(held_, {}); }

}  // namespace dogstar
