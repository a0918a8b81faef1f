// TextLookup: what followed in the text the last time its end stood there before ("prompt lookup": Saxena 2023; LLMA,
// arXiv 2304.04487). Such drafts cost no pass; they are right where a text quotes its prompt or itself.
//
// Threads: const functions.
#pragma once

#include <cstdint>
#include <span>

#include "base/types.h"

namespace dogstar {

struct LookupResult {
  std::span<const TokenId> tokens;  // part of `text`; empty: no match
  int32_t matched = 0;              // tokens before them that are the text's last ones
};

// The earlier place that shares the longest end with `text`, at least `least` tokens, at most kLongestMatch; of equally
// long ones the latest. At most `most` of the tokens that followed there. Takes time in proportion to the text.
inline constexpr int32_t kLongestMatch = 32;
LookupResult LookUpText(std::span<const TokenId> text, int32_t least, int32_t most);

}  // namespace dogstar
