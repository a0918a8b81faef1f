// UTF-8, as far as tokenizers need it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dogstar {

struct Utf8Char {
  size_t bytes = 0;         // of the character; 0 when there is no valid one
  bool incomplete = false;  // the text ends inside what may become a valid character
};

// The character at the start of `text`. REQUIRES: text is not empty. Overlong forms, surrogates and numbers above
// 0x10FFFF are invalid.
Utf8Char FirstUtf8Char(std::string_view text);
// Bytes of the longest valid prefix.
size_t ValidUtf8Bytes(std::string_view text);

void AppendUtf8(char32_t code_point, std::string* out);
// REQUIRES: `bytes` is one valid character.
char32_t DecodeUtf8Char(std::string_view bytes);

}  // namespace dogstar
