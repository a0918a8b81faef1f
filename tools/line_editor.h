// LineEditor: lines from a person (history, editing keys; libedit) or, where standard input is no terminal, from a
// pipe.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace dogstar {

class LineEditor {
 public:
  virtual ~LineEditor() = default;
  static std::unique_ptr<LineEditor> Create();

  // Without its newline; nullopt at the end of the input. Ctrl-C gives an empty line.
  virtual std::optional<std::string> ReadLine(const std::string& prompt) = 0;
};

}  // namespace dogstar
