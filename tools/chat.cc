// dogstar chat: a talk with a model. What was said stays in the KV cache, so that a turn costs only its own tokens.
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "model/chat_template.h"
#include "nlohmann/json.hpp"
#include "runtime/generator.h"
#include "runtime/stop_strings.h"
#include "tools/command.h"
#include "tools/line_editor.h"
#include "tools/model_options.h"

namespace dogstar {
namespace {

struct ChatArguments {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string system, template_name, record_file;
  std::vector<std::string> stops;
  int32_t max_tokens = -1;
};

constexpr int32_t kDefaultContext = 4096;

constexpr char kHelp[] =
    "/clear        forget what was said\n"
    "/system TEXT  a new system message, and a new talk\n"
    "/regen        another answer to the last message (with a temperature)\n"
    "/undo         forget the last message and its answer\n"
    "/save FILE    write the talk as JSON\n"
    "/load FILE    go on with a talk that was saved\n"
    "/exit         leave, as Ctrl-D does\n"
    "A line that ends with \\ goes on in the next. Ctrl-C stops an answer.\n";

class Chat {
 public:
  Chat(const ChatArguments& arguments, const ChatTemplate& format, Engine* engine)
      : arguments_(arguments), format_(format), engine_(engine), generator_(engine) {
    Clear(arguments.system);
  }

  absl::Status Run(LineEditor* lines) {
    while (const std::optional<std::string> text = ReadMessage(lines)) {
      if (text->empty()) continue;
      if (text->starts_with("/")) {
        if (*text == "/exit" || *text == "/quit") break;
        const absl::Status status = Command(*text);
        if (!status.ok()) Say(std::string(status.message()));
        continue;
      }
      messages_.push_back({"user", *text});
      RETURN_IF_ERROR(Answer());
    }
    return absl::OkStatus();
  }

 private:
  static void Say(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

  static std::optional<std::string> ReadMessage(LineEditor* lines) {
    std::string message;
    std::string prompt = "> ";
    while (std::optional<std::string> line = lines->ReadLine(prompt)) {
      const bool goes_on = line->ends_with('\\');
      if (goes_on) line->pop_back();
      message += *line;
      if (!goes_on) return message;
      message += '\n';
      prompt = "... ";
    }
    return std::nullopt;
  }

  void Clear(const std::string& system) {
    messages_.clear();
    if (!system.empty()) messages_.push_back({"system", system});
  }

  // The last user's message and what follows it.
  bool Undo() {
    size_t last = messages_.size();
    while (last > 0 && messages_[last - 1].role != "user") --last;
    if (last == 0) return false;
    messages_.resize(last - 1);
    return true;
  }

  absl::Status Command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string value = space == std::string::npos ? "" : line.substr(space + 1);
    if (name == "/help") {
      std::fputs(kHelp, stderr);
    } else if (name == "/clear") {
      Clear(messages_.empty() || messages_[0].role != "system" ? "" : std::string(messages_[0].content));
    } else if (name == "/system") {
      Clear(value);
    } else if (name == "/undo") {
      if (!Undo()) return absl::FailedPreconditionError("nothing was said");
    } else if (name == "/regen") {
      return Regenerate();
    } else if (name == "/save") {
      return Save(value);
    } else if (name == "/load") {
      return Load(value);
    } else {
      return absl::InvalidArgumentError(fmt::format("unknown command {}; /help lists them", name));
    }
    return absl::OkStatus();
  }

  absl::Status Regenerate() {
    if (messages_.empty() || messages_.back().role != "assistant") {
      return absl::FailedPreconditionError("there is no answer to replace");
    }
    messages_.pop_back();
    return Answer();
  }

  absl::Status Save(const std::string& path) const {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const ChatMessage& message : messages_) json.push_back({{"role", message.role}, {"content", message.content}});
    std::ofstream file(path);
    file << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    file.flush();
    if (!file) return absl::UnavailableError(fmt::format("cannot write {}", path));
    return absl::OkStatus();
  }

  absl::Status Load(const std::string& path) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    std::vector<ChatMessage> loaded;
    for (const nlohmann::json& entry : json.is_array() ? json : nlohmann::json::array({nullptr})) {
      if (!entry.is_object() || !entry.value("role", nlohmann::json()).is_string() ||
          !entry.value("content", nlohmann::json()).is_string()) {
        return absl::InvalidArgumentError(fmt::format("{} is no talk: a list of {{\"role\", \"content\"}} is", path));
      }
      loaded.push_back({entry["role"], entry["content"]});
    }
    messages_ = std::move(loaded);
    return absl::OkStatus();
  }

