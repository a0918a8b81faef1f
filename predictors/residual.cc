#include "predictors/residual.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "base/status.h"

namespace dogstar {
namespace {

// Of the scaled inputs' energy: what the fit gives up on the training tokens to hold on others.
constexpr double kRidge = 0.01;
// Times the median of the targets' norms: up to here a token counts by its square.
constexpr double kCommonNorm = 2;
constexpr int kRounds = 2, kFirstDirections = 2, kSolveSteps = 16;

// Dense matrices, row-major.
struct Matrix {
  Matrix(size_t row_count, size_t col_count) : rows(row_count), cols(col_count), values(row_count * col_count) {}
  float* Row(size_t i) { return values.data() + i * cols; }
  const float* Row(size_t i) const { return values.data() + i * cols; }
  size_t rows, cols;
  std::vector<float> values;
};

void AddScaled(float factor, const float* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

template <typename Work>
void ForRows(ThreadPool* pool, size_t rows, const Work& work) {
  pool->Run([&](int thread) {
    const Range part = PartOf(static_cast<int64_t>(rows), 1, thread, pool->size());
    for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) work(i);
  });
}

// a b
Matrix Times(const Matrix& a, const Matrix& b, ThreadPool* pool) {
  Matrix out(a.rows, b.cols);
  ForRows(pool, a.rows, [&](size_t row) {
    for (size_t i = 0; i < a.cols; ++i) AddScaled(a.Row(row)[i], b.Row(i), b.cols, out.Row(row));
  });
  return out;
}

// a^T b
Matrix TransposedTimes(const Matrix& a, const Matrix& b, ThreadPool* pool) {
  Matrix out(a.cols, b.cols);
  pool->Run([&](int thread) {
    const Range part = PartOf(static_cast<int64_t>(a.cols), 1, thread, pool->size());
    for (size_t t = 0; t < a.rows; ++t) {
      for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) {
        AddScaled(a.Row(t)[i], b.Row(t), b.cols, out.Row(i));
      }
    }
  });
  return out;
}

// Gram-Schmidt, twice; columns that vanish become zero.
void Orthonormalize(Matrix* m) {
  const auto dot = [&](size_t a, size_t b) {
    double sum = 0;
    for (size_t i = 0; i < m->rows; ++i) sum += double{m->Row(i)[a]} * double{m->Row(i)[b]};
    return sum;
  };
  for (size_t c = 0; c < m->cols; ++c) {
    const double before = std::sqrt(dot(c, c));
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t other = 0; other < c; ++other) {
        const auto share = static_cast<float>(dot(c, other));
        for (size_t i = 0; i < m->rows; ++i) m->Row(i)[c] -= share * m->Row(i)[other];
      }
    }
    const double norm = std::sqrt(dot(c, c));
    const float factor = norm > 1e-6 * before && norm > 0 ? static_cast<float>(1 / norm) : 0.0F;
    for (size_t i = 0; i < m->rows; ++i) m->Row(i)[c] *= factor;
  }
}

// Sums of products, column by column.
std::vector<double> ColumnDots(const Matrix& a, const Matrix& b) {
  std::vector<double> sums(a.cols);
  for (size_t i = 0; i < a.rows; ++i) {
    for (size_t c = 0; c < a.cols; ++c) sums[c] += double{a.Row(i)[c]} * double{b.Row(i)[c]};
  }
  return sums;
}

class Fit {
 public:
  Fit(const ResidualTokens& tokens, size_t rank, ThreadPool* pool)
      : tokens_(static_cast<size_t>(tokens.tokens)),
        dim_(static_cast<size_t>(tokens.dim)),
        rank_(rank),
        pool_(pool),
        inputs_(tokens_, dim_),
        targets_(tokens_, dim_),
        gram_(0, 0),
        weights_(tokens_),
        input_mean_(dim_),
        target_mean_(dim_),
        inverse_scale_(dim_) {
    WeighTokens(tokens);
    Center(tokens.inputs, &input_mean_, &inputs_);
    Center(tokens.targets, &target_mean_, &targets_);
    ScaleInputs();
    gram_ = TransposedTimes(inputs_, inputs_, pool_);
    const auto ridge = static_cast<float>(kRidge * static_cast<double>(tokens_));
    for (size_t i = 0; i < dim_; ++i) gram_.Row(i)[i] += ridge;
  }

