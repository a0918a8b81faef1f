#include "runtime/tiers.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "fmt/format.h"
#include "yaml-cpp/yaml.h"  // every JSON text is YAML

namespace dogstar {
namespace {

constexpr std::array<std::pair<WeightForm, std::string_view>, 3> kForms = {
    {{WeightForm::kPanels, "panels"}, {WeightForm::kPlain, "plain"}, {WeightForm::kPages, "pages"}}};

std::string_view NameOf(WeightForm form) { return kForms[static_cast<size_t>(form)].second; }

// A JSON string of text that may hold anything; bytes above ASCII go through as they are.
std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

template <typename Items, typename Function>
std::string Joined(const Items& items, Function format) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "\n  " : ",\n  ") + format(item);
  return text;
}

std::string FormatDisk(const DiskRates& disk) {
  const std::string reads = Joined(disk.reads, [](const ReadRate& read) {
    return fmt::format("  {{\"bytes\": {}, \"depth\": {}, \"bytes_per_second\": {:.4g}}}", read.read_bytes, read.depth,
                       read.bytes_per_second);
  });
  return fmt::format(
      "{{\"device\": {}, \"path\": {}, \"reader\": {}, \"bytes_per_second\": {:.4g}, \"in_flight_bytes\": {},\n"
      "   {}\"reads\": [{}]}}",
      Quoted(disk.device), Quoted(disk.path), Quoted(disk.reader), disk.bytes_per_second, disk.in_flight_bytes,
      disk.shared >= 0 ? fmt::format("\"shared\": {:.3f}, ", disk.shared) : "", reads);
}

std::string FormatKernels(const std::vector<KernelRate>& kernels) {
  return Joined(kernels, [](const KernelRate& rate) {
    return fmt::format("{{\"type\": \"{}\", \"form\": \"{}\", \"rows\": {}, \"bytes_per_second\": {:.4g}}}",
                       TraitsOf(rate.type).name, NameOf(rate.form), rate.rows, rate.bytes_per_second);
  });
}

std::string FormatDevice(const DeviceRates& device) {
  return fmt::format(
      "{{\"name\": {}, \"is\": {}, \"memory_bytes_per_second\": {:.4g}, \"link_bytes_per_second\": {:.4g},\n   "
      "\"kernels\": [{}]}}",
      Quoted(device.name), Quoted(device.description), device.memory_bytes_per_second, device.link_bytes_per_second,
      FormatKernels(device.kernels));
}

// One value of a map with a check; errors name the place in the file.
class Fields {
 public:
  Fields(const YAML::Node& node, std::string_view file) : node_(node), file_(file) {}

  absl::Status Fail(const YAML::Node& at, std::string_view message) const {
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: {}; make the file again with dogstar probe", file_, at.Mark().line + 1, message));
  }
  absl::StatusOr<std::string> Text(const char* name) const {
    const YAML::Node value = node_[name];
    if (!value || !value.IsScalar()) return Fail(node_, fmt::format("\"{}\" is missing or no text", name));
    return value.Scalar();
  }
  // A finite number from low to high.
  absl::StatusOr<double> Number(const char* name, double low, double high) const {
    const YAML::Node value = node_[name];
    double number = 0;
    if (!value || !value.IsScalar() || !YAML::convert<double>::decode(value, number)) {
      return Fail(node_, fmt::format("\"{}\" is missing or no number", name));
    }
    if (!(number >= low && number <= high)) {
      return Fail(value, fmt::format("\"{}\" must be {} to {}", name, low, high));
    }
    return number;
  }
  // The elements of a list of maps; none when it is absent.
  template <typename Function>
  absl::Status Each(const char* name, Function function) const {
    const YAML::Node list = node_[name];
    if (!list) return absl::OkStatus();
    if (!list.IsSequence()) return Fail(node_, fmt::format("\"{}\" must be a list", name));
    for (const YAML::Node& element : list) {
      if (!element.IsMap()) return Fail(list, fmt::format("\"{}\" must hold objects", name));
      RETURN_IF_ERROR(function(Fields(element, file_)));
    }
    return absl::OkStatus();
  }
  const YAML::Node& node() const { return node_; }

 private:
  YAML::Node node_;
  std::string_view file_;
};

constexpr double kMostBytes = 1e15;

absl::StatusOr<KernelRate> ParseKernel(const Fields& fields) {
  KernelRate rate;
  ASSIGN_OR_RETURN(const std::string type, fields.Text("type"));
  const absl::StatusOr<QuantType> known_type = ParseQuantType(type);
  if (!known_type.ok()) return fields.Fail(fields.node(), std::string(known_type.status().message()));
  rate.type = *known_type;
  ASSIGN_OR_RETURN(const std::string form, fields.Text("form"));
  bool known = false;
  for (const auto& [value, name] : kForms) {
    if (name == form) rate.form = value, known = true;
  }
  if (!known) return fields.Fail(fields.node(), fmt::format("unknown form \"{}\"", form));
  ASSIGN_OR_RETURN(const double rows, fields.Number("rows", 1, 4096));
  rate.rows = static_cast<int32_t>(rows);
  ASSIGN_OR_RETURN(rate.bytes_per_second, fields.Number("bytes_per_second", 1, kMostBytes));
  return rate;
}

