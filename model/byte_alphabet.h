// The alphabet of byte-level BPE: GPT-2 vocabularies write every byte as one printable character. Printable Latin-1
// stands for itself; the other bytes, in order, are U+0100 and up (a space is U+0120).
#pragma once

#include <string>
#include <string_view>

namespace dogstar {

// The character that stands for `byte`, as UTF-8.
std::string ByteAlphabetChar(unsigned char byte);
// The bytes that a token's text stands for. Characters outside the alphabet stand for themselves.
std::string BytesOfAlphabetText(std::string_view text);

}  // namespace dogstar
