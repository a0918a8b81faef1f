#include "predictors/statistics.h"

#include <cstring>
#include <limits>
#include <utility>

#include "base/panel.h"
#include "base/quant.h"
#include "fmt/format.h"
#include "model/gguf.h"
#include "model/model_file.h"

namespace dogstar {
namespace {

constexpr char kVersionKey[] = "dogstar.statistics.version";
constexpr uint32_t kVersion = 1;
constexpr QuantType kMapType = QuantType::kQ8_0;
// More than any model has: what a hostile file claims must not become an allocation.
constexpr uint64_t kMostLayers = 1024, kMostWidth = uint64_t{1} << 20, kMostRank = 1024,
                   kMostTokens = uint64_t{1} << 20, kMostResiduals = 16, kAny = std::numeric_limits<uint64_t>::max();

std::string LayerTensor(size_t layer, std::string_view name) { return fmt::format("blk.{}.{}", layer, name); }

std::string ResidualTensor(size_t layer, size_t residual, std::string_view name) {
  return fmt::format("blk.{}.residual.{}.{}", layer, residual, name);
}

// Attribution sums by the names of their tensors.
template <typename Layer>
auto SumsOf(Layer& layer) {
  return std::array{std::pair{std::string_view("attribution.ffn"), &layer.ffn_sums},
                    std::pair{std::string_view("attribution.heads"), &layer.head_sums}};
}

// The vectors of a layer with their names and lengths.
template <typename Layer, typename Visit>
absl::Status ForVectors(Layer& layer, uint64_t rows, const Visit& visit) {
  RETURN_IF_ERROR(visit("frequency", layer.frequency, rows));
  RETURN_IF_ERROR(visit("persistence", layer.persistence, rows));
  RETURN_IF_ERROR(visit("contribution", layer.contribution, rows));
  RETURN_IF_ERROR(visit("z_rms", layer.z_rms, rows));
  RETURN_IF_ERROR(visit("up_rms", layer.up_rms, rows));
  RETURN_IF_ERROR(visit("thresholds", layer.thresholds, kDensityGrid.size()));
  RETURN_IF_ERROR(visit("losses", layer.losses, kDensityGrid.size()));
  return visit("low_rank.bias", layer.map.bias, rows);
}

std::vector<std::byte> Quantized(std::span<const float> values, int32_t cols) {
  const size_t rows = values.size() / static_cast<size_t>(cols);
  const uint64_t row_bytes = RowBytes(kMapType, cols);
  std::vector<std::byte> bytes(rows * row_bytes);
  for (size_t i = 0; i < rows; ++i) {
    QuantizeRow(kMapType, values.data() + i * static_cast<size_t>(cols), cols, bytes.data() + i * row_bytes);
  }
  return bytes;
}

std::vector<float> Dequantized(std::span<const std::byte> bytes, int32_t cols) {
  const uint64_t row_bytes = RowBytes(kMapType, cols);
  std::vector<float> values(bytes.size() / row_bytes * static_cast<size_t>(cols));
  for (size_t i = 0; i * row_bytes < bytes.size(); ++i) {
    DequantizeRow(kMapType, bytes.data() + i * row_bytes, cols, values.data() + i * static_cast<size_t>(cols));
  }
  return values;
}

// Declares the tensors, then writes them: the same walk twice.
class StatisticsWriter {
 public:
  StatisticsWriter(const Statistics& statistics, GgufWriter* writer) : statistics_(statistics), writer_(writer) {}

  absl::Status Write() {
    AddFields();
    RETURN_IF_ERROR(Walk());
    RETURN_IF_ERROR(writer_->BeginData());
    declaring_ = false;
    RETURN_IF_ERROR(Walk());
    return writer_->Finish();
  }

 private:
  void AddFields();
  absl::Status Walk();
  absl::Status WalkResiduals(size_t index, const LayerStatistics& layer);
  absl::Status Floats(const std::string& name, std::span<const float> values) {
    return Tensor(name, QuantType::kF32, {values.size()}, std::as_bytes(values));
  }
  absl::Status Weights(const std::string& name, std::span<const float> values, int32_t cols) {
    const uint64_t rows = values.size() / static_cast<uint64_t>(cols);
    return Tensor(name, kMapType, {static_cast<uint64_t>(cols), rows}, Quantized(values, cols));
  }
  absl::Status Tensor(const std::string& name, QuantType type, std::vector<uint64_t> shape,
                      std::span<const std::byte> bytes) {
    if (declaring_) return writer_->AddTensor(name, TraitsOf(type).gguf_type, std::move(shape));
    RETURN_IF_ERROR(writer_->WriteData(bytes));
    return writer_->EndTensor();
  }

