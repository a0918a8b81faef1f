// No fmt in files that nvcc compiles: its consteval format strings do not pass nvcc's front end (fmt 9, CUDA 13.0).
#include "cuda/cuda_runtime.h"

#include <cstring>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "cuda/owned.h"

namespace dogstar {
namespace {

using gpu::KernelCall;

// 0: the compiler's choice.
template <typename Kernel>
constexpr int BlocksTogether() {
  if constexpr (requires { Kernel::kBlocksTogether; }) {
    return Kernel::kBlocksTogether;
  } else {
    return 0;
  }
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, BlocksTogether<Kernel>())
    RunKernel(const __grid_constant__ Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
  typename Kernel::Local local{};
  const int phases = kernel.Phases();
  for (int phase = 0; phase < phases; ++phase) {
    kernel.Run(phase, blockIdx.x, static_cast<int>(threadIdx.x), &shared, &local);
    if (phase + 1 < phases) __syncthreads();
  }
}

template <typename Kernel>
void LaunchKernel(const Kernel& kernel, cudaStream_t stream) {
  RunKernel<Kernel><<<static_cast<unsigned>(kernel.Blocks()), Kernel::kThreads, 0, stream>>>(kernel);
}

template <typename... Kernels>
void LaunchKernel(const std::variant<Kernels...>& kernel, cudaStream_t stream) {
  std::visit([stream](const auto& one) { LaunchKernel(one, stream); }, kernel);
}

class CudaHostMemory : public HostMemory {
 public:
  // held: what the runtime has given, which outlives the memory.
  CudaHostMemory(PageLockedBuffer memory, uint64_t* held) : memory_(std::move(memory)), held_(held) {
    *held_ += memory_.span().size();
  }
  ~CudaHostMemory() override { *held_ -= memory_.span().size(); }
  std::span<std::byte> span() const override { return memory_.span(); }

 private:
  PageLockedBuffer memory_;
  uint64_t* held_;
};

// Page-locked room for what Send copies: two halves, each reused when the copies out of it are done.
class SendRoom {
 public:
  absl::Status Create(uint64_t half_bytes) {
    half_bytes_ = half_bytes;
    ASSIGN_OR_RETURN(PageLockedBuffer memory, PageLockedBuffer::Create(2 * half_bytes));
    memory_.emplace(std::move(memory));
    while (done_.size() < 2) {
      ASSIGN_OR_RETURN(Event event, Event::Create());
      done_.push_back(std::move(event));
    }
    return absl::OkStatus();
  }

  absl::Status Copy(std::span<const std::byte> from, std::byte* to, const Stream& stream) {
    if (used_ + from.size() > half_bytes_) {
      RETURN_IF_ERROR(done_[half_].Record(stream));
      recorded_[half_] = true;
      half_ = 1 - half_;
      used_ = 0;
      if (recorded_[half_]) RETURN_IF_ERROR(done_[half_].Wait());
    }
    std::byte* const own = memory_->data() + half_ * half_bytes_ + used_;
    std::memcpy(own, from.data(), from.size());
    used_ += (from.size() + 255) / 256 * 256;
    return CudaStatus(cudaMemcpyAsync(to, own, from.size(), cudaMemcpyHostToDevice, stream.get()), "send to the GPU");
  }

 private:
  std::optional<PageLockedBuffer> memory_;
  std::vector<Event> done_;  // of each half
  bool recorded_[2] = {false, false};
  uint64_t half_bytes_ = 0, used_ = 0;
  int half_ = 0;
};

class CudaRuntime : public gpu::Runtime {
 public:
  CudaRuntime(const CudaOptions& options, std::string name, Stream kernels, Stream copies, Event staged)
      : options_(options),
        name_(std::move(name)),
        kernels_(std::move(kernels)),
        copies_(std::move(copies)),
        staged_(std::move(staged)) {}
  ~CudaRuntime() override {
    Keep(copies_.Wait());
    Keep(kernels_.Wait());
  }

  absl::Status Init() { return room_.Create(2 * kSendBytes); }

  std::string Describe() const override { return absl::StrCat("cuda, ", name_); }