  // Answers the last message. A talk that no longer fits is said and kept, without the message.
  absl::Status Answer() {
    const std::vector<TokenId> prompt = format_.Render(messages_).Encode(engine_->model().tokenizer());
    if (static_cast<int32_t>(prompt.size()) >= engine_->context_slots()) {
      Say(fmt::format("the talk has {} tokens and does not fit a context of {}: /undo and /clear make room, -c more",
                      prompt.size(), engine_->context_slots()));
      Undo();
      return absl::OkStatus();
    }
    std::string answer;
    StopStrings stops(arguments_.stops);
    Utf8Stream stream;
    const auto show = [&](const std::string& text) {
      answer += text;
      const std::string whole = stream.Push(text);
      std::fwrite(whole.data(), 1, whole.size(), stdout);
      std::fflush(stdout);
    };
    GenerationOptions options;
    options.max_tokens = arguments_.max_tokens < 0 ? std::numeric_limits<int32_t>::max() : arguments_.max_tokens;
    options.reuse_prefix = true;
    options.interrupted = &Interrupted();
    options.on_token = [&](TokenId token) {
      show(stops.Push(engine_->model().tokenizer().TokenBytes(token)));
      return !stops.stopped();
    };
    ForgetInterrupt();
    GenerationResult result;
    const absl::Status status = generator_.Generate(prompt, options, &result);
    show(stops.Flush());
    std::printf("%s\n", stream.Flush().c_str());
    std::fflush(stdout);
    ForgetInterrupt();
    messages_.push_back({"assistant", answer});
    if (!result.tokens.empty()) PrintClosingLine(*engine_, result);
    if (result.stop == StopReason::kContextFull) Say("the context is full: /undo and /clear make room, -c more");
    return status;
  }

  const ChatArguments& arguments_;
  ChatTemplate format_;
  Engine* engine_;
  Generator generator_;
  std::vector<ChatMessage> messages_;
};

absl::Status RunChat(const ChatArguments& arguments) {
  ASSIGN_OR_RETURN(const Config config, ReadConfig(*arguments.model));
  Progress bar;
  const Hooks hooks = MakeHooks(&bar);
  ASSIGN_OR_RETURN(const ModelChoice choice, ChooseModel(config, hooks));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(choice.path));
  ASSIGN_OR_RETURN(const ChatTemplate format, arguments.template_name.empty()
                                                  ? ChatTemplate::Recognise(model->tokenizer().chat_template())
                                                  : ChatTemplate::Named(arguments.template_name));
  std::unique_ptr<AccessRecorder> accesses;
  if (!arguments.record_file.empty()) {
    ASSIGN_OR_RETURN(accesses, AccessRecorder::Create(arguments.record_file));
  }
  Engine::Options options;
  options.mode = choice.mode;
  options.accesses = accesses.get();
  options.context_slots =
      config.context > 0 ? config.context : std::min(kDefaultContext, model->config().context_length);
  options.logit_rows = LogitRows(config, choice.mode, *model, options.context_slots, hooks);
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), options, hooks));
  bar.Finish();
  CatchInterrupt();
  const absl::Status status = Chat(arguments, format, engine.get()).Run(LineEditor::Create().get());
  const absl::Status recorded =
      accesses != nullptr ? FinishRecord(accesses.get(), arguments.record_file, hooks) : absl::OkStatus();
  return status.ok() ? recorded : status;
}

}  // namespace

void AddChatCommand(CLI::App& app, CommandContext* context) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* chat = app.add_subcommand("chat", "talk with a model; /help lists what can be done meanwhile");
  AddModelOptions(chat, arguments->model);
  AddSamplingOptions(chat, arguments->model);
  chat->add_option("--system", arguments->system, "system message");
  chat->add_option("--chat-template", arguments->template_name,
                   "format of the talk, where the model's is not recognised")
      ->check(CLI::IsMember(ChatFormatNames()));
  chat->add_option("--stop", arguments->stops, "text that ends an answer; may be repeated")->allow_extra_args(false);
  chat->add_option("-n,--predict", arguments->max_tokens, "most tokens of an answer; -1: until it or the context ends")
      ->check(CLI::Range(1, 1 << 24) | CLI::IsMember({"-1"}));
  chat->add_option("--record", arguments->record_file,
                   "write the requests that the overlay's policy sees, for dogstar simulate");
  chat->callback([arguments, context] { context->run = [arguments] { return RunChat(*arguments); }; });
}

}  // namespace dogstar
