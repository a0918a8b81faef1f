#include "runtime/config_reference.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "runtime/config.h"

namespace dogstar {
namespace {

std::string_view SectionOf(std::string_view key) {
  const size_t dot = key.find('.');
  return dot == std::string_view::npos ? "run" : key.substr(0, dot);
}

// A cell of a table: bars would end it.
std::string Cell(std::string_view text) {
  std::string cell;
  for (const char c : text) {
    if (c == '|') cell += '\\';
    cell += c;
  }
  return cell;
}

}  // namespace

std::string ConfigReferenceMarkdown() {
  std::string text =
      "# Settings\n\nMade by `dogstar config --markdown`; a test fails when it is stale. Every setting may stand in a "
      "YAML "
      "file\n(`--config FILE`), in the environment (`DOGSTAR_CORRECTOR_PERIOD=8`), or on the command line\n(`--set "
      "corrector.period=8`); later ones win. A mistake is an error with file, line, key and what is allowed.\n";
  std::vector<std::string_view> sections;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string_view section = SectionOf(key.name);
    if (std::find(sections.begin(), sections.end(), section) == sections.end()) sections.push_back(section);
  }
  for (const std::string_view section : sections) {
    text += fmt::format("\n## {}\n\n| key | meaning | allowed |\n|---|---|---|\n", section);
    for (const ConfigKey& key : ConfigKeys()) {
      if (SectionOf(key.name) != section) continue;
      text += fmt::format("| `{}` | {} | {} |\n", key.name, Cell(key.meaning), Cell(key.allowed));
    }
  }
  return text;
}

}  // namespace dogstar
