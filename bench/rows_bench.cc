// What the packed layout `rows` would lose: the down matrices quantized once more along the hidden size, so that each
// neuron has scales of its own, compared with the source over a text. Both run with float32 activations; what the
// matrices became is written as F32, so the difference is theirs alone.
//
//   rows_bench MODEL TEXT [--types Q8_0,Q5_1] [--windows N] [--threads N]
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "model/packed_input.h"
#include "model/synth.h"
#include "runtime/engine.h"
#include "runtime/evaluation.h"
#include "runtime/sampler.h"

namespace dogstar {
namespace {

struct Options {
  std::string model, text;
  std::vector<std::string> types = {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"};
  int32_t windows = 4;
  int threads = 0;
};

constexpr int32_t kWindow = 512, kRowsOfPass = 32;

// A neuron's weights lie a row apart: out[cols][rows] of in[rows][cols].
std::vector<float> Transposed(const std::vector<float>& in, int64_t rows, int64_t cols) {
  std::vector<float> out(in.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * cols + c)];
  }
  return out;
}

// values: [dim, ffn_rows], as the source has them; becomes what `type` keeps of them along dim.
std::vector<float> ThroughRows(const std::vector<float>& values, int64_t dim, int64_t ffn_rows, QuantType type) {
  std::vector<float> neurons = Transposed(values, dim, ffn_rows);
  std::vector<std::byte> row(RowBytes(type, dim));
  for (int64_t n = 0; n < ffn_rows; ++n) {
    std::fill(row.begin(), row.end(), std::byte{0});
    QuantizeRow(type, neurons.data() + n * dim, dim, row.data());
    DequantizeRow(type, row.data(), dim, neurons.data() + n * dim);
  }
  return Transposed(neurons, ffn_rows, dim);
}

absl::StatusOr<std::vector<float>> DownValues(const InputFile& file, const GgufTensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes);
  RETURN_IF_ERROR(file.ReadAt(tensor.offset, bytes));
  const auto type = static_cast<QuantType>(tensor.gguf_type);
  const auto cols = static_cast<int64_t>(tensor.cols()), rows = static_cast<int64_t>(tensor.rows());
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    DequantizeRow(type, bytes.data() + static_cast<uint64_t>(r) * RowBytes(type, cols), cols, values.data() + r * cols);
  }
  return values;
}

bool IsDown(const GgufTensor& tensor) { return tensor.name.ends_with("ffn_down.weight"); }

// The source with its down matrices as layout `rows` in `type` would give them back.
absl::Status WriteRowsModel(const std::string& source, QuantType type, const std::string& path) {
  ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(source));
  ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(source));
  ASSIGN_OR_RETURN(GgufWriter writer, GgufWriter::Create(path, 32));
  for (GgufField& field : header.TakeFields()) writer.AddField(std::move(field));
  for (const GgufTensor& tensor : header.tensors()) {
    const auto gguf_type = IsDown(tensor) ? static_cast<uint32_t>(QuantType::kF32) : tensor.gguf_type;
    RETURN_IF_ERROR(writer.AddTensor(tensor.name, gguf_type, tensor.shape));
  }
  RETURN_IF_ERROR(writer.BeginData());
  for (const GgufTensor& tensor : header.tensors()) {
    if (IsDown(tensor)) {
      ASSIGN_OR_RETURN(const std::vector<float> values, DownValues(file, tensor));
      const std::vector<float> kept =
          ThroughRows(values, static_cast<int64_t>(tensor.rows()), static_cast<int64_t>(tensor.cols()), type);
      RETURN_IF_ERROR(writer.WriteData(std::as_bytes(std::span(kept))));
    } else {
      std::vector<std::byte> bytes(tensor.bytes);
      RETURN_IF_ERROR(file.ReadAt(tensor.offset, bytes));
      RETURN_IF_ERROR(writer.WriteData(bytes));
    }
    RETURN_IF_ERROR(writer.EndTensor());
  }
  return writer.Finish();
}

