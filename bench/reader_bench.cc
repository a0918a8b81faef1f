// How fast our page readers bring pages of a file into memory: GB/s and processor time per GB, by engine, pattern,
// size of a read and reads in flight.
//
//   reader_bench [FILE] [--engines io_uring,pread] [--direct auto|always|never] [--patterns random,sequential]
//                [--sizes 64KiB,1MiB] [--depths 1,16,64] [--seconds S] [--rounds N] [--offset B] [--bytes B]
//                [--seed N] [--json]
//
// Only [offset, offset + bytes) of the file is read, so that another program can read the same part. Each round takes
// S seconds; the median of the rounds is printed. Without a file a temporary one is made in the current folder, which
// should be on the disk to measure. --small: a look at the code only.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "base/units.h"
#include "fmt/format.h"
#include "io/direct_file.h"
#include "io/page_reader.h"
#include "io/read_load.h"

namespace dogstar {
namespace {

struct Settings {
  std::string path;
  std::vector<std::string> engines = {"io_uring", "pread"};
  std::vector<std::string> patterns = {"random"};
  std::vector<uint64_t> sizes = {64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20};
  std::vector<uint64_t> depths = {1, 4, 16, 64};
  DirectMode direct = DirectMode::kAuto;
  uint64_t offset = 0;
  uint64_t bytes = 0;  // 0: to the file's end
  double seconds = 1;
  int rounds = 3;
  uint64_t seed = 1;  // of random places; each round has its own
  bool json = false;
};

struct Workload {
  std::string engine;
  std::string pattern;
  uint32_t read_bytes = 0;
  size_t depth = 0;
};

struct Measured {
  Workload workload;
  std::string reader;                        // its own description
  std::vector<double> gigabytes_per_second;  // of each round, sorted
  double cpu_seconds_per_gigabyte = 0;
  double median() const { return gigabytes_per_second[gigabytes_per_second.size() / 2]; }
};

absl::StatusOr<Measured> Measure(const Settings& settings, const Workload& workload) {
  // At least a huge page, as the pager's ring.
  const uint64_t buffer_bytes = std::max<uint64_t>(workload.read_bytes * workload.depth, 2 << 20);
  ASSIGN_OR_RETURN(const AlignedBuffer buffer, AlignedBuffer::Create(buffer_bytes));
  const ReaderOptions options = {.engine = workload.engine == "pread" ? IoEngine::kPread : IoEngine::kUring,
                                 .direct = settings.direct,
                                 .queue_depth = workload.depth,
                                 .buffer = buffer.span()};
  ASSIGN_OR_RETURN(const std::unique_ptr<PageReader> reader, OpenPageReader(settings.path, options, nullptr));
  Measured measured{workload, reader->Describe(), {}, 0};
  double cpu_seconds = 0, bytes = 0;
  for (int round = 0; round < settings.rounds; ++round) {
    const ReadLoad load = {.offset = settings.offset,
                           .bytes = settings.bytes,
                           .read_bytes = workload.read_bytes,
                           .depth = workload.depth,
                           .random = workload.pattern == "random",
                           .seed = settings.seed + static_cast<uint64_t>(round),
                           .seconds_max = settings.seconds};
    ASSIGN_OR_RETURN(const LoadResult result, RunLoad(reader.get(), buffer.span(), load));
    measured.gigabytes_per_second.push_back(result.bytes_per_second() / 1e9);
    cpu_seconds += result.cpu_seconds;
    bytes += static_cast<double>(result.bytes);
  }
  std::sort(measured.gigabytes_per_second.begin(), measured.gigabytes_per_second.end());
  measured.cpu_seconds_per_gigabyte = cpu_seconds / (bytes / 1e9);
  return measured;
}

void PrintForPeople(const Measured& measured) {
  fmt::print("{:>10}  {:>10}  {:6.3f} GB/s  ({:.3f} to {:.3f})  {:.3f} CPU s/GB  {}\n", measured.workload.pattern,
             FormatSize(measured.workload.read_bytes), measured.median(), measured.gigabytes_per_second.front(),
             measured.gigabytes_per_second.back(), measured.cpu_seconds_per_gigabyte, measured.reader);
}

void PrintJson(const Measured& measured) {
  const Workload& workload = measured.workload;
  fmt::print(
      "{{\"engine\": \"{}\", \"pattern\": \"{}\", \"read_bytes\": {}, \"depth\": {}, \"gb_s\": {:.5f}, "
      "\"gb_s_min\": {:.5f}, \"gb_s_max\": {:.5f}, \"cpu_s_per_gb\": {:.5f}, \"reader\": \"{}\"}}\n",
      workload.engine, workload.pattern, workload.read_bytes, workload.depth, measured.median(),
      measured.gigabytes_per_second.front(), measured.gigabytes_per_second.back(), measured.cpu_seconds_per_gigabyte,
      measured.reader);
}

absl::Status MeasureAll(const Settings& settings) {
  std::vector<Workload> workloads;
  for (const std::string& engine : settings.engines) {
    for (const std::string& pattern : settings.patterns) {
      for (const uint64_t depth : settings.depths) {
        for (const uint64_t size : settings.sizes) {
          workloads.push_back({engine, pattern, static_cast<uint32_t>(size), depth});
        }
      }
    }
  }
  for (const Workload& workload : workloads) {
    const absl::StatusOr<Measured> measured = Measure(settings, workload);
    if (workload.engine == "io_uring" && measured.status().code() == absl::StatusCode::kUnavailable) {
      fmt::print(stderr, "skipped: {}\n", measured.status().ToString());
      continue;
    }
    RETURN_IF_ERROR(measured.status());
    settings.json ? PrintJson(*measured) : PrintForPeople(*measured);
  }
  return absl::OkStatus();
}

// A file of random bytes (a disk may compress, a file system may leave holes), gone with its owner.
class ScratchFile {
 public:
  explicit ScratchFile(uint64_t bytes) : path_(fmt::format("reader_bench_{}.tmp", ::getpid())) {
    SplitMix64 random(1);
    std::vector<uint64_t> words(1 << 17);
    for (uint64_t& word : words) word = random.Next();
    std::ofstream file(path_, std::ios::binary);
    for (uint64_t done = 0; done < bytes; done += words.size() * 8) {
      file.write(reinterpret_cast<const char*>(words.data()), static_cast<std::streamsize>(words.size() * 8));
    }
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::vector<std::string> Split(std::string_view list) {
  std::vector<std::string> parts;
  while (!list.empty()) {
    const size_t end = std::min(list.find(','), list.size());
    parts.emplace_back(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return parts;
}

absl::StatusOr<std::vector<uint64_t>> ParseSizes(std::string_view list) {
  std::vector<uint64_t> sizes;
  for (const std::string& part : Split(list)) {
    ASSIGN_OR_RETURN(sizes.emplace_back(), ParseSize(part));
  }
  return sizes;
}

absl::StatusOr<DirectMode> ParseDirect(std::string_view value) {
  if (value == "auto") return DirectMode::kAuto;
  if (value == "always") return DirectMode::kAlways;
  if (value == "never") return DirectMode::kNever;
  return absl::InvalidArgumentError(fmt::format("--direct {}: it is auto, always or never", value));
}

absl::StatusOr<double> ParseSeconds(const std::string& value) {
  char* end = nullptr;
  const double seconds = std::strtod(value.c_str(), &end);
  if (*end == '\0' && seconds > 0 && seconds < 1e6) return seconds;
  return absl::InvalidArgumentError(fmt::format("--seconds {}: it is a positive number", value));
}

absl::Status SetOption(std::string_view name, const std::string& value, Settings* settings) {
  if (name == "--engines") {
    settings->engines = Split(value);
  } else if (name == "--patterns") {
    settings->patterns = Split(value);
  } else if (name == "--direct") {
    ASSIGN_OR_RETURN(settings->direct, ParseDirect(value));
  } else if (name == "--sizes") {
    ASSIGN_OR_RETURN(settings->sizes, ParseSizes(value));
  } else if (name == "--depths") {
    ASSIGN_OR_RETURN(settings->depths, ParseSizes(value));
  } else if (name == "--offset") {
    ASSIGN_OR_RETURN(settings->offset, ParseSize(value));
  } else if (name == "--bytes") {
    ASSIGN_OR_RETURN(settings->bytes, ParseSize(value));
  } else if (name == "--seed") {
    ASSIGN_OR_RETURN(settings->seed, ParseSize(value));
  } else if (name == "--seconds") {
    ASSIGN_OR_RETURN(settings->seconds, ParseSeconds(value));
  } else if (name == "--rounds") {
    ASSIGN_OR_RETURN(const uint64_t rounds, ParseSize(value));
    settings->rounds = static_cast<int>(std::clamp<uint64_t>(rounds, 1, 1000));
  } else {
    return absl::InvalidArgumentError(fmt::format("unknown option {}", name));
  }
  return absl::OkStatus();
}

void MakeSmall(Settings* settings) {
  settings->sizes = {64 << 10, 1 << 20};
  settings->depths = {1, 8};
  settings->patterns = {"random", "sequential"};
  settings->seconds = 0.02;
  settings->rounds = 1;
}

absl::StatusOr<Settings> ParseArguments(std::span<char* const> arguments, bool* small) {
  Settings settings;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string argument = arguments[i];
    if (argument == "--small") {
      *small = true;
      MakeSmall(&settings);
    } else if (argument == "--json") {
      settings.json = true;
    } else if (!argument.starts_with("--")) {
      settings.path = argument;
    } else if (i + 1 == arguments.size()) {
      return absl::InvalidArgumentError(fmt::format("{} needs a value", argument));
    } else {
      RETURN_IF_ERROR(SetOption(argument, arguments[++i], &settings));
    }
  }
  return settings;
}

// Fits the part to read to the file.
absl::Status CheckRange(const DirectFile& file, Settings* settings) {
  for (const std::vector<uint64_t>& list : {settings->sizes, settings->depths}) {
    if (list.empty() || std::ranges::count(list, 0u) > 0) return absl::InvalidArgumentError("a size or depth is 0");
  }
  for (const uint64_t size : settings->sizes) {
    if (size % kIoAlignment != 0 || size > std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(fmt::format("reads of {} bytes: no multiple of {}", size, kIoAlignment));
    }
  }
  const uint64_t largest = *std::ranges::max_element(settings->sizes);
  settings->offset -= settings->offset % kIoAlignment;
  const uint64_t rest = settings->offset < file.size() ? file.size() - settings->offset : 0;
  settings->bytes = settings->bytes == 0 ? rest : std::min(settings->bytes, rest);
  if (settings->bytes >= largest) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{}: {} from offset {} on hold no read of {}", file.path(),
                                                FormatSize(settings->bytes), settings->offset, FormatSize(largest)));
}

absl::Status Main(std::span<char* const> arguments) {
  bool small = false;
  ASSIGN_OR_RETURN(Settings settings, ParseArguments(arguments, &small));
  std::optional<ScratchFile> scratch;
  if (settings.path.empty()) {
    scratch.emplace(small ? 16u << 20 : 1u << 30);
    settings.path = scratch->path();
  }
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(const DirectFile file, DirectFile::Open(settings.path, settings.direct, &notes));
  RETURN_IF_ERROR(CheckRange(file, &settings));
  for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
  if (!settings.json) {
    fmt::print("{}: {} from offset {}, {} s a round, median of {}\n", settings.path, FormatSize(settings.bytes),
               settings.offset, settings.seconds, settings.rounds);
  }
  return MeasureAll(settings);
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) {
  const absl::Status status = dogstar::Main({argv + 1, static_cast<size_t>(argc) - 1});
  if (status.ok()) return EXIT_SUCCESS;
  fmt::print(stderr, "reader_bench: {}\n", status.ToString());
  return EXIT_FAILURE;
}
