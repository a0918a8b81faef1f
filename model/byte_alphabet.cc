#include "model/byte_alphabet.h"

#include <array>
#include <cstddef>

#include "model/utf8.h"

namespace dogstar {
namespace {

constexpr char32_t kFirstStandIn = 0x100;
constexpr size_t kStandIns = 68;  // 256 - 94 - 12 - 82 bytes that do not stand for themselves

constexpr bool StandsForItself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<char32_t, 256> char_of_byte{};
  std::array<unsigned char, kFirstStandIn + kStandIns> byte_of_char{};
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  char32_t next = kFirstStandIn;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char32_t stand_in = StandsForItself(byte) ? byte : next++;
    alphabet.char_of_byte[byte] = stand_in;
    alphabet.byte_of_char[stand_in] = static_cast<unsigned char>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

bool InAlphabet(char32_t c) {
  return c >= kFirstStandIn ? c < kFirstStandIn + kStandIns : StandsForItself(static_cast<unsigned>(c));
}

}  // namespace

std::string ByteAlphabetChar(unsigned char byte) {
  std::string text;
  AppendUtf8(kAlphabet.char_of_byte[byte], &text);
  return text;
}

std::string BytesOfAlphabetText(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const size_t length = FirstUtf8Char(text).bytes;
    const std::string_view part = text.substr(0, length == 0 ? 1 : length);
    const char32_t c = length == 0 ? char32_t{0} : DecodeUtf8Char(part);
    if (length != 0 && InAlphabet(c)) {
      bytes.push_back(static_cast<char>(kAlphabet.byte_of_char[c]));
    } else {
      bytes.append(part);
    }
    text.remove_prefix(part.size());
  }
  return bytes;
}

}  // namespace dogstar
