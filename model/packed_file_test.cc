#include "model/packed_file.h"

#include <csignal>

#include "base/bit_planes.h"
#include "base/random.h"
#include "gmock/gmock.h"
#include "model/packed_test_support.h"
#include "model/packed_writer.h"

namespace dogstar {
namespace {

using ::testing::HasSubstr;

ImportanceFn RandomImportance(int32_t ffn_rows) {
  return [ffn_rows](LayerIndex layer, const LayerMatrices& matrices) -> absl::StatusOr<std::vector<float>> {
    EXPECT_FALSE(matrices.gate.empty() || matrices.up.empty() || matrices.down.empty());
    SplitMix64 random(static_cast<uint64_t>(ToInt(layer)));
    std::vector<float> importance(static_cast<size_t>(ffn_rows));
    for (float& value : importance) value = static_cast<float>(random.Uniform());
    return importance;
  };
}

// A source and its packed file, both whole in memory.
class Pair {
 public:
  Pair(const TestFolder& folder, const SynthOptions& model, const PackOptions& options)
      : source_path_(folder.File("source.gguf")), packed_path_(folder.File("packed.gguf")) {
    EXPECT_TRUE(WriteSyntheticModel(model, source_path_, {}).ok());
    const absl::Status status = PackModel(source_path_, packed_path_, options);
    EXPECT_TRUE(status.ok()) << status;
    source_header_ = *ReadGgufHeader(source_path_);
    packed_header_ = *ReadGgufHeader(packed_path_);
    source_ = ReadWholeFile(source_path_);
    packed_bytes_ = ReadWholeFile(packed_path_);
    auto packed = PackedFile::Open(packed_path_, packed_header_);
    EXPECT_TRUE(packed.ok()) << packed.status();
    packed_ = *std::move(packed);
  }

  // Every row of gate, up and down, from the pages, the order and the scale table, is the source's, bit for bit.
  void ExpectSameFfn() const {
    for (size_t i = 0; i < packed_.layers().size(); ++i) {
      const auto layer = static_cast<int32_t>(i);
      ExpectSameMatrix(packed_.layers()[i], LayerTensorName(layer, "ffn_gate"), packed_.layers()[i].layout.gate_type,
                       packed_.layers()[i].layout.gate_offset);
      ExpectSameMatrix(packed_.layers()[i], LayerTensorName(layer, "ffn_up"), packed_.layers()[i].layout.up_type,
                       packed_.layers()[i].layout.up_offset);
      ExpectSameDown(packed_.layers()[i], LayerTensorName(layer, "ffn_down"));
      ExpectZeroPadding(packed_.layers()[i]);
    }
  }

  void ExpectSamePlainTensors() const {
    for (const GgufTensor& tensor : source_header_.tensors()) {
      if (tensor.name.find("ffn_") != std::string::npos && tensor.name.find("norm") == std::string::npos) continue;
      const GgufTensor* const copy = packed_header_.FindTensor(tensor.name);
      ASSERT_NE(copy, nullptr) << tensor.name;
      EXPECT_EQ(copy->shape, tensor.shape);
      ASSERT_EQ(copy->bytes, tensor.bytes);
      EXPECT_EQ(0, std::memcmp(&source_[tensor.offset], &packed_bytes_[copy->offset], tensor.bytes)) << tensor.name;
    }
  }

  const PackedFile& packed() const { return packed_; }
  const GgufHeader& packed_header() const { return packed_header_; }
  const GgufHeader& source_header() const { return source_header_; }
  const std::vector<std::byte>& packed_bytes() const { return packed_bytes_; }
  const std::string& source_path() const { return source_path_; }
  const std::string& packed_path() const { return packed_path_; }

 private:
  const std::byte* PageOf(const PackedLayer& layer, size_t row) const {
    const size_t page = row / static_cast<size_t>(layer.layout.page_rows);
    return &packed_bytes_[layer.pages_offset + page * layer.layout.page_bytes];
  }

