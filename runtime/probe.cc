#include "runtime/probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "base/panel.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "io/read_load.h"
#include "runtime/tiers.h"

namespace dogstar {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
// As wide as an 8B model's; every block format divides it.
constexpr int32_t kCols = 4096;
constexpr std::array kTypes = {QuantType::kQ4_0, QuantType::kQ4_K, QuantType::kQ6_K, QuantType::kQ8_0, QuantType::kF16};
constexpr std::array<int32_t, 3> kRows = {1, 4, 16};
constexpr int kSteps = static_cast<int>(kTypes.size()) + 1;  // of kernels, and what comes before them
// Any byte is a code; as halves these bytes are 0.0596, a plausible scale.
constexpr int kFill = 0x2b;

absl::Status Step(const ProbeProgress& progress, std::string_view what, int done, int total) {
  if (progress && !progress(what, done, total)) return absl::CancelledError("the probe was stopped");
  return absl::OkStatus();
}

// Bytes per second of `function`, which goes over `bytes` bytes: the best of at least two runs, since whatever
// disturbs makes it slower.
template <typename Function>
double BestRate(uint64_t bytes, double least_seconds, Function function) {
  double best = 1e9;
  const double begin = Now();
  for (int run = 0; run < 2 || Now() - begin < least_seconds; ++run) {
    const double start = Now();
    function();
    best = std::min(best, Now() - start);
  }
  return static_cast<double>(bytes) / best;
}

uint64_t SumWords(std::span<const std::byte> bytes) {
  constexpr size_t kLanes = 8;
  std::array<uint64_t, kLanes> sums{};
  for (size_t at = 0; at + sizeof(sums) <= bytes.size(); at += sizeof(sums)) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), bytes.data() + at, sizeof(words));
    for (size_t i = 0; i < kLanes; ++i) sums[i] += words[i];
  }
  uint64_t sum = 0;
  for (uint64_t lane : sums) sum += lane;
  return sum;
}

double MemoryRate(std::span<const std::byte> memory, int threads, double seconds) {
  ThreadPool pool(threads);
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  const double rate = BestRate(memory.size(), seconds, [&] {
    pool.Run([&](int thread) {
      const Range part = PartOf(static_cast<int64_t>(memory.size()), 4096, thread, threads);
      sums[static_cast<size_t>(thread)] +=
          SumWords(memory.subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.end - part.begin)));
    });
  });
  // The sums must be used, or nothing would be read.
  return sums[0] == 1 ? rate + 1e-9 : rate;
}

// What kernels of one type need, over one memory of weights.
class KernelBench {
 public:
  static absl::StatusOr<std::unique_ptr<KernelBench>> Create(Backend* backend, std::span<const std::byte> memory) {
    auto bench = std::unique_ptr<KernelBench>(new KernelBench(backend, memory));
    const int32_t most = kRows.back();
    ASSIGN_OR_RETURN(bench->input_, backend->NewTensor(most, kCols));
    std::vector<float> values(static_cast<size_t>(most) * kCols);
    SplitMix64 random(1);
    for (float& value : values) value = static_cast<float>(random.Next() % 2001) / 1000 - 1;
    backend->Upload(values, 0, bench->input_.get());
    ASSIGN_OR_RETURN(bench->x_, backend->NewActivations(most, kCols));
    backend->Prepare(*bench->input_, most, bench->x_.get());
    ASSIGN_OR_RETURN(bench->out_, backend->NewTensor(most, kOutRows));
    ASSIGN_OR_RETURN(bench->residual_, backend->NewTensor(most, kCols));
    ASSIGN_OR_RETURN(bench->job_, backend->NewFfnJob({.rows = most, .dim = kCols, .ffn_rows = kFfnRows}));
    bench->groups_.assign(kFfnRows, 0);
    return bench;
  }