  const Statistics& statistics_;
  GgufWriter* writer_;
  bool declaring_ = true;
};

void StatisticsWriter::AddFields() {
  const ModelIdentity& model = statistics_.model;
  const CalibrationSettings& settings = statistics_.settings;
  writer_->AddString("general.architecture", "dogstar-statistics");
  writer_->AddUint32(kVersionKey, kVersion);
  writer_->AddUint64("dogstar.statistics.model.header_hash", model.header_hash);
  writer_->AddUint32("dogstar.statistics.model.layers", static_cast<uint32_t>(model.layers));
  writer_->AddUint32("dogstar.statistics.model.rows", static_cast<uint32_t>(model.rows));
  writer_->AddUint32("dogstar.statistics.model.dim", static_cast<uint32_t>(model.dim));
  writer_->AddUint64("dogstar.statistics.text_hash", settings.text_hash);
  writer_->AddUint32("dogstar.statistics.tokens", static_cast<uint32_t>(settings.tokens));
  writer_->AddUint32("dogstar.statistics.held_out", static_cast<uint32_t>(settings.held_out));
  writer_->AddField({"dogstar.statistics.density", GgufValueType::kFloat64, settings.density});
  writer_->AddUint32("dogstar.statistics.rank", static_cast<uint32_t>(settings.rank));
  writer_->AddUint32("dogstar.statistics.epochs", static_cast<uint32_t>(settings.epochs));
  writer_->AddUint64("dogstar.statistics.seed", settings.seed);
  for (size_t i = 0; i < settings.residuals.size(); ++i) {
    const ResidualKind& kind = settings.residuals[i];
    writer_->AddString(fmt::format("dogstar.statistics.residual.{}.predictor", i), kind.predictor);
    writer_->AddField(
        {fmt::format("dogstar.statistics.residual.{}.density", i), GgufValueType::kFloat64, kind.density});
    writer_->AddUint64(fmt::format("dogstar.statistics.residual.{}.order_hash", i), kind.order_hash);
  }
  writer_->AddUint32("dogstar.statistics.residual.count", static_cast<uint32_t>(settings.residuals.size()));
  writer_->AddUint32("dogstar.statistics.attribution", static_cast<uint32_t>(settings.attribution));
  writer_->AddUint32("dogstar.statistics.attributed", static_cast<uint32_t>(statistics_.attributed));
  writer_->AddUint32("dogstar.statistics.layers_done", static_cast<uint32_t>(statistics_.layers.size()));
}

absl::Status StatisticsWriter::Walk() {
  for (size_t i = 0; i < statistics_.layers.size(); ++i) {
    const LayerStatistics& layer = statistics_.layers[i];
    RETURN_IF_ERROR(ForVectors(layer, layer.frequency.size(),
                               [&](std::string_view name, const std::vector<float>& values, uint64_t) {
                                 return Floats(LayerTensor(i, name), values);
                               }));
    RETURN_IF_ERROR(Weights(LayerTensor(i, "low_rank.hidden"), layer.map.hidden, layer.map.dim));
    RETURN_IF_ERROR(Weights(LayerTensor(i, "low_rank.output"), layer.map.output, layer.map.rank));
    const std::array<float, 4> recall = {
        static_cast<float>(layer.recall.recall), static_cast<float>(layer.recall.likely_recall),
        static_cast<float>(layer.recall.likely_precision), static_cast<float>(layer.recall.static_recall)};
    RETURN_IF_ERROR(Floats(LayerTensor(i, "low_rank.recall"), recall));
    RETURN_IF_ERROR(WalkResiduals(i, layer));
    for (const auto& [name, sums] : SumsOf(layer)) {
      if (sums->units > 0) RETURN_IF_ERROR(Floats(LayerTensor(i, name), sums->values));
    }
  }
  return statistics_.stream.empty() ? absl::OkStatus() : Floats("stream", statistics_.stream);
}

absl::Status StatisticsWriter::WalkResiduals(size_t index, const LayerStatistics& layer) {
  for (size_t r = 0; r < layer.residuals.size(); ++r) {
    const LowRankMap& map = layer.residuals[r];
    RETURN_IF_ERROR(Weights(ResidualTensor(index, r, "hidden"), map.hidden, map.dim));
    RETURN_IF_ERROR(Weights(ResidualTensor(index, r, "output"), map.output, map.rank));
    RETURN_IF_ERROR(Floats(ResidualTensor(index, r, "bias"), map.bias));
  }
  return layer.residuals.empty() ? absl::OkStatus() : Floats(LayerTensor(index, "residual.explained"), layer.explained);
}

class StatisticsReader {
 public:
  StatisticsReader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  absl::StatusOr<Statistics> Read();