  void ExpectSameMatrix(const PackedLayer& layer, const std::string& tensor, QuantType type, uint64_t part) const {
    const int64_t dim = layer.layout.dim;
    std::vector<std::byte> row_bytes(RowBytes(type, dim));
    for (size_t row = 0; row < layer.row_order.size(); ++row) {
      const size_t in_page = row % static_cast<size_t>(layer.layout.page_rows);
      const std::byte* const panel = PageOf(layer, row) + part + in_page / 16 * PanelBytes(type, dim);
      UnpackPanelRow(type, panel, static_cast<int>(in_page % 16), dim, row_bytes.data());
      const uint64_t at = source_header_.FindTensor(tensor)->offset +
                          static_cast<uint64_t>(ToInt(layer.row_order[row])) * row_bytes.size();
      ASSERT_EQ(0, std::memcmp(&source_[at], row_bytes.data(), row_bytes.size())) << tensor << " row " << row;
    }
  }

  void PutScales(const PackedLayer& layer, int output, std::byte* row) const {
    if (!layer.layout.has_down_table()) return;
    const FfnPageLayout& layout = layer.layout;
    const std::byte* const table = &packed_bytes_[layer.down_scales_offset];
    for (int32_t group = 0; group < layout.group_count(); ++group) {
      StoreScales(layout.down_type, TableScales(layout.down_type, table, group, layout.dim, output), group, row);
    }
  }

  void ExpectSameDown(const PackedLayer& layer, const std::string& tensor) const {
    const QuantType type = layer.layout.down_type;
    for (int output = 0; output < layer.layout.dim; ++output) {
      std::vector<std::byte> plain(RowBytes(type, layer.layout.ffn_rows));
      PutScales(layer, output, plain.data());
      for (size_t row = 0; row < layer.row_order.size(); ++row) {
        const auto in_page = static_cast<int>(row % static_cast<size_t>(layer.layout.page_rows));
        PutPlainCode(type, DownCodeAt(layer.layout, PageOf(layer, row), in_page, output), ToInt(layer.row_order[row]),
                     plain.data());
      }
      const uint64_t at = source_header_.FindTensor(tensor)->offset + static_cast<uint64_t>(output) * plain.size();
      ASSERT_EQ(0, std::memcmp(&source_[at], plain.data(), plain.size())) << tensor << " output " << output;
    }
  }

  // Rows past the width have zero codes and scales.
  void ExpectZeroPadding(const PackedLayer& layer) const {
    const FfnPageLayout& layout = layer.layout;
    const int used = layout.ffn_rows % layout.page_rows;
    if (used == 0) return;
    const std::byte* const page = PageOf(layer, static_cast<size_t>(layout.ffn_rows));
    for (int row = used; row < layout.page_rows; ++row) {
      for (int output = 0; output < layout.dim; ++output) {
        for (std::byte byte : DownCodeAt(layout, page, row, output)) ASSERT_EQ(byte, std::byte{0});
      }
      std::vector<std::byte> gate(RowBytes(layout.gate_type, layout.dim));
      const std::byte* const panel =
          page + layout.gate_offset + static_cast<uint64_t>(row / 16) * PanelBytes(layout.gate_type, layout.dim);
      UnpackPanelRow(layout.gate_type, panel, row % 16, layout.dim, gate.data());
      std::vector<float> weights(static_cast<size_t>(layout.dim));
      DequantizeRow(layout.gate_type, gate.data(), layout.dim, weights.data());
      for (float weight : weights) ASSERT_EQ(weight, 0);
    }
  }