  // Matrices of up to kOutRows rows, one after the other over the memory.
  double Matrices(QuantType type, MatrixLayout layout, int32_t rows, double seconds) {
    const uint64_t matrix_bytes = layout == MatrixLayout::kPanels
                                      ? PanelMatrixBytes(type, kOutRows, kCols)
                                      : RowBytes(type, kCols) * static_cast<uint64_t>(kOutRows);
    const uint64_t count = memory_.size() / matrix_bytes;
    return BestRate(count * matrix_bytes, seconds, [&] {
      for (uint64_t i = 0; i < count; ++i) {
        backend_->MatMul({type, layout, kOutRows, kCols, memory_.data() + i * matrix_bytes}, *x_, rows, 0, out_.get());
      }
      backend_->Wait(backend_->Now());
    });
  }

  // All forms that the backend multiplies with, by type and rows.
  absl::StatusOr<std::vector<KernelRate>> AllKernels(const KernelProbe& probe, const ProbeProgress& progress) {
    std::vector<KernelRate> rates;
    for (size_t i = 0; i < kTypes.size(); ++i) {
      const QuantType type = kTypes[i];
      RETURN_IF_ERROR(Step(progress, TraitsOf(type).name, static_cast<int>(i) + 1, kSteps));
      for (const int32_t rows : kRows) {
        const auto add = [&](WeightForm form, double rate) {
          if (rate > 0) rates.push_back({type, form, rows, rate});
        };
        add(WeightForm::kPanels, Matrices(type, MatrixLayout::kPanels, rows, probe.seconds));
        if (backend_->shares_host_memory()) {
          add(WeightForm::kPlain, Matrices(type, MatrixLayout::kPlain, rows, probe.seconds));
        }
        add(WeightForm::kPages, Pages(type, rows, probe.seconds));
      }
    }
    return rates;
  }

  // About `bytes` of one such matrix from `*at` on, which moves; at the end of the memory it begins again. The bytes.
  uint64_t MatrixPiece(QuantType type, uint64_t bytes, uint64_t* at) {
    const uint64_t panel = PanelMatrixBytes(type, kPanelRows, kCols);
    const int32_t panels = static_cast<int32_t>(std::clamp<uint64_t>(bytes / panel, 1, kOutRows / kPanelRows));
    if (*at + panel * static_cast<uint64_t>(panels) > memory_.size()) *at = 0;
    backend_->MatMul({type, MatrixLayout::kPanels, panels * kPanelRows, kCols, memory_.data() + *at}, *x_, 1, 0,
                     out_.get());
    backend_->Wait(backend_->Now());
    *at += panel * static_cast<uint64_t>(panels);
    return panel * static_cast<uint64_t>(panels);
  }

  // Pages of a packed file; 0 for types that no page holds.
  double Pages(QuantType type, int32_t rows, double seconds) {
    const absl::StatusOr<FfnPageLayout> layout = FfnPageLayout::Make(type, type, type, kCols, kFfnRows, 32, 8);
    if (!layout.ok() || layout->page_bytes > memory_.size()) return 0;
    FfnParams params;
    params.layout = *layout;
    // The table's scales are any bytes of the memory as well.
    params.down_scales = memory_.data();
    std::vector<FfnPageRef> pages;
    for (uint64_t at = 0; at + layout->page_bytes <= memory_.size(); at += layout->page_bytes) {
      FfnPageRef page;
      page.data = memory_.data() + at;
      page.first_row = static_cast<int32_t>(pages.size()) * 32 % kFfnRows;
      page.row_count = 32;
      page.run_groups = groups_.data();
      pages.push_back(page);
    }
    return BestRate(pages.size() * layout->page_bytes, seconds, [&] {
      backend_->FfnBegin(params, *x_, rows, job_.get());
      backend_->FfnAccumulatePages(pages, job_.get());
      backend_->FfnEnd(job_.get(), residual_.get());
      backend_->Wait(backend_->Now());
    });
  }

 private:
  static constexpr int32_t kOutRows = 1024;
  static constexpr int32_t kFfnRows = 8192;

  KernelBench(Backend* backend, std::span<const std::byte> memory) : backend_(backend), memory_(memory) {}