  LowRankMap Run(uint64_t seed);

 private:
  void WeighTokens(const ResidualTokens& tokens);
  void Center(std::span<const float> from, std::vector<float>* mean, Matrix* to);
  void ScaleInputs();
  // W with (X^T X + ridge) W = X^T y, y: [tokens, rank].
  Matrix Solve(const Matrix& y) const;

  size_t tokens_, dim_, rank_;
  ThreadPool* pool_;
  Matrix inputs_, targets_;  // centered, rows times their weights; inputs' columns have a mean square of 1
  Matrix gram_;              // X^T X + ridge
  std::vector<float> weights_;
  std::vector<float> input_mean_, target_mean_, inverse_scale_;
};

// Tokens whose targets are large count by less than their square: a few have outputs a thousand times those of the
// others (the first of a text), and would be all that the fit sees. Mean square of the weights: 1.
void Fit::WeighTokens(const ResidualTokens& tokens) {
  std::vector<double> norms(tokens_);
  for (size_t t = 0; t < tokens_; ++t) {
    for (size_t i = 0; i < dim_; ++i) norms[t] += std::pow(double{tokens.targets[t * dim_ + i]}, 2);
    norms[t] = std::sqrt(norms[t]);
  }
  std::vector<double> sorted = norms;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(tokens_ / 2), sorted.end());
  const double common = kCommonNorm * sorted[tokens_ / 2];
  double squares = 0;
  for (double& norm : norms) {
    norm = norm > common ? common / norm : 1;
    squares += norm * norm / static_cast<double>(tokens_);
  }
  for (size_t t = 0; t < tokens_; ++t) {
    weights_[t] = squares > 0 ? static_cast<float>(norms[t] / std::sqrt(squares)) : 1.0F;
  }
}

void Fit::Center(std::span<const float> from, std::vector<float>* mean, Matrix* to) {
  std::vector<double> sums(dim_);
  double all = 0;
  for (size_t t = 0; t < tokens_; ++t) {
    const double share = double{weights_[t]} * double{weights_[t]};
    all += share;
    for (size_t i = 0; i < dim_; ++i) sums[i] += share * double{from[t * dim_ + i]};
  }
  for (size_t i = 0; i < dim_; ++i) (*mean)[i] = static_cast<float>(sums[i] / all);
  for (size_t t = 0; t < tokens_; ++t) {
    for (size_t i = 0; i < dim_; ++i) to->Row(t)[i] = weights_[t] * (from[t * dim_ + i] - (*mean)[i]);
  }
}

void Fit::ScaleInputs() {
  const std::vector<double> squares = ColumnDots(inputs_, inputs_);
  for (size_t i = 0; i < dim_; ++i) {
    const double rms = std::sqrt(squares[i] / static_cast<double>(tokens_));
    inverse_scale_[i] = rms > 1e-12 ? static_cast<float>(1 / rms) : 0.0F;
  }
  for (size_t t = 0; t < tokens_; ++t) {
    for (size_t i = 0; i < dim_; ++i) inputs_.Row(t)[i] *= inverse_scale_[i];
  }
}

Matrix Fit::Solve(const Matrix& y) const {
  Matrix solution(dim_, y.cols), rest = TransposedTimes(inputs_, y, pool_), direction = rest;
  std::vector<double> left = ColumnDots(rest, rest);  // a system of its own for each column
  std::vector<float> stride(y.cols), turn(y.cols);
  for (int step = 0; step < kSolveSteps; ++step) {
    const Matrix applied = Times(gram_, direction, pool_);
    const std::vector<double> curvature = ColumnDots(direction, applied);
    for (size_t c = 0; c < y.cols; ++c) {
      stride[c] = curvature[c] > 0 ? static_cast<float>(left[c] / curvature[c]) : 0.0F;
    }
    for (size_t i = 0; i < dim_; ++i) {
      for (size_t c = 0; c < y.cols; ++c) {
        solution.Row(i)[c] += stride[c] * direction.Row(i)[c];
        rest.Row(i)[c] -= stride[c] * applied.Row(i)[c];
      }
    }
    const std::vector<double> now = ColumnDots(rest, rest);
    for (size_t c = 0; c < y.cols; ++c) turn[c] = left[c] > 0 ? static_cast<float>(now[c] / left[c]) : 0.0F;
    for (size_t i = 0; i < dim_; ++i) {
      for (size_t c = 0; c < y.cols; ++c) {
        direction.Row(i)[c] = rest.Row(i)[c] + turn[c] * direction.Row(i)[c];
      }
    }
    left = now;
  }
  return solution;
}

