// The dogstar program: one file a subcommand.
#include <csignal>
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "tools/command.h"

namespace {

constexpr int kFailure = 1;
constexpr int kBadUsage = 2;

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "dogstar: %s\n", std::string(status.message()).c_str());
  return kFailure;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit of file sizes is an error of a write, not a death
  CLI::App app("Runs language models larger than the fast memory they are given.", "dogstar");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(DOGSTAR_VERSION));
  dogstar::CommandContext context;
  dogstar::AddRunCommand(app, &context);
  dogstar::AddChatCommand(app, &context);
  dogstar::AddEvalCommand(app, &context);
  dogstar::AddPackCommand(app, &context);
  dogstar::AddCalibrateCommand(app, &context);
  dogstar::AddPlanCommand(app, &context);
  dogstar::AddProbeCommand(app, &context);
  dogstar::AddSimulateCommand(app, &context);
  dogstar::AddBenchCommand(app, &context);
  dogstar::AddTuneCommand(app, &context);
  dogstar::AddReportCommand(app, &context);
  dogstar::AddConfigCommand(app, &context);
  dogstar::AddInspectCommand(app, &context);
  dogstar::AddTokenizeCommand(app, &context);
  dogstar::AddSynthCommand(app, &context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadUsage;  // help and version end with 0
  }
  return ExitCodeOf(context.run());
}