  Backend* backend_;
  std::span<const std::byte> memory_;
  std::unique_ptr<Tensor> input_, out_, residual_;
  std::unique_ptr<Activations> x_;
  std::unique_ptr<FfnJob> job_;
  std::vector<uint16_t> groups_;
};

// Bytes read and written by copies within a device.
absl::StatusOr<double> CopyRate(uint64_t bytes, double seconds, Backend* device) {
  const auto rows = std::max<int32_t>(1, static_cast<int32_t>(bytes / 8 / kCols / sizeof(float)));
  ASSIGN_OR_RETURN(const std::unique_ptr<Tensor> from, device->NewTensor(rows, kCols));
  ASSIGN_OR_RETURN(const std::unique_ptr<Tensor> to, device->NewTensor(rows, kCols));
  return BestRate(2 * sizeof(float) * static_cast<uint64_t>(rows) * kCols, seconds, [&] {
    device->CopyRows(*from, 0, rows, 0, to.get());
    device->Wait(device->Now());
  });
}

// Products of one row with a matrix from memory, piece by piece: what runs while a pass waits for the disk.
class Computing {
 public:
  static absl::StatusOr<Computing> Create(int threads, double seconds) {
    Computing computing;
    ASSIGN_OR_RETURN(computing.backend_, NewCpuBackend({.threads = threads}));
    ASSIGN_OR_RETURN(computing.memory_, AlignedBuffer::Create(KernelProbe{}.bytes));
    std::memset(computing.memory_.data(), kFill, computing.memory_.size());
    ASSIGN_OR_RETURN(computing.bench_, KernelBench::Create(computing.backend_.get(), computing.memory_.span()));
    computing.bytes_per_second_ = computing.bench_->Matrices(QuantType::kQ4_0, MatrixLayout::kPanels, 1, seconds);
    return computing;
  }
  double bytes_per_second() const { return bytes_per_second_; }  // with nothing beside it
  // Seconds that the piece takes with nothing beside it.
  double Run(uint64_t bytes) {
    return static_cast<double>(bench_->MatrixPiece(QuantType::kQ4_0, bytes, &at_)) / bytes_per_second_;
  }

 private:
  std::unique_ptr<Backend> backend_;
  AlignedBuffer memory_;
  std::unique_ptr<KernelBench> bench_;
  double bytes_per_second_ = 0;
  uint64_t at_ = 0;
};

// What reading and computing side by side took.
struct SideBySide {
  double bytes = 0, seconds = 0;
  double computing_alone = 0;  // seconds of the computing, had it been alone
  double seconds_per_byte() const { return seconds / bytes; }
  double computing_per_byte() const { return computing_alone / bytes; }
};

// T = R + shared * K (memory/forecast.h) through both points, K below R. What a disk gives while nothing else happens
// is not what a pass gets: any computing beside costs it a tenth to a fifth.
void SolveRates(const SideBySide& light, const SideBySide& heavy, DiskRates* disk) {
  disk->shared = std::clamp(
      (heavy.seconds_per_byte() - light.seconds_per_byte()) / (heavy.computing_per_byte() - light.computing_per_byte()),
      0.0, 1.0);
  disk->bytes_per_second = 1 / (light.seconds_per_byte() - disk->shared * light.computing_per_byte());
}

}  // namespace

absl::Status ProbeKernels(const KernelProbe& probe, const ProbeProgress& progress, MachineRates* rates) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, NewCpuBackend({.threads = probe.threads}));
  ASSIGN_OR_RETURN(const AlignedBuffer memory, AlignedBuffer::Create(probe.bytes));
  std::memset(memory.data(), kFill, memory.size());
  rates->machine = backend->Describe();
  rates->threads = probe.threads;
  RETURN_IF_ERROR(Step(progress, "memory", 0, kSteps));
  rates->memory_bytes_per_second = MemoryRate(memory.span(), probe.threads, 4 * probe.seconds);
  ASSIGN_OR_RETURN(const std::unique_ptr<KernelBench> bench, KernelBench::Create(backend.get(), memory.span()));
  ASSIGN_OR_RETURN(rates->kernels, bench->AllKernels(probe, progress));
  return absl::OkStatus();
}

