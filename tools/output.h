// What subcommands print: text for people and JSON for programs.
#pragma once

#include <string>
#include <string_view>

#include "nlohmann/json.hpp"

namespace dogstar {

// One line on stdout. Strings that are not UTF-8 (token pieces, names in files) get U+FFFD where they are not.
void PrintJson(const nlohmann::ordered_json& value);

// Text from outside for a terminal: control characters and invalid UTF-8 as \n, \x1b and so on.
std::string Printable(std::string_view text);

}  // namespace dogstar
