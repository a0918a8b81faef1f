// FFN pages and overlays on every instruction set and thread count against device/reference.
#include "base/bit_planes.h"
#include "base/quant_codes.h"
#include "cpu/test_support.h"

namespace dogstar {
namespace {

struct FfnCase {
  QuantType gate, up, down;
  int32_t dim, ffn_rows, page_rows, run_rows;
  FfnActivation activation = FfnActivation::kSilu;
};

// A layer of random pages: codes, scales and groups of every value.
class TestLayer {
 public:
  TestLayer(const FfnCase& shape, uint64_t seed)
      : layout_(*FfnPageLayout::Make(shape.gate, shape.up, shape.down, shape.dim, shape.ffn_rows, shape.page_rows,
                                     shape.run_rows)),
        activation_(shape.activation),
        random_(seed) {
    pages_ = *AlignedBuffer::Create(layout_.page_count() * layout_.page_bytes);
    scales_ = *AlignedBuffer::Create(layout_.down_table_bytes());
    const auto half = [&] { return FloatToHalf(static_cast<float>(random_.Uniform() - 0.5) * 0.1f); };
    for (int32_t group = 0; group < layout_.group_count(); ++group) {
      for (int32_t output = 0; output < layout_.dim; ++output) {
        const StoredScales scales{half(), half(), static_cast<uint8_t>(random_.Next() % 16),
                                  static_cast<uint8_t>(random_.Next() % 16)};
        SetTableScales(layout_.down_type, scales, group, layout_.dim, output, scales_.data());
      }
    }
    for (int32_t p = 0; p < layout_.page_count(); ++p) FillPage(p);
  }

  const FfnPageLayout& layout() const { return layout_; }
  FfnParams params(Tensor* capture = nullptr) const { return {layout_, activation_, scales_.data(), capture}; }
  std::vector<FfnPageRef> pages() const {
    std::vector<FfnPageRef> refs;
    for (int32_t p = 0; p < layout_.page_count(); ++p) {
      FfnPageRef ref;
      ref.data = pages_.data() + p * layout_.page_bytes;
      ref.first_row = p * layout_.page_rows;
      ref.row_count = std::min(layout_.page_rows, layout_.ffn_rows - ref.first_row);
      ref.run_groups = run_groups_[p].data();
      refs.push_back(ref);
    }
    return refs;
  }

 private:
  void FillPage(int32_t p) {
    std::byte* page = pages_.data() + p * layout_.page_bytes;
    FillRows(layout_.gate_type, page + layout_.gate_offset);
    FillRows(layout_.up_type, page + layout_.up_offset);
    std::byte* down = page + layout_.down_offset;
    if (TraitsOf(layout_.down_type).block_weights == 1) {
      FillFloats(down);
    } else {
      for (uint64_t i = 0; i < layout_.down_panel_bytes * layout_.dim / kPanelRows; ++i) {
        down[i] = static_cast<std::byte>(random_.Next());
      }
    }
    std::vector<uint16_t> groups;
    for (int32_t row = 0; row < layout_.page_rows; row += layout_.run_rows) {
      groups.push_back(static_cast<uint16_t>(random_.Next() % std::max(layout_.group_count(), 1)));
    }
    run_groups_.push_back(groups);
  }
  void FillRows(QuantType type, std::byte* panels) {
    const TestMatrix matrix = MakeMatrix(type, layout_.page_rows, layout_.dim, random_.Next() % 1000);
    std::memcpy(panels, matrix.panels.data(), matrix.panels.size());
  }
  void FillFloats(std::byte* down) {
    for (int32_t o = 0; o < layout_.dim; o += kPanelRows) {
      const TestMatrix matrix = MakeMatrix(layout_.down_type, kPanelRows, layout_.page_rows, random_.Next() % 1000);
      std::memcpy(down + o / kPanelRows * layout_.down_panel_bytes, matrix.panels.data(), matrix.panels.size());
    }
  }

  FfnPageLayout layout_;
  FfnActivation activation_;
  SplitMix64 random_;
  AlignedBuffer pages_, scales_;
  std::vector<std::vector<uint16_t>> run_groups_;
};

// An overlay of some rows of a layer's first page.
struct TestOverlay {
  std::vector<int32_t> rows;
  std::vector<uint16_t> groups;
  AlignedBuffer gate, up, down;
  int32_t capacity = 48;

  TestOverlay(const TestLayer& layer, std::vector<int32_t> page_rows) : rows(std::move(page_rows)) {
    const FfnPageLayout& layout = layer.layout();
    const FfnPageRef page = layer.pages()[0];
    gate = Gather(layout.gate_type, layout.dim, page.data + layout.gate_offset);
    up = Gather(layout.up_type, layout.dim, page.data + layout.up_offset);
    down = *AlignedBuffer::Create(layout.dim / kPanelRows * OverlayDownPanelBytes(layout.down_type, capacity));
    for (const int32_t row : rows) groups.push_back(page.run_groups[row / layout.run_rows]);
    for (int32_t o = 0; o < layout.dim; ++o) FillOutput(layout, page, o);
  }

