// FFN pages and overlays on every instruction set and thread count against device/reference.
#include "cpu/ffn_test_support.h"

namespace dogstar {
namespace {

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

class FfnTest : public ::testing::TestWithParam<FfnCase> {
 protected:
  const TestLayer layer_{GetParam(), 1};
  const int32_t dim_ = GetParam().dim;

  std::vector<float> Reference(const std::vector<FfnPageRef>& pages, const std::vector<float>& x, int32_t rows,
                               const std::vector<float>& before, bool precise) const {
    std::vector<float> out = before;
    for (int32_t t = 0; t < rows; ++t) {
      std::vector<float> y(dim_), sum(dim_);
      const auto close_group = [&] {
        for (int32_t o = 0; o < dim_; ++o) y[o] += std::exchange(sum[o], 0.0f);
      };
      for (size_t p = 0; p < pages.size(); ++p) {
        const auto group_of = [&](size_t page) { return layer_.layout().SumGroupOf(pages[page].first_row); };
        if (p > 0 && group_of(p) != group_of(p - 1)) close_group();
        reference::FfnPage(layer_.params(), pages[p], RowOf(x, t, dim_), precise, sum, {});
      }
      close_group();
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

// A group whose sum comes from elsewhere, wherever it is: the same bits.
TEST_P(FfnTest, SumsOfGroupsFromElsewhereEqualTheirPages) {
  const int32_t rows = 3;
  const std::vector<float> x = RandomActivations(7, rows * dim_), before = RandomFloats(8, rows * dim_);
  const std::vector<float> nothing(static_cast<size_t>(rows * dim_));
  const std::vector<FfnPageRef> pages = layer_.pages();
  const std::vector<float> expected = Reference(pages, x, rows, before, false);
  const auto groups = static_cast<size_t>(layer_.layout().SumGroupOf(pages.back().first_row)) + 1;
  const auto together = static_cast<size_t>(layer_.layout().sum_pages());
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    for (size_t elsewhere = 0; elsewhere < groups; ++elsewhere) {
      const std::span<const FfnPageRef> of_group =
          std::span(pages).subspan(elsewhere * together, std::min(together, pages.size() - elsewhere * together));
      const auto sum = MakeTensor(*backend, rows, dim_,
                                  RunFfn(*backend, layer_.params(), x, rows, nothing,
                                         [&](FfnJob* job) { backend->FfnAccumulatePages(of_group, job); }));
      const std::vector<float> got = RunFfn(*backend, layer_.params(), x, rows, before, [&](FfnJob* job) {
        backend->FfnAccumulatePages(std::span(pages).first(elsewhere * together), job);
        backend->FfnAccumulateSum(*sum, job);
        backend->FfnAccumulatePages(std::span(pages).subspan(elsewhere * together + of_group.size()), job);
      });
      EXPECT_TRUE(SameValues(got, expected)) << backend->Describe() << ", group " << elsewhere;
    }
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
        FfnCase{QuantType::kQ4_0, QuantType::kQ4_0, QuantType::kQ4_0, 64, 1184, 96, 8},
        FfnCase{QuantType::kF16, QuantType::kF16, QuantType::kF16, 32, 1100, 544, 8},
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
    NameOfCase);

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
