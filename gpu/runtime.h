// Runtime: what a GPU's backend needs of a GPU: memory, copies, kernels in order. cuda/ has the real one,
// host_runtime.h one that runs kernels on the host.
//
// Order: launches, Send, CopyIn, CopyOut and CopyOnDevice happen in the order of their calls. Stage may happen beside
// them, and is done before launches that follow it. Threads: one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "base/quant.h"
#include "base/status.h"
#include "device/backend.h"
#include "gpu/attention.h"
#include "gpu/choice.h"
#include "gpu/elements.h"
#include "gpu/ffn.h"
#include "gpu/kv.h"
#include "gpu/plain.h"
#include "gpu/planes.h"
#include "gpu/products.h"
#include "gpu/tiles.h"

namespace dogstar::gpu {

// A kernel of each weight type.
template <template <QuantType> typename Kernel>
using OfEveryType =
    std::variant<Kernel<QuantType::kF32>, Kernel<QuantType::kF16>, Kernel<QuantType::kBF16>, Kernel<QuantType::kQ4_0>,
                 Kernel<QuantType::kQ4_1>, Kernel<QuantType::kQ5_0>, Kernel<QuantType::kQ5_1>, Kernel<QuantType::kQ8_0>,
                 Kernel<QuantType::kQ2_K>, Kernel<QuantType::kQ3_K>, Kernel<QuantType::kQ4_K>, Kernel<QuantType::kQ5_K>,
                 Kernel<QuantType::kQ6_K>, Kernel<QuantType::kIQ4_NL>>;

using KernelCall =
    std::variant<OfEveryType<Product>, OfEveryType<TiledProduct>, OfEveryType<Down>, OfEveryType<TiledDown>,
                 OfEveryType<GatherKernel>, JoinKernel, PanelsKernel, ChoiceValuesKernel, KeepKernel, SelectKernel,
                 PrepareKernel, ValuesKernel, AddKernel, AddBiasKernel, ScaleKernel, ClearKernel, GatedKernel,
                 RopeKernel, RmsNormKernel, PeakKernel, TopKernel, WriteKvKernel, CopyKvKernel, AttentionKernel,
                 AttentionSumKernel>;

// work.template operator()<kType>() for the type.
template <typename Work>
auto WithType(QuantType type, const Work& work) {
  switch (type) {
    case QuantType::kF32:
      return work.template operator()<QuantType::kF32>();
    case QuantType::kF16:
      return work.template operator()<QuantType::kF16>();
    case QuantType::kBF16:
      return work.template operator()<QuantType::kBF16>();
    case QuantType::kQ4_0:
      return work.template operator()<QuantType::kQ4_0>();
    case QuantType::kQ4_1:
      return work.template operator()<QuantType::kQ4_1>();
    case QuantType::kQ5_0:
      return work.template operator()<QuantType::kQ5_0>();
    case QuantType::kQ5_1:
      return work.template operator()<QuantType::kQ5_1>();
    case QuantType::kQ8_0:
      return work.template operator()<QuantType::kQ8_0>();
    case QuantType::kQ2_K:
      return work.template operator()<QuantType::kQ2_K>();
    case QuantType::kQ3_K:
      return work.template operator()<QuantType::kQ3_K>();
    case QuantType::kQ4_K:
      return work.template operator()<QuantType::kQ4_K>();
    case QuantType::kQ5_K:
      return work.template operator()<QuantType::kQ5_K>();
    case QuantType::kQ6_K:
      return work.template operator()<QuantType::kQ6_K>();
    case QuantType::kIQ4_NL:
      break;
  }
  return work.template operator()<QuantType::kIQ4_NL>();
}

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual std::string Describe() const = 0;

  // At least 256-aligned, not initialised. ResourceExhausted names the bytes.
  virtual absl::StatusOr<std::byte*> Allocate(uint64_t bytes) = 0;
  virtual void Free(std::byte* memory) = 0;
  virtual absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) = 0;

  // Wait until it is done. Errors of work before it show here.
  virtual absl::Status CopyIn(std::span<const std::byte> from, std::byte* to) = 0;
  virtual absl::Status CopyOut(const std::byte* from, std::span<std::byte> to) = 0;
  // The host's bytes are free when the call returns. REQUIRES: at most kSendBytes.
  static constexpr uint64_t kSendBytes = uint64_t{1} << 20;
  virtual void Send(std::span<const std::byte> from, std::byte* to) = 0;
  // The same of any number.
  void SendAll(std::span<const std::byte> from, std::byte* to) {
    for (size_t at = 0; at < from.size(); at += kSendBytes) {
      Send(from.subspan(at, std::min<size_t>(kSendBytes, from.size() - at)), to + at);
    }
  }
  virtual void CopyOnDevice(const std::byte* from, uint64_t bytes, std::byte* to) = 0;
  // The host's bytes stay untouched, and operations before it no longer read `to`.
  virtual void Stage(std::span<const std::byte> from, std::byte* to) = 0;
  virtual void Launch(const KernelCall& kernel) = 0;

  // Of everything so far.
  virtual Ticket Record() = 0;
  virtual bool IsDone(Ticket ticket) = 0;
  virtual void Wait(Ticket ticket) = 0;
};

}  // namespace dogstar::gpu
