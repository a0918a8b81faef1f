#include "predictors/low_rank.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "base/status.h"
#include "predictors/density.h"
#include "predictors/selection.h"

namespace dogstar {
namespace {

// Sixteen sums side by side: the compiler keeps them in registers, and their order is fixed.
float Dot(const float* a, const float* b, size_t count) {
  constexpr size_t kLanes = 16;
  float sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  float sum = 0;
  for (const float lane : sums) sum += lane;
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void AddScaled(float factor, const float* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

// A row far from the border counts for more than one that might as well be on its other side, up to this times the
// mean.
constexpr float kMostWeight = 8;

// One array of parameters with its moments.
class Adam {
 public:
  explicit Adam(size_t size) : mean_(size), square_(size) {}

  // Steps of parameters [begin, end).
  void Step(std::span<const float> gradient, float rate, int64_t step, size_t begin, size_t end,
            std::span<float> values) {
    constexpr float kMean = 0.9F, kSquare = 0.999F, kEpsilon = 1e-8F;
    const auto unbias = [&](float decay) {
      return static_cast<float>(1 / (1 - std::pow(static_cast<double>(decay), static_cast<double>(step))));
    };
    const float mean_scale = unbias(kMean), square_scale = unbias(kSquare);
    for (size_t i = begin; i < end; ++i) {
      mean_[i] = kMean * mean_[i] + (1 - kMean) * gradient[i];
      square_[i] = kSquare * square_[i] + (1 - kSquare) * gradient[i] * gradient[i];
      values[i] -= rate * mean_scale * mean_[i] / (std::sqrt(square_scale * square_[i]) + kEpsilon);
    }
  }

 private:
  std::vector<float> mean_, square_;
};

size_t CountOf(double density, int32_t rows) { return static_cast<size_t>(ImportantRows(density, rows)); }

// marks[j] = 1 for the `count` largest scores; of equal ones the lower rows.
void MarkTop(std::span<const float> scores, size_t count, std::vector<int32_t>* order, std::span<uint8_t> marks) {
  FindTopRows(scores, count, order);
  std::fill(marks.begin(), marks.end(), uint8_t{0});
  for (size_t i = 0; i < count; ++i) marks[static_cast<size_t>((*order)[i])] = 1;
}

class Trainer {
 public:
  Trainer(const RankedTokens& tokens, const LowRankTraining& training, ThreadPool* pool);

  LowRankMap Train();

 private:
  void LabelTokens();
  void ScaleInputs();
  void Initialize();
  void Batch(std::span<const int32_t> tokens, float rate);
  // What tokens [begin, end) of the batch give: hidden values, errors of rows, gradients of hidden values.
  void ForwardAndBack(std::span<const int32_t> tokens, size_t begin, size_t end);
  void StepOutput(size_t count, float rate, size_t begin, size_t end);
  void StepHidden(std::span<const int32_t> tokens, float rate, size_t begin, size_t end);
  const float* InputOf(int32_t token) const { return scaled_.data() + static_cast<size_t>(token) * dim_; }

  const RankedTokens& tokens_;
  const LowRankTraining& training_;
  ThreadPool* pool_;
  size_t dim_, rows_, rank_;
  int64_t step_ = 0;
  std::vector<uint8_t> labels_;  // [tokens, rows]
  // Of each token: the score that parts its important rows from the others, and one over the mean distance from it.
  std::vector<float> border_, inverse_distance_;
  std::vector<float> scale_;   // [dim]: inputs are divided by their rms, so that one rate suits all columns
  std::vector<float> scaled_;  // [tokens, dim]
  // Parameters and gradients. output: [rank, rows], so that loops run over rows.
  std::vector<float> hidden_, output_, bias_, hidden_gradient_, output_gradient_, bias_gradient_;
  Adam hidden_adam_, output_adam_, bias_adam_;
  std::vector<float> values_, values_gradient_, errors_;  // [batch, rank], the same, [batch, rows]
};

Trainer::Trainer(const RankedTokens& tokens, const LowRankTraining& training, ThreadPool* pool)
    : tokens_(tokens),
      training_(training),
      pool_(pool),
      dim_(static_cast<size_t>(tokens.dim)),
      rows_(static_cast<size_t>(tokens.rows)),
      rank_(static_cast<size_t>(training.rank)),
      labels_(static_cast<size_t>(tokens.tokens) * rows_),
      border_(static_cast<size_t>(tokens.tokens)),
      inverse_distance_(border_.size()),
      scale_(dim_),
      scaled_(tokens.inputs.begin(), tokens.inputs.end()),
      hidden_(rank_ * dim_),
      output_(rank_ * rows_),
      bias_(rows_),
      hidden_gradient_(hidden_.size()),
      output_gradient_(output_.size()),
      bias_gradient_(rows_),
      hidden_adam_(hidden_.size()),
      output_adam_(output_.size()),
      bias_adam_(rows_) {
  CHECK(tokens.tokens > 0 && training.rank > 0 && training.batch > 0);
  const size_t batch = static_cast<size_t>(training.batch);
  values_.resize(batch * rank_);
  values_gradient_.resize(batch * rank_);
  errors_.resize(batch * rows_);
  LabelTokens();
  ScaleInputs();
  Initialize();
}

void Trainer::LabelTokens() {
  const size_t count = CountOf(training_.density, tokens_.rows);
  pool_->Run([&](int thread) {
    std::vector<int32_t> order;
    const Range part = PartOf(tokens_.tokens, 1, thread, pool_->size());
    for (int64_t t = part.begin; t < part.end; ++t) {
      const std::span<const float> scores = tokens_.Scores(static_cast<int32_t>(t));
      const auto at = static_cast<size_t>(t);
      MarkTop(scores, count, &order, std::span(labels_).subspan(at * rows_, rows_));
      border_[at] = scores[static_cast<size_t>(order[0])];
      for (size_t i = 1; i < count; ++i) border_[at] = std::min(border_[at], scores[static_cast<size_t>(order[i])]);
      double distance = 1e-20;
      for (const float score : scores) distance += std::fabs(double{score} - double{border_[at]});
      inverse_distance_[at] = static_cast<float>(static_cast<double>(rows_) / distance);
    }
  });
}

// Columns that hardly move keep their size: their weights would be too large for the stored form, and say nothing.
void Trainer::ScaleInputs() {
  constexpr double kLeast = 1e-3;  // of the rms over all columns
  std::vector<double> squares(dim_);
  double all = 1e-20;
  for (size_t at = 0; at < scaled_.size(); at += dim_) {
    for (size_t i = 0; i < dim_; ++i) squares[i] += double{scaled_[at + i]} * scaled_[at + i];
  }
  for (const double square : squares) all += square / static_cast<double>(dim_);
  for (size_t i = 0; i < dim_; ++i) {
    scale_[i] = static_cast<float>(1 / std::sqrt(std::max(squares[i], kLeast * kLeast * all) / tokens_.tokens));
  }
  for (size_t at = 0; at < scaled_.size(); at += dim_) {
    for (size_t i = 0; i < dim_; ++i) scaled_[at + i] *= scale_[i];
  }
}

// Biases start as the log odds of each row; the rest as small noise.
void Trainer::Initialize() {
  for (size_t j = 0; j < rows_; ++j) {
    int64_t often = 0;
    for (size_t at = j; at < labels_.size(); at += rows_) often += labels_[at];
    const double share = (static_cast<double>(often) + 0.5) / (tokens_.tokens + 1.0);
    bias_[j] = static_cast<float>(std::log(share / (1 - share)));
  }
  SplitMix64 random(training_.seed);
  const auto noise = [&](float size) { return size * static_cast<float>(2 * random.Uniform() - 1); };
  const float size = std::sqrt(3.0F / static_cast<float>(dim_));
  for (float& value : hidden_) value = noise(size);
  for (float& value : output_) value = noise(0.05F);
}

void Trainer::ForwardAndBack(std::span<const int32_t> tokens, size_t begin, size_t end) {
  for (size_t t = begin; t < end; ++t) {
    float* values = values_.data() + t * rank_;
    float* errors = errors_.data() + t * rows_;
    const uint8_t* labels = labels_.data() + static_cast<size_t>(tokens[t]) * rows_;
    for (size_t k = 0; k < rank_; ++k) values[k] = Dot(hidden_.data() + k * dim_, InputOf(tokens[t]), dim_);
    std::copy(bias_.begin(), bias_.end(), errors);
    for (size_t k = 0; k < rank_; ++k) AddScaled(values[k], output_.data() + k * rows_, rows_, errors);
    const float* scores = tokens_.Scores(tokens[t]).data();
    const float border = border_[static_cast<size_t>(tokens[t])];
    const float inverse_distance = inverse_distance_[static_cast<size_t>(tokens[t])];
    for (size_t j = 0; j < rows_; ++j) {
      const float weight = std::min(std::fabs(scores[j] - border) * inverse_distance, kMostWeight);
      errors[j] = weight * (1 / (1 + std::exp(-errors[j])) - static_cast<float>(labels[j]));
    }
    for (size_t k = 0; k < rank_; ++k) {
      values_gradient_[t * rank_ + k] = Dot(errors, output_.data() + k * rows_, rows_);
    }
  }
}

// Rows [begin, end).
void Trainer::StepOutput(size_t count, float rate, size_t begin, size_t end) {
  const float share = 1 / static_cast<float>(count);
  std::fill(bias_gradient_.begin() + static_cast<ptrdiff_t>(begin),
            bias_gradient_.begin() + static_cast<ptrdiff_t>(end), 0.0F);
  for (size_t t = 0; t < count; ++t) {
    AddScaled(share, errors_.data() + t * rows_ + begin, end - begin, bias_gradient_.data() + begin);
  }
  bias_adam_.Step(bias_gradient_, rate, step_, begin, end, bias_);
  for (size_t k = 0; k < rank_; ++k) {
    float* gradient = output_gradient_.data() + k * rows_;
    std::fill(gradient + begin, gradient + end, 0.0F);
    for (size_t t = 0; t < count; ++t) {
      AddScaled(share * values_[t * rank_ + k], errors_.data() + t * rows_ + begin, end - begin, gradient + begin);
    }
    output_adam_.Step(output_gradient_, rate, step_, k * rows_ + begin, k * rows_ + end, output_);
  }
}

// Columns [begin, end).
void Trainer::StepHidden(std::span<const int32_t> tokens, float rate, size_t begin, size_t end) {
  const float share = 1 / static_cast<float>(tokens.size());
  for (size_t k = 0; k < rank_; ++k) {
    float* gradient = hidden_gradient_.data() + k * dim_;
    std::fill(gradient + begin, gradient + end, 0.0F);
    for (size_t t = 0; t < tokens.size(); ++t) {
      AddScaled(share * values_gradient_[t * rank_ + k], InputOf(tokens[t]) + begin, end - begin, gradient + begin);
    }
    hidden_adam_.Step(hidden_gradient_, rate, step_, k * dim_ + begin, k * dim_ + end, hidden_);
  }
}

void Trainer::Batch(std::span<const int32_t> tokens, float rate) {
  ++step_;
  constexpr int64_t kGrain = 16;
  const auto part_of = [&](size_t total, int64_t grain, int thread) {
    return PartOf(static_cast<int64_t>(total), grain, thread, pool_->size());
  };
  pool_->Run([&](int thread) {
    const Range part = part_of(tokens.size(), 1, thread);
    ForwardAndBack(tokens, static_cast<size_t>(part.begin), static_cast<size_t>(part.end));
  });
  pool_->Run([&](int thread) {
    const Range rows = part_of(rows_, kGrain, thread), columns = part_of(dim_, kGrain, thread);
    StepOutput(tokens.size(), rate, static_cast<size_t>(rows.begin), static_cast<size_t>(rows.end));
    StepHidden(tokens, rate, static_cast<size_t>(columns.begin), static_cast<size_t>(columns.end));
  });
}

LowRankMap Trainer::Train() {
  std::vector<int32_t> order(static_cast<size_t>(tokens_.tokens));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  SplitMix64 random(training_.seed + 1);
  for (int32_t epoch = 0; epoch < training_.epochs; ++epoch) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Next() % i]);
    const double progress = static_cast<double>(epoch) / std::max(1, training_.epochs - 1);
    const auto rate = static_cast<float>(training_.rate * std::pow(0.1, progress));
    for (size_t at = 0; at < order.size(); at += static_cast<size_t>(training_.batch)) {
      Batch(std::span(order).subspan(at, std::min(static_cast<size_t>(training_.batch), order.size() - at)), rate);
    }
  }
  LowRankMap map{training_.rank, tokens_.dim, tokens_.rows, std::move(hidden_), {}, std::move(bias_)};
  for (size_t k = 0; k < rank_; ++k) {
    for (size_t i = 0; i < dim_; ++i) map.hidden[k * dim_ + i] *= scale_[i];
  }
  map.output.resize(rows_ * rank_);
  for (size_t j = 0; j < rows_; ++j) {
    for (size_t k = 0; k < rank_; ++k) map.output[j * rank_ + k] = output_[k * rows_ + j];
  }
  return map;
}

// Share of `wanted` that `chosen` has, both of marks; 1 when nothing is wanted.
double ShareOf(std::span<const uint8_t> wanted, std::span<const uint8_t> chosen) {
  int64_t both = 0, all = 0;
  for (size_t j = 0; j < wanted.size(); ++j) {
    all += wanted[j];
    both += wanted[j] & chosen[j];
  }
  return all > 0 ? static_cast<double>(both) / static_cast<double>(all) : 1;
}

}  // namespace