  FfnOverlayRef ref() const {
    FfnOverlayRef overlay;
    overlay.gate = gate.data();
    overlay.up = up.data();
    overlay.down = down.data();
    overlay.row_capacity = capacity;
    overlay.row_count = static_cast<int32_t>(rows.size());
    overlay.groups = groups.data();
    overlay.row_index = rows.data();
    return overlay;
  }

 private:
  AlignedBuffer Gather(QuantType type, int32_t dim, const std::byte* panels) const {
    std::vector<std::byte> plain(capacity * RowBytes(type, dim));
    for (size_t i = 0; i < rows.size(); ++i) {
      UnpackPanelRow(type, panels + rows[i] / kPanelRows * PanelBytes(type, dim), rows[i] % kPanelRows, dim,
                     plain.data() + i * RowBytes(type, dim));
    }
    AlignedBuffer out = *AlignedBuffer::Create(PanelMatrixBytes(type, capacity, dim));
    PackMatrix(type, plain.data(), capacity, dim, out.data());
    return out;
  }
  void FillOutput(const FfnPageLayout& layout, const FfnPageRef& page, int32_t o) {
    const QuantType type = layout.down_type;
    const std::byte* from = page.data + layout.down_offset + o / kPanelRows * layout.down_panel_bytes;
    std::byte* to = down.data() + o / kPanelRows * OverlayDownPanelBytes(type, capacity);
    const int lane = o % kPanelRows;
    const int float_bytes = TraitsOf(type).block_bytes;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (TraitsOf(type).block_weights == 1) {
        std::memcpy(to + (i * kPanelRows + lane) * float_bytes, from + (rows[i] * kPanelRows + lane) * float_bytes,
                    float_bytes);
        continue;
      }
      const int code = PanelCode(type, from, lane, rows[i]);
      if (ShapeOf(type).bits() > 4) {
        to[i * 16 + lane] = static_cast<std::byte>(code);
      } else {
        to[i / 2 * 16 + lane] |= static_cast<std::byte>(i % 2 == 0 ? code : code << 4);
      }
    }
  }
};

// Runs an FFN; add(job) adds pages or overlays.
template <typename AddWork>
std::vector<float> RunFfn(Backend& backend, const FfnParams& params, const std::vector<float>& x, int32_t rows,
                          const std::vector<float>& before, const AddWork& add) {
  const FfnPageLayout& layout = params.layout;
  auto tensor = MakeTensor(backend, rows, layout.dim, x);
  auto activations = *backend.NewActivations(rows, layout.dim);
  auto job = *backend.NewFfnJob({rows, layout.dim, layout.page_count() * layout.page_rows, rows});
  auto out = MakeTensor(backend, rows, layout.dim, before);
  backend.Prepare(*tensor, rows, activations.get());
  backend.FfnBegin(params, *activations, rows, job.get());
  add(job.get());
  backend.FfnEnd(job.get(), out.get());
  return ValuesOf(backend, *out);
}

class FfnTest : public ::testing::TestWithParam<FfnCase> {
 protected:
  const TestLayer layer_{GetParam(), 1};
  const int32_t dim_ = GetParam().dim;

  std::vector<float> Reference(const std::vector<FfnPageRef>& pages, const std::vector<float>& x, int32_t rows,
                               const std::vector<float>& before, bool precise) const {
    std::vector<float> out = before;
    for (int32_t t = 0; t < rows; ++t) {
      std::vector<float> y(dim_);
      for (const FfnPageRef& page : pages) {
        reference::FfnPage(layer_.params(), page, RowOf(x, t, dim_), precise, y, {});
      }
      for (int32_t o = 0; o < dim_; ++o) out[t * dim_ + o] += y[o];
    }
    return out;
  }

  void CheckPages(int32_t rows, bool precise) {
    const std::vector<float> x = RandomActivations(2, rows * dim_), before = RandomFloats(3, rows * dim_);
    const std::vector<FfnPageRef> pages = layer_.pages();
    const std::vector<float> expected = Reference(pages, x, rows, before, precise);
    for (const CpuOptions& options : AllOptions(precise)) {
      auto backend = MakeBackend(options);
      const std::vector<float> got = RunFfn(*backend, layer_.params(), x, rows, before,
                                            [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); });
      EXPECT_TRUE(SameValues(got, expected)) << backend->Describe() << ", rows " << rows;
    }
  }
};

TEST_P(FfnTest, PagesEqualReference) {
  for (const int32_t rows : {1, 3, 8, 13}) CheckPages(rows, false);
}

