// dogstar plan: what a run would keep in memory and why, how fast it would be, and which budgets mean something.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "memory/forecast.h"
#include "model/model_file.h"
#include "predictors/predictor.h"
#include "runtime/devices.h"
#include "runtime/run_plan.h"
#include "runtime/score_maps.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace dogstar {
namespace {

struct PlanFlags {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  double acceptance = -1;
};

constexpr int32_t kDefaultContext = 4096;
// Assumed where the disk was not measured.
constexpr double kCommonDisk = 2e9;

// What the figures rest on.
struct Ground {
  MachineRates machine;
  bool kernels_measured = false;
  bool disk_measured = false;
  double disk_bytes_per_second = 0;
  double shared = kShared;
  std::optional<DeviceRates> device;  // none: the host computes
  bool device_measured = false;
};

absl::Status AddDevice(const Config& config, const MachineRates& known, Ground* ground) {
  if (!HasDeviceMemory(config)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string name, DeviceNameOf(config));
  const DeviceRates* const measured = known.FindDevice(name);
  ground->device_measured = measured != nullptr;
  ground->device = measured != nullptr ? *measured : CommonDeviceRates();
  return absl::OkStatus();
}

Ground GroundOf(const MachineRates& known, const std::string& path) {
  Ground ground;
  ground.machine = known;
  ground.kernels_measured = !known.kernels.empty();
  if (!ground.kernels_measured) ground.machine.kernels = CommonRates().kernels;
  ground.disk_bytes_per_second = StreamRatesOf(known, path).disk_bytes_per_second;
  ground.disk_measured = ground.disk_bytes_per_second > 0;
  if (ground.disk_measured) ground.shared = SharedOf(known, path);
  if (!ground.disk_measured) ground.disk_bytes_per_second = kCommonDisk;
  return ground;
}

struct Subject {
  Config config;
  std::unique_ptr<ModelFile> model;
  ModelShape shape;
  std::unique_ptr<Backend> backend;
  RunPlanOptions options;
  Ground ground;
  ForecastRequest forecast;
  DraftChoices choices;  // options point to it
};

absl::StatusOr<Subject> Open(const PlanFlags& flags) {
  Subject subject;
  ASSIGN_OR_RETURN(subject.config, ReadConfig(*flags.model));
  const Config& config = subject.config;
  if (config.model.empty()) return absl::InvalidArgumentError("no model is given");
  ASSIGN_OR_RETURN(subject.model, ModelFile::Open(config.model));
  subject.shape = ShapeOf(*subject.model);
  ASSIGN_OR_RETURN(subject.backend, NewBackendForSizes(config));
  ASSIGN_OR_RETURN(subject.choices, MakeDraftChoices(config, *subject.model));
  RunPlanOptions& options = subject.options;
  const bool automatic = config.corrector.mode == RunMode::kAuto;
  options.mode = !automatic ? config.corrector.mode : subject.shape.packed ? RunMode::kStrict : RunMode::kDense;
  options.context_slots =
      config.context > 0 ? config.context : std::min(kDefaultContext, subject.model->config().context_length);
  options.logit_rows = LogitRows(config, options.mode, *subject.model, options.context_slots, {});
  AskChoices(subject.choices, &options);
  options.program_bytes = MeasureProgramBytes();
  ASSIGN_OR_RETURN(const MachineRates known, KnownRates(config, nullptr));
  subject.ground = GroundOf(known, config.model);
  RETURN_IF_ERROR(AddDevice(config, known, &subject.ground));
  subject.forecast.hybrid = config.hybrid;
  subject.forecast.disk_bytes_per_second = subject.ground.disk_bytes_per_second;
  subject.forecast.shared = subject.ground.shared;
  subject.forecast.period = config.corrector.period;
  if (flags.acceptance >= 0) subject.forecast.acceptance = flags.acceptance;
  return subject;
}

struct Line {
  std::string name;
  uint64_t budget_bytes = 0;
  Placement placement;
  Forecast forecast;
};

absl::StatusOr<Line> LineOf(const Subject& subject, PlanRequest request, const std::string& name, uint64_t budget) {
  Line line{.name = name, .budget_bytes = budget};
  request.budget_bytes = budget;
  ASSIGN_OR_RETURN(line.placement, PlanPlacement(subject.shape, request));
  ForecastRequest forecast = subject.forecast;
  if (subject.ground.device) forecast.device = &*subject.ground.device;
  line.forecast = MakeForecast(subject.shape, line.placement, subject.ground.machine, forecast);
  return line;
}

nlohmann::ordered_json JsonOf(const Line& line) {
  const Forecast& f = line.forecast;
  nlohmann::ordered_json json = {{"name", line.name},
                                 {"budget_bytes", line.budget_bytes},
                                 {"resident_bytes", line.placement.resident_bytes},
                                 {"complement_bytes", line.placement.complement_bytes},
                                 {"ring_bytes", line.placement.ring_bytes},
                                 {"resident_density", line.placement.resident_density},
                                 {"read_s", f.read_seconds},
                                 {"compute_s", f.compute_seconds},
                                 {"dense_s", f.dense_seconds}};
  if (line.placement.device_planned_bytes > 0) {
    json["host_bytes"] = line.placement.host_bytes;
    json["link_s"] = f.link_seconds;
    json["processor_share"] = f.processor_share;
    json["verify_processor_share"] = f.verify_processor_share;
  }
  if (f.draft_seconds > 0) {
    json["sparse_s"] = f.draft_seconds;
    json["strict_s"] = f.corrected_seconds;
    json["period"] = f.period;
    json["acceptance"] = f.acceptance;
    json["tokens_per_cycle"] = f.tokens_per_cycle;
    json["verify_s"] = f.verify_seconds;
  }
  return json;
}

std::string Seconds(double seconds) { return seconds > 0 ? fmt::format("{:.4g}", seconds) : "-"; }

// What full passes wait for where a device computes.
void PrintDevicePasses(const Line& line, const Ground& ground) {
  const Forecast& f = line.forecast;
  fmt::print("\na full pass over one row: disk {} s, link {} s, kernels of the device {} s\n", Seconds(f.read_seconds),
             Seconds(f.link_seconds), Seconds(f.compute_seconds));
  if (line.placement.host_page_bytes > 0) {
    fmt::print(
        "of {} of rows in host memory the processor computes {:.0f}%, in passes over {} rows {:.0f}%; the link carries "
        "the "
        "others\n",
        FormatSize(line.placement.host_page_bytes), 100 * f.processor_share, f.period, 100 * f.verify_processor_share);
  }
  fmt::print("device: link {:.1f} GB/s, kernels ({})\n", ground.device->link_bytes_per_second / 1e9,
             ground.device_measured ? "measured: " + ground.device->description
                                    : "both ASSUMED: a GPU of 24 GB behind PCIe 4.0; run dogstar probe on the machine");
}

void PrintLines(const std::vector<Line>& lines, const Subject& subject) {
  fmt::print("\n{:12} {:>11} {:>11} {:>9} | seconds per token: {:>8} {:>8} {:>8}\n", "budget", "", "a pass reads",
             "FFN rows", "dense", "sparse", "strict");
  for (const Line& line : lines) {
    const Forecast& f = line.forecast;
    fmt::print("{:12} {:>11} {:>11} {:8.0f}% | {:>27} {:>8} {:>8}", line.name, FormatSize(line.budget_bytes),
               FormatSize(line.placement.complement_bytes), 100 * line.placement.resident_density,
               Seconds(f.dense_seconds), Seconds(f.draft_seconds),
               f.draft_seconds > 0 ? Seconds(f.corrected_seconds) : "-");
    if (f.period > 1) fmt::print("  (period {}, {:.2f} tokens a pass)", f.period, f.tokens_per_cycle);
    fmt::print("\n");
  }
  const Ground& ground = subject.ground;
  if (ground.device) PrintDevicePasses(lines.front(), ground);
  fmt::print("\ndisk {:.2f} GB/s ({}), kernels {}", ground.disk_bytes_per_second / 1e9,
             ground.disk_measured ? "measured" : "ASSUMED", ground.kernels_measured ? "measured" : "ASSUMED");
  if (!ground.disk_measured || !ground.kernels_measured) fmt::print("; run dogstar probe {}", subject.config.model);
  if (!subject.shape.packed) {
    fmt::print("\na plain file has no drafts: plan its packed form for sparse and strict runs (dogstar pack)\n");
  } else {
    fmt::print("\nacceptance of drafts is {}\n", subject.forecast.acceptance
                                                     ? "as given with --acceptance"
                                                     : "ASSUMED from SmolLM2-135M by density; --acceptance sets it");
  }
}

void PrintPlacement(const Line& line) {
  fmt::print("{:28} {:>11} {:>11}  {}\n", "in memory", "", "of", "why");
  for (const PlanLine& part : line.placement.lines) {
    fmt::print("{:28} {:>11} {:>11}  {}\n", part.what, FormatSize(part.resident_bytes), FormatSize(part.total_bytes),
               part.on_device ? "on the device: " + part.reason : part.reason);
  }
  fmt::print("{:28} {:>11}\n", "together", FormatSize(line.placement.planned_bytes));
  if (line.placement.device_planned_bytes > 0) {
    fmt::print("{:28} {:>11}\n", "together, on the device", FormatSize(line.placement.device_planned_bytes));
  }
}

absl::Status RunPlanCommand(const PlanFlags& flags, bool json) {
  ASSIGN_OR_RETURN(Subject subject, Open(flags));
  // The costs that every budget shares are those of a run without one; its own come from its own plan.
  ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(subject.config, *subject.model, *subject.backend, subject.options,
                                               StreamRatesOf(subject.ground.machine, subject.config.model)));
  const BudgetMarks marks = MarkBudgets(subject.shape, plan.request);
  std::vector<Line> lines;
  const auto add = [&](const std::string& name, uint64_t budget) -> absl::Status {
    ASSIGN_OR_RETURN(Line line, LineOf(subject, plan.request, name, budget));
    lines.push_back(std::move(line));
    return absl::OkStatus();
  };
  const uint64_t asked = subject.config.budget.ram.value_or(marks.everything);
  RETURN_IF_ERROR(add(subject.config.budget.ram ? "as asked" : "everything", asked));
  if (!plan.request.device_bytes) {  // marks are of runs in host memory
    RETURN_IF_ERROR(add("smallest", marks.smallest));
    if (subject.shape.packed) RETURN_IF_ERROR(add("drafts", marks.drafts));
    RETURN_IF_ERROR(add("sensible", marks.sensible));
    if (subject.config.budget.ram) RETURN_IF_ERROR(add("everything", marks.everything));
  }
  if (json) {
    nlohmann::ordered_json out = {{"model", subject.config.model},
                                  {"context", subject.options.context_slots},
                                  {"mode", RunModeName(subject.options.mode)},
                                  {"disk_measured", subject.ground.disk_measured},
                                  {"kernels_measured", subject.ground.kernels_measured},
                                  {"disk_bytes_per_second", subject.ground.disk_bytes_per_second}};
    for (const PlanLine& part : lines[0].placement.lines) {
      out["placement"].push_back({{"what", part.what},
                                  {"resident_bytes", part.resident_bytes},
                                  {"total_bytes", part.total_bytes},
                                  {"on_device", part.on_device},
                                  {"reason", part.reason}});
    }
    for (const Line& line : lines) out["budgets"].push_back(JsonOf(line));
    PrintJson(out);
    return absl::OkStatus();
  }
  fmt::print("{}, context {}, {}\n\n", Printable(subject.config.model), subject.options.context_slots,
             subject.backend->Describe());
  PrintPlacement(lines[0]);
  PrintLines(lines, subject);
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* plan = app.add_subcommand("plan", "what a run would keep in memory, why, and how fast it would be");
  AddModelOptions(plan, flags->model);
  plan->add_option("--acceptance", flags->acceptance,
                   "probability that a draft stands, for the forecast of strict runs")
      ->check(CLI::Range(0.0, 1.0));
  plan->add_flag("--json", context->json, "one JSON object on standard output");
  plan->callback(
      [flags, context] { context->run = [flags, context] { return RunPlanCommand(*flags, context->json); }; });
}

}  // namespace dogstar
