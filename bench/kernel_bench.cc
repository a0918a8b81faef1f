// Speed of the CPU kernels beside what the machine can do: bandwidth of reading memory, and peak rate of int8
// products. `--small` is the setting of ctest; `--threads N` (default: all), `--isa portable|avx2|avx512`,
// `--only TEXT`: measurements whose name has it.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/bit_planes.h"
#include "base/panel.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "bench/bench_layer.h"
#include "bench/machine_peaks.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

struct Options {
  bool small = false;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  CpuIsa isa = CpuIsa::kAuto;
  double outliers = 0.2;  // share of the activations' blocks of 32 with a value far above the others
  std::string only;       // measurements whose name contains this
};

double Seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Fastest of many short runs: other programs only ever make a run slower. On one thread it is processor time that
// counts, so that they matter less.
template <typename Work>
double BestSeconds(const Options& options, const Work& work) {
  const clockid_t clock = options.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  const double first = Seconds(CLOCK_MONOTONIC);
  double best = 1e30;
  for (int i = 0; i < 1 || (!options.small && (i < 10 || Seconds(CLOCK_MONOTONIC) - first < 0.4)); ++i) {
    const double start = Seconds(clock);
    work();
    best = std::min(best, Seconds(clock) - start);
  }
  return best;
}

struct Matrix {
  MatrixView view;
  AlignedBuffer data;
  double gigabytes() const { return static_cast<double>(data.size()) * 1e-9; }
};