TEST_P(FfnTest, PrecisePagesEqualReference) {
  for (const int32_t rows : {1, 7}) CheckPages(rows, true);
}

TEST_P(FfnTest, CutIntoCallsEqualsOneCall) {
  const std::vector<float> x = RandomActivations(4, 2 * dim_), before = RandomFloats(5, 2 * dim_);
  const std::vector<FfnPageRef> pages = layer_.pages();
  const std::vector<float> expected = Reference(pages, x, 2, before, false);
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    const std::vector<float> got = RunFfn(*backend, layer_.params(), x, 2, before, [&](FfnJob* job) {
      for (const FfnPageRef& page : pages) backend->FfnAccumulatePages({&page, 1}, job);
    });
    EXPECT_TRUE(SameValues(got, expected)) << backend->Describe();
  }
}

// Pages cut in two planes, each in memory of its own.
class CutPages {
 public:
  // planes[p % planes.size()]: of page p.
  CutPages(const TestLayer& layer, const std::vector<PlaneState>& planes) : pages_(layer.pages()) {
    const FfnPageLayout& layout = layer.layout();
    planes_.reserve(2 * pages_.size());
    for (size_t p = 0; p < pages_.size(); ++p) {
      FfnPageRef& page = pages_[p];
      page.planes = planes[p % planes.size()];
      if (page.planes == PlaneState::kWhole) continue;
      AlignedBuffer& high = planes_.emplace_back(*AlignedBuffer::Create(layout.high.bytes));
      AlignedBuffer& low = planes_.emplace_back(*AlignedBuffer::Create(std::max<uint64_t>(layout.low.bytes, 64)));
      SplitPage(layout, page.data, high.data(), layout.low.bytes > 0 ? low.data() : nullptr);
      page.data = high.data();
      if (page.planes == PlaneState::kBoth) page.low = low.data();
    }
  }
  std::vector<FfnPageRef>& pages() { return pages_; }

 private:
  std::vector<FfnPageRef> pages_;
  std::vector<AlignedBuffer> planes_;
};

TEST_P(FfnTest, BothPlanesAreThePage) {
  CutPages cut(layer_, {PlaneState::kBoth, PlaneState::kWhole});
  std::vector<FfnPageRef>& pages = cut.pages();
  const std::vector<uint64_t> mask((layer_.layout().page_rows + 63) / 64, 0x7ffe'0000'f0f0'ff00);
  pages[0].row_mask = mask.data();
  std::vector<FfnPageRef> whole = layer_.pages();
  whole[0].row_mask = mask.data();
  for (const int32_t rows : {1, 3, 8, 13}) {
    const std::vector<float> x = RandomActivations(22, rows * dim_), before = RandomFloats(23, rows * dim_);
    const std::vector<float> expected = Reference(whole, x, rows, before, false);
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      const std::vector<float> got = RunFfn(*backend, layer_.params(), x, rows, before,
                                            [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); });
      EXPECT_TRUE(SameValues(got, expected)) << backend->Describe() << ", rows " << rows;
    }
  }
}

// The number that a code counts as where its low bits are missing.
double MeanValue(QuantType type, int code) {
  const int32_t low = LowPlaneBits(type);
  double sum = 0;
  for (int bits = 0; bits < 1 << low; ++bits) sum += CodeValue(type, (code >> low << low) | bits);
  return sum / (1 << low);
}

// Weight `column` of row `lane` of a panel without its low bits.
double MeanWeight(QuantType type, const std::byte* panel, int lane, int32_t column, int32_t cols) {
  if (IsFloatType(type)) {
    std::vector<std::byte> row(RowBytes(type, cols));
    std::vector<float> values(static_cast<size_t>(cols));
    UnpackPanelRow(type, panel, lane, cols, row.data());
    DequantizeRow(type, row.data(), cols, values.data());
    return values[static_cast<size_t>(column)];
  }
  const int64_t group = column / ShapeOf(type).group_weights;
  const GroupScale scale =
      Combine(type, TableScales(type, panel + PanelScalesOffset(type, cols), group, kPanelRows, lane));
  return double{scale.d} * MeanValue(type, PanelCode(type, panel, lane, column)) + double{scale.m};
}

