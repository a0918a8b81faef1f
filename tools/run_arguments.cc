#include "tools/run_arguments.h"

#include <algorithm>
#include <limits>

#include "model/chat_template.h"

namespace dogstar {
namespace {

// Bytes of a token's text, with what printing it as JSON takes.
constexpr uint64_t kTextBytesPerToken = 24;
constexpr uint64_t kLogprobBytes = 256;  // of one of --logprobs, as a JSON value
// Tokens that are counted of a text that may go on as its context slides; more take what the budget's slack has left.
constexpr int32_t kCountedTokens = 32768;

// Without an end in sight (-n -1) the context is the model's, or this many tokens.
constexpr int32_t kOpenEndedContext = 4096;

}  // namespace

absl::StatusOr<std::vector<TokenId>> EncodePrompt(const RunArguments& arguments, const ModelFile& model,
                                                  const std::string& text) {
  EncodeOptions options;
  if (arguments.chat) {
    ASSIGN_OR_RETURN(const ChatTemplate chat, arguments.template_name.empty()
                                                  ? ChatTemplate::Recognise(model.tokenizer().chat_template())
                                                  : ChatTemplate::Named(arguments.template_name));
    std::vector<ChatMessage> messages;
    if (!arguments.system.empty()) messages.push_back({"system", arguments.system});
    messages.push_back({"user", text});
    return chat.Render(messages).Encode(model.tokenizer());
  }
  std::vector<TokenId> tokens = model.tokenizer().Encode(text, options);
  if (tokens.empty() && model.tokenizer().bos()) tokens.push_back(*model.tokenizer().bos());
  if (tokens.empty()) return absl::InvalidArgumentError("the prompt is empty; give one with -p or -f");
  return tokens;
}

uint64_t TextBytes(const RunArguments& arguments, int32_t context_slots, const Config& config) {
  const int32_t most = config.context_overflow == ContextOverflow::kSlide ? kCountedTokens : context_slots;
  const int32_t tokens = arguments.max_tokens < 0 ? most : std::min(arguments.max_tokens, most);
  uint64_t bytes = Generator::kBytesPerToken + (arguments.json ? kTextBytesPerToken : 0);
  if (arguments.logprobs > 0) bytes += kTextBytesPerToken + static_cast<uint64_t>(arguments.logprobs) * kLogprobBytes;
  return static_cast<uint64_t>(tokens) * bytes;
}

int32_t ContextSlots(const RunArguments& arguments, const Config& config, const ModelFile& model,
                     int32_t prompt_tokens) {
  if (config.context > 0) return config.context;
  if (arguments.max_tokens >= 0) return prompt_tokens + arguments.max_tokens;
  return std::max(std::min(kOpenEndedContext, model.config().context_length), prompt_tokens + 1);
}

GenerationOptions GenerationOptionsOf(const RunArguments& arguments) {
  GenerationOptions options;
  options.max_tokens = arguments.max_tokens < 0 ? std::numeric_limits<int32_t>::max() : arguments.max_tokens;
  options.ignore_end = arguments.ignore_eos;
  options.logprobs = arguments.logprobs;
  options.interrupted = &Interrupted();
  options.assumed_tokens = arguments.assumed_tokens;
  return options;
}

}  // namespace dogstar