absl::StatusOr<double> StagedCopyRate(std::span<const std::byte> host, uint64_t piece, double seconds,
                                      Backend* device) {
  absl::Status status;
  const double rate = BestRate(host.size() / piece * piece, seconds, [&] {
    Ticket before;
    for (uint64_t at = 0; at + piece <= host.size() && status.ok(); at += piece) {
      status = device->Stage(host.subspan(at, piece)).status();
      const Ticket staged = device->Now();
      device->Unstage(staged);
      if (at > 0) device->Wait(before);
      before = staged;
    }
    device->Wait(before);
  });
  RETURN_IF_ERROR(status);
  return rate;
}

absl::StatusOr<DeviceRates> ProbeDevice(const KernelProbe& probe, Backend* device, const ProbeProgress& progress) {
  DeviceRates rates;
  rates.description = device->Describe();
  RETURN_IF_ERROR(Step(progress, "link", 0, kSteps));
  ASSIGN_OR_RETURN(const std::unique_ptr<HostMemory> host, device->NewHostMemory(probe.bytes));
  std::memset(host->span().data(), kFill, host->span().size());
  ASSIGN_OR_RETURN(rates.memory_bytes_per_second, CopyRate(probe.bytes, probe.seconds, device));
  RETURN_IF_ERROR(device->ReserveStaging(2 * kMiB));
  ASSIGN_OR_RETURN(rates.link_bytes_per_second, StagedCopyRate(host->span(), kMiB, probe.seconds, device));
  // Freed with the device.
  ASSIGN_OR_RETURN(std::byte* const memory, device->AllocateMemory(probe.bytes));
  RETURN_IF_ERROR(device->WriteMemory(host->span(), memory));
  ASSIGN_OR_RETURN(const std::unique_ptr<KernelBench> bench,
                   KernelBench::Create(device, std::span<const std::byte>(memory, probe.bytes)));
  ASSIGN_OR_RETURN(rates.kernels, bench->AllKernels(probe, progress));
  return rates;
}

