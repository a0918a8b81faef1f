#include "model/utf8.h"

namespace dogstar {
namespace {

unsigned ByteAt(std::string_view text, size_t i) { return static_cast<unsigned char>(text[i]); }

// Length by lead byte and the range of the second byte, which is where overlong forms and surrogates show
// (Unicode standard, table 3-7).
struct Lead {
  size_t bytes;
  unsigned second_min;
  unsigned second_max;
};

Lead LeadOf(unsigned byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

}  // namespace

Utf8Char FirstUtf8Char(std::string_view text) {
  const Lead lead = LeadOf(ByteAt(text, 0));
  for (size_t i = 1; i < lead.bytes; ++i) {
    if (i == text.size()) return {.bytes = 0, .incomplete = true};
    const unsigned byte_min = i == 1 ? lead.second_min : 0x80;
    const unsigned byte_max = i == 1 ? lead.second_max : 0xbf;
    if (ByteAt(text, i) < byte_min || ByteAt(text, i) > byte_max) return {};
  }
  return {.bytes = lead.bytes};
}

size_t ValidUtf8Bytes(std::string_view text) {
  size_t valid = 0;
  while (valid < text.size()) {
    const size_t bytes = FirstUtf8Char(text.substr(valid)).bytes;
    if (bytes == 0) break;
    valid += bytes;
  }
  return valid;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3f));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

char32_t DecodeUtf8Char(std::string_view bytes) {
  if (bytes.size() == 1) return ByteAt(bytes, 0);
  char32_t code_point = ByteAt(bytes, 0) & (0xffu >> (bytes.size() + 1));
  for (size_t i = 1; i < bytes.size(); ++i) code_point = (code_point << 6) | (ByteAt(bytes, i) & 0x3f);
  return code_point;
}

}  // namespace dogstar
