// Subcommands register themselves with the program's parser; the one that was chosen sets `run`.
#pragma once

#include <functional>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace dogstar {

struct CommandContext {
  std::function<absl::Status()> run;
  bool json = false;  // one JSON object on stdout, nothing else there
};

void AddInspectCommand(CLI::App& app, CommandContext* context);
void AddTokenizeCommand(CLI::App& app, CommandContext* context);
void AddPackCommand(CLI::App& app, CommandContext* context);
void AddCalibrateCommand(CLI::App& app, CommandContext* context);
void AddConfigCommand(CLI::App& app, CommandContext* context);
void AddSynthCommand(CLI::App& app, CommandContext* context);
void AddChatCommand(CLI::App& app, CommandContext* context);
void AddEvalCommand(CLI::App& app, CommandContext* context);
void AddPlanCommand(CLI::App& app, CommandContext* context);
void AddProbeCommand(CLI::App& app, CommandContext* context);
void AddSimulateCommand(CLI::App& app, CommandContext* context);
void AddBenchCommand(CLI::App& app, CommandContext* context);
void AddReportCommand(CLI::App& app, CommandContext* context);
void AddRunCommand(CLI::App& app, CommandContext* context);
void AddTuneCommand(CLI::App& app, CommandContext* context);

}  // namespace dogstar
