#include "model/chat_template.h"

#include <optional>

#include "fmt/format.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";
constexpr std::string_view kKnownFormats = "ChatML (<|im_start|>role ... <|im_end|>)";

char Unescaped(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    default:
      return c;  // a quote or a backslash
  }
}

// The text of the string literal that starts at text[0] (its opening quote); nullopt if it does not end.
std::optional<std::string> ReadLiteral(std::string_view text) {
  const char quote = text[0];
  std::string value;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == quote) return value;
    if (text[i] == '\\' && i + 1 < text.size()) {
      value += Unescaped(text[++i]);
    } else {
      value += text[i];
    }
  }
  return std::nullopt;
}

// What stands between "<|im_start|>system\n" and "<|im_end|>" when both are in one literal.
std::optional<std::string> SystemMessageOf(std::string_view literal) {
  const std::string opening = fmt::format("{}system\n", kStart);
  if (!literal.starts_with(opening)) return std::nullopt;
  const size_t end = literal.find(kEnd, opening.size());
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(literal.substr(opening.size(), end - opening.size()));
}

// Templates add a default in a clause about messages[0]: "if loop.first and messages[0]['role'] != 'system'", or the
// `else` of "if messages[0]['role'] == 'system'". The literal of that clause is the only one that opens and closes a
// system message at once.
std::string FindDefaultSystem(std::string_view text) {
  const size_t clause = text.find("messages[0]");
  if (clause == std::string_view::npos) return {};
  for (size_t at = text.find(kStart, clause); at != std::string_view::npos; at = text.find(kStart, at + 1)) {
    const char before = text[at - 1];
    if (before != '\'' && before != '"') continue;
    const std::optional<std::string> literal = ReadLiteral(text.substr(at - 1));
    if (!literal.has_value()) continue;
    if (std::optional<std::string> message = SystemMessageOf(*literal)) return *message;
  }
  return {};
}

void AppendMessage(std::string_view role, std::string_view content, std::string* out) {
  out->append(fmt::format("{}{}\n{}{}\n", kStart, role, content, kEnd));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(std::string_view template_text) {
  if (template_text.empty()) {
    return absl::UnimplementedError(
        fmt::format("the model has no chat template; recognised: {}. Use raw text", kKnownFormats));
  }
  if (template_text.find(kStart) == std::string_view::npos || template_text.find(kEnd) == std::string_view::npos) {
    return absl::UnimplementedError(
        fmt::format("chat template {} is not recognised; recognised: {}", Quoted(template_text), kKnownFormats));
  }
  return ChatTemplate{.format = ChatFormat::kChatMl, .default_system = FindDefaultSystem(template_text)};
}

std::string ChatTemplate::Render(std::span<const ChatMessage> messages) const {
  std::string prompt;
  if (!default_system.empty() && !messages.empty() && messages[0].role != "system") {
    AppendMessage("system", default_system, &prompt);
  }
  for (const ChatMessage& message : messages) AppendMessage(message.role, message.content, &prompt);
  return prompt + fmt::format("{}assistant\n", kStart);
}

}  // namespace dogstar