// What a page without its low planes gives one row of x, in double precision.
std::vector<double> MeanOutputs(const TestLayer& layer, const FfnPageRef& page, std::span<const float> x) {
  const FfnPageLayout& layout = layer.layout();
  const auto product = [&](QuantType type, const std::byte* part, int32_t row) {
    const std::byte* panel = part + row / kPanelRows * PanelBytes(type, layout.dim);
    double sum = 0;
    for (int32_t k = 0; k < layout.dim; ++k) sum += x[k] * MeanWeight(type, panel, row % kPanelRows, k, layout.dim);
    return sum;
  };
  std::vector<double> y(static_cast<size_t>(layout.dim));
  for (int32_t row = 0; row < page.row_count; ++row) {
    const double gate = product(layout.gate_type, page.data + layout.gate_offset, row);
    const double z = reference::Activate(layer.params().activation, static_cast<float>(gate)) *
                     product(layout.up_type, page.data + layout.up_offset, row);
    for (int32_t o = 0; o < layout.dim; ++o) {
      const std::byte* panel = page.data + layout.down_offset + o / kPanelRows * layout.down_panel_bytes;
      if (IsFloatType(layout.down_type)) {
        y[o] += z * MeanWeight(layout.down_type, panel, o % kPanelRows, row, layout.page_rows);
        continue;
      }
      const GroupScale scale =
          Combine(layout.down_type, TableScales(layout.down_type, layer.params().down_scales,
                                                page.run_groups[row / layout.run_rows], layout.dim, o));
      const int code = PanelCode(layout.down_type, panel, o % kPanelRows, row);
      y[o] += z * (double{scale.d} * MeanValue(layout.down_type, code) + double{scale.m});
    }
  }
  return y;
}

double RelativeError(std::span<const float> got, std::span<const double> expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return std::sqrt(error / norm);
}

TEST_P(FfnTest, MissingBitsCountAsTheirMean) {
  CutPages cut(layer_, {PlaneState::kHigh});
  const std::vector<FfnPageRef> one = {cut.pages()[0]};
  const std::vector<float> x = RandomFloats(24, dim_), before(dim_);
  const std::vector<double> expected = MeanOutputs(layer_, layer_.pages()[0], x);
  std::vector<float> same;
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    const std::vector<float> got =
        RunFfn(*backend, layer_.params(), x, 1, before, [&](FfnJob* job) { backend->FfnAccumulatePages(one, job); });
    // Activations of 8 bits; IQ4_NL takes one of two values in place of their mean.
    const bool table = GetParam().gate == QuantType::kIQ4_NL;
    EXPECT_LT(RelativeError(got, expected), table ? 0.3 : 0.03) << backend->Describe();
    if (same.empty()) same = got;
    EXPECT_TRUE(SameValues(got, same)) << backend->Describe();
  }
}

// Masks of the reference's rows, and capture of exactly the rows that are used.
TEST_P(FfnTest, MaskedRowsContributeNothingAndAreNotCaptured) {
  std::vector<FfnPageRef> pages = layer_.pages();
  const int32_t words = (layer_.layout().page_rows + 63) / 64;
  SplitMix64 random(6);
  std::vector<std::vector<uint64_t>> masks;
  for (size_t p = 0; p < pages.size(); ++p) {
    std::vector<uint64_t> mask(words);
    for (uint64_t& word : mask) word = random.Next() & random.Next();
    if (p == 1) mask.assign(words, 0);
    if (p == 0) mask[0] &= 0xffff0000;  // a panel without a row
    masks.push_back(mask);
  }
  for (size_t p = 0; p < pages.size(); ++p) pages[p].row_mask = masks[p].data();
  const int32_t stride = layer_.layout().page_count() * layer_.layout().page_rows;
  const std::vector<float> x = RandomActivations(7, 2 * dim_), before = RandomFloats(8, 2 * dim_);
  for (const bool precise : {false, true}) {
    const std::vector<float> expected = Reference(pages, x, 2, before, precise);
    std::vector<float> expected_z(2 * stride, -1);
    for (int32_t t = 0; t < 2; ++t) {
      std::vector<float> y(dim_);
      for (const FfnPageRef& page : pages) {
        reference::FfnPage(layer_.params(), page, RowOf(x, t, dim_), precise, y,
                           std::span(expected_z).subspan(t * stride, stride));
      }
    }
    for (const CpuOptions& options : AllOptions(precise)) {
      auto backend = MakeBackend(options);
      auto capture = MakeTensor(*backend, 2, stride, std::vector<float>(2 * stride, -1));
      const std::vector<float> got = RunFfn(*backend, layer_.params(capture.get()), x, 2, before,
                                            [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); });
      EXPECT_TRUE(SameValues(got, expected)) << backend->Describe();
      EXPECT_TRUE(SameValues(ValuesOf(*backend, *capture), expected_z)) << backend->Describe();
    }
  }
}

