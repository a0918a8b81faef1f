// The layouts a packed file could have (docs/benchmarks.md, Layouts): bytes of a layer's FFN, and what the kernel of
// the down part reaches on one thread, from the L2 cache and from memory.
//
//   layout_bench [--only TEXT]      measurements whose name contains the text; bytes are printed without --only
//
//   sorted runs of N   packed rows N by N from one scale group, groups in any order; scales in a table (sorted-exact)
//   exact 32           the same with whole groups in the source's order
//   rows               a trial: down quantized again along the hidden size, scales of a row with the row
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/ffn_page.h"
#include "base/random.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "fmt/format.h"
#include "model/packed_layer.h"

namespace dogstar {
namespace {

struct Options {
  bool small = false;
  std::string only;
};

double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

template <typename Work>
double BestSeconds(bool small, const Work& work) {
  const double first = ThreadSeconds();
  double best = 1e30;
  for (int i = 0; i < 1 || (!small && (i < 8 || ThreadSeconds() - first < 0.25)); ++i) {
    const double start = ThreadSeconds();
    work();
    best = std::min(best, ThreadSeconds() - start);
  }
  return best;
}

void Print(const std::string& name, double seconds, double code_bytes, double all_bytes, double products) {
  fmt::print("{:46} {:8.3f} ms {:6.1f} GB/s of codes, {:6.1f} with scales; {:6.1f} products/ns\n", name, seconds * 1e3,
             code_bytes / seconds * 1e-9, all_bytes / seconds * 1e-9, products / seconds * 1e-9);
}

struct Shape {
  const char* name;
  int32_t dim, ffn_rows;
  int copies;
};

// Down parts of a layer's pages and z of every row, as random bits.
class DownLayer {
 public:
  DownLayer(QuantType type, const Shape& shape, int32_t page_rows, int32_t run_rows, bool sorted, int32_t x_rows)
      : layout_(*FfnPageLayout::Make(type, type, type, shape.dim, shape.ffn_rows, page_rows, run_rows)) {
    const int64_t blocks = shape.ffn_rows / 32;
    SplitMix64 random(1);
    for (int c = 0; c < shape.copies; ++c) {
      pages_.push_back(*AlignedBuffer::Create(layout_.page_count() * layout_.page_bytes));
      for (uint64_t at = 0; at < pages_.back().size(); at += 8) {
        const uint64_t bits = random.Next();
        std::memcpy(pages_.back().data() + at, &bits, 8);
      }
    }
    scales_ = *AlignedBuffer::Create(layout_.down_table_bytes());
    for (uint64_t at = 0; at < scales_.size(); at += 2) std::memcpy(scales_.data() + at, "\x1f\x21", 2);
    groups_.resize(shape.ffn_rows / run_rows);
    for (size_t i = 0; i < groups_.size(); ++i) {
      groups_[i] = static_cast<uint16_t>(i * run_rows / layout_.group_rows());
    }
    if (sorted) {
      for (size_t i = groups_.size(); i > 1; --i) std::swap(groups_[i - 1], groups_[random.Next() % i]);
    }
    codes_.resize(blocks * 32 * x_rows);
    for (int8_t& code : codes_) code = static_cast<int8_t>(random.Next() % 255 - 127);
    zscales_.assign(blocks * x_rows, 0.01f);
    terms_.assign(blocks * x_rows * 8, 1);
    outliers_.assign(blocks * x_rows, 0);
    outlier_runs_.assign(blocks * ((x_rows + 7) / 8), 0);
    const size_t outputs = static_cast<size_t>(x_rows) * shape.dim;
    y_ = *AlignedBuffer::Create(2 * sizeof(float) * outputs);
    task_.down_type = type;
    task_.down_minimum = layout_.has_down_minimum();
    task_.int8_down = true;
    task_.dim = shape.dim;
    task_.run_rows = run_rows;
    task_.down_panel_bytes = layout_.down_panel_bytes;
    task_.down_scales = scales_.data();
    task_.rows = x_rows;
    task_.z = {x_rows, nullptr, codes_.data(), zscales_.data(), terms_.data(), outliers_.data(), outlier_runs_.data()};
    task_.sum = reinterpret_cast<float*>(y_.data());
    task_.y = task_.sum + outputs;
    for (const AlignedBuffer& copy : pages_) AddBlocks(copy);
  }

  void Run(const KernelTable& kernels) {
    const std::vector<FfnBlock>& blocks = blocks_[turn_++ % blocks_.size()];
    kernels.ffn_down(task_, blocks.data(), static_cast<int64_t>(blocks.size()), 0, layout_.dim / 16);
  }
  double code_bytes() const {
    return static_cast<double>(DownPanelBytes(layout_.down_type, layout_.ffn_rows)) * layout_.dim / 16;
  }
  double table_bytes() const { return static_cast<double>(layout_.down_table_bytes()); }