  absl::StatusOr<std::byte*> Allocate(uint64_t bytes) override {
    void* memory = nullptr;
    RETURN_IF_ERROR(
        CudaStatus(cudaMalloc(&memory, bytes), absl::StrCat("allocate ", FormatSize(bytes), " of GPU memory")));
    return static_cast<std::byte*>(memory);
  }
  void Free(std::byte* memory) override {
    Keep(kernels_.Wait());
    cuda_internal::DeviceRelease(memory);
  }
  absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) override {
    if (options_.pinned_bytes > 0 && bytes > options_.pinned_bytes - pinned_) {
      return absl::ResourceExhaustedError(absl::StrCat("budget.pinned of ", FormatSize(options_.pinned_bytes),
                                                       " does not hold ", FormatSize(bytes),
                                                       " more of page-locked memory; raise it, or lower budget.ram"));
    }
    ASSIGN_OR_RETURN(PageLockedBuffer memory, PageLockedBuffer::Create(bytes));
    return std::make_unique<CudaHostMemory>(std::move(memory), &pinned_);
  }

  absl::Status CopyIn(std::span<const std::byte> from, std::byte* to) override {
    RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, kernels_.get()),
                               "copy to the GPU"));
    return Finish();
  }
  absl::Status CopyOut(const std::byte* from, std::span<std::byte> to) override {
    RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(to.data(), from, to.size(), cudaMemcpyDeviceToHost, kernels_.get()),
                               "copy from the GPU"));
    return Finish();
  }
  void Send(std::span<const std::byte> from, std::byte* to) override { Keep(room_.Copy(from, to, kernels_)); }
  void CopyOnDevice(const std::byte* from, uint64_t bytes, std::byte* to) override {
    Keep(CudaStatus(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, kernels_.get()), "copy on the GPU"));
  }
  void Stage(std::span<const std::byte> from, std::byte* to) override {
    Keep(CudaStatus(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, copies_.get()),
                    "stage for the GPU"));
    Keep(staged_.Record(copies_));
    Keep(staged_.WaitOn(kernels_));
  }
  void Launch(const KernelCall& kernel) override {
    std::visit([this](const auto& one) { LaunchKernel(one, kernels_.get()); }, kernel);
    Keep(CudaStatus(cudaGetLastError(), "launch a kernel"));
  }

  Ticket Record() override {
    constexpr size_t kEvents = 64;  // then those that are done are taken back
    if (events_.size() > kEvents) IsDone(Ticket{last_});
    ++last_;
    absl::StatusOr<Event> event = spare_.empty() ? Event::Create() : absl::StatusOr<Event>(TakeSpare());
    if (!event.ok()) {
      Keep(event.status());
      return Ticket{last_};
    }
    Keep(event->Record(kernels_));
    events_.emplace_back(last_, *std::move(event));
    return Ticket{last_};
  }
  bool IsDone(Ticket ticket) override {
    while (!events_.empty() && done_ < ticket.value) {
      const absl::StatusOr<bool> done = events_.front().second.IsDone();
      if (done.ok() && !*done) return false;
      Keep(done.status());
      Retire();
    }
    return true;
  }
  void Wait(Ticket ticket) override {
    while (!events_.empty() && done_ < ticket.value) {
      Keep(events_.front().second.Wait());
      Retire();
    }
  }

 private:
  Event TakeSpare() {
    Event event = std::move(spare_.back());
    spare_.pop_back();
    return event;
  }
  void Retire() {
    done_ = events_.front().first;
    spare_.push_back(std::move(events_.front().second));
    events_.pop_front();
  }
  // The first error is told by the next call that can tell one.
  void Keep(const absl::Status& status) {
    if (first_error_.ok()) first_error_ = status;
  }
  absl::Status Finish() {
    Keep(kernels_.Wait());
    return std::exchange(first_error_, absl::OkStatus());
  }

  const CudaOptions options_;
  const std::string name_;
  Stream kernels_, copies_;
  Event staged_;
  SendRoom room_;
  uint64_t pinned_ = 0;
  uint64_t last_ = 0, done_ = 0;
  std::deque<std::pair<uint64_t, Event>> events_;  // oldest first
  std::vector<Event> spare_;
  absl::Status first_error_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<gpu::Runtime>> NewCudaRuntime(const CudaOptions& options, const std::string& name) {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(options.device), "choose a CUDA device"));
  ASSIGN_OR_RETURN(Stream kernels, Stream::Create());
  ASSIGN_OR_RETURN(Stream copies, Stream::Create());
  ASSIGN_OR_RETURN(Event staged, Event::Create());
  auto runtime = std::make_unique<CudaRuntime>(options, name, std::move(kernels), std::move(copies), std::move(staged));
  RETURN_IF_ERROR(runtime->Init());
  return runtime;
}

}  // namespace dogstar