TEST_P(FfnTest, ARowDoesNotDependOnTheOthers) {
  constexpr int32_t kRows = 19;
  const std::vector<float> x = RandomActivations(9, kRows * dim_), before(kRows * dim_);
  const std::vector<FfnPageRef> pages = layer_.pages();
  auto backend = MakeBackend({.threads = 2});
  const auto add = [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); };
  const std::vector<float> all = RunFfn(*backend, layer_.params(), x, kRows, before, add);
  for (int32_t t = 0; t < kRows; ++t) {
    const std::span<const float> row = RowOf(x, t, dim_);
    const std::vector<float> one =
        RunFfn(*backend, layer_.params(), std::vector<float>(row.begin(), row.end()), 1, std::vector<float>(dim_), add);
    EXPECT_TRUE(SameValues(one, RowOf(all, t, dim_))) << t;
  }
}

TEST_P(FfnTest, OverlayEqualsReference) {
  const TestOverlay overlay(layer_, {3,  0,  17, 5,  31, 30, 29, 8,  9,  10, 11, 12, 13, 14, 15, 16, 2, 18,
                                     19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 1,  4,  6,  7,  3,  5,  9});
  const int32_t stride = layer_.layout().page_count() * layer_.layout().page_rows;
  const uint64_t mask = 0x7'feedfdff;
  for (const int32_t rows : {1, 9}) {
    const std::vector<float> x = RandomActivations(10, rows * dim_), before = RandomFloats(11, rows * dim_);
    for (const bool precise : {false, true}) {
      FfnOverlayRef ref = overlay.ref();
      ref.row_mask = &mask;
      std::vector<float> expected = before, expected_z(rows * stride, -1);
      for (int32_t t = 0; t < rows; ++t) {
        std::vector<float> y(dim_);
        reference::FfnOverlay(layer_.params(), ref, RowOf(x, t, dim_), precise, y,
                              std::span(expected_z).subspan(t * stride, stride));
        for (int32_t o = 0; o < dim_; ++o) expected[t * dim_ + o] += y[o];
      }
      for (const CpuOptions& options : AllOptions(precise)) {
        auto backend = MakeBackend(options);
        auto capture = MakeTensor(*backend, rows, stride, std::vector<float>(rows * stride, -1));
        const std::vector<float> got = RunFfn(*backend, layer_.params(capture.get()), x, rows, before,
                                              [&](FfnJob* job) { backend->FfnAccumulateOverlay(ref, job); });
        EXPECT_TRUE(SameValues(got, expected)) << backend->Describe() << ", rows " << rows;
        EXPECT_TRUE(SameValues(ValuesOf(*backend, *capture), expected_z)) << backend->Describe();
      }
    }
  }
}

// An overlay of a page's rows gives what the page gives, but for the rounding of z to int8 in the page.
TEST_P(FfnTest, OverlayOfAPagesRowsIsCloseToThePage) {
  std::vector<int32_t> rows(32);
  for (int32_t i = 0; i < 32; ++i) rows[i] = i;
  const TestOverlay overlay(layer_, rows);
  FfnPageRef page = layer_.pages()[0];
  std::vector<uint64_t> first_rows((layer_.layout().page_rows + 63) / 64);
  first_rows[0] = 0xffffffff;
  page.row_mask = first_rows.data();
  const std::vector<float> x = RandomActivations(12, dim_), before(dim_);
  for (const bool precise : {false, true}) {
    auto backend = MakeBackend({.threads = 2, .precise = precise});
    const std::vector<float> from_page = RunFfn(*backend, layer_.params(), x, 1, before, [&](FfnJob* job) {
      backend->FfnAccumulatePages({&page, 1}, job);
    });
    const std::vector<float> from_overlay = RunFfn(*backend, layer_.params(), x, 1, before, [&](FfnJob* job) {
      backend->FfnAccumulateOverlay(overlay.ref(), job);
    });
    double error = 0, norm = 0;
    for (int32_t o = 0; o < dim_; ++o) {
      error += std::pow(from_page[o] - from_overlay[o], 2);
      norm += std::pow(from_page[o], 2);
    }
    EXPECT_LT(std::sqrt(error / norm), precise ? 1e-5 : 0.02);
  }
}

// What each token of a call chooses, by the reference's values.
class ExpectedChoice {
 public:
  ExpectedChoice(const TestLayer& layer, std::vector<FfnPageRef> pages, bool precise)
      : layer_(layer), pages_(std::move(pages)), precise_(precise) {}

  // [ffn_rows]; rows that no mask allows: < 0.
  std::vector<float> Scores(RowScore kind, std::span<const float> x, const float* weight) const {
    const FfnPageLayout& layout = layer_.layout();
    std::vector<float> z(static_cast<size_t>(layout.page_count() * layout.page_rows), -1), y(x.size());
    std::vector<float> scores(static_cast<size_t>(layout.ffn_rows), -1);
    for (const FfnPageRef& page : pages_) {
      reference::FfnPage(layer_.params(), page, x, precise_, y, z);
      for (int32_t i = 0; i < page.row_count; ++i) {
        if (page.row_mask != nullptr && (page.row_mask[i / 64] >> (i % 64) & 1) == 0) continue;
        const int32_t row = page.first_row + i;
        const float value = kind == RowScore::kValue ? z[row] : Gate(page, i, x);
        scores[row] = std::fabs(value) * (weight != nullptr ? weight[row] : 1.0f);
      }
    }
    return scores;
  }