// Calls on_position(index, logits) for each position of each window of the text.
template <typename OnPosition>
absl::Status ForLogits(const Options& options, const std::string& path, const std::string& text,
                       const OnPosition& on_position) {
  Config config;
  config.model = path;
  config.precise = true;
  config.threads = options.threads;
  config.corrector.mode = RunMode::kDense;
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(path));
  const std::vector<TokenId> tokens = model->tokenizer().Encode(text, {});
  const Engine::Options engine_options{.mode = RunMode::kDense, .context_slots = kWindow, .logit_rows = kRowsOfPass};
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(config, model.get(), engine_options, {}));
  std::vector<float> logits(static_cast<size_t>(model->config().vocab_size));
  const auto count = std::min<int32_t>(options.windows * kWindow, static_cast<int32_t>(tokens.size()));
  for (int32_t begin = 0; begin < count; begin += kRowsOfPass) {
    if (begin % kWindow == 0) engine->kv().Truncate(SequenceId{0}, 0);
    const int32_t rows = std::min(kRowsOfPass, count - begin);
    Batch batch;
    batch.tokens.assign(tokens.begin() + begin, tokens.begin() + begin + rows);
    for (int32_t i = 0; i < rows; ++i) batch.positions.push_back(TokenPos{begin % kWindow + i});
    ASSIGN_OR_RETURN(batch.slots, engine->kv().Append(SequenceId{0}, rows));
    batch.mask = engine->kv().CausalMask(SequenceId{0}, batch.positions[0], rows);
    batch.logit_rows = rows;
    RETURN_IF_ERROR(engine->forward().Full(batch, nullptr));
    for (int32_t i = 0; i < rows; ++i) {
      RETURN_IF_ERROR(engine->forward().Logits(i, logits));
      on_position(begin + i, logits);
    }
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options, const std::string& text) {
  std::vector<std::vector<float>> expected;
  RETURN_IF_ERROR(ForLogits(options, options.model, text,
                            [&](int32_t, const std::vector<float>& logits) { expected.push_back(logits); }));
  std::printf("| down as rows of | KL from the source, nats/token | same first choice |\n|---|---|---|\n");
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("rows_bench_{}.gguf", getpid())).string();
  for (const std::string& name : options.types) {
    ASSIGN_OR_RETURN(const QuantType type, ParseQuantType(name));
    double divergence = 0, same = 0;
    absl::Status status = WriteRowsModel(options.model, type, path);
    if (status.ok()) {
      status = ForLogits(options, path, text, [&](int32_t position, const std::vector<float>& logits) {
        const std::vector<float>& source = expected[static_cast<size_t>(position)];
        divergence += KlDivergence(source, logits);
        same += ArgMax(source) == ArgMax(logits);
      });
    }
    std::filesystem::remove(path);
    RETURN_IF_ERROR(status);
    const auto count = static_cast<double>(expected.size());
    std::printf("| %s | %.2e | %.2f%% |\n", name.c_str(), divergence / count, 100 * same / count);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status RunSmall(Options options) {
  options.model = (std::filesystem::temp_directory_path() / fmt::format("rows_bench_s{}.gguf", getpid())).string();
  options.types = {"Q8_0"};
  options.windows = 1;
  SynthOptions synth;
  synth.shape = {2, 64, 128, 4, 2};
  RETURN_IF_ERROR(WriteSyntheticModel(synth, options.model, nullptr));
  const absl::Status status = Run(options, "the dog star rises in the east");
  std::filesystem::remove(options.model);
  return status;
}

std::vector<std::string> Split(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    parts.emplace_back(part);
    text.remove_prefix(std::min(part.size() + 1, text.size()));
  }
  return parts;
}

int ParseNumber(std::string_view text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

int Usage() {
  std::fprintf(stderr, "usage: rows_bench MODEL TEXT [--types Q8_0,Q5_1] [--windows N] [--threads N]\n");
  return 2;
}

}  // namespace
}  // namespace dogstar

int main(int argc, char** argv) {
  dogstar::Options options;
  bool small = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--small") {
      small = true;
    } else if (argument == "--types" && i + 1 < argc) {
      options.types = dogstar::Split(argv[++i]);
    } else if (argument == "--windows" && i + 1 < argc) {
      options.windows = std::clamp(dogstar::ParseNumber(argv[++i]), 1, 64);
    } else if (argument == "--threads" && i + 1 < argc) {
      options.threads = dogstar::ParseNumber(argv[++i]);
    } else if (options.model.empty()) {
      options.model = argument;
    } else if (options.text.empty()) {
      options.text = argument;
    } else {
      return dogstar::Usage();
    }
  }
  if (!small && options.text.empty()) return dogstar::Usage();
  std::ostringstream text;
  if (!small) text << std::ifstream(options.text).rdbuf();
  const absl::Status status = small ? dogstar::RunSmall(options) : dogstar::Run(options, text.str());
  if (status.ok()) return 0;
  std::fprintf(stderr, "rows_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
