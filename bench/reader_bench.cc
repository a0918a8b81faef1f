// How fast our page readers bring pages of a file into memory: GB/s by engine, size of a read and reads in flight.
//
//   reader_bench <file> [--small]
//
// Offsets are random and aligned, the seed is fixed, O_DIRECT where the file system has it. Without a file a temporary
// one is made (in the current folder, which should be on the disk to measure).
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "base/units.h"
#include "fmt/format.h"
#include "io/direct_file.h"
#include "io/page_reader.h"

namespace dogstar {
namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string path;
  uint64_t file_bytes = 0;
  uint64_t bytes_per_run = 0;
  int runs = 0;
};

struct Workload {
  IoEngine engine;
  uint32_t read_bytes;
  size_t depth;
};

absl::Status CheckAll(const std::vector<Completion>& finished) {
  for (const Completion& completion : finished) RETURN_IF_ERROR(completion.status);
  return absl::OkStatus();
}

// GB/s of one run that keeps `depth` reads in flight.
absl::StatusOr<double> Run(const Settings& settings, const Workload& workload, uint64_t seed, PageReader* reader,
                           const AlignedBuffer& buffer) {
  SplitMix64 random(seed);
  const uint64_t reads = std::max<uint64_t>(settings.bytes_per_run / workload.read_bytes, workload.depth);
  const uint64_t places = settings.file_bytes / workload.read_bytes;
  std::vector<uint64_t> free_places(workload.depth);
  for (size_t i = 0; i < free_places.size(); ++i) free_places[i] = i;
  std::vector<ReadRequest> requests;
  std::vector<Completion> finished;
  const Clock::time_point start = Clock::now();
  for (uint64_t submitted = 0, reaped = 0; reaped < reads; reaped += finished.size()) {
    requests.clear();
    for (; !free_places.empty() && submitted < reads; ++submitted) {
      const uint64_t slot = free_places.back();
      free_places.pop_back();
      requests.push_back({.offset = random.Next() % places * workload.read_bytes,
                          .destination = buffer.data() + slot * workload.read_bytes,
                          .bytes = workload.read_bytes,
                          .needed_bytes = workload.read_bytes,
                          .tag = slot});
    }
    RETURN_IF_ERROR(reader->Submit(requests));
    finished.clear();
    RETURN_IF_ERROR(reader->Reap(1, &finished));
    RETURN_IF_ERROR(CheckAll(finished));
    for (const Completion& completion : finished) free_places.push_back(completion.tag);
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(reads * workload.read_bytes) / seconds / 1e9;
}

// Prints median and spread of the runs.
absl::Status Measure(const Settings& settings, const Workload& workload) {
  ASSIGN_OR_RETURN(const AlignedBuffer buffer, AlignedBuffer::Create(workload.read_bytes * workload.depth));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<PageReader> reader,
      OpenPageReader(settings.path, {.engine = workload.engine, .queue_depth = workload.depth, .buffer = buffer.span()},
                     nullptr));
  std::vector<double> speeds;
  for (int run = 0; run < settings.runs; ++run) {
    ASSIGN_OR_RETURN(const double speed, Run(settings, workload, run, reader.get(), buffer));
    speeds.push_back(speed);
  }
  std::sort(speeds.begin(), speeds.end());
  fmt::print("{:>10}  {:6.2f} GB/s  ({:.2f} to {:.2f})  {}\n", FormatSize(workload.read_bytes),
             speeds[speeds.size() / 2], speeds.front(), speeds.back(), reader->Describe());
  return absl::OkStatus();
}

absl::Status MeasureAll(const Settings& settings) {
  for (const IoEngine engine : {IoEngine::kUring, IoEngine::kPread}) {
    for (const size_t depth : {1u, 4u, 16u, 64u}) {
      for (uint32_t bytes = 64 << 10; bytes <= 2 << 20; bytes *= 2) {
        const absl::Status status = Measure(settings, {.engine = engine, .read_bytes = bytes, .depth = depth});
        if (engine == IoEngine::kUring && status.code() == absl::StatusCode::kUnavailable) {
          fmt::print("skipped: {}\n", status.ToString());
          continue;
        }
        RETURN_IF_ERROR(status);
      }
    }
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

absl::Status Main(std::string path, bool is_small) {
  std::unique_ptr<ScratchFile> scratch;
  if (path.empty()) {
    scratch = std::make_unique<ScratchFile>(is_small ? 16u << 20 : 1u << 30);
    path = scratch->path();
  }
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(const DirectFile file, DirectFile::Open(path, DirectMode::kAuto, &notes));
  const Settings settings = {.path = path,
                             .file_bytes = file.size(),
                             .bytes_per_run = is_small ? 4u << 20 : 512u << 20,
                             .runs = is_small ? 1 : 3};
  if (settings.file_bytes < 2 << 20) return absl::InvalidArgumentError(path + " is smaller than one read of 2 MiB");
  for (const std::string& note : notes) fmt::print("note: {}\n", note);
  fmt::print("{}: {}, {} a run, median of {}\n", path, FormatSize(settings.file_bytes),
             FormatSize(settings.bytes_per_run), settings.runs);
  return MeasureAll(settings);
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) {
  std::string path;
  bool is_small = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    argument == "--small" ? void(is_small = true) : void(path = argument);
  }
  const absl::Status status = dogstar::Main(path, is_small);
  if (status.ok()) return EXIT_SUCCESS;
  fmt::print(stderr, "reader_bench: {}\n", status.ToString());
  return EXIT_FAILURE;
}
