// Chat templates are recognised from the text of tokenizer.chat_template, not interpreted: unknown ones are an error.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace dogstar {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

enum class ChatFormat { kChatMl };

struct ChatTemplate {
  ChatFormat format = ChatFormat::kChatMl;
  // The system message that the template adds when the first message is not one; empty if none.
  std::string default_system;

  // Unimplemented quotes the start of a template that is not recognised and lists those that are.
  static absl::StatusOr<ChatTemplate> Recognise(std::string_view template_text);
  // The prompt up to and including the opening of the assistant's reply; special tokens in their text form.
  std::string Render(std::span<const ChatMessage> messages) const;
};

}  // namespace dogstar