LowRankMap TrainLowRank(const RankedTokens& train, const LowRankTraining& training, ThreadPool* pool) {
  return Trainer(train, training, pool).Train();
}

void ScoreRows(const LowRankMap& map, std::span<const float> input, std::span<float> scores) {
  const auto rank = static_cast<size_t>(map.rank), dim = static_cast<size_t>(map.dim);
  std::vector<float> values(rank);
  for (size_t k = 0; k < rank; ++k) values[k] = Dot(map.hidden.data() + k * dim, input.data(), dim);
  for (size_t j = 0; j < scores.size(); ++j) {
    scores[j] = map.bias[j] + Dot(map.output.data() + j * rank, values.data(), rank);
  }
}

std::vector<float> TopFrequencies(const RankedTokens& tokens, double density) {
  const auto rows = static_cast<size_t>(tokens.rows);
  const size_t count = CountOf(density, tokens.rows);
  std::vector<float> frequency(rows);
  std::vector<uint8_t> marks(rows);
  std::vector<int32_t> order;
  for (int32_t t = 0; t < tokens.tokens; ++t) {
    MarkTop(tokens.Scores(t), count, &order, marks);
    for (size_t j = 0; j < rows; ++j) frequency[j] += static_cast<float>(marks[j]);
  }
  for (float& value : frequency) value /= static_cast<float>(std::max(1, tokens.tokens));
  return frequency;
}

