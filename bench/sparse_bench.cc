// Time of one token's sparse FFN beside the dense one, by density and by the way its rows are listed. Rows are chosen
// at random: the ways do not differ by which.
//
//   dense     all pages
//   gathered  rows copied next to each other beforehand (a list that holds for a whole text)
//   masked    the same list as masks on the pages (16 rows a panel are read when one of them is used)
//   given     a list of this token's own, known before its FFN (low-rank)
//   gates     all gates, then up and down of the chosen rows (FSparse)
//
//   sparse_bench [--small] [--threads N] [--type Q4_0]
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/panel.h"
#include "base/random.h"
#include "base/row_set.h"
#include "bench/bench_layer.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "memory/gathered_rows.h"

namespace dogstar {
namespace {

struct Options {
  bool small = false;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  QuantType type = QuantType::kQ4_0;
};

struct Shape {
  const char* name;
  int32_t dim, ffn_rows, copies;
};

// One layer and a list of its rows in every form.
struct Rows {
  BenchLayer layer;
  std::vector<FfnPageRef> pages, masked;
  std::vector<uint64_t> masks;
  std::unique_ptr<GatheredRows> gathered;
  std::vector<int32_t> list;
  std::vector<float> given;  // a score for each row; the list's are the largest
};

std::vector<int32_t> RandomList(int32_t ffn_rows, int32_t count, uint64_t seed) {
  std::vector<int32_t> all(static_cast<size_t>(ffn_rows));
  for (int32_t i = 0; i < ffn_rows; ++i) all[static_cast<size_t>(i)] = i;
  SplitMix64 random(seed);
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    std::swap(all[i], all[i + random.Next() % (all.size() - i)]);
  }
  all.resize(static_cast<size_t>(count));
  std::sort(all.begin(), all.end());
  return all;
}

// The list of rows of one layer anew, in every form.
void SetList(int32_t count, uint64_t seed, Backend* backend, Rows* rows) {
  const FfnPageLayout& layout = rows->layer.layout;
  const auto words = static_cast<size_t>((layout.page_rows + 63) / 64);
  rows->list = RandomList(layout.ffn_rows, count, seed);
  rows->masks.assign(rows->pages.size() * words, 0);
  rows->given.assign(static_cast<size_t>(layout.ffn_rows), 0);
  for (const int32_t row : rows->list) {
    const int32_t in_page = row % layout.page_rows;
    rows->masks[static_cast<size_t>(row / layout.page_rows) * words + static_cast<size_t>(in_page) / 64] |=
        uint64_t{1} << (in_page % 64);
    rows->given[static_cast<size_t>(row)] = 1;
  }
  rows->masked = rows->pages;
  for (size_t p = 0; p < rows->masked.size(); ++p) rows->masked[p].row_mask = rows->masks.data() + p * words;
  RowSet list;
  list.Reset(layout.ffn_rows);
  for (const int32_t row : rows->list) list.Insert(RowIndex{row});
  rows->gathered = *GatheredRows::Create({&layout, 1}, {&count, 1}, backend);
  rows->gathered->Gather(LayerIndex{0}, rows->layer.run_groups, rows->pages, list);
}

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), backend_(*NewCpuBackend({.threads = options.threads})) {}

  void Run() {
    fmt::print("{}, {}{}\n", backend_->Describe(), TraitsOf(options_.type).name, options_.small ? ", small" : "");
    if (options_.small) return Table({"a small layer", 256, 512, 2});
    Table({"cache-resident (576 x 1536, in turn 1 layer)", 576, 1536, 1});
    Table({"memory-resident (4096 x 14336, in turn 8 layers)", 4096, 14336, 8});
  }

 private:
  void Table(const Shape& shape) {
    std::vector<Rows> layers;
    for (int32_t i = 0; i < shape.copies; ++i) {
      Rows& rows = layers.emplace_back();
      rows.layer = MakeBenchLayer(options_.type, shape.dim, shape.ffn_rows, 32, 8);
    }
    for (Rows& rows : layers) rows.pages = rows.layer.Refs();
    Prepare(shape);
    fmt::print("\n{}: milliseconds, and as a share of dense in the same turns\n\n", shape.name);
    fmt::print("| density | dense | gathered | masked | given | gates |\n|---|---|---|---|---|---|\n");
    for (int tenth = 1; tenth <= 9; ++tenth) {
      const int32_t count = shape.ffn_rows * tenth / 10;
      for (size_t i = 0; i < layers.size(); ++i) SetList(count, i + 1, backend_.get(), &layers[i]);
      Line(0.1 * tenth, count, layers);
    }
  }

  void Prepare(const Shape& shape) {
    SplitMix64 random(2);
    std::vector<float> values(static_cast<size_t>(shape.dim));
    for (float& value : values) value = static_cast<float>(random.Uniform() - 0.5);
    x_ = *backend_->NewTensor(1, shape.dim);
    out_ = *backend_->NewTensor(1, shape.dim);
    backend_->Upload(values, 0, x_.get());
    activations_ = *backend_->NewActivations(1, shape.dim);
    backend_->Prepare(*x_, 1, activations_.get());
    job_ = *backend_->NewFfnJob({.rows = 1, .dim = shape.dim, .ffn_rows = shape.ffn_rows, .choice_rows = 1});
  }

  double SecondsOf(const FfnParams& params, const std::function<void()>& accumulate) {
    const auto start = std::chrono::steady_clock::now();
    backend_->FfnBegin(params, *activations_, 1, job_.get());
    accumulate();
    backend_->Wait(backend_->FfnEnd(job_.get(), out_.get()));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  // Every way in turn, layer after layer; medians of the turns.
  void Line(double density, int32_t count, std::vector<Rows>& layers) {
    constexpr int kWays = 5;
    std::vector<double> seconds[kWays];
    const size_t turns = options_.small ? 1 : layers.size() == 1 ? 200 : 24;
    for (size_t turn = 0; turn < turns; ++turn) {
      for (int way = 0; way < kWays; ++way) {
        // Another layer for each way, so that none finds what the one before it read.
        Rows& rows = layers[(turn * kWays + static_cast<size_t>(way)) % layers.size()];
        FfnParams params = rows.layer.params();
        if (way == 1) params.layout = rows.gathered->layout(LayerIndex{0});
        seconds[way].push_back(SecondsOf(params, [&] { Accumulate(way, count, rows); }));
      }
    }
    const auto median = [](std::vector<double>& values) {
      std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
      return values[values.size() / 2];
    };
    const double dense = median(seconds[0]);
    fmt::print("| {:.1f} | {:.3f}", density, dense * 1e3);
    for (int way = 1; way < kWays; ++way) {
      const double own = median(seconds[way]);
      fmt::print(" | {:.3f} ({:.2f})", own * 1e3, own / dense);
    }
    fmt::print(" |\n");
    std::fflush(stdout);
  }

  void Accumulate(int way, int32_t count, const Rows& rows) {
    RowChoice choice{.score = way == 3 ? RowScore::kGiven : RowScore::kGate, .count = count};
    choice.given = way == 3 ? rows.given.data() : nullptr;
    choice.given_stride = static_cast<int64_t>(rows.given.size());
    switch (way) {
      case 0:
        backend_->FfnAccumulatePages(rows.pages, job_.get());
        break;
      case 1:
        backend_->FfnAccumulatePages(rows.gathered->Pages(LayerIndex{0}), job_.get());
        break;
      case 2:
        backend_->FfnAccumulatePages(rows.masked, job_.get());
        break;
      default:
        backend_->FfnAccumulateChosen(rows.pages, choice, {}, job_.get());
    }
  }

  Options options_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tensor> x_, out_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<FfnJob> job_;
};

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (arg == "--small") {
      options->small = true;
    } else if (arg == "--threads" && !value.empty()) {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), options->threads);
      if (error != std::errc{} || end != value.data() + value.size() || options->threads < 1) return false;
      ++i;
    } else if (arg == "--type" && !value.empty()) {
      const absl::StatusOr<QuantType> type = ParseQuantType(std::string(value));
      if (!type.ok() || IsFloatType(*type)) return false;
      options->type = *type;
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
    std::fputs("usage: sparse_bench [--small] [--threads N] [--type Q4_0]   (block types)\n", stderr);
    return 2;
  }
  dogstar::Bench(options).Run();
  return 0;
}