Matrix MakeMatrix(QuantType type, MatrixLayout layout, int32_t rows, int32_t cols) {
  const uint64_t bytes =
      layout == MatrixLayout::kPanels ? PanelMatrixBytes(type, rows, cols) : rows * RowBytes(type, cols);
  Matrix matrix{{type, layout, rows, cols, nullptr}, *AlignedBuffer::Create(bytes)};
  const uint16_t scale = FloatToHalf(0.01f);
  if (layout == MatrixLayout::kPanels) {
    FillPanels(type, cols, matrix.data.span());
  } else {
    FillWeights(type, matrix.data.span());
  }
  if (layout == MatrixLayout::kPlain && TraitsOf(type).block_weights != 1) {
    for (uint64_t at = 0; at < bytes; at += TraitsOf(type).block_bytes) {
      std::memcpy(matrix.data.data() + at, &scale, 2);
      if (type == QuantType::kQ4_1) std::memcpy(matrix.data.data() + at + 2, &scale, 2);
    }
  }
  matrix.view.data = matrix.data.data();
  return matrix;
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), backend_(*NewCpuBackend({.threads = options.threads, .isa = options.isa})) {}

  void Run() {
    fmt::print("{}{}\n", backend_->Describe(), options_.small ? ", small" : "");
    MeasurePeaks();
    const int32_t rows = options_.small ? 256 : 14336, cols = options_.small ? 512 : 4096;
    for (const QuantType type :
         {QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16, QuantType::kQ5_0, QuantType::kQ2_K,
          QuantType::kQ3_K, QuantType::kQ4_K, QuantType::kQ5_K, QuantType::kQ6_K, QuantType::kIQ4_NL}) {
      MatVec(type, MatrixLayout::kPanels, rows, cols);
    }
    for (const QuantType type :
         {QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16, QuantType::kQ4_K, QuantType::kQ6_K}) {
      MatVec(type, MatrixLayout::kPlain, rows, cols);
    }
    for (const QuantType type :
         {QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kQ5_0, QuantType::kQ2_K, QuantType::kQ3_K,
          QuantType::kQ4_K, QuantType::kQ5_K, QuantType::kQ6_K, QuantType::kIQ4_NL}) {
      for (const int32_t x_rows : {4, 8, 16}) MatMul(type, MatrixLayout::kPanels, rows, cols, x_rows);
      for (const int32_t x_rows : {64, 128}) MatMul(type, MatrixLayout::kPanels, rows / 8, cols, x_rows);
    }
    for (const int32_t x_rows : {2, 4, 8, 16}) MatMul(QuantType::kQ4_0, MatrixLayout::kPlain, rows, cols, x_rows);
    MatMul(QuantType::kF16, MatrixLayout::kPanels, rows, cols, 16);
    for (const int32_t x_rows : {1, 4, 16}) FfnPages(QuantType::kQ4_0, cols, rows, 32, 8, x_rows);
    FfnPages(QuantType::kQ4_0, cols, rows / 4, 32, 8, 64);
    FfnPages(QuantType::kQ8_0, cols, rows, 32, 8, 1);
    for (const QuantType type : {QuantType::kQ4_0, QuantType::kQ4_K, QuantType::kQ6_K, QuantType::kQ8_0}) {
      for (const int32_t x_rows : {1, 8}) FfnPlanes(type, cols, rows, x_rows);
    }
    Overlay(cols, options_.small ? 64 : 2048, 1);
    Attention(options_.small ? 64 : 4096, 1);
    Attention(options_.small ? 64 : 1024, 32);
  }

 private:
  void MeasurePeaks() {
    const MachinePeaks peaks = MeasureMachinePeaks(options_.threads, options_.small);
    read_gb_s_ = peaks.read_gb_s;
    peak_per_ns_ = peaks.int8_products_per_ns;
    fmt::print("reading memory {:.1f} GB/s; int8 products {:.0f} per ns\n", read_gb_s_, peak_per_ns_);
  }

  bool Wanted(const std::string& name) const { return name.find(options_.only) != std::string::npos; }
  void PrintBandwidth(const std::string& what, double gigabytes, double seconds) const {
    fmt::print("{:44} {:9.3f} ms {:7.1f} GB/s {:4.0f}% of reading\n", what, seconds * 1e3, gigabytes / seconds,
               100 * gigabytes / seconds / read_gb_s_);
  }
  void PrintRate(const std::string& what, double products, double seconds) const {
    fmt::print("{:44} {:9.3f} ms {:7.1f} products/ns {:4.0f}% of peak\n", what, seconds * 1e3,
               products / seconds * 1e-9, 100 * products / seconds * 1e-9 / peak_per_ns_);
  }

  std::unique_ptr<Tensor> RandomTensor(int32_t rows, int32_t cols) {
    SplitMix64 random(2);
    std::vector<float> values(int64_t{rows} * cols);
    for (float& value : values) value = static_cast<float>(random.Uniform() - 0.5);
    // As many as models' activations have.
    for (size_t b = 0; b + kQuantBlock <= values.size(); b += kQuantBlock) {
      if (random.Uniform() < options_.outliers) values[b + random.Next() % kQuantBlock] = 2;
    }
    std::unique_ptr<Tensor> tensor = *backend_->NewTensor(rows, cols);
    backend_->Upload(values, 0, tensor.get());
    return tensor;
  }
  std::unique_ptr<Activations> RandomActivations(int32_t rows, int32_t cols) {
    std::unique_ptr<Activations> activations = *backend_->NewActivations(rows, cols);
    backend_->Prepare(*RandomTensor(rows, cols), rows, activations.get());
    return activations;
  }

  // Takes the matrices in turn.
  double MatMulSeconds(std::span<const Matrix> w, int32_t x_rows) {
    auto x = RandomActivations(x_rows, w[0].view.cols);
    auto out = *backend_->NewTensor(x_rows, w[0].view.rows);
    size_t turn = 0;
    return BestSeconds(options_, [&] { backend_->MatMul(w[turn++ % w.size()].view, *x, x_rows, 0, out.get()); });
  }
  static std::string Name(QuantType type, MatrixLayout layout, int32_t rows, int32_t cols) {
    return fmt::format("{}{} {}x{}", TraitsOf(type).name, layout == MatrixLayout::kPlain ? " plain" : "", rows, cols);
  }
  // Six copies: no part is still in a cache when it is read again.
  void MatVec(QuantType type, MatrixLayout layout, int32_t rows, int32_t cols) {
    const std::string name = Name(type, layout, rows, cols) + ", 1 row";
    if (!Wanted(name)) return;
    std::vector<Matrix> copies;
    for (int i = 0; i < (options_.small ? 1 : 6); ++i) copies.push_back(MakeMatrix(type, layout, rows, cols));
    PrintBandwidth(name, copies[0].gigabytes(), MatMulSeconds(copies, 1));
  }
  void MatMul(QuantType type, MatrixLayout layout, int32_t rows, int32_t cols, int32_t x_rows) {
    const std::string name = fmt::format("{}, {} rows", Name(type, layout, rows, cols), x_rows);
    if (!Wanted(name)) return;
    const Matrix w = MakeMatrix(type, layout, rows, cols);
    PrintRate(name, double(rows) * cols * x_rows, MatMulSeconds({&w, 1}, x_rows));
  }

  void FfnPages(QuantType type, int32_t dim, int32_t ffn_rows, int32_t page_rows, int32_t run_rows, int32_t x_rows) {
    const std::string name = fmt::format("{} FFN pages {}x{}, runs of {}, {} row{}", TraitsOf(type).name, ffn_rows, dim,
                                         run_rows, x_rows, x_rows == 1 ? "" : "s");
    if (!Wanted(name)) return;
    const BenchLayer layer = MakeBenchLayer(type, dim, ffn_rows, page_rows, run_rows);
    const double seconds = FfnSeconds(layer, layer.Refs(), x_rows);
    const double gigabytes = static_cast<double>(layer.pages.size()) * 1e-9;
    if (x_rows == 1) return PrintBandwidth(name, gigabytes, seconds);
    PrintRate(name, 3.0 * ffn_rows * dim * x_rows, seconds);
  }

  double FfnSeconds(const BenchLayer& layer, const std::vector<FfnPageRef>& pages, int32_t x_rows) {
    auto x = RandomActivations(x_rows, layer.layout.dim);
    auto job = *backend_->NewFfnJob({.rows = x_rows, .dim = layer.layout.dim, .ffn_rows = layer.layout.ffn_rows});
    auto out = RandomTensor(x_rows, layer.layout.dim);
    return BestSeconds(options_, [&] {
      backend_->FfnBegin(layer.params(), *x, x_rows, job.get());
      backend_->FfnAccumulatePages(pages, job.get());
      backend_->FfnEnd(job.get(), out.get());
    });
  }

  // The same pages whole, in two planes, and without their low planes.
  void FfnPlanes(QuantType type, int32_t dim, int32_t ffn_rows, int32_t x_rows) {
    const std::string name =
        fmt::format("{} FFN {}x{}, {} row{}", TraitsOf(type).name, ffn_rows, dim, x_rows, x_rows == 1 ? "" : "s");
    if (!Wanted(name + " planes")) return;
    const BenchLayer layer = MakeBenchLayer(type, dim, ffn_rows, 32, 8);
    const FfnPageLayout& layout = layer.layout;
    const std::vector<FfnPageRef> whole = layer.Refs();
    const AlignedBuffer high = *AlignedBuffer::Create(whole.size() * layout.high.bytes);
    const AlignedBuffer low = *AlignedBuffer::Create(whole.size() * layout.low.bytes);
    std::vector<FfnPageRef> both = whole;
    for (size_t p = 0; p < whole.size(); ++p) {
      std::byte* const high_plane = high.data() + p * layout.high.bytes;
      std::byte* const low_plane = low.data() + p * layout.low.bytes;
      SplitPage(layout, whole[p].data, high_plane, low_plane);
      both[p].planes = PlaneState::kBoth;
      both[p].data = high_plane;
      both[p].low = low_plane;
    }
    std::vector<FfnPageRef> drafts = both;
    for (FfnPageRef& page : drafts) page.planes = PlaneState::kHigh;
    const auto gigabytes = [](uint64_t bytes) { return static_cast<double>(bytes) * 1e-9; };
    PrintBandwidth(name + ", whole pages", gigabytes(layer.pages.size()), FfnSeconds(layer, whole, x_rows));
    PrintBandwidth(name + ", both planes", gigabytes(high.size() + low.size()), FfnSeconds(layer, both, x_rows));
    PrintBandwidth(name + ", high planes", gigabytes(high.size()), FfnSeconds(layer, drafts, x_rows));
  }

  void Overlay(int32_t dim, int32_t row_count, int32_t x_rows) {
    const QuantType type = QuantType::kQ4_0;
    const std::string name = fmt::format("{} overlay of {} rows, {} row", TraitsOf(type).name, row_count, x_rows);
    if (!Wanted(name)) return;
    const BenchLayer layer = MakeBenchLayer(type, dim, std::max(row_count, 512), 32, 8);
    const Matrix gate = MakeMatrix(type, MatrixLayout::kPanels, row_count, dim);
    AlignedBuffer down = *AlignedBuffer::Create(dim / 16 * OverlayDownPanelBytes(type, row_count));
    FillWeights(type, down.span());
    std::vector<uint16_t> groups(row_count);
    std::vector<int32_t> rows(row_count);
    for (int32_t i = 0; i < row_count; ++i) {
      rows[i] = i;
      groups[i] = static_cast<uint16_t>(i * 37 % layer.layout.group_count());
    }
    FfnOverlayRef overlay;
    overlay.gate = overlay.up = gate.view.data;
    overlay.down = down.data();
    overlay.row_capacity = overlay.row_count = row_count;
    overlay.groups = groups.data();
    overlay.row_index = rows.data();
    auto x = RandomActivations(x_rows, dim);
    auto job = *backend_->NewFfnJob({.rows = x_rows, .dim = dim, .ffn_rows = row_count});
    const double seconds = BestSeconds(options_, [&] {
      backend_->FfnBegin(layer.params(), *x, x_rows, job.get());
      backend_->FfnAccumulateOverlay(overlay, job.get());
    });
    PrintBandwidth(name, 2 * gate.gigabytes() + static_cast<double>(down.size()) * 1e-9, seconds);
  }

  // 32 heads over 8 of keys and values, head size 128: the shape of an 8B model.
  void Attention(int32_t slots, int32_t rows) {
    const std::string name = fmt::format("attention over {} tokens, {} rows", slots, rows);
    if (!Wanted(name)) return;
    const AttentionParams params{32, 8, 128, 0.088f};
    auto store = *backend_->NewKvStore({.layers = 1, .kv_head_count = 8, .head_dim = 128, .slots = slots});
    auto kv = RandomTensor(1, 8 * 128);
    for (int32_t slot = 0; slot < slots; ++slot) {
      const KvSlot to = KvSlot{slot};
      backend_->WriteKv(LayerIndex{0}, {&to, 1}, *kv, *kv, store.get());
    }
    AttentionMask mask;
    mask.runs = {{0, slots}};
    mask.rows.assign(rows, {0, 1});
    auto q = RandomTensor(rows, 32 * 128);
    auto out = *backend_->NewTensor(rows, 32 * 128);
    const double seconds =
        BestSeconds(options_, [&] { backend_->Attention(params, LayerIndex{0}, mask, *store, *q, out.get()); });
    PrintBandwidth(name, 2.0 * slots * rows * 8 * 128 * 2 * 1e-9, seconds);
  }

  Options options_;
  std::unique_ptr<Backend> backend_;
  double read_gb_s_ = 0;
  double peak_per_ns_ = 0;
};

template <typename Number>
bool ParseNumber(std::string_view text, Number* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc{} && end == text.data() + text.size();
}

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (arg == "--small") {
      options->small = true;
    } else if (arg == "--threads" && !value.empty()) {
      if (!ParseNumber(argv[++i], &options->threads) || options->threads < 1) return false;
    } else if (arg == "--outliers" && !value.empty()) {
      if (!ParseNumber(argv[++i], &options->outliers)) return false;
    } else if (arg == "--only" && !value.empty()) {
      options->only = argv[++i];
    } else if (arg == "--isa" && (value == "portable" || value == "avx2" || value == "avx512")) {
      options->isa = value == "portable" ? CpuIsa::kPortable : value == "avx2" ? CpuIsa::kAvx2 : CpuIsa::kAvx512Vnni;
      ++i;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) {
  dogstar::Options options;
  if (!dogstar::Parse(argc, argv, &options)) {
    std::fputs(
        "usage: kernel_bench [--small] [--threads N] [--isa portable|avx2|avx512] [--outliers SHARE] [--only TEXT]\n",
        stderr);
    return 2;
  }
  dogstar::Bench(options).Run();
  return 0;
}