  // The sets of all tokens, [token][row].
  std::vector<std::vector<bool>> Choose(const RowChoice& choice, const std::vector<float>& x, int32_t rows) const {
    const int32_t dim = layer_.layout().dim;
    std::vector<std::vector<float>> scores;
    for (int32_t t = 0; t < rows; ++t) scores.push_back(Scores(choice.score, RowOf(x, t, dim), choice.weight));
    if (choice.shared) Share(&scores);
    std::vector<std::vector<bool>> sets;
    for (const std::vector<float>& of_token : scores) sets.push_back(Best(of_token, choice.count, choice.threshold));
    if (choice.value_count < 0) return sets;
    for (int32_t t = 0; t < rows; ++t) {
      std::vector<float> second = Scores(RowScore::kValue, RowOf(x, t, dim), choice.value_weight);
      for (size_t i = 0; i < second.size(); ++i) {
        if (!sets[t][i]) second[i] = -1;
      }
      sets[t] = Best(second, choice.value_count, 0);
    }
    return sets;
  }

 private:
  float Gate(const FfnPageRef& page, int32_t i, std::span<const float> x) const {
    const FfnPageLayout& layout = layer_.layout();
    std::vector<std::byte> row(RowBytes(layout.gate_type, layout.dim));
    UnpackPanelRow(layout.gate_type,
                   page.data + layout.gate_offset + i / kPanelRows * PanelBytes(layout.gate_type, layout.dim),
                   i % kPanelRows, layout.dim, row.data());
    return reference::Activate(layer_.params().activation, reference::Dot(layout.gate_type, row.data(), x, precise_));
  }
  static void Share(std::vector<std::vector<float>>* scores) {
    std::vector<float> sum((*scores)[0].size());
    for (size_t i = 0; i < sum.size(); ++i) {
      if ((*scores)[0][i] < 0) {
        sum[i] = -1;
        continue;
      }
      for (const std::vector<float>& of_token : *scores) sum[i] += of_token[i];
    }
    for (std::vector<float>& of_token : *scores) of_token = sum;
  }
  static std::vector<bool> Best(const std::vector<float>& scores, int32_t count, float threshold) {
    std::vector<bool> set(scores.size());
    if (count < 0) {
      for (size_t i = 0; i < set.size(); ++i) set[i] = scores[i] >= 0 && scores[i] >= threshold;
      return set;
    }
    std::vector<int32_t> order;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] >= 0) order.push_back(static_cast<int32_t>(i));
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
    order.resize(std::min<size_t>(order.size(), static_cast<size_t>(count)));
    for (const int32_t row : order) set[row] = true;
    return set;
  }

  const TestLayer& layer_;
  std::vector<FfnPageRef> pages_;
  bool precise_;
};

class ChosenRowsTest : public FfnTest {
 protected:
  // Output of the reference where token t uses sets[t] of the pages' rows.
  std::vector<float> WithSets(const std::vector<FfnPageRef>& pages, const std::vector<std::vector<bool>>& sets,
                              const std::vector<float>& x, const std::vector<float>& before, bool precise) const {
    std::vector<float> out = before;
    for (size_t t = 0; t < sets.size(); ++t) {
      std::vector<float> y(static_cast<size_t>(dim_));
      for (FfnPageRef page : pages) {
        std::vector<uint64_t> mask((static_cast<size_t>(page.row_count) + 63) / 64);
        for (int32_t i = 0; i < page.row_count; ++i) {
          if (sets[t][static_cast<size_t>(page.first_row + i)]) mask[i / 64] |= uint64_t{1} << (i % 64);
        }
        page.row_mask = mask.data();
        reference::FfnPage(layer_.params(), page, RowOf(x, static_cast<int32_t>(t), dim_), precise, y, {});
      }
      for (int32_t o = 0; o < dim_; ++o) out[t * static_cast<size_t>(dim_) + o] += y[o];
    }
    return out;
  }

