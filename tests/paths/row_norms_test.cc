#include "runtime/row_norms.h"

#include <cmath>

#include "gtest/gtest.h"
#include "model/model_file.h"
#include "runtime/engine.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

std::vector<float> Decoded(const ModelFile& model, const MatrixSource& matrix) {
  std::vector<std::byte> bytes(matrix.bytes());
  CHECK(model.ReadBytes(matrix.offset, bytes).ok());
  std::vector<float> values(static_cast<size_t>(matrix.rows) * static_cast<size_t>(matrix.cols));
  for (int32_t row = 0; row < matrix.rows; ++row) {
    DequantizeRow(matrix.type, bytes.data() + static_cast<uint64_t>(row) * matrix.row_bytes(), matrix.cols,
                  values.data() + int64_t{row} * matrix.cols);
  }
  return values;
}

// Norms of a packed file's rows are those of the plain file's matrices, in the packed order.
TEST(RowNormsTest, EqualThoseOfThePlainMatrices) {
  for (const QuantType type : {QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16}) {
    const testing_support::TestFolder folder;
    Config config;
    config.model = testing_support::WriteTinyModel(folder, type, true);
    const auto plain = ModelFile::Open(config.model);
    ASSERT_TRUE(plain.ok()) << plain.status();
    config.corrector.mode = RunMode::kStrict;
    const auto opened = testing_support::OpenModel(config, 32, 4);
    ASSERT_TRUE(opened.ok()) << opened.status();
    ThreadPool pool(2);
    const Weights& weights = opened->engine->weights();
    for (int32_t i = 0; i < weights.layer_count(); ++i) {
      const LayerSource& source = (*plain)->layers()[static_cast<size_t>(i)];
      const std::vector<float>& w = source.vectors[static_cast<size_t>(LayerVector::kFfnNorm)];
      const FfnPart& part = weights.ffn(LayerIndex{i});
      const RowNorms norms = NormsOf(part, w, &opened->engine->backend(), &pool).value();
      const std::vector<float> gate = Decoded(**plain, *source.gate), up = Decoded(**plain, *source.up),
                               down = Decoded(**plain, *source.down);
      const auto dim = static_cast<size_t>(source.gate->cols), rows = static_cast<size_t>(source.gate->rows);
      for (size_t row = 0; row < rows; ++row) {
        const auto neuron = static_cast<size_t>(ToInt(part.layer->row_order[row]));
        double gate_sum = 0, up_sum = 0, down_sum = 0;
        for (size_t k = 0; k < dim; ++k) {
          gate_sum += std::pow(double{gate[neuron * dim + k]} * w[k], 2);
          up_sum += std::pow(double{up[neuron * dim + k]} * w[k], 2);
          down_sum += std::pow(double{down[k * rows + neuron]}, 2);
        }
        EXPECT_NEAR(norms.gate[row], std::sqrt(gate_sum), 1e-5 * std::sqrt(gate_sum));
        EXPECT_NEAR(norms.up[row], std::sqrt(up_sum), 1e-5 * std::sqrt(up_sum));
        EXPECT_NEAR(norms.down[row], std::sqrt(down_sum), 1e-5 * std::sqrt(down_sum));
      }
    }
  }
}

}  // namespace
}  // namespace dogstar