absl::StatusOr<DiskRates> ParseDisk(const Fields& fields) {
  DiskRates disk;
  ASSIGN_OR_RETURN(disk.device, fields.Text("device"));
  ASSIGN_OR_RETURN(disk.path, fields.Text("path"));
  ASSIGN_OR_RETURN(disk.reader, fields.Text("reader"));
  ASSIGN_OR_RETURN(disk.bytes_per_second, fields.Number("bytes_per_second", 1, kMostBytes));
  ASSIGN_OR_RETURN(const double in_flight, fields.Number("in_flight_bytes", 0, kMostBytes));
  disk.in_flight_bytes = static_cast<uint64_t>(in_flight);
  if (fields.node()["shared"]) {
    ASSIGN_OR_RETURN(disk.shared, fields.Number("shared", 0, 1));
  }
  RETURN_IF_ERROR(fields.Each("reads", [&](const Fields& entry) -> absl::Status {
    ReadRate read;
    ASSIGN_OR_RETURN(const double bytes, entry.Number("bytes", 1, 1e9));
    ASSIGN_OR_RETURN(const double depth, entry.Number("depth", 1, 4096));
    ASSIGN_OR_RETURN(read.bytes_per_second, entry.Number("bytes_per_second", 1, kMostBytes));
    read.read_bytes = static_cast<uint64_t>(bytes);
    read.depth = static_cast<int32_t>(depth);
    disk.reads.push_back(read);
    return absl::OkStatus();
  }));
  return disk;
}

absl::Status ParseKernels(const Fields& fields, std::vector<KernelRate>* kernels) {
  return fields.Each("kernels", [&](const Fields& entry) -> absl::Status {
    ASSIGN_OR_RETURN(const KernelRate rate, ParseKernel(entry));
    kernels->push_back(rate);
    return absl::OkStatus();
  });
}

absl::StatusOr<DeviceRates> ParseDeviceRates(const Fields& fields) {
  DeviceRates device;
  ASSIGN_OR_RETURN(device.name, fields.Text("name"));
  ASSIGN_OR_RETURN(device.description, fields.Text("is"));
  ASSIGN_OR_RETURN(device.memory_bytes_per_second, fields.Number("memory_bytes_per_second", 1, kMostBytes));
  ASSIGN_OR_RETURN(device.link_bytes_per_second, fields.Number("link_bytes_per_second", 1, kMostBytes));
  RETURN_IF_ERROR(ParseKernels(fields, &device.kernels));
  return device;
}

absl::StatusOr<MachineRates> ParseRoot(const Fields& fields) {
  MachineRates rates;
  ASSIGN_OR_RETURN(const double version, fields.Number("version", 1, 1e6));
  if (version != kTiersVersion) {
    return fields.Fail(fields.node(), fmt::format("version {}, this program reads {}", version, kTiersVersion));
  }
  ASSIGN_OR_RETURN(rates.machine, fields.Text("machine"));
  ASSIGN_OR_RETURN(const double threads, fields.Number("threads", 1, 4096));
  rates.threads = static_cast<int32_t>(threads);
  ASSIGN_OR_RETURN(rates.memory_bytes_per_second, fields.Number("memory_bytes_per_second", 1, kMostBytes));
  RETURN_IF_ERROR(ParseKernels(fields, &rates.kernels));
  RETURN_IF_ERROR(fields.Each("devices", [&](const Fields& entry) -> absl::Status {
    ASSIGN_OR_RETURN(DeviceRates device, ParseDeviceRates(entry));
    rates.devices.push_back(std::move(device));
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(fields.Each("disks", [&](const Fields& entry) -> absl::Status {
    ASSIGN_OR_RETURN(DiskRates disk, ParseDisk(entry));
    rates.disks.push_back(std::move(disk));
    return absl::OkStatus();
  }));
  return rates;
}

}  // namespace

std::string FormatTiers(const MachineRates& rates) {
  return fmt::format(
      "{{\"version\": {}, \"machine\": {}, \"threads\": {},\n \"memory_bytes_per_second\": {:.4g},\n"
      " \"kernels\": [{}],\n \"devices\": [{}],\n \"disks\": [{}]}}\n",
      kTiersVersion, Quoted(rates.machine), rates.threads, rates.memory_bytes_per_second, FormatKernels(rates.kernels),
      Joined(rates.devices, FormatDevice), Joined(rates.disks, FormatDisk));
}

absl::StatusOr<MachineRates> ParseTiers(std::string_view text, std::string_view file) {
  // yaml-cpp reports errors by exception; none leaves this function.
  try {
    const YAML::Node root = YAML::Load(std::string(text));
    const Fields fields(root, file);
    if (!root.IsMap()) return fields.Fail(root, "no object");
    return ParseRoot(fields);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: {}; make the file again with dogstar probe", file, error.mark.line + 1, error.msg));
  }
}

absl::StatusOr<MachineRates> ReadTiersFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(fmt::format("cannot read {}", path));
  return ParseTiers(text.str(), path);
}

absl::Status WriteTiersFile(const MachineRates& rates, const std::string& path) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << FormatTiers(rates);
    file.close();
    if (!file) return ErrnoStatus("write", temporary, -1, -1, errno);
  }
  std::filesystem::rename(temporary, path, error);
  if (error) return ErrnoStatus("rename to", path, -1, -1, error.value());
  return absl::OkStatus();
}

absl::StatusOr<std::string> DeviceOf(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return ErrnoStatus("stat", path, -1, -1, errno);
  return fmt::format("{}:{}", ::major(info.st_dev), ::minor(info.st_dev));
}

}  // namespace dogstar