 private:
  absl::Status Wrong(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format("{}: {}", name_, what));
  }
  absl::StatusOr<uint64_t> Number(std::string_view key, uint64_t most) const;
  absl::Status ReadFields(Statistics* statistics, uint64_t* done);
  absl::Status ReadAdditions(Statistics* statistics);
  absl::Status ReadLayer(size_t index, LayerStatistics* layer);
  absl::Status ReadMap(const std::string& prefix, int32_t rows, LowRankMap* map);
  absl::Status ReadSums(size_t index, LayerStatistics* layer);
  absl::StatusOr<std::span<const std::byte>> Bytes(const std::string& tensor, QuantType type, uint64_t cols,
                                                   uint64_t rows) const;
  absl::Status Floats(const std::string& tensor, uint64_t count, std::vector<float>* values) const;
  absl::Status Weights(const std::string& tensor, int32_t cols, int32_t rows, std::vector<float>* values) const;

  std::span<const std::byte> file_;
  const std::string& name_;
  GgufHeader header_;
  Statistics result_;
};

absl::StatusOr<uint64_t> StatisticsReader::Number(std::string_view key, uint64_t most) const {
  const std::string full = fmt::format("dogstar.statistics.{}", key);
  const absl::StatusOr<uint64_t> value = header_.GetUint(full);
  if (!value.ok()) return Annotate(value.status(), name_);
  if (*value > most) return Wrong(fmt::format("{} is {}; at most {} makes sense", full, *value, most));
  return value;
}

absl::Status StatisticsReader::ReadFields(Statistics* statistics, uint64_t* done) {
  const auto number = [&](std::string_view key, uint64_t most, int32_t* to) -> absl::Status {
    ASSIGN_OR_RETURN(const uint64_t value, Number(key, most));
    *to = static_cast<int32_t>(value);
    return absl::OkStatus();
  };
  ModelIdentity& model = statistics->model;
  CalibrationSettings& settings = statistics->settings;
  ASSIGN_OR_RETURN(const uint64_t version, Number("version", kAny));
  if (version != kVersion) {
    return Wrong(
        fmt::format("statistics of version {}; this program reads version {}: calibrate again", version, kVersion));
  }
  ASSIGN_OR_RETURN(model.header_hash, Number("model.header_hash", kAny));
  RETURN_IF_ERROR(number("model.layers", kMostLayers, &model.layers));
  RETURN_IF_ERROR(number("model.rows", kMostWidth, &model.rows));
  RETURN_IF_ERROR(number("model.dim", kMostWidth, &model.dim));
  ASSIGN_OR_RETURN(settings.text_hash, Number("text_hash", kAny));
  RETURN_IF_ERROR(number("tokens", kMostTokens, &settings.tokens));
  RETURN_IF_ERROR(number("held_out", kMostTokens, &settings.held_out));
  const absl::StatusOr<double> density = header_.GetFloat("dogstar.statistics.density");
  if (!density.ok()) return Annotate(density.status(), name_);
  if (!(*density > 0 && *density <= 1)) return Wrong("dogstar.statistics.density is not between 0 and 1");
  settings.density = *density;
  RETURN_IF_ERROR(number("rank", kMostRank, &settings.rank));
  RETURN_IF_ERROR(number("epochs", kMostTokens, &settings.epochs));
  ASSIGN_OR_RETURN(settings.seed, Number("seed", kAny));
  ASSIGN_OR_RETURN(*done, Number("layers_done", static_cast<uint64_t>(model.layers)));
  if (model.dim % kQuantBlock != 0 || settings.rank % kQuantBlock != 0 || settings.rank == 0 || model.rows == 0) {
    return Wrong(fmt::format("a map of rank {} for {} columns and {} rows: rank and columns must be multiples of {}",
                             settings.rank, model.dim, model.rows, kQuantBlock));
  }
  return absl::OkStatus();
}

// What files of earlier calibrations do not have.
absl::Status StatisticsReader::ReadAdditions(Statistics* statistics) {
  const auto number = [&](std::string_view key, uint64_t most, uint64_t* to) -> absl::Status {
    if (header_.FindField(fmt::format("dogstar.statistics.{}", key)) == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(*to, Number(key, most));
    return absl::OkStatus();
  };
  uint64_t residuals = 0, attribution = 0, attributed = 0;
  RETURN_IF_ERROR(number("residual.count", kMostResiduals, &residuals));
  RETURN_IF_ERROR(number("attribution", kMostTokens, &attribution));
  RETURN_IF_ERROR(number("attributed", kMostTokens, &attributed));
  statistics->settings.attribution = static_cast<int32_t>(attribution);
  statistics->attributed = static_cast<int32_t>(attributed);
  for (uint64_t i = 0; i < residuals; ++i) {
    const std::string prefix = fmt::format("dogstar.statistics.residual.{}", i);
    const absl::StatusOr<std::string_view> predictor = header_.GetString(prefix + ".predictor");
    if (!predictor.ok()) return Annotate(predictor.status(), name_);
    const absl::StatusOr<double> density = header_.GetFloat(prefix + ".density");
    if (!density.ok()) return Annotate(density.status(), name_);
    if (!(*density > 0 && *density < 1)) return Wrong(prefix + ".density is not between 0 and 1");
    ASSIGN_OR_RETURN(const uint64_t order_hash, Number(fmt::format("residual.{}.order_hash", i), kAny));
    statistics->settings.residuals.push_back({std::string(*predictor), *density, order_hash});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::span<const std::byte>> StatisticsReader::Bytes(const std::string& tensor, QuantType type,
                                                                   uint64_t cols, uint64_t rows) const {
  const GgufTensor* const found = header_.FindTensor(tensor);
  if (found == nullptr) return Wrong(fmt::format("tensor {} is missing", tensor));
  if (found->gguf_type != TraitsOf(type).gguf_type || found->cols() != cols || found->rows() != rows) {
    return Wrong(fmt::format("tensor {} is not {} of {} x {}", tensor, TraitsOf(type).name, rows, cols));
  }
  return file_.subspan(found->offset, found->bytes);  // GgufHeader::Parse has checked both
}

absl::Status StatisticsReader::Floats(const std::string& tensor, uint64_t count, std::vector<float>* values) const {
  ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, Bytes(tensor, QuantType::kF32, count, 1));
  values->resize(count);
  std::memcpy(values->data(), bytes.data(), bytes.size());
  for (const float value : *values) {
    if (!(value - value == 0)) return Wrong(fmt::format("tensor {} has a value that is no number", tensor));
  }
  return absl::OkStatus();
}

absl::Status StatisticsReader::Weights(const std::string& tensor, int32_t cols, int32_t rows,
                                       std::vector<float>* values) const {
  ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                   Bytes(tensor, kMapType, static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)));
  *values = Dequantized(bytes, cols);
  return absl::OkStatus();
}

absl::Status StatisticsReader::ReadLayer(size_t index, LayerStatistics* layer) {
  const ModelIdentity& model = result_.model;
  RETURN_IF_ERROR(ForVectors(*layer, static_cast<uint64_t>(model.rows),
                             [&](std::string_view name, std::vector<float>& values, uint64_t count) {
                               return Floats(LayerTensor(index, name), count, &values);
                             }));
  RETURN_IF_ERROR(ReadMap(LayerTensor(index, "low_rank"), model.rows, &layer->map));
  std::vector<float> recall;
  RETURN_IF_ERROR(Floats(LayerTensor(index, "low_rank.recall"), 4, &recall));
  layer->recall = {recall[0], recall[1], recall[2], recall[3]};
  const size_t residuals = result_.settings.residuals.size();
  for (size_t r = 0; r < residuals; ++r) {
    LowRankMap& map = layer->residuals.emplace_back();
    RETURN_IF_ERROR(ReadMap(fmt::format("blk.{}.residual.{}", index, r), model.dim, &map));
    RETURN_IF_ERROR(Floats(ResidualTensor(index, r, "bias"), static_cast<uint64_t>(model.dim), &map.bias));
  }
  if (residuals > 0) RETURN_IF_ERROR(Floats(LayerTensor(index, "residual.explained"), residuals, &layer->explained));
  return ReadSums(index, layer);
}

// Its weights; the bias is read elsewhere.
absl::Status StatisticsReader::ReadMap(const std::string& prefix, int32_t rows, LowRankMap* map) {
  map->rank = result_.settings.rank;
  map->dim = result_.model.dim;
  map->rows = rows;
  RETURN_IF_ERROR(Weights(prefix + ".hidden", map->dim, map->rank, &map->hidden));
  return Weights(prefix + ".output", map->rank, rows, &map->output);
}

absl::Status StatisticsReader::ReadSums(size_t index, LayerStatistics* layer) {
  for (const auto& [name, sums] : SumsOf(*layer)) {
    const std::string full = LayerTensor(index, name);
    const GgufTensor* const tensor = header_.FindTensor(full);
    if (tensor == nullptr && result_.attributed > 0) return Wrong(fmt::format("tensor {} is missing", full));
    if (tensor == nullptr) continue;
    const uint64_t units = tensor->cols() / kAttributionSums;
    const bool of_rows = sums == &layer->ffn_sums;
    if (units == 0 || units > kMostWidth || (of_rows && units != static_cast<uint64_t>(result_.model.rows))) {
      return Wrong(fmt::format("tensor {} has {} values", full, tensor->cols()));
    }
    const LayerStatistics& first = result_.layers.front();
    if (!of_rows && &first != layer && units != static_cast<uint64_t>(first.head_sums.units)) {
      return Wrong(
          fmt::format("tensor {} is of {} heads, that of the first layer of {}", full, units, first.head_sums.units));
    }
    sums->units = static_cast<int32_t>(units);
    RETURN_IF_ERROR(Floats(full, units * kAttributionSums, &sums->values));
  }
  return absl::OkStatus();
}

absl::StatusOr<Statistics> StatisticsReader::Read() {
  absl::StatusOr<GgufHeader> header = GgufHeader::Parse(file_, file_.size());
  if (!header.ok()) return Annotate(header.status(), name_);
  header_ = *std::move(header);
  if (header_.FindField(kVersionKey) == nullptr) {
    return Wrong("not a statistics file; dogstar calibrate writes one");
  }
  uint64_t done = 0;
  RETURN_IF_ERROR(ReadFields(&result_, &done));
  RETURN_IF_ERROR(ReadAdditions(&result_));
  for (size_t i = 0; i < done; ++i) RETURN_IF_ERROR(ReadLayer(i, &result_.layers.emplace_back()));
  if (header_.FindTensor("stream") != nullptr) {
    const auto values = static_cast<uint64_t>(result_.settings.tokens) * static_cast<uint64_t>(result_.model.dim);
    RETURN_IF_ERROR(Floats("stream", values, &result_.stream));
  }
  return std::move(result_);
}

}  // namespace

