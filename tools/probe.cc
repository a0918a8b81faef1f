// dogstar probe: measures the machine and keeps the figures in tiers.json, where planning finds them.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "base/units.h"
#include "cuda/cuda_backend.h"
#include "fmt/format.h"
#include "runtime/devices.h"
#include "runtime/probe.h"
#include "runtime/run_plan.h"
#include "runtime/tiers.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"

namespace dogstar {
namespace {

struct ProbeFlags {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string folder, output;
  bool quick = false;
};

constexpr uint64_t kProbeDeviceBytes = uint64_t{1} << 30;
constexpr uint64_t kProbeFileBytes = uint64_t{2} << 30;

// Removes a file that was made for the probe, however it ends.
class ProbeFile {
 public:
  ~ProbeFile() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove(path_, ignored);
  }
  absl::Status Make(const std::string& folder) {
    ASSIGN_OR_RETURN(path_, MakeProbeFile(folder, kProbeFileBytes));
    return absl::OkStatus();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void PrintKernels(std::span<const KernelRate> kernels) {
  fmt::print("products with weights from memory, GB/s of weights\n  {:6} {:>5} {:>9} {:>9} {:>9}\n", "type", "rows",
             "resident", "streamed", "FFN pages");
  for (const KernelRate& panels : kernels) {
    if (panels.form != WeightForm::kPanels) continue;
    const auto rate = [&](WeightForm form) {
      const double seconds = KernelSeconds(kernels, panels.type, form, panels.rows, 1);
      return seconds > 0 ? fmt::format("{:.1f}", 1e-9 / seconds) : "-";
    };
    fmt::print("  {:6} {:5} {:>9} {:>9} {:>9}\n", TraitsOf(panels.type).name, panels.rows, rate(WeightForm::kPanels),
               rate(WeightForm::kPlain), rate(WeightForm::kPages));
  }
}

void PrintDevice(const DeviceRates& device) {
  fmt::print("\ndevice {}: {}\nits memory, by copies: {:.1f} GB/s; link from page-locked memory: {:.1f} GB/s\n",
             device.name, device.description, device.memory_bytes_per_second / 1e9, device.link_bytes_per_second / 1e9);
  PrintKernels(device.kernels);
  double best = 0;
  for (const KernelRate& rate : device.kernels) best = std::max(best, rate.bytes_per_second);
  fmt::print("  the best of them reads at {:.2f} of what copies move\n", best / device.memory_bytes_per_second);
}

// The device that a run would use, or the first GPU.
absl::Status ProbeDeviceOf(Config config, KernelProbe probe, const ProbeProgress& progress, MachineRates* rates) {
  if (config.budget.vram == 0) {
    const absl::StatusOr<std::vector<CudaDevice>> gpus = ListCudaDevices();
    if (!gpus.ok() || gpus->empty()) return absl::OkStatus();
    config.budget.vram = std::min(kProbeDeviceBytes, gpus->front().free_bytes / 2);
  }
  ASSIGN_OR_RETURN(const std::string name, DeviceNameOf(config));
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> device, NewBackend(config));
  // The rest is for activations, and the FFN in progress.
  const uint64_t left = config.budget.vram - std::min(config.budget.vram, device->device_bytes());
  probe.bytes = std::min(probe.bytes, left / 2);
  ASSIGN_OR_RETURN(DeviceRates measured, ProbeDevice(probe, device.get(), progress));
  measured.name = name;
  std::erase_if(rates->devices, [&](const DeviceRates& old) { return old.name == name; });
  rates->devices.insert(rates->devices.begin(), std::move(measured));
  return absl::OkStatus();
}

void PrintDisk(const DiskRates& disk) {
  fmt::print("\ndisk {} under {}: {}\n  GB/s by size and reads in flight\n  {:>8}", disk.device, Printable(disk.path),
             disk.reader, "");
  std::vector<int32_t> depths;
  for (const ReadRate& read : disk.reads) {
    if (std::ranges::find(depths, read.depth) == depths.end()) depths.push_back(read.depth);
  }
  for (int32_t depth : depths) fmt::print(" {:6}", depth);
  uint64_t size = 0;
  for (const ReadRate& read : disk.reads) {
    if (read.read_bytes != size) fmt::print("\n  {:>8}", FormatSize(size = read.read_bytes));
    fmt::print(" {:6.2f}", read.bytes_per_second / 1e9);
  }
  fmt::print("\n  a pass reads at {:.2f} GB/s; {} in flight are enough\n", disk.bytes_per_second / 1e9,
             disk.in_flight_bytes > 0 ? FormatSize(disk.in_flight_bytes) : "unknown: more than was tried");
  if (disk.shared >= 0) {
    fmt::print("  {:.0f}% of the shorter of reading and computing is not hidden behind the longer\n",
               100 * disk.shared);
  }
}

absl::Status RunProbe(const ProbeFlags& flags, bool json) {
  ASSIGN_OR_RETURN(const Config config, ReadConfig(*flags.model));
  const std::string output = !flags.output.empty()   ? flags.output
                             : !config.tiers.empty() ? config.tiers
                                                     : config.cache_dir + "/tiers.json";
  CatchInterrupt();
  Progress bar;
  const ProbeProgress progress = [&](std::string_view what, int done, int total) {
    bar.Steps(what, done, total);
    return !Interrupted();
  };
  // Disks and devices that were measured before stay.
  const absl::StatusOr<MachineRates> known = ReadTiersFile(output);
  MachineRates rates;
  if (known.ok()) rates.disks = known->disks, rates.devices = known->devices;
  KernelProbe kernels{.threads = ThreadsOf(config)};
  DiskProbe disk{
      .path = config.model, .engine = config.io.engine, .direct = config.io.direct, .threads = ThreadsOf(config)};
  if (flags.quick) kernels.seconds = 0.01, disk.seconds = 0.03, disk.stream_seconds = 0.2;
  RETURN_IF_ERROR(ProbeKernels(kernels, progress, &rates));
  RETURN_IF_ERROR(ProbeDeviceOf(config, kernels, progress, &rates));
  ProbeFile made;
  if (disk.path.empty() && !flags.folder.empty()) {
    RETURN_IF_ERROR(made.Make(flags.folder));
    disk.path = made.path();
  }
  if (!disk.path.empty()) {
    ASSIGN_OR_RETURN(DiskRates measured, ProbeDisk(disk, progress));
    std::erase_if(rates.disks, [&](const DiskRates& old) { return old.device == measured.device; });
    rates.disks.insert(rates.disks.begin(), std::move(measured));
  }
  bar.Finish();
  RETURN_IF_ERROR(WriteTiersFile(rates, output));
  if (json) {
    fmt::print("{}", FormatTiers(rates));
    return absl::OkStatus();
  }
  fmt::print("{}\nmemory, read by {} threads: {:.1f} GB/s\n\n", rates.machine, rates.threads,
             rates.memory_bytes_per_second / 1e9);
  PrintKernels(rates.kernels);
  for (const DeviceRates& one : rates.devices) PrintDevice(one);
  for (const DiskRates& one : rates.disks) PrintDisk(one);
  if (disk.path.empty()) fmt::print("\nno disk was measured: name a model on it, or --folder DIR\n");
  fmt::print("\nwritten to {}\n", Printable(output));
  return absl::OkStatus();
}

}  // namespace

void AddProbeCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<ProbeFlags>();
  CLI::App* probe =
      app.add_subcommand("probe", "measure memory, kernels, a GPU and the disk under a model, for planning");
  probe->add_option("model", flags->model->model, "a file on the disk to measure; it is only read");
  probe->add_option("--folder", flags->folder,
                    "without a model: a folder on that disk; a file of 2 GiB is made, read "
                    "and removed");
  probe->add_option("-o,--output", flags->output, "where the figures go (default: tiers.json in the cache folder)");
  probe->add_option("--config", flags->model->config_file, "YAML file of settings");
  probe->add_option_function<std::string>(
      "--vram", [flags](const std::string& value) { flags->model->assignments.push_back("budget.vram=" + value); },
      "GPU memory to measure with (budget.vram; default: where there is a GPU, up to 1 GiB)");
  probe->add_option_function<std::string>(
      "-t,--threads", [flags](const std::string& value) { flags->model->assignments.push_back("threads=" + value); },
      "compute threads (threads)");
  probe
      ->add_option_function<std::vector<std::string>>(
          "--set",
          [flags](const std::vector<std::string>& values) {
            flags->model->assignments.insert(flags->model->assignments.end(), values.begin(), values.end());
          },
          "any setting, key=value; may be repeated")
      ->allow_extra_args(false);
  probe->add_flag("--quick", flags->quick, "a second instead of ten, and coarser");
  probe->add_flag("--json", context->json, "one JSON object on standard output");
  probe->callback([flags, context] { context->run = [flags, context] { return RunProbe(*flags, context->json); }; });
}

}  // namespace dogstar
