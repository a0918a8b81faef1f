// The backward pass of single stages of a layer: the gradient of a loss at a stage's output becomes the gradient at its
// input. Weights are constants: no gradient of a weight is ever formed.
//
// Formulas: derived by hand from the forward formulas of device/functions.h (docs/attribution.md spells them out); each
// is tested against finite differences. d... stands for d loss / d ...
//
// Pure functions over host memory, f32; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "base/activation.h"
#include "base/types.h"
#include "device/backend.h"

namespace dogstar {

// Sum of a[i] * b[i], in 16 lanes.
float DotF32(std::span<const float> a, std::span<const float> b);
// y += factor * x
void AddScaled(float factor, std::span<const float> x, std::span<float> y);

// out = x * r * weight, r = (mean(x^2) + epsilon)^(-1/2):
// with t = dout * weight: dx = r t - x (r^3 / d) (x . t). All [d]; dx may be dout.
void RmsNormBackward(std::span<const float> x, std::span<const float> weight, float epsilon,
                     std::span<const float> dout, std::span<float> dx);
// The same for each head of weight.size() values.
void HeadRmsNormBackward(std::span<const float> x, std::span<const float> weight, float epsilon,
                         std::span<const float> dout, std::span<float> dx);

// A rotation's gradient is turned back by the same angles. One row of heads, in place.
void RopeBackward(const RopeParams& params, TokenPos position, std::span<float> dx);

float ActivationDerivative(FfnActivation activation, float gate);
// z = activation(gate) * up: dgate = dz * up * activation'(gate), dup = dz * activation(gate). All the same length;
// dgate may be gate, and dup up.
void GatedActivationBackward(FfnActivation activation, std::span<const float> gate, std::span<const float> up,
                             std::span<const float> dz, std::span<float> dgate, std::span<float> dup);

// value = cap * tanh(x / cap), of scores or logits (Gemma 2, which the engine does not run yet).
float SoftCap(float cap, float x);
// dx = dvalue * (1 - (value / cap)^2)
float SoftCapBackward(float cap, float value, float dvalue);

// Returns -log softmax(logits)[label]; dlogits = softmax(logits) - onehot(label), the label's own as minus the sum of
// the others, so that a sure label keeps its digits.
double CrossEntropyBackward(std::span<const float> logits, TokenId label, std::span<float> dlogits);

// What one query of one head sees: keys [begin, end), then `own`. Key j is at keys + j * stride, values likewise.
struct SeenKeys {
  const float* keys = nullptr;
  const float* values = nullptr;
  size_t stride = 0;
  int32_t begin = 0, end = 0;
  int32_t own = 0;
  int32_t count() const { return end - begin + 1; }
  int32_t index(int32_t i) const { return begin + i < end ? begin + i : own; }
};

// p = softmax(scale * q . keys), out = sum of p_j values_j. q, out: [head_dim], p: [count].
void AttendHead(std::span<const float> q, const SeenKeys& seen, float scale, std::span<float> p, std::span<float> out);

// Which keys and values get a share of a query's gradient.
enum class GradientScope {
  kOwn,     // those of its own position: a token's loss at its own units, as published ("diagonal")
  kCausal,  // all that it saw: the sum of the losses, a unit's effect on later tokens included
};

// With c = dout . out, which is also the sum of p_j dp_j and the head's own g x:
//   dp_j = dout . values_j, ds_j = p_j (dp_j - c) scale, dq = sum of ds_j keys_j,
//   dkeys_j += ds_j q, dvalues_j += p_j dout for the j of the scope.
// dkeys, dvalues: laid out as keys and values are. Returns c.
float AttendHeadBackward(std::span<const float> q, const SeenKeys& seen, float scale, std::span<const float> p,
                         std::span<const float> out, std::span<const float> dout, GradientScope scope,
                         std::span<float> dq, float* dkeys, float* dvalues);

}  // namespace dogstar