LowRankMap Fit::Run(uint64_t seed) {
  Matrix output(dim_, rank_);
  SplitMix64 random(seed);
  for (float& value : output.values) value = static_cast<float>(random.Uniform() - 0.5);
  for (int i = 0; i < kFirstDirections; ++i) {
    Orthonormalize(&output);
    output = TransposedTimes(targets_, Times(targets_, output, pool_), pool_);
  }
  Matrix solution(dim_, rank_);
  for (int round = 0; round <= kRounds; ++round) {
    Orthonormalize(&output);
    solution = Solve(Times(targets_, output, pool_));
    if (round < kRounds) output = TransposedTimes(targets_, Times(inputs_, solution, pool_), pool_);
  }
  LowRankMap map;
  map.rank = static_cast<int32_t>(rank_);
  map.dim = map.rows = static_cast<int32_t>(dim_);
  map.hidden.resize(rank_ * dim_);
  for (size_t k = 0; k < rank_; ++k) {
    for (size_t i = 0; i < dim_; ++i) map.hidden[k * dim_ + i] = solution.Row(i)[k] * inverse_scale_[i];
  }
  map.output = output.values;
  map.bias.resize(dim_);
  ScoreRows(map, input_mean_, map.bias);  // B (A mean), the bias being zero yet
  for (size_t i = 0; i < dim_; ++i) map.bias[i] = target_mean_[i] - map.bias[i];
  return map;
}

}  // namespace

LowRankMap FitResidual(const ResidualTokens& train, int32_t rank, uint64_t seed, ThreadPool* pool) {
  CHECK(train.tokens > 1 && rank >= 1 && rank <= train.dim);
  return Fit(train, static_cast<size_t>(rank), pool).Run(seed);
}

void ShrinkResidual(const ResidualTokens& held_out, LowRankMap* map) {
  const auto dim = static_cast<size_t>(held_out.dim);
  std::vector<float> guess(dim);
  double along = 0, energy = 0;
  for (size_t t = 0; t < static_cast<size_t>(held_out.tokens); ++t) {
    ScoreRows(*map, held_out.inputs.subspan(t * dim, dim), guess);
    double product = 0, of_guess = 0, of_target = 0;
    for (size_t i = 0; i < dim; ++i) {
      const double target = held_out.targets[t * dim + i];
      product += target * guess[i];
      of_guess += double{guess[i]} * guess[i];
      of_target += target * target;
    }
    if (of_target <= 0) continue;
    along += product / of_target;
    energy += of_guess / of_target;
  }
  const auto scale = static_cast<float>(energy > 0 ? std::clamp(along / energy, 0.0, 1.0) : 0);
  for (float& value : map->output) value *= scale;
  for (float& value : map->bias) value *= scale;
}

double ExplainedShare(const LowRankMap& map, const ResidualTokens& tokens) {
  const auto dim = static_cast<size_t>(tokens.dim);
  std::vector<float> guess(dim);
  double sum = 0;
  for (size_t t = 0; t < static_cast<size_t>(tokens.tokens); ++t) {
    ScoreRows(map, tokens.inputs.subspan(t * dim, dim), guess);
    double left = 0, all = 0;
    for (size_t i = 0; i < dim; ++i) {
      const double target = tokens.targets[t * dim + i];
      left += (target - guess[i]) * (target - guess[i]);
      all += target * target;
    }
    sum += all > 0 ? 1 - left / all : 0;
  }
  return tokens.tokens > 0 ? sum / tokens.tokens : 0;
}

}  // namespace dogstar