 private:
  void AddBlocks(const AlignedBuffer& copy) {
    std::vector<FfnBlock> blocks;
    for (int32_t b = 0; b < layout_.ffn_rows / 32; ++b) {
      FfnBlock block;
      const int32_t per_page = layout_.page_rows / 32;
      block.page = b / per_page;
      block.block_in_page = b % per_page;
      block.down = copy.data() + block.page * layout_.page_bytes + layout_.down_offset;
      block.runs = 32 / layout_.run_rows;
      block.run_groups = groups_.data() + b * block.runs;
      block.used = ~0u;
      blocks.push_back(block);
    }
    blocks_.push_back(std::move(blocks));
  }

  FfnPageLayout layout_;
  std::vector<AlignedBuffer> pages_;
  AlignedBuffer scales_, y_;
  std::vector<uint16_t> groups_;
  std::vector<int8_t> codes_;
  std::vector<float> zscales_;
  std::vector<int32_t> terms_, outliers_;
  std::vector<uint64_t> outlier_runs_;
  std::vector<std::vector<FfnBlock>> blocks_;
  size_t turn_ = 0;
  FfnTask task_;
};

#if defined(__x86_64__)
// A trial kernel of the layout `rows`, whose scales lie along the hidden size: each neuron has its own, so there is no
// integer sum over neurons; codes become floats. Per page and 32 outputs: codes of neuron after neuron, then their d.
#pragma GCC push_options
// GCC 12 sees an uninitialized value in its own header, as in cpu/vec_avx512.h.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")
template <int kBits>
inline void RowCodes(const uint8_t* codes, __m512* w) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  if constexpr (kBits == 8) {
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16));
    w[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(low));
    w[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(high));
  } else {
    const __m512i both = _mm512_cvtepu8_epi32(low), eight = _mm512_set1_epi32(8);
    w[0] = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(both, _mm512_set1_epi32(15)), eight));
    w[1] = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(both, 4), eight));
  }
}

// y[r][32] += of one page's 32 neurons; z[32][kRows].
template <int kBits, int kRows>
void RowsBlock(const uint8_t* codes, const float* z, float* y, int64_t stride) {
  constexpr int64_t kCodeBytes = 4 * kBits;
  const uint8_t* halves = codes + 32 * kCodeBytes;
  alignas(64) float d[32];
  for (int i = 0; i < 32; i += 16) {
    _mm512_store_ps(d + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + 2 * i))));
  }
  __m512 sums[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int n = 0; n < 32; ++n) {
    __m512 w[2];
    _mm_prefetch(codes + n * kCodeBytes + 8192, _MM_HINT_T1);
    RowCodes<kBits>(codes + n * kCodeBytes, w);
    const __m512 scale = _mm512_set1_ps(kRows == 1 ? d[n] * z[n] : d[n]);
    for (int half = 0; half < 2; ++half) {
      if constexpr (kRows == 1) {
        sums[0][half] = _mm512_fmadd_ps(scale, w[half], sums[0][half]);
      } else {
        w[half] = _mm512_mul_ps(scale, w[half]);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          sums[r][half] = _mm512_fmadd_ps(w[half], _mm512_set1_ps(z[n * kRows + r]), sums[r][half]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int half = 0; half < 2; ++half) {
      float* to = y + r * stride + 16 * half;
      _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sums[r][half]));
    }
  }
}
#pragma GCC pop_options

template <int kBits>
void MeasureRows(const Options& options, const Shape& shape, int32_t x_rows) {
  const std::string name = fmt::format("{} {} {} rows, rows", kBits == 8 ? "Q8_0" : "Q4_0", shape.name, x_rows);
  if (name.find(options.only) == std::string::npos || !__builtin_cpu_supports("avx512bw")) return;
  constexpr int64_t kBlockBytes = 32 * 4 * kBits + 64;
  const int64_t page_bytes = shape.dim / 32 * kBlockBytes, skipped = 2 * page_bytes;  // gate and up lie between
  std::vector<AlignedBuffer> copies;
  SplitMix64 random(1);
  for (int c = 0; c < shape.copies; ++c) {
    copies.push_back(*AlignedBuffer::Create(static_cast<uint64_t>(shape.ffn_rows / 32 * (page_bytes + skipped))));
    for (size_t at = 0; at < copies.back().size(); at += 8) {
      const uint64_t bits = random.Next() & 0x2fff2fff2fff2fff;
      std::memcpy(copies.back().data() + at, &bits, 8);
    }
  }
  std::vector<float> z(static_cast<size_t>(shape.ffn_rows) * static_cast<size_t>(x_rows), 0.01f);
  const AlignedBuffer y = *AlignedBuffer::Create(sizeof(float) * static_cast<size_t>(x_rows) * shape.dim);
  size_t turn = 0;
  const auto work = [&] {
    const AlignedBuffer& copy = copies[turn++ % copies.size()];
    for (int64_t page = 0; page < shape.ffn_rows / 32; ++page) {
      const auto* codes = reinterpret_cast<const uint8_t*>(copy.data()) + page * (page_bytes + skipped);
      for (int64_t block = 0; block < shape.dim / 32; ++block) {
        for (int32_t r = 0; r < x_rows; r += 8) {
          float* to = reinterpret_cast<float*>(y.data()) + r * shape.dim + 32 * block;
          const float* from = z.data() + page * 32 * x_rows;  // the place of z decides nothing here
          x_rows == 1 ? RowsBlock<kBits, 1>(codes + block * kBlockBytes, from, to, shape.dim)
                      : RowsBlock<kBits, 8>(codes + block * kBlockBytes, from, to, shape.dim);
        }
      }
    }
  };
  work();
  const double seconds = BestSeconds(options.small, work);
  const double code_bytes = static_cast<double>(shape.dim) * shape.ffn_rows * kBits / 8;
  const double products = static_cast<double>(shape.dim) * shape.ffn_rows * x_rows;
  Print(name, seconds, code_bytes, code_bytes * (1 + 0.5 / kBits), products);
}
#endif

