#include "runtime/text_lookup.h"

#include <algorithm>

namespace dogstar {

LookupResult LookUpText(std::span<const TokenId> text, int32_t least, int32_t most) {
  LookupResult best;
  if (least < 1 || most < 1) return best;
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t end = size - 1; end >= least; --end) {  // text[end - 1] is matched with the last token
    int32_t matched = 0;
    const int32_t longest = std::min(kLongestMatch, end);
    while (matched < longest &&
           text[static_cast<size_t>(end - 1 - matched)] == text[static_cast<size_t>(size - 1 - matched)]) {
      ++matched;
    }
    if (matched < least || matched <= best.matched) continue;
    best.matched = matched;
    best.tokens = text.subspan(static_cast<size_t>(end), static_cast<size_t>(std::min(most, size - end)));
    if (matched == kLongestMatch) break;
  }
  return best;
}

}  // namespace dogstar