RowRecall MeasureRecall(const LowRankMap& map, std::span<const float> frequency, const RankedTokens& held_out,
                        double density) {
  const auto rows = static_cast<size_t>(held_out.rows);
  const size_t count = CountOf(density, held_out.rows);
  std::vector<int32_t> order;
  std::vector<float> scores(rows);
  std::vector<uint8_t> wanted(rows), chosen(rows), likely(rows), often(rows);
  MarkTop(frequency, count, &order, often);
  RowRecall sum;
  for (int32_t t = 0; t < held_out.tokens; ++t) {
    MarkTop(held_out.Scores(t), count, &order, wanted);
    ScoreRows(map, held_out.Input(t), scores);
    MarkTop(scores, count, &order, chosen);
    for (size_t j = 0; j < rows; ++j) likely[j] = scores[j] > 0 ? 1 : 0;
    sum.recall += ShareOf(wanted, chosen);
    sum.likely_recall += ShareOf(wanted, likely);
    sum.likely_precision += ShareOf(likely, wanted);
    sum.static_recall += ShareOf(wanted, often);
  }
  const double share = 1.0 / std::max(1, held_out.tokens);
  return {sum.recall * share, sum.likely_recall * share, sum.likely_precision * share, sum.static_recall * share};
}

}  // namespace dogstar