void Measure(const Options& options, const KernelTable& kernels, QuantType type, const Shape& shape,
             int32_t page_rows) {
  for (const int32_t x_rows : {1, 4, 8, 16}) {
    for (const int32_t run_rows : {8, 16, 32}) {
      for (const bool sorted : {true, false}) {
        if (!sorted && run_rows != 32) continue;
        const std::string name = fmt::format("{} {} {} rows, {} {}", TraitsOf(type).name, shape.name, x_rows,
                                             sorted ? "sorted runs of" : "exact", run_rows);
        if (name.find(options.only) == std::string::npos) continue;
        DownLayer layer(type, shape, page_rows, run_rows, sorted, x_rows);
        for (int i = 0; i < shape.copies; ++i) layer.Run(kernels);
        const double seconds = BestSeconds(options.small, [&] { layer.Run(kernels); });
        const double products = static_cast<double>(shape.dim) * shape.ffn_rows * x_rows;
        Print(name, seconds, layer.code_bytes(), layer.code_bytes() + layer.table_bytes(), products);
      }
    }
  }
}

std::string Ratio(uint64_t bytes, uint64_t source) {
  return fmt::format("{:.1f} ({:.3f})", static_cast<double>(bytes) / (1 << 20),
                     static_cast<double>(bytes) / static_cast<double>(source));
}

// One layer's FFN in MiB, and its share of the source's.
void PrintBytes(const char* shape_name, int32_t dim, int32_t ffn_rows, QuantType type) {
  const uint64_t source =
      2 * static_cast<uint64_t>(ffn_rows) * RowBytes(type, dim) + static_cast<uint64_t>(dim) * RowBytes(type, ffn_rows);
  const int32_t page_rows = *ChoosePageRows(type, type, type, dim, ffn_rows, 8);
  const FfnPageLayout layout = *FfnPageLayout::Make(type, type, type, dim, ffn_rows, page_rows, 8);
  const uint64_t pages = static_cast<uint64_t>(layout.page_count()) * layout.page_bytes;
  std::string line = fmt::format(
      "| {} {} | {:.1f} | {} | {:.1f} |", shape_name, TraitsOf(type).name, static_cast<double>(source) / (1 << 20),
      Ratio(pages + layout.down_table_bytes(), source), static_cast<double>(layout.down_table_bytes()) / (1 << 20));
  for (const QuantType down : {QuantType::kQ8_0, QuantType::kQ5_1, QuantType::kQ4_1}) {
    const uint64_t page = layout.down_offset + static_cast<uint64_t>(page_rows) * RowBytes(down, dim);
    const uint64_t rounded = (page + kPageAlignment - 1) / kPageAlignment * kPageAlignment;
    line += fmt::format(" {} |", Ratio(static_cast<uint64_t>(layout.page_count()) * rounded, source));
  }
  fmt::print("{}\n", line);
}

void PrintAllBytes() {
  fmt::print("| a layer's FFN, MiB | source | sorted-exact, exact | of it resident | rows, Q8_0 | Q5_1 | Q4_1 |\n");
  fmt::print("|---|---|---|---|---|---|---|\n");
  for (const QuantType type : {QuantType::kQ4_0, QuantType::kQ4_K, QuantType::kQ8_0}) {
    PrintBytes("1B", 2048, 8192, type);
    PrintBytes("8B", 4096, 14336, type);
  }
}

void MeasureKernels(const Options& options) {
  const int32_t ffn_rows = options.small ? 256 : 14336;
  const KernelTable* kernels = *FindKernels(CpuIsa::kAuto);
  for (const QuantType type : {QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ4_K, QuantType::kQ8_0}) {
    Measure(options, *kernels, type, {"in L2", 512, 1536, 1}, 64);
    Measure(options, *kernels, type, {"out", 4096, ffn_rows, 3}, 32);
  }
#if defined(__x86_64__)
  for (const int32_t x_rows : {1, 8, 16}) {
    for (const Shape& shape : {Shape{"in L2", 512, 1536, 1}, Shape{"out", 4096, ffn_rows, 3}}) {
      MeasureRows<4>(options, shape, x_rows);
      MeasureRows<8>(options, shape, x_rows);
    }
  }
#endif
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) {
  dogstar::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--small") {
      options.small = true;
    } else if (argument == "--only" && i + 1 < argc) {
      options.only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: layout_bench [--only TEXT]\n");
      return 2;
    }
  }
  if (options.only.empty()) dogstar::PrintAllBytes();
  dogstar::MeasureKernels(options);
  return 0;
}
