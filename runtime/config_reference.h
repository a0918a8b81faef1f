// The table of settings as documentation: what docs/config.md holds, from the same table that reads them.
#pragma once

#include <string>

namespace dogstar {

// Markdown: a table a section ("draft", "cache", ...), keys in the order of ConfigKeys.
std::string ConfigReferenceMarkdown();

}  // namespace dogstar