  std::string source_path_, packed_path_;
  GgufHeader source_header_, packed_header_;
  std::vector<std::byte> source_, packed_bytes_;
  PackedFile packed_;
};

class PackedFileTypeTest : public ::testing::TestWithParam<QuantType> {};

TEST_P(PackedFileTypeTest, EveryRowIsTheSourcesBitForBit) {
  const TestFolder folder;
  const SynthOptions model = SmallModel(GetParam());
  const bool small_groups = !IsFloatType(GetParam()) && ShapeOf(GetParam()).group_weights == 16;
  for (int32_t page_rows : {32, 64, 96, 0}) {
    for (int32_t run_rows : {8, small_groups ? 16 : 32}) {
      for (const bool hot : {false, true}) {
        SCOPED_TRACE(fmt::format("page_rows {} run_rows {} hot {}", page_rows, run_rows, hot));
        PackOptions options{.page_rows = page_rows, .run_rows = run_rows};
        if (hot) options.importance = RandomImportance(model.shape.ffn_rows);
        const Pair pair(folder, model, options);
        pair.ExpectSameFfn();
        pair.ExpectSamePlainTensors();
        // Of types that are cut, attention's low planes are there too (planes_test.cc joins them).
        const GgufTensor* low = pair.packed_header().FindTensor("blk.0.attn_low_planes");
        EXPECT_EQ(low != nullptr, LowPlaneBits(GetParam()) > 0);
      }
    }
  }
}

TEST_P(PackedFileTypeTest, TheDownTypeMayDiffer) {
  const TestFolder folder;
  for (QuantType down : {QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16}) {
    SynthOptions model = SmallModel(GetParam());
    model.down_type = down;
    const Pair pair(folder, model, {.page_rows = 64, .importance = RandomImportance(model.shape.ffn_rows)});
    pair.ExpectSameFfn();
  }
}

INSTANTIATE_TEST_SUITE_P(Types, PackedFileTypeTest,
                         ::testing::Values(QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16,
                                           QuantType::kBF16, QuantType::kF32, QuantType::kQ5_0, QuantType::kQ5_1,
                                           QuantType::kQ2_K, QuantType::kQ3_K, QuantType::kQ4_K, QuantType::kQ5_K,
                                           QuantType::kQ6_K, QuantType::kIQ4_NL),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

TEST(PackedFileTest, MetadataIsKeptAndTheHeaderStaysAModel) {
  const TestFolder folder;
  const Pair pair(folder, SmallModel(QuantType::kQ4_0), {});
  for (const GgufField& field : pair.source_header().fields()) {
    if (field.key == "general.alignment") continue;
    EXPECT_NE(pair.packed_header().FindField(field.key), nullptr) << field.key;
  }
  EXPECT_TRUE(PackedFile::IsPacked(pair.packed_header()));
  EXPECT_FALSE(PackedFile::IsPacked(pair.source_header()));
  EXPECT_TRUE(ModelConfig::FromGguf(pair.packed_header()).ok());
}

TEST(PackedFileTest, ChecksumsCoverEveryByteOfEveryTensor) {
  const TestFolder folder;
  const Pair pair(folder, SmallModel(QuantType::kQ4_1), {.page_rows = 32});
  const std::vector<std::byte>& bytes = pair.packed_bytes();
  for (const PackedLayer& layer : pair.packed().layers()) {
    ASSERT_EQ(layer.page_checksums.size(), static_cast<size_t>(layer.layout.page_count()));
    for (size_t page = 0; page < layer.page_checksums.size(); ++page) {
      std::vector<std::byte> copy(layer.layout.page_bytes);
      std::memcpy(copy.data(), &bytes[layer.pages_offset + page * copy.size()], copy.size());
      EXPECT_EQ(ChecksumOf(copy), layer.page_checksums[page]);
      copy[copy.size() / 3] ^= std::byte{4};
      EXPECT_NE(ChecksumOf(copy), layer.page_checksums[page]);
    }
  }
  for (const GgufTensor& tensor : pair.packed_header().tensors()) {
    const TensorChecksums* const checksums = pair.packed().FindChecksums(tensor.name);
    const bool own = tensor.name.starts_with("dogstar.") || tensor.name.ends_with("ffn_pages") ||
                     tensor.name.ends_with("ffn_low_planes");
    ASSERT_EQ(checksums == nullptr, own) << tensor.name;
    if (own) continue;
    const uint64_t chunk_bytes = static_cast<uint64_t>(checksums->chunk_rows) * (tensor.bytes / tensor.rows());
    for (size_t i = 0; i < checksums->checksums.size(); ++i) {
      const uint64_t first = i * chunk_bytes;
      ASSERT_LT(first, tensor.bytes);
      const uint64_t count = std::min(chunk_bytes, tensor.bytes - first);
      EXPECT_EQ(ChecksumOf(std::span(bytes).subspan(tensor.offset + first, count)), checksums->checksums[i]);
    }
    EXPECT_GE(checksums->checksums.size() * chunk_bytes, tensor.bytes);
  }
}

TEST(PackedFileTest, LowPlanesAreThoseOfThePages) {
  const TestFolder folder;
  for (const QuantType type : {QuantType::kQ4_0, QuantType::kQ5_1, QuantType::kQ6_K, QuantType::kQ8_0}) {
    const Pair pair(folder, SmallModel(type), {.page_rows = 64});
    const std::vector<std::byte>& bytes = pair.packed_bytes();
    for (const PackedLayer& layer : pair.packed().layers()) {
      const FfnPageLayout& layout = layer.layout;
      ASSERT_GT(layer.low_offset, 0U);
      ASSERT_EQ(layer.low_checksums.size(), static_cast<size_t>(layout.page_count()));
      for (size_t page = 0; page < layer.low_checksums.size(); ++page) {
        std::vector<std::byte> low(layout.low.bytes);
        SplitPage(layout, &bytes[layer.pages_offset + page * layout.page_bytes], nullptr, low.data());
        EXPECT_EQ(0, std::memcmp(low.data(), &bytes[layer.low_offset + page * low.size()], low.size())) << page;
        EXPECT_EQ(ChecksumOf(low), layer.low_checksums[page]);
      }
    }
  }
}

TEST(PackedFileTest, LowPlanesAreLeftOutWhereNobodyWantsThemOrTypesAreNotCut) {
  const TestFolder folder;
  const Pair without(folder, SmallModel(QuantType::kQ4_0), {.planes = false});
  const Pair floats(folder, SmallModel(QuantType::kF16), {});
  for (const Pair* pair : {&without, &floats}) {
    for (const PackedLayer& layer : pair->packed().layers()) EXPECT_EQ(layer.low_offset, 0U);
  }
}

TEST(PackedFileTest, LargeTensorsAreCheckedInChunks) {
  EXPECT_EQ(ChunkRows(0) % 16, 0);
  EXPECT_EQ(ChunkRows(1), 1 << 20);
  EXPECT_EQ(ChunkRows(2304), 448);  // 4096 columns of Q4_0: 1,032,192 bytes
  EXPECT_EQ(ChunkRows(1 << 20), 16);
  EXPECT_EQ(ChunkRows(uint64_t{1} << 40), 16);
}

TEST(PackedFileTest, AChangedSourceMakesThePackStale) {
  const TestFolder folder;
  const Pair pair(folder, SmallModel(QuantType::kQ4_0), {});
  EXPECT_EQ(*IdentifySource(pair.source_path()), pair.packed().source());
  std::filesystem::last_write_time(pair.source_path(),
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_NE(*IdentifySource(pair.source_path()), pair.packed().source());
  SynthOptions other = SmallModel(QuantType::kQ4_0);
  other.name = "other";
  ASSERT_TRUE(WriteSyntheticModel(other, pair.source_path(), {}).ok());
  EXPECT_NE(IdentifySource(pair.source_path())->header_hash, pair.packed().source().header_hash);
  EXPECT_FALSE(IdentifySource(folder.File("absent.gguf")).ok());
}

TEST(PackModelTest, ProblemsOfTheSourceAreNamedAndLeaveNoFile) {
  const TestFolder folder;
  const Pair pair(folder, SmallModel(QuantType::kQ4_0), {});
  const std::string output = folder.File("out.gguf");
  const size_t files = folder.FileCount();

  const absl::Status missing = PackModel(folder.File("absent.gguf"), output, {});
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr("absent.gguf"));

  const absl::Status packed = PackModel(pair.packed_path(), output, {});
  EXPECT_THAT(std::string(packed.message()), HasSubstr("packed file already"));

  const absl::Status same = PackModel(pair.source_path(), pair.source_path(), {});
  EXPECT_THAT(std::string(same.message()), HasSubstr("source itself"));

  EXPECT_FALSE(PackModel(pair.source_path(), folder.File("no/such/folder/out.gguf"), {}).ok());
  EXPECT_FALSE(PackModel(pair.source_path(), output, {.page_rows = 33}).ok());
  EXPECT_FALSE(PackModel(pair.source_path(), output, {.run_rows = 5}).ok());

  std::filesystem::resize_file(pair.source_path(), std::filesystem::file_size(pair.source_path()) / 2);
  const absl::Status truncated = PackModel(pair.source_path(), output, {});
  EXPECT_TRUE(absl::IsDataLoss(truncated)) << truncated;
  EXPECT_EQ(folder.FileCount(), files);
}

TEST(PackModelTest, ASourceThatChangesMeanwhileIsAnErrorAndLeavesNoFile) {
  const TestFolder folder;
  const std::string source = folder.File("source.gguf");
  ASSERT_TRUE(WriteSyntheticModel(SmallModel(QuantType::kQ4_0), source, {}).ok());
  PackOptions options;
  bool touched = false;
  options.progress = [&](uint64_t, uint64_t) {
    if (touched) return;
    touched = true;
    std::filesystem::last_write_time(source, std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  };
  const absl::Status status = PackModel(source, folder.File("packed.gguf"), options);
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_EQ(folder.FileCount(), 1u);
}

TEST(PackModelTest, AnErrorOfTheImportancePassLeavesNoFile) {
  const TestFolder folder;
  const std::string source = folder.File("source.gguf");
  ASSERT_TRUE(WriteSyntheticModel(SmallModel(QuantType::kQ4_0), source, {}).ok());
  PackOptions options;
  options.importance = [](LayerIndex, const LayerMatrices&) -> absl::StatusOr<std::vector<float>> {
    return absl::CancelledError("stopped");
  };
  EXPECT_TRUE(absl::IsCancelled(PackModel(source, folder.File("packed.gguf"), options)));
  options.importance = [](LayerIndex, const LayerMatrices&) { return std::vector<float>(3); };
  EXPECT_FALSE(PackModel(source, folder.File("packed.gguf"), options).ok());
  EXPECT_EQ(folder.FileCount(), 1u);
}

TEST(PackModelTest, AKilledPackLeavesNoFileThatOpens) {
  const TestFolder folder;
  const std::string source = folder.File("source.gguf"), packed = folder.File("packed.gguf");
  ASSERT_TRUE(WriteSyntheticModel(SmallModel(QuantType::kQ4_0), source, {}).ok());
  PackOptions options;
  options.progress = [](uint64_t done, uint64_t total) {
    if (done > total / 2) raise(SIGKILL);
  };
  EXPECT_EXIT((void)PackModel(source, packed, options), ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_FALSE(std::filesystem::exists(packed));
}

TEST(PackModelTest, ProgressEndsAtTheWholeFile) {
  const TestFolder folder;
  const std::string source = folder.File("source.gguf"), packed = folder.File("packed.gguf");
  ASSERT_TRUE(WriteSyntheticModel(SmallModel(QuantType::kQ4_0), source, {}).ok());
  uint64_t last = 0, total_bytes = 0;
  PackOptions options;
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
    total_bytes = total;
  };
  ASSERT_TRUE(PackModel(source, packed, options).ok());
  EXPECT_EQ(last, total_bytes);
  EXPECT_EQ(total_bytes, std::filesystem::file_size(packed));
}

TEST(DefaultPackedPathTest, BesideTheModelWhereThatCanBeWritten) {
  const TestFolder folder;
  EXPECT_EQ(DefaultPackedPath(folder.File("m.gguf"), "/cache"), folder.File("m.dog.gguf"));
  EXPECT_EQ(DefaultPackedPath(folder.File("m"), "/cache"), folder.File("m.dog.gguf"));
  const std::string cached = DefaultPackedPath("/no/such/folder/m.gguf", "/cache");
  EXPECT_TRUE(cached.starts_with("/cache/m-") && cached.ends_with(".dog.gguf")) << cached;
  EXPECT_NE(cached, DefaultPackedPath("/no/other/folder/m.gguf", "/cache"));
}

}  // namespace
}  // namespace dogstar
