#include "model/chat_template.h"

#include <optional>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/gguf_format.h"

namespace dogstar {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";

struct FormatName {
  std::string_view name;
  ChatFormat format;
};
constexpr FormatName kFormats[] = {{"chatml", ChatFormat::kChatMl},
                                   {"llama2", ChatFormat::kLlama2},
                                   {"llama3", ChatFormat::kLlama3},
                                   {"gemma", ChatFormat::kGemma},
                                   {"mistral-v1", ChatFormat::kMistralV1},
                                   {"mistral-v3", ChatFormat::kMistralV3},
                                   {"mistral-tekken", ChatFormat::kMistralTekken},
                                   {"mistral-v7", ChatFormat::kMistralV7}};

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

bool Contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// Mistral's templates differ in their spaces: v1 has them around [INST], v3 after it, tekken none; v7 has a system
// role.
ChatFormat MistralFormat(std::string_view text) {
  if (Contains(text, "[SYSTEM_PROMPT]")) return ChatFormat::kMistralV7;
  if (Contains(text, " [INST]")) return ChatFormat::kMistralV1;
  return Contains(text, "\"[INST]\"") ? ChatFormat::kMistralTekken : ChatFormat::kMistralV3;
}

std::optional<ChatFormat> FormatOf(std::string_view text) {
  if (Contains(text, kStart) && Contains(text, kEnd)) return ChatFormat::kChatMl;
  if (Contains(text, "[INST]")) {
    const bool mistral = Contains(text, "[SYSTEM_PROMPT]") || Contains(text, "[AVAILABLE_TOOLS]") ||
                         Contains(text, "' [INST] ' + system_message");
    return mistral ? MistralFormat(text) : ChatFormat::kLlama2;
  }
  if (Contains(text, "<start_of_turn>")) return ChatFormat::kGemma;
  if (Contains(text, "<|start_header_id|>") && Contains(text, "<|end_header_id|>")) return ChatFormat::kLlama3;
  return std::nullopt;
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

class Renderer {
 public:
  Renderer& Markup(std::string_view text) {
    chat_.text.append(text);
    return *this;
  }
  Renderer& Content(std::string_view text) {
    chat_.content.push_back({chat_.text.size(), text.size()});
    return Markup(text);
  }
  RenderedChat Take() { return std::move(chat_); }

 private:
  RenderedChat chat_;
};

void RenderChatMl(std::span<const ChatMessage> messages, Renderer* out) {
  for (const ChatMessage& message : messages) {
    out->Markup(kStart).Markup(message.role).Markup("\n").Content(message.content).Markup(kEnd).Markup("\n");
  }
  out->Markup(kStart).Markup("assistant\n");
}

void RenderLlama3(std::span<const ChatMessage> messages, Renderer* out) {
  const auto header = [&](std::string_view role) {
    out->Markup("<|start_header_id|>").Markup(role).Markup("<|end_header_id|>\n\n");
  };
  for (const ChatMessage& message : messages) {
    header(message.role);
    out->Content(Trimmed(message.content)).Markup("<|eot_id|>");
  }
  header("assistant");
}

void RenderGemma(std::span<const ChatMessage> messages, Renderer* out) {
  std::string_view system;
  for (const ChatMessage& message : messages) {
    if (message.role == "system") {
      system = Trimmed(message.content);
      continue;
    }
    const bool assistant = message.role == "assistant";
    out->Markup("<start_of_turn>").Markup(assistant ? "model" : message.role).Markup("\n");
    if (!assistant && !system.empty()) {
      out->Content(system).Markup("\n\n");
      system = {};
    }
    out->Content(Trimmed(message.content)).Markup("<end_of_turn>\n");
  }
  out->Markup("<start_of_turn>model\n");
}

void RenderLlama2(std::span<const ChatMessage> messages, Renderer* out) {
  bool in_turn = false;
  for (const ChatMessage& message : messages) {
    if (!in_turn) out->Markup("[INST] ");
    in_turn = message.role != "assistant";
    if (message.role == "system") {
      out->Markup("<<SYS>>\n").Content(message.content).Markup("\n<</SYS>>\n\n");
    } else if (in_turn) {
      out->Content(message.content).Markup(" [/INST]");
    } else {
      out->Content(message.content).Markup("</s>");
    }
  }
}

void RenderMistral(ChatFormat format, std::span<const ChatMessage> messages, Renderer* out) {
  const std::string_view before = format == ChatFormat::kMistralV1 ? " " : "";
  const std::string_view after = format == ChatFormat::kMistralTekken ? "" : " ";
  bool in_turn = false;
  for (const ChatMessage& message : messages) {
    if (!in_turn) out->Markup(before).Markup("[INST]").Markup(after);
    in_turn = message.role != "assistant";
    if (message.role == "system") {
      out->Content(message.content).Markup("\n\n");
    } else if (in_turn) {
      out->Content(message.content).Markup(before).Markup("[/INST]");
    } else {
      const bool trims = format == ChatFormat::kMistralV3;
      out->Markup(after).Content(trims ? Trimmed(message.content) : message.content).Markup("</s>");
    }
  }
}

void RenderMistralV7(std::span<const ChatMessage> messages, Renderer* out) {
  for (const ChatMessage& message : messages) {
    if (message.role == "system") {
      out->Markup("[SYSTEM_PROMPT] ").Content(message.content).Markup("[/SYSTEM_PROMPT]");
    } else if (message.role == "assistant") {
      out->Markup(" ").Content(message.content).Markup("</s>");
    } else {
      out->Markup("[INST] ").Content(message.content).Markup("[/INST]");
    }
  }
}

}  // namespace

std::vector<std::string> ChatFormatNames() {
  std::vector<std::string> names;
  for (const FormatName& entry : kFormats) names.emplace_back(entry.name);
  return names;
}

std::vector<TokenId> RenderedChat::Encode(const Tokenizer& tokenizer) const {
  EncodeOptions options;
  options.parse_special = true;
  options.plain = content;
  return tokenizer.Encode(text, options);
}

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(std::string_view template_text) {
  const std::string known = fmt::format("{}", fmt::join(ChatFormatNames(), ", "));
  if (template_text.empty()) {
    return absl::UnimplementedError(
        fmt::format("the model has no chat template; name one with --chat-template ({}) or use raw text", known));
  }
  const std::optional<ChatFormat> format = FormatOf(template_text);
  if (!format.has_value()) {
    return absl::UnimplementedError(fmt::format(
        "chat template {} is not recognised; name one with --chat-template ({})", Quoted(template_text), known));
  }
  ChatTemplate chat{.format = *format, .default_system = {}};
  if (*format == ChatFormat::kChatMl) chat.default_system = FindDefaultSystem(template_text);
  return chat;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Named(std::string_view format_name) {
  for (const FormatName& entry : kFormats) {
    if (entry.name == format_name) return ChatTemplate{.format = entry.format, .default_system = {}};
  }
  return absl::InvalidArgumentError(
      fmt::format("chat template \"{}\" is none of {}", format_name, fmt::join(ChatFormatNames(), ", ")));
}

RenderedChat ChatTemplate::Render(std::span<const ChatMessage> messages) const {
  std::vector<ChatMessage> all(messages.begin(), messages.end());
  if (!default_system.empty() && !all.empty() && all[0].role != "system") {
    all.insert(all.begin(), {"system", default_system});
  }
  Renderer out;
  switch (format) {
    case ChatFormat::kChatMl:
      RenderChatMl(all, &out);
      break;
    case ChatFormat::kLlama2:
      RenderLlama2(all, &out);
      break;
    case ChatFormat::kLlama3:
      RenderLlama3(all, &out);
      break;
    case ChatFormat::kGemma:
      RenderGemma(all, &out);
      break;
    case ChatFormat::kMistralV7:
      RenderMistralV7(all, &out);
      break;
    case ChatFormat::kMistralV1:
    case ChatFormat::kMistralV3:
    case ChatFormat::kMistralTekken:
      RenderMistral(format, all, &out);
      break;
  }
  return out.Take();
}

}  // namespace dogstar