absl::StatusOr<DiskRates> ProbeDisk(const DiskProbe& probe, const ProbeProgress& progress) {
  constexpr std::array<uint64_t, 4> kSizes = {64 * 1024, 256 * 1024, kMiB, 2 * kMiB};
  constexpr std::array<int32_t, 5> kDepths = {1, 4, 8, 16, 32};
  constexpr int32_t kStreamDepth = 24;  // a pass's ring
  // Seconds of computing per second of reading: an 8B model in a third of its bytes and in most of them, on two cores.
  constexpr std::array kComputing = {0.1, 0.5};
  constexpr uint64_t kLeastBytes = 64 * kMiB;
  std::error_code error;
  const uint64_t file_bytes = std::filesystem::file_size(probe.path, error);
  if (error) return ErrnoStatus("size of", probe.path, -1, -1, error.value());
  if (file_bytes < kLeastBytes) {
    return absl::InvalidArgumentError(fmt::format("{} has {}; a disk is measured with a file of at least {}",
                                                  probe.path, FormatSize(file_bytes), FormatSize(kLeastBytes)));
  }
  ASSIGN_OR_RETURN(const AlignedBuffer buffer, AlignedBuffer::Create(kSizes.back() * kDepths.back()));
  ReaderOptions options{
      .engine = probe.engine, .direct = probe.direct, .queue_depth = kDepths.back(), .buffer = buffer.span()};
  ASSIGN_OR_RETURN(const std::unique_ptr<PageReader> reader, OpenPageReader(probe.path, options, nullptr));
  DiskRates disk;
  disk.path = probe.path;
  disk.reader = reader->Describe();
  ASSIGN_OR_RETURN(disk.device, DeviceOf(probe.path));
  const int total = static_cast<int>(kSizes.size() * kDepths.size()) + 1;
  double best = 0;
  // One measurement goes on where the last one ended: what was just read may come from a cache behind the disk.
  uint64_t begin = 0;
  const auto load_of = [&](uint64_t size, int32_t depth, double seconds,
                           const std::function<void()>& beside) -> absl::StatusOr<LoadResult> {
    if (begin + kLeastBytes > file_bytes) begin = 0;
    ASSIGN_OR_RETURN(const LoadResult result, RunLoad(reader.get(), buffer.span(),
                                                      {.offset = begin,
                                                       .bytes = file_bytes - begin,
                                                       .read_bytes = static_cast<uint32_t>(size),
                                                       .depth = static_cast<size_t>(depth),
                                                       .seconds_max = seconds,
                                                       .beside = beside}));
    begin += result.bytes / kMiB * kMiB;
    return result;
  };
  for (const uint64_t size : kSizes) {
    for (const int32_t depth : kDepths) {
      RETURN_IF_ERROR(Step(progress, "disk", static_cast<int>(disk.reads.size()), total));
      ASSIGN_OR_RETURN(const LoadResult result, load_of(size, depth, probe.seconds, nullptr));
      disk.reads.push_back({size, depth, result.bytes_per_second()});
      best = std::max(best, result.bytes_per_second());
    }
  }
  RETURN_IF_ERROR(Step(progress, "disk", total - 1, total));
  ASSIGN_OR_RETURN(Computing computing, Computing::Create(probe.threads, probe.seconds));
  // In turns, because a disk's speed drifts.
  constexpr int kTurns = 3;
  std::array<SideBySide, kComputing.size()> both;
  for (size_t i = 0; i < kTurns * both.size(); ++i) {
    const size_t which = i % both.size();
    const auto piece =
        static_cast<uint64_t>(kComputing[which] * computing.bytes_per_second() / best * static_cast<double>(kMiB));
    ASSIGN_OR_RETURN(const LoadResult result, load_of(kMiB, kStreamDepth, probe.stream_seconds / kTurns,
                                                      [&] { both[which].computing_alone += computing.Run(piece); }));
    both[which].bytes += static_cast<double>(result.bytes), both[which].seconds += result.seconds;
  }
  SolveRates(both.front(), both.back(), &disk);
  constexpr double kEnough = 0.97;
  for (const ReadRate& read : disk.reads) {
    const uint64_t in_flight = read.read_bytes * static_cast<uint64_t>(read.depth);
    if (read.read_bytes < kMiB || read.bytes_per_second < kEnough * best) continue;
    if (disk.in_flight_bytes == 0 || in_flight < disk.in_flight_bytes) disk.in_flight_bytes = in_flight;
  }
  return disk;
}

absl::StatusOr<std::string> MakeProbeFile(const std::string& folder, uint64_t bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error) return ErrnoStatus("free space of", folder, -1, -1, error.value());
  if (space.available < bytes + bytes / 8) {
    return absl::ResourceExhaustedError(fmt::format("{} has {} free; a file of {} is needed to measure its disk",
                                                    folder, FormatSize(space.available), FormatSize(bytes)));
  }
  const std::string path = fmt::format("{}/dogstar-probe-{}.tmp", folder, ::getpid());
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus("create", path, -1, -1, errno);
  std::vector<uint64_t> block(kMiB / sizeof(uint64_t));
  SplitMix64 random(7);
  int failed = 0;
  for (uint64_t at = 0; at < bytes && failed == 0;) {
    for (uint64_t& word : block) word = random.Next();
    const ssize_t written = ::pwrite(fd, block.data(), kMiB, static_cast<off_t>(at));
    if (written < 0 && errno != EINTR) failed = errno;
    if (written > 0) at += static_cast<uint64_t>(written);
  }
  if (failed == 0 && ::fsync(fd) != 0) failed = errno;
  ::close(fd);
  if (failed == 0) return path;
  ::unlink(path.c_str());
  return ErrnoStatus("write", path, -1, static_cast<int64_t>(bytes), failed);
}

}  // namespace dogstar
