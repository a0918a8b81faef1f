// Chat templates are recognised from the text of tokenizer.chat_template, not interpreted: unknown ones are an error,
// and a format may be named instead.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tokenizer.h"

namespace dogstar {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

enum class ChatFormat { kChatMl, kLlama2, kLlama3, kGemma, kMistralV1, kMistralV3, kMistralTekken, kMistralV7 };
// "chatml", "llama2", "llama3", "gemma", "mistral-v1", "mistral-v3", "mistral-tekken", "mistral-v7"
std::vector<std::string> ChatFormatNames();

// A prompt whose special tokens are in their text form, except in what people and the model have written.
struct RenderedChat {
  std::string text;
  std::vector<TextRange> content;  // of the messages: text there is never a special token

  std::vector<TokenId> Encode(const Tokenizer& tokenizer) const;
};

struct ChatTemplate {
  ChatFormat format = ChatFormat::kChatMl;
  // The system message that the template adds when the first message is not one; empty if none.
  std::string default_system;

  // Unimplemented quotes the start of a template that is not recognised and lists those that are.
  static absl::StatusOr<ChatTemplate> Recognise(std::string_view template_text);
  // InvalidArgument lists the names.
  static absl::StatusOr<ChatTemplate> Named(std::string_view format_name);
  // The prompt up to and including the opening of the assistant's reply. Gemma and Mistral know no system role: the
  // system message goes before the user's next one.
  RenderedChat Render(std::span<const ChatMessage> messages) const;
};

}  // namespace dogstar