void RoundLikeStored(LowRankMap* map) {
  map->hidden = Dequantized(Quantized(map->hidden, map->dim), map->dim);
  map->output = Dequantized(Quantized(map->output, map->rank), map->rank);
}

absl::Status WriteStatistics(const Statistics& statistics, const std::string& path) {
  ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(path, 32));
  return StatisticsWriter(statistics, &writer).Write();
}

absl::StatusOr<Statistics> ParseStatistics(std::span<const std::byte> file, const std::string& name) {
  return StatisticsReader(file, name).Read();
}

absl::StatusOr<Statistics> ReadStatistics(const std::string& path) {
  // The header is checked before the file is read: another file may be larger than memory.
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(path));
  if (header.FindField(kVersionKey) == nullptr) {
    return absl::InvalidArgumentError(fmt::format("{}: not a statistics file; dogstar calibrate writes one", path));
  }
  std::vector<std::byte> file(header.file_bytes());
  RETURN_IF_ERROR(ReadBytes(path, 0, file));
  return ParseStatistics(file, path);
}

absl::Status CheckStatistics(const Statistics& statistics, const ModelIdentity& model, const std::string& path) {
  const ModelIdentity& given = statistics.model;
  if (!(given == model)) {
    return absl::FailedPreconditionError(fmt::format(
        "{} belongs to another model (header {:016x}, {} layers of {} rows, {} columns; this one: header {:016x}, {}, "
        "{}, {}): calibrate this model",
        path, given.header_hash, given.layers, given.rows, given.dim, model.header_hash, model.layers, model.rows,
        model.dim));
  }
  if (statistics.layers.size() != static_cast<size_t>(model.layers)) {
    return absl::FailedPreconditionError(fmt::format("{} has {} of {} layers: run dogstar calibrate again, it goes on",
                                                     path, statistics.layers.size(), model.layers));
  }
  return absl::OkStatus();
}

uint64_t LowRankBytes(int32_t rank, int32_t dim, int32_t rows) {
  return PanelMatrixBytes(kMapType, rank, dim) + PanelMatrixBytes(kMapType, rows, rank) +
         static_cast<uint64_t>(rows) * sizeof(float);
}

}  // namespace dogstar
