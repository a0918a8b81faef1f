// dogstar report: results of other commands as one page that needs nothing else.
#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/report_inputs.h"
#include "tools/report_parts.h"

namespace dogstar {
namespace {

struct ReportFlags {
  std::vector<std::string> results;
  std::string output = "report.html";
};

// JSON inside of a script element: nothing in it may end the element.
std::string Embedded(const nlohmann::ordered_json& json) {
  const std::string text = json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  std::string safe;
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

// The page with the marker's first occurrence replaced.
std::string With(std::string page, std::string_view marker, std::string_view text) {
  const size_t at = page.find(marker);
  CHECK(at != std::string::npos);
  return page.replace(at, marker.size(), text);
}

absl::Status RunReport(const ReportFlags& flags, bool json) {
  nlohmann::ordered_json inputs = nlohmann::ordered_json::array();
  for (const std::string& path : flags.results) {
    ASSIGN_OR_RETURN(nlohmann::ordered_json input, ReadReportInput(path));
    inputs.push_back(std::move(input));
  }
  // The inputs last: what they hold is not looked through for markers.
  std::string page = With(std::string(kReportPage), "/*CHART_LIBRARY*/", kChartLibrary);
  page = With(std::move(page), "/*INPUTS*/", Embedded(inputs));
  std::ofstream file(flags.output, std::ios::binary | std::ios::trunc);
  file << page;
  file.close();
  if (!file) return ErrnoStatus("write", flags.output, -1, -1, errno);
  if (json) {
    PrintJson({{"output", flags.output}, {"bytes", page.size()}, {"inputs", inputs.size()}});
  } else {
    fmt::print("{}: {} of {} results\n", Printable(flags.output), FormatSize(page.size()), inputs.size());
  }
  return absl::OkStatus();
}

}  // namespace

void AddReportCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<ReportFlags>();
  CLI::App* const command =
      app.add_subcommand("report", "one page of charts from results of bench, tune, simulate, run");
  command
      ->add_option("results", flags->results,
                   "JSON that bench, simulate, tune or run printed with --json, traces of run --trace, statistics of "
                   "calibrate")
      ->required();
  command->add_option("-o,--output", flags->output, "HTML file to write")->capture_default_str();
  command->add_flag("--json", context->json, "one JSON object on standard output");
  command->callback([flags, context] { context->run = [flags, context] { return RunReport(*flags, context->json); }; });
}

}  // namespace dogstar