  void Check(const std::vector<FfnPageRef>& pages, const RowChoice& choice, int32_t rows, bool precise) {
    const std::vector<float> x = RandomActivations(20, rows * dim_), before = RandomFloats(21, rows * dim_);
    const auto sets = ExpectedChoice(layer_, pages, precise).Choose(choice, x, rows);
    const std::vector<float> expected = WithSets(pages, sets, x, before, precise);
    const size_t words = (static_cast<size_t>(layer_.layout().ffn_rows) + 63) / 64;
    for (const CpuOptions& options : AllOptions(precise)) {
      auto backend = MakeBackend(options);
      std::vector<uint64_t> chosen(words * static_cast<size_t>(rows), ~uint64_t{0});
      FfnUse use;
      const std::vector<float> got = RunFfn(*backend, layer_.params(), x, rows, before, [&](FfnJob* job) {
        use = backend->FfnAccumulateChosen(pages, choice, chosen, job);
      });
      EXPECT_TRUE(SameValues(got, expected)) << backend->Describe() << ", rows " << rows;
      int64_t count = 0;
      for (size_t t = 0; t < sets.size(); ++t) {
        for (size_t i = 0; i < sets[t].size(); ++i) {
          ASSERT_EQ((chosen[t * words + i / 64] >> (i % 64) & 1) != 0, sets[t][i]) << "token " << t << ", row " << i;
          count += sets[t][i] ? 1 : 0;
        }
      }
      EXPECT_EQ(use.used, count);
      EXPECT_LE(use.down_rows, use.up_rows);
      EXPECT_LE(use.up_rows, use.gate_rows);
    }
  }
};

TEST_P(ChosenRowsTest, TokensChooseByGateOrValue) {
  const std::vector<float> weight = [&] {
    std::vector<float> values = RandomFloats(22, layer_.layout().ffn_rows);
    for (float& value : values) value = std::fabs(value);
    return values;
  }();
  const int32_t half = layer_.layout().ffn_rows / 2;
  for (const int32_t rows : {1, 3, 11}) {
    for (const RowScore score : {RowScore::kGate, RowScore::kValue}) {
      Check(layer_.pages(), {.score = score, .count = half}, rows, false);
      Check(layer_.pages(), {.score = score, .count = half / 3, .weight = weight.data(), .shared = true}, rows, false);
      Check(layer_.pages(), {.score = score, .count = -1, .threshold = 0.3f, .weight = weight.data()}, rows, false);
    }
    Check(layer_.pages(), {.count = half, .value_count = half / 2, .value_weight = weight.data()}, rows, false);
  }
  Check(layer_.pages(), {.count = half, .value_count = half / 2}, 2, true);
}

TEST_P(ChosenRowsTest, AllRowsGiveTheBitsOfThePages) {
  const std::vector<float> x = RandomActivations(23, 5 * dim_), before = RandomFloats(24, 5 * dim_);
  const std::vector<FfnPageRef> pages = layer_.pages();
  auto backend = MakeBackend({.threads = 2});
  const std::vector<float> dense =
      RunFfn(*backend, layer_.params(), x, 5, before, [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); });
  for (const RowScore score : {RowScore::kGate, RowScore::kValue}) {
    const std::vector<float> all = RunFfn(*backend, layer_.params(), x, 5, before, [&](FfnJob* job) {
      backend->FfnAccumulateChosen(pages, {.score = score, .count = 1 << 20}, {}, job);
    });
    EXPECT_TRUE(SameValues(all, dense));
  }
}

