#include "tools/output.h"

#include <cstdio>

#include "fmt/format.h"
#include "model/utf8.h"

namespace dogstar {
namespace {

// C0 controls, DEL, and the C1 controls, which some terminals obey too.
bool IsControl(char32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

void AppendEscaped(std::string_view bytes, std::string* out) {
  if (bytes == "\n") {
    out->append("\\n");
    return;
  }
  for (const char c : bytes) out->append(fmt::format("\\x{:02x}", static_cast<unsigned char>(c)));
}

}  // namespace

void PrintJson(const nlohmann::ordered_json& value) {
  fmt::print("{}\n", value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

std::string Printable(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t bytes = FirstUtf8Char(text).bytes;
    const std::string_view part = text.substr(0, bytes == 0 ? 1 : bytes);
    if (bytes == 0 || IsControl(DecodeUtf8Char(part))) {
      AppendEscaped(part, &result);
    } else {
      result.append(part);
    }
    text.remove_prefix(part.size());
  }
  return result;
}

}  // namespace dogstar
