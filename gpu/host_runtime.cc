#include "gpu/host_runtime.h"

#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"

namespace dogstar::gpu {
namespace {

class HostBuffer : public HostMemory {
 public:
  explicit HostBuffer(AlignedBuffer memory) : memory_(std::move(memory)) {}
  std::span<std::byte> span() const override { return memory_.span(); }

 private:
  AlignedBuffer memory_;
};

template <typename Kernel>
void RunKernel(const Kernel& kernel) {
  const int phases = kernel.Phases();
  std::vector<typename Kernel::Local> locals(Kernel::kThreads);
  typename Kernel::Shared shared;
  for (int64_t block = 0; block < kernel.Blocks(); ++block) {
    std::memset(&shared, 0xAB, sizeof shared);  // whatever was there
    for (auto& local : locals) local = {};
    for (int phase = 0; phase < phases; ++phase) {
      for (int thread = 0; thread < Kernel::kThreads; ++thread) {
        kernel.Run(phase, block, thread, &shared, &locals[static_cast<size_t>(thread)]);
      }
    }
  }
}

template <typename... Kernels>
void RunKernel(const std::variant<Kernels...>& kernel) {
  std::visit([](const auto& one) { RunKernel(one); }, kernel);
}

class HostRuntime : public Runtime {
 public:
  std::string Describe() const override { return "GPU kernels on the host"; }

  absl::StatusOr<std::byte*> Allocate(uint64_t bytes) override {
    ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(bytes > 0 ? bytes : 1));
    std::byte* const data = buffer.data();
    memory_.emplace(data, std::move(buffer));
    return data;
  }
  void Free(std::byte* memory) override { memory_.erase(memory); }
  absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) override {
    ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(bytes));
    return std::make_unique<HostBuffer>(std::move(buffer));
  }

  absl::Status CopyIn(std::span<const std::byte> from, std::byte* to) override {
    std::memcpy(to, from.data(), from.size());
    return absl::OkStatus();
  }
  absl::Status CopyOut(const std::byte* from, std::span<std::byte> to) override {
    std::memcpy(to.data(), from, to.size());
    return absl::OkStatus();
  }
  void Send(std::span<const std::byte> from, std::byte* to) override {
    CHECK(from.size() <= kSendBytes);
    std::memcpy(to, from.data(), from.size());
  }
  void CopyOnDevice(const std::byte* from, uint64_t bytes, std::byte* to) override { std::memmove(to, from, bytes); }
  void Stage(std::span<const std::byte> from, std::byte* to) override { staged_.emplace_back(from, to); }
  void Launch(const KernelCall& kernel) override {
    for (const auto& [from, to] : std::exchange(staged_, {})) std::memcpy(to, from.data(), from.size());
    std::visit([](const auto& one) { RunKernel(one); }, kernel);
  }

  Ticket Record() override { return Ticket{++last_}; }
  bool IsDone(Ticket) override { return true; }
  void Wait(Ticket) override {}

 private:
  std::map<std::byte*, AlignedBuffer> memory_;
  std::vector<std::pair<std::span<const std::byte>, std::byte*>> staged_;
  uint64_t last_ = 0;
};

}  // namespace

std::unique_ptr<Runtime> NewHostRuntime() { return std::make_unique<HostRuntime>(); }

}  // namespace dogstar::gpu
