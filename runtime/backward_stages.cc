#include "runtime/backward_stages.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "device/functions.h"
#include "device/reference.h"

namespace dogstar {
namespace {

constexpr size_t kLanes = 16;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

std::span<const float> Vector(const float* base, size_t stride, int32_t index, size_t size) {
  return {base + static_cast<size_t>(index) * stride, size};
}
std::span<float> Vector(float* base, size_t stride, int32_t index, size_t size) {
  return {base + static_cast<size_t>(index) * stride, size};
}

}  // namespace

float DotF32(std::span<const float> a, std::span<const float> b) {
  std::array<float, kLanes> lanes = {};
  const size_t whole = a.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (size_t i = whole; i < a.size(); ++i) lanes[i - whole] += a[i] * b[i];
  return reference::SumLanes(lanes);
}

void AddScaled(float factor, std::span<const float> x, std::span<float> y) {
  const float* __restrict from = x.data();
  float* __restrict to = y.data();
  for (size_t i = 0; i < y.size(); ++i) to[i] += factor * from[i];
}

void RmsNormBackward(std::span<const float> x, std::span<const float> weight, float epsilon,
                     std::span<const float> dout, std::span<float> dx) {
  const auto size = static_cast<double>(x.size());
  double squares = 0, along = 0;  // x . x and x . t
  for (size_t i = 0; i < x.size(); ++i) {
    squares += double{x[i]} * x[i];
    along += double{x[i]} * dout[i] * weight[i];
  }
  const double r = 1 / std::sqrt(squares / size + epsilon);
  const double back = r * r * r / size * along;
  for (size_t i = 0; i < x.size(); ++i) {
    dx[i] = static_cast<float>(r * dout[i] * weight[i] - back * x[i]);
  }
}

void HeadRmsNormBackward(std::span<const float> x, std::span<const float> weight, float epsilon,
                         std::span<const float> dout, std::span<float> dx) {
  const size_t size = weight.size();
  for (size_t at = 0; at < x.size(); at += size) {
    RmsNormBackward(x.subspan(at, size), weight, epsilon, dout.subspan(at, size), dx.subspan(at, size));
  }
}

void RopeBackward(const RopeParams& params, TokenPos position, std::span<float> dx) {
  reference::Rope(params, TokenPos{-ToInt(position)}, dx);
}

float ActivationDerivative(FfnActivation activation, float gate) {
  const double g = gate;
  if (activation == FfnActivation::kSilu) {
    const double s = Sigmoid(g);
    return static_cast<float>(s * (1 + g * (1 - s)));
  }
  // gelu_tanh(g) = g sigmoid(v), v = kGeluScale (g + kGeluCubic g^3)
  const double s = Sigmoid(kGeluScale * (g + kGeluCubic * g * g * g));
  const double slope = kGeluScale * (1 + 3 * kGeluCubic * g * g);
  return static_cast<float>(s + g * s * (1 - s) * slope);
}

void GatedActivationBackward(FfnActivation activation, std::span<const float> gate, std::span<const float> up,
                             std::span<const float> dz, std::span<float> dgate, std::span<float> dup) {
  for (size_t i = 0; i < gate.size(); ++i) {
    const float g = gate[i], u = up[i];
    dgate[i] = dz[i] * u * ActivationDerivative(activation, g);
    dup[i] = dz[i] * reference::Activate(activation, g);
  }
}

float SoftCap(float cap, float x) { return cap * std::tanh(x / cap); }

float SoftCapBackward(float cap, float value, float dvalue) {
  const float share = value / cap;
  return dvalue * (1 - share * share);
}

double CrossEntropyBackward(std::span<const float> logits, TokenId label, std::span<float> dlogits) {
  const auto own = static_cast<size_t>(ToInt(label));
  const double most = *std::max_element(logits.begin(), logits.end());
  double others = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i != own) others += std::exp(logits[i] - most);
  }
  const double own_logit = logits[own];
  const double total = others + std::exp(own_logit - most);
  for (size_t i = 0; i < logits.size(); ++i) dlogits[i] = static_cast<float>(std::exp(logits[i] - most) / total);
  dlogits[own] = static_cast<float>(-others / total);
  return std::log(total) - (own_logit - most);
}

void AttendHead(std::span<const float> q, const SeenKeys& seen, float scale, std::span<float> p, std::span<float> out) {
  const int32_t count = seen.count();
  float most = -INFINITY;
  for (int32_t i = 0; i < count; ++i) {
    p[static_cast<size_t>(i)] = scale * DotF32(q, Vector(seen.keys, seen.stride, seen.index(i), q.size()));
    most = std::max(most, p[static_cast<size_t>(i)]);
  }
  float total = 0;
  for (int32_t i = 0; i < count; ++i) total += p[static_cast<size_t>(i)] = std::exp(p[static_cast<size_t>(i)] - most);
  std::fill(out.begin(), out.end(), 0.0F);
  for (int32_t i = 0; i < count; ++i) {
    p[static_cast<size_t>(i)] /= total;
    AddScaled(p[static_cast<size_t>(i)], Vector(seen.values, seen.stride, seen.index(i), q.size()), out);
  }
}

float AttendHeadBackward(std::span<const float> q, const SeenKeys& seen, float scale, std::span<const float> p,
                         std::span<const float> out, std::span<const float> dout, GradientScope scope,
                         std::span<float> dq, float* dkeys, float* dvalues) {
  const float c = DotF32(dout, out);
  std::fill(dq.begin(), dq.end(), 0.0F);
  for (int32_t i = 0; i < seen.count(); ++i) {
    const int32_t j = seen.index(i);
    const float weight = p[static_cast<size_t>(i)];
    const float dp = DotF32(dout, Vector(seen.values, seen.stride, j, q.size()));
    const float ds = weight * (dp - c) * scale;
    AddScaled(ds, Vector(seen.keys, seen.stride, j, q.size()), dq);
    if (scope == GradientScope::kOwn && j != seen.own) continue;
    AddScaled(ds, q, Vector(dkeys, seen.stride, j, q.size()));
    AddScaled(weight, dout, Vector(dvalues, seen.stride, j, q.size()));
  }
  return c;
}

}  // namespace dogstar
