// dogstar config: every setting, what it means and what is allowed.
#include <algorithm>
#include <memory>

#include "fmt/format.h"
#include "runtime/config.h"
#include "runtime/config_reference.h"
#include "tools/command.h"
#include "tools/output.h"

namespace dogstar {
namespace {

void PrintTable() {
  size_t width = 0;
  for (const ConfigKey& key : ConfigKeys()) width = std::max(width, key.name.size());
  for (const ConfigKey& key : ConfigKeys()) {
    fmt::print("{:{}}  {}\n{:{}}  ({})\n", key.name, width, key.meaning, "", width, key.allowed);
  }
}

void PrintKeysJson() {
  nlohmann::ordered_json keys = nlohmann::ordered_json::array();
  for (const ConfigKey& key : ConfigKeys()) {
    keys.push_back({{"key", key.name},
                    {"meaning", key.meaning},
                    {"allowed", key.allowed},
                    {"environment", EnvironmentName(key.name)}});
  }
  PrintJson({{"keys", keys}});
}

}  // namespace

void AddConfigCommand(CLI::App& app, CommandContext* context) {
  auto markdown = std::make_shared<bool>(false);
  CLI::App* const command = app.add_subcommand("config", "every setting, what it means and what is allowed");
  command->add_flag("--markdown", *markdown, "as docs/config.md");
  command->add_flag("--json", context->json, "One JSON object on stdout");
  command->callback([markdown, context] {
    context->run = [markdown, context] {
      if (context->json) {
        PrintKeysJson();
      } else if (*markdown) {
        fmt::print("{}", ConfigReferenceMarkdown());
      } else {
        PrintTable();
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace dogstar