TEST_P(ChosenRowsTest, RowsThatAreMaskedCannotBeChosen) {
  std::vector<FfnPageRef> pages = layer_.pages();
  std::vector<uint64_t> mask((static_cast<size_t>(layer_.layout().page_rows) + 63) / 64, 0x5555'0000'1234'5678);
  pages[0].row_mask = mask.data();
  pages.erase(pages.begin() + 1, pages.begin() + static_cast<ptrdiff_t>(pages.size() / 2));
  Check(pages, {.count = layer_.layout().ffn_rows / 4}, 3, false);
  Check(pages, {.score = RowScore::kValue, .count = 5}, 3, false);
  Check(pages, {.count = 0}, 2, false);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FfnTest,
    ::testing::Values(
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 64, 160, 32, 8},
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 96, 160, 64, 8},
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 96, 160, 64, 4},
        FfnCase{QuantType::kQ5_1, QuantType::kQ5_0, QuantType::kQ5_1, 64, 96, 64, 4, FfnActivation::kGeluTanh},
        FfnCase{QuantType::kQ8_0, QuantType::kQ8_0, QuantType::kQ8_0, 64, 96, 32, 4},
        FfnCase{QuantType::kQ4_K, QuantType::kQ4_K, QuantType::kQ6_K, 256, 256, 96, 4},
        FfnCase{QuantType::kQ4_1, QuantType::kQ4_0, QuantType::kQ4_1, 64, 160, 64, 8, FfnActivation::kGeluTanh},
        FfnCase{QuantType::kQ4_1, QuantType::kQ4_1, QuantType::kQ4_1, 64, 96, 96, 32},
        FfnCase{QuantType::kQ4_1, QuantType::kQ4_1, QuantType::kQ4_1, 32, 96, 32, 8},
        FfnCase{QuantType::kQ8_0, QuantType::kQ8_0, QuantType::kQ8_0, 64, 160, 64, 16},
        FfnCase{QuantType::kQ8_0, QuantType::kQ8_0, QuantType::kQ8_0, 160, 96, 32, 8},
        FfnCase{QuantType::kQ8_0, QuantType::kQ4_0, QuantType::kQ8_0, 64, 64, 32, 32},
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 32, 96, 64, 16},
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 32, 64, 32, 32},
        FfnCase{QuantType::kQ4_1, QuantType::kQ4_1, QuantType::kQ4_1, 32, 96, 64, 16},
        FfnCase{QuantType::kQ8_0, QuantType::kQ8_0, QuantType::kQ8_0, 32, 96, 64, 8},
        FfnCase{QuantType::kQ5_0, QuantType::kQ5_1, QuantType::kQ5_0, 64, 96, 64, 8},
        FfnCase{QuantType::kQ5_0, QuantType::kQ5_0, QuantType::kQ5_1, 64, 96, 32, 8},
        FfnCase{QuantType::kIQ4_NL, QuantType::kIQ4_NL, QuantType::kIQ4_NL, 64, 96, 32, 8},
        FfnCase{QuantType::kQ4_K, QuantType::kQ4_K, QuantType::kQ6_K, 256, 256, 96, 8},
        FfnCase{QuantType::kQ4_K, QuantType::kQ4_K, QuantType::kQ4_K, 256, 512, 64, 32},
        FfnCase{QuantType::kQ5_K, QuantType::kQ5_K, QuantType::kQ5_K, 256, 256, 64, 16},
        FfnCase{QuantType::kQ6_K, QuantType::kQ3_K, QuantType::kQ3_K, 256, 256, 64, 8},
        FfnCase{QuantType::kQ2_K, QuantType::kQ2_K, QuantType::kQ2_K, 256, 256, 64, 16},
        FfnCase{QuantType::kQ2_K, QuantType::kQ2_K, QuantType::kQ6_K, 256, 256, 64, 8},
        FfnCase{QuantType::kF16, QuantType::kF16, QuantType::kF16, 64, 150, 64, 8},
        FfnCase{QuantType::kBF16, QuantType::kF32, QuantType::kBF16, 64, 70, 32, 8, FfnActivation::kGeluTanh},
        FfnCase{QuantType::kF32, QuantType::kF32, QuantType::kF32, 32, 64, 32, 16},
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kF16, 64, 90, 32, 8}),
    [](const auto& test) {
      const FfnCase& c = test.param;
      return std::string(TraitsOf(c.gate).name) + "_" + std::string(TraitsOf(c.up).name) + "_" +
             std::string(TraitsOf(c.down).name) + "_" + std::to_string(c.dim) + "_" + std::to_string(c.page_rows) +
             "_" + std::to_string(c.run_rows);
    });

INSTANTIATE_TEST_SUITE_P(
    Shapes, ChosenRowsTest,
    ::testing::Values(FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 64, 160, 32, 8},
                      FfnCase{QuantType::kQ4_1, QuantType::kQ4_0, QuantType::kQ4_1, 64, 160, 64, 8,
                              FfnActivation::kGeluTanh},
                      FfnCase{QuantType::kQ8_0, QuantType::kQ8_0, QuantType::kQ8_0, 64, 160, 64, 16},
                      FfnCase{QuantType::kQ4_K, QuantType::kQ4_K, QuantType::kQ6_K, 256, 256, 96, 8},
                      FfnCase{QuantType::kF16, QuantType::kF16, QuantType::kF16, 64, 150, 64, 8}));

// Many rows and a large FFN: z does not fit at once, and pages are computed in batches.
TEST(FfnBatchTest, BatchesOfPagesEqualOneRowAtATime) {
  const FfnCase shape{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 32, 5120, 64, 8};
  const TestLayer layer(shape, 20);
  constexpr int32_t kRows = 1024;
  const std::vector<float> x = RandomActivations(21, kRows * shape.dim), before(kRows * shape.dim);
  const std::vector<FfnPageRef> pages = layer.pages();
  auto backend = MakeBackend({.threads = 2});
  const auto add = [&](FfnJob* job) { backend->FfnAccumulatePages(pages, job); };
  const std::vector<float> all = RunFfn(*backend, layer.params(), x, kRows, before, add);
  for (const int32_t t : {0, 511, 1023}) {
    const std::span<const float> row = RowOf(x, t, shape.dim);
    const std::vector<float> one = RunFfn(*backend, layer.params(), std::vector<float>(row.begin(), row.end()), 1,
                                          std::vector<float>(shape.dim), add);
    EXPECT_TRUE(SameValues(one, RowOf(all, t, shape.dim))) << t;
  }
}

}  // namespace
}  // namespace dogstar
