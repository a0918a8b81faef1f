// dogstar tune: settings that are better on this machine, found by measuring, with the figures they rest on.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "fmt/format.h"
#include "runtime/calibration_texts.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/prompts.h"
#include "tools/tuner.h"

namespace dogstar {
namespace {

constexpr int32_t kPromptTokens = 48;  // of a prompt cut out of the texts that come with the program

struct TuneFlags {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string prompts, output = "tuned.yaml";
  bool chat = false, pages = false;
  int32_t prompt_count = 6, new_tokens = 64, rounds = 2;
  double least_gain = 0.03;
};

// A folder that goes away.
class Scratch {
 public:
  Scratch() : path_((std::filesystem::temp_directory_path() / fmt::format("dogstar_tune_{}", getpid())).string()) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

absl::StatusOr<std::vector<std::vector<TokenId>>> PromptsOf(const TuneFlags& flags, const Tokenizer& tokenizer) {
  if (!flags.prompts.empty()) return ReadPrompts(flags.prompts, tokenizer, flags.chat, flags.prompt_count);
  std::vector<std::vector<TokenId>> prompts;
  for (const std::string_view text : CalibrationTexts()) {
    std::vector<TokenId> tokens = tokenizer.Encode(std::string(text), {});
    tokens.resize(std::min<size_t>(tokens.size(), kPromptTokens));
    if (!tokens.empty()) prompts.push_back(std::move(tokens));
  }
  return prompts;
}

// The last third is held out.
absl::Status Divide(std::vector<std::vector<TokenId>> prompts, const TuneFlags& flags, TuneOptions* options) {
  if (prompts.size() > static_cast<size_t>(flags.prompt_count)) prompts.resize(static_cast<size_t>(flags.prompt_count));
  if (prompts.size() < 2) {
    return absl::InvalidArgumentError(
        fmt::format("{} prompts: at least 2 are needed, one of them to be held out", prompts.size()));
  }
  const size_t held_out = std::max<size_t>(1, prompts.size() / 3);
  const auto border = prompts.end() - static_cast<ptrdiff_t>(held_out);
  options->held_out.assign(border, prompts.end());
  options->prompts.assign(prompts.begin(), border);
  return absl::OkStatus();
}

nlohmann::ordered_json JsonOf(const Trial& trial) {
  nlohmann::ordered_json json = {{"change", trial.change.Name()},
                                 {"ran", trial.ran},
                                 {"gain", trial.gain},
                                 {"before_tok_s", trial.before_tok_s},
                                 {"after_tok_s", trial.after_tok_s},
                                 {"kept", trial.kept}};
  if (!trial.reason.empty()) json["reason"] = trial.reason;
  return json;
}

// The figures that a kept setting rests on.
std::string FiguresOf(const TuneResult& result, const std::string& key) {
  for (auto at = result.trials.rbegin(); at != result.trials.rend(); ++at) {  // a later one replaced an earlier one
    const Trial& trial = *at;
    if (trial.kept &&
        std::ranges::find(trial.change.settings, key, &Assignment::first) != trial.change.settings.end()) {
      return fmt::format("{:+.1f}%: {:.2f} to {:.2f} tokens/s, paired", 100 * (trial.gain - 1), trial.before_tok_s,
                         trial.after_tok_s);
    }
  }
  return "";
}

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return text;
}

// A YAML scalar.
std::string Quoted(const std::string& value) {
  if (!value.empty() && value.find_first_of(":#{}[],&*!|>'\"%@` ") == std::string::npos) return value;
  std::string quoted = "'";
  for (const char c : value) quoted += c == '\'' ? std::string("''") : std::string(1, c);
  return quoted + "'";
}

// Settings by section, each with what it rests on.
std::string YamlOf(const TuneFlags& flags, const Config& base, const std::vector<Assignment>& given,
                   const TuneResult& result, size_t prompts, size_t held_out) {
  std::string yaml = fmt::format(
      "# Made by dogstar tune on {}: {}, {} hardware threads.\n# {} prompts of {} new tokens, {} rounds; a change is "
      "kept "
      "from {:.0f}% on.\n",
      Today(), base.model, std::thread::hardware_concurrency(), prompts, flags.new_tokens, flags.rounds,
      100 * flags.least_gain);
  if (result.kept.empty()) {
    yaml += fmt::format("# No change won on {} held-out prompts: these are the settings that were given.\n", held_out);
  } else {
    yaml +=
        fmt::format("# {} held-out prompts: {:.2f} tokens/s with the settings given, {:.2f} with these: {:+.1f}%.\n",
                    held_out, result.default_tok_s, result.tuned_tok_s, 100 * (result.held_out_gain - 1));
  }
  std::vector<Assignment> all = given;
  for (const Assignment& setting : result.kept) SetAssignment(setting, &all);
  std::map<std::string, std::vector<Assignment>> sections;
  for (const auto& [key, value] : all) {
    const size_t dot = key.find('.');
    const bool kept = std::ranges::find(result.kept, key, &Assignment::first) != result.kept.end();
    const std::string comment = kept ? "  # " + FiguresOf(result, key) : "";
    const std::string quoted = Quoted(value);
    const std::string line =
        fmt::format("{}: {}{}\n", dot == std::string::npos ? key : key.substr(dot + 1), quoted, comment);
    sections[dot == std::string::npos ? "" : key.substr(0, dot)].emplace_back(key, line);
  }
  for (const auto& [section, lines] : sections) {
    if (!section.empty()) yaml += section + ":\n";
    for (const auto& [key, line] : lines) yaml += (section.empty() ? "" : "  ") + line;
  }
  yaml += "# Tried and not kept:\n";
  for (const Trial& trial : result.trials) {
    if (trial.kept) continue;
    yaml += fmt::format("#   {}: {}\n", trial.change.Name(),
                        trial.reason.empty() ? fmt::format("{:+.1f}%", 100 * (trial.gain - 1)) : trial.reason);
  }
  return yaml;
}

void Print(const TuneFlags& flags, const TuneResult& result) {
  for (const Trial& trial : result.trials) {
    if (!trial.ran) {
      fmt::print("{:<52}          not run: {}\n", trial.change.Name(), trial.reason);
      continue;
    }
    fmt::print("{:<52} {:+7.1f}%  {:.2f} to {:.2f} tokens/s  {}\n", trial.change.Name(), 100 * (trial.gain - 1),
               trial.before_tok_s, trial.after_tok_s, trial.kept ? "KEPT" : trial.reason);
  }
  if (!result.dropped.empty()) {
    fmt::print("what was kept does not win on the held-out prompts ({:+.1f}%) and is dropped\n",
               100 * (result.held_out_gain - 1));
  } else {
    fmt::print("held-out prompts: {:.2f} tokens/s as given, {:.2f} tuned: {:+.1f}%\n", result.default_tok_s,
               result.tuned_tok_s, 100 * (result.held_out_gain - 1));
  }
  fmt::print("{}: --config takes it\n", Printable(flags.output));
}

// Settings of the file and of the command line, later ones in the place of earlier ones.
absl::StatusOr<std::vector<Assignment>> Given(const ModelArguments& arguments) {
  std::vector<Assignment> given;
  if (!arguments.config_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(arguments.config_file));
    ASSIGN_OR_RETURN(const auto settings, ListYamlSettings(text, arguments.config_file));
    for (const Assignment& setting : settings) SetAssignment(setting, &given);
  }
  for (const std::string& assignment : arguments.assignments) {
    const size_t equals = assignment.find('=');
    SetAssignment({assignment.substr(0, equals), assignment.substr(equals + 1)}, &given);
  }
  return given;
}

absl::Status RunTune(const TuneFlags& flags, bool json) {
  ASSIGN_OR_RETURN(Config base, ReadConfig(*flags.model));
  if (base.model.empty()) return absl::InvalidArgumentError("no model is given");
  if (base.corrector.mode == RunMode::kSparse || base.corrector.mode == RunMode::kSirius) {
    return absl::InvalidArgumentError(
        "tune compares settings that give the same text: --mode dense, strict or auto; sparse and sirius change it");
  }
  ASSIGN_OR_RETURN(const std::vector<Assignment> given, Given(*flags.model));
  TuneOptions options;
  options.new_tokens = flags.new_tokens;
  options.rounds = flags.rounds;
  options.least_gain = flags.least_gain;
  options.chooses_mode = base.corrector.mode == RunMode::kAuto;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(base.model));
    if (flags.pages && model->packed() != nullptr) {
      return absl::InvalidArgumentError(
          fmt::format("--pages: {} is packed; give the GGUF it was made from", base.model));
    }
    if (flags.pages) options.pages_prefix = flags.output;
    ASSIGN_OR_RETURN(std::vector<std::vector<TokenId>> prompts, PromptsOf(flags, model->tokenizer()));
    RETURN_IF_ERROR(Divide(std::move(prompts), flags, &options));
  }
  const Scratch scratch;
  options.scratch = scratch.path();
  CatchInterrupt();
  Progress bar;
  const Hooks hooks = MakeHooks(&bar);
  const double start = Now();
  int step = 0;
  const auto on_trial = [&](const std::string& what) {
    bar.Finish();
    fmt::print(stderr, "[{:.0f} s] {}: {}\n", Now() - start, ++step, what);
    return !Interrupted();
  };
  ASSIGN_OR_RETURN(const TuneResult result, Tune(base, options, hooks, on_trial));
  const std::string yaml = YamlOf(flags, base, given, result, options.prompts.size(), options.held_out.size());
  Config check;
  RETURN_IF_ERROR(ReadYamlConfig(yaml, flags.output, &check));
  std::ofstream file(flags.output, std::ios::binary | std::ios::trunc);
  file << yaml;
  file.close();
  if (!file) return ErrnoStatus("write", flags.output, -1, -1, errno);
  if (!json) {
    Print(flags, result);
    return absl::OkStatus();
  }
  nlohmann::ordered_json out = {{"model", base.model},
                                {"machine", fmt::format("{} hardware threads", std::thread::hardware_concurrency())},
                                {"settings", GivenSettings(*flags.model)},
                                {"output", flags.output},
                                {"least_gain", flags.least_gain},
                                {"prompts", options.prompts.size()},
                                {"trials", nlohmann::ordered_json::array()}};
  for (const Trial& trial : result.trials) out["trials"].push_back(JsonOf(trial));
  out["held_out"] = {{"prompts", options.held_out.size()},
                     {"default_tok_s", result.default_tok_s},
                     {"tuned_tok_s", result.tuned_tok_s},
                     {"gain", result.held_out_gain},
                     {"dropped", !result.dropped.empty()}};
  out["yaml"] = yaml;
  PrintJson(out);
  return absl::OkStatus();
}

}  // namespace

void AddTuneCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<TuneFlags>();
  CLI::App* const command = app.add_subcommand("tune", "find settings that are faster on this machine, same text");
  AddModelOptions(command, flags->model);
  command->add_option("-o,--output", flags->output, "YAML file to write")->capture_default_str();
  command->add_option("--prompts", flags->prompts, "a prompt a line; default: starts of the texts of calibrate");
  command->add_flag("--chat", flags->chat, "prompts are messages in the model's chat format");
  command->add_flag("--pages", flags->pages,
                    "try pages of other sizes too: packs the model anew beside the output, what loses is removed");
  command->add_option("--prompt-count", flags->prompt_count, "prompts, a third of them held out")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  command->add_option("-n,--new-tokens", flags->new_tokens, "tokens after each prompt")
      ->check(CLI::Range(4, 1 << 20))
      ->capture_default_str();
  command->add_option("--rounds", flags->rounds, "pairs of runs for each change")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--least-gain", flags->least_gain, "a change is kept from this paired gain on")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  command->add_flag("--json", context->json, "one JSON object on standard output");
  command->callback([flags, context] { context->run = [flags, context] { return RunTune(*flags, context->json); }; });
}

}  // namespace dogstar
