#include "tools/prompts.h"

#include <sstream>

#include "fmt/format.h"
#include "model/chat_template.h"
#include "nlohmann/json.hpp"
#include "tools/model_options.h"

namespace dogstar {
namespace {

absl::StatusOr<std::string> PromptOf(const std::string& line, const std::string& file, int number) {
  if (!line.starts_with('{')) return line;
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
  for (const char* key : {"prompt", "question"}) {
    if (json.is_object() && json.contains(key) && json[key].is_string()) return json[key].get<std::string>();
  }
  return absl::InvalidArgumentError(
      fmt::format("{}:{}: neither plain text nor a JSON object with \"prompt\" or \"question\"", file, number));
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> EncodePrompt(const Tokenizer& tokenizer, const std::string& text, bool chat) {
  if (!chat) return tokenizer.Encode(text, {});
  ASSIGN_OR_RETURN(const ChatTemplate form, ChatTemplate::Recognise(tokenizer.chat_template()));
  const std::vector<ChatMessage> messages = {{"user", text}};
  return form.Render(messages).Encode(tokenizer);
}

absl::StatusOr<std::vector<std::vector<TokenId>>> ReadPrompts(const std::string& path, const Tokenizer& tokenizer,
                                                              bool chat, int32_t most) {
  std::vector<std::vector<TokenId>> prompts;
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line) && std::ssize(prompts) < most; ++number) {
    if (line.empty()) continue;
    ASSIGN_OR_RETURN(const std::string prompt, PromptOf(line, path, number));
    ASSIGN_OR_RETURN(prompts.emplace_back(), EncodePrompt(tokenizer, prompt, chat));
    if (prompts.back().empty()) prompts.pop_back();
  }
  return prompts;
}

}  // namespace dogstar
