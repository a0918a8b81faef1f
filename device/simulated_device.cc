#include "device/simulated_device.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/units.h"
#include "device/staging_ring.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

// Copies in the order of their calls, on a thread of its own.
class Link {
 public:
  explicit Link(double bytes_per_second) : bytes_per_second_(bytes_per_second), thread_([this] { Work(); }) {}
  ~Link() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void Copy(std::span<const std::byte> from, std::byte* to) {
    {
      const std::lock_guard lock(mutex_);
      copies_.push_back({from, to});
    }
    changed_.notify_all();
  }

  // Until all copies so far are done.
  void Await() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return copies_.empty(); });
  }

 private:
  struct Transfer {
    std::span<const std::byte> from;
    std::byte* to;
  };

  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return ending_ || !copies_.empty(); });
      if (copies_.empty()) return;
      const Transfer copy = copies_.front();
      lock.unlock();
      Carry(copy);
      lock.lock();
      copies_.pop_front();
      changed_.notify_all();
    }
  }

  void Carry(const Transfer& copy) const {
    const auto start = std::chrono::steady_clock::now();
    std::memcpy(copy.to, copy.from.data(), copy.from.size());
    if (bytes_per_second_ <= 0) return;
    const std::chrono::duration<double> takes(static_cast<double>(copy.from.size()) / bytes_per_second_);
    std::this_thread::sleep_until(start + takes);
  }

  const double bytes_per_second_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Transfer> copies_;  // the first is on its way
  bool ending_ = false;
  std::thread thread_;  // last: it uses the others
};

// Host memory that counts while it lives; `held` outlives it.
class GrantedMemory : public HostMemory {
 public:
  GrantedMemory(std::unique_ptr<HostMemory> memory, uint64_t* held) : memory_(std::move(memory)), held_(held) {
    *held_ += memory_->span().size();
  }
  ~GrantedMemory() override { *held_ -= memory_->span().size(); }
  std::span<std::byte> span() const override { return memory_->span(); }

 private:
  std::unique_ptr<HostMemory> memory_;
  uint64_t* held_;
};

class SimulatedDevice : public Backend {
 public:
  SimulatedDevice(std::unique_ptr<Backend> inner, const SimulatedDeviceOptions& options)
      : inner_(std::move(inner)), options_(options), link_(options.link_bytes_per_second) {}
  ~SimulatedDevice() override { link_.Await(); }

  std::string Describe() const override {
    return fmt::format("simulated device of {}, {}", FormatSize(options_.memory_bytes), inner_->Describe());
  }
  bool precise() const override { return inner_->precise(); }

  bool shares_host_memory() const override { return false; }
  uint64_t device_bytes() const override { return used_; }
  absl::StatusOr<std::byte*> AllocateMemory(uint64_t bytes) override;
  void FreeMemory(std::byte* memory) override;
  absl::Status WriteMemory(std::span<const std::byte> from, std::byte* to) override {
    CheckAddress(to);
    link_.Copy(from, to);
    link_.Await();
    return absl::OkStatus();
  }
  absl::Status ReadMemory(DeviceAddress from, std::span<std::byte> to) override {
    Read(from);
    return inner_->ReadMemory(from, to);
  }
  absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) override {
    if (bytes > options_.host_bytes - host_held_) {
      return absl::ResourceExhaustedError(
          fmt::format("the simulated device grants {} of page-locked memory, not {} more",
                      FormatSize(options_.host_bytes), FormatSize(bytes)));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<HostMemory> memory, inner_->NewHostMemory(bytes));
    return std::make_unique<GrantedMemory>(std::move(memory), &host_held_);
  }
  absl::Status ReserveStaging(uint64_t bytes) override {
    CHECK(staging_ == nullptr);
    slots_ = StagingRing(bytes);
    ASSIGN_OR_RETURN(staging_, AllocateMemory(bytes));
    return absl::OkStatus();
  }
  uint64_t JoinRoomBytes(uint64_t longest) const override { return inner_->JoinRoomBytes(longest); }
  absl::Status ReserveJoinRoom(uint64_t longest) override { return inner_->ReserveJoinRoom(longest); }
  absl::StatusOr<DeviceAddress> Stage(std::span<const std::byte> host) override;
  void Unstage(Ticket) override {
    slots_.GiveBackOldest();  // its operations are done: they are when their calls return
  }

  absl::StatusOr<std::unique_ptr<Tensor>> NewTensor(int32_t rows, int32_t cols) override {
    RETURN_IF_ERROR(Take(TensorBytes(rows, cols)));
    return inner_->NewTensor(rows, cols);
  }
  absl::StatusOr<std::unique_ptr<Activations>> NewActivations(int32_t rows, int32_t cols) override {
    RETURN_IF_ERROR(Take(ActivationsBytes(rows, cols)));
    return inner_->NewActivations(rows, cols);
  }
  absl::StatusOr<std::unique_ptr<KvStore>> NewKvStore(const KvShape& shape) override {
    RETURN_IF_ERROR(Take(KvStoreBytes(shape)));
    return inner_->NewKvStore(shape);
  }
  absl::StatusOr<std::unique_ptr<FfnJob>> NewFfnJob(const FfnJobShape& shape) override {
    RETURN_IF_ERROR(Take(FfnJobBytes(shape)));
    return inner_->NewFfnJob(shape);
  }
  uint64_t TensorBytes(int32_t rows, int32_t cols) const override { return inner_->TensorBytes(rows, cols); }
  uint64_t ActivationsBytes(int32_t rows, int32_t cols) const override { return inner_->ActivationsBytes(rows, cols); }
  uint64_t KvStoreBytes(const KvShape& shape) const override { return inner_->KvStoreBytes(shape); }
  uint64_t FfnJobBytes(const FfnJobShape& shape) const override { return inner_->FfnJobBytes(shape); }

  void Upload(std::span<const float> values, int32_t first_row, Tensor* dst) override {
    inner_->Upload(values, first_row, dst);
  }
  absl::Status Download(const Tensor& src, int32_t first_row, int32_t rows, std::span<float> values) override {
    return inner_->Download(src, first_row, rows, values);
  }
  absl::Status FindPeaks(const Tensor& x, int32_t first_row, int32_t cols, float scale,
                         std::span<RowPeak> peaks) override {
    return inner_->FindPeaks(x, first_row, cols, scale, peaks);
  }
  absl::Status FindTop(const Tensor& x, int32_t row, int32_t cols, std::span<RowEntry> top) override {
    return inner_->FindTop(x, row, cols, top);
  }
  void GatherRows(const MatrixView& table, std::span<const int32_t> row_index, Tensor* dst) override {
    Read(table.data);
    inner_->GatherRows(table, row_index, dst);
  }
  void CopyRows(const Tensor& src, int32_t src_row, int32_t rows, int32_t dst_row, Tensor* dst) override {
    inner_->CopyRows(src, src_row, rows, dst_row, dst);
  }
  void RmsNorm(const Tensor& x, int32_t rows, DeviceAddress weight, float epsilon, Tensor* out) override {
    Read(weight);
    inner_->RmsNorm(x, rows, weight, epsilon, out);
  }
  void HeadRmsNorm(int32_t head_dim, int32_t rows, DeviceAddress weight, float epsilon, Tensor* x) override {
    Read(weight);
    inner_->HeadRmsNorm(head_dim, rows, weight, epsilon, x);
  }
  void Prepare(const Tensor& x, int32_t rows, Activations* out) override { inner_->Prepare(x, rows, out); }
  void MatMul(const MatrixView& w, const Activations& x, int32_t rows, int32_t out_col, Tensor* out) override {
    Read(w.data);
    if (w.planes == PlaneState::kBoth) Read(w.low);
    inner_->MatMul(w, x, rows, out_col, out);
  }
  void Add(const Tensor& y, int32_t rows, Tensor* x) override { inner_->Add(y, rows, x); }
  void AddBias(DeviceAddress bias, int32_t rows, Tensor* x) override {
    Read(bias);
    inner_->AddBias(bias, rows, x);
  }
  void Scale(float factor, int32_t rows, Tensor* x) override { inner_->Scale(factor, rows, x); }
  void Clear(int32_t rows, Tensor* x) override { inner_->Clear(rows, x); }
  void PackPanels(const MatrixView& plain, std::byte* panels) override {
    CheckAddress(panels);
    inner_->PackPanels(plain, panels);
  }
  void GatedActivation(FfnActivation activation, const Tensor& gate, const Tensor& up, int32_t rows,
                       Tensor* z) override {
    inner_->GatedActivation(activation, gate, up, rows, z);
  }
  void Rope(const RopeParams& params, std::span<const TokenPos> positions, Tensor* x) override {
    inner_->Rope(params, positions, x);
  }
  void WriteKv(LayerIndex layer, std::span<const KvSlot> slots, const Tensor& k, const Tensor& v,
               KvStore* store) override {
    inner_->WriteKv(layer, slots, k, v, store);
  }
  void CopyKv(KvSlot from, KvSlot to, KvStore* store) override { inner_->CopyKv(from, to, store); }
  void Attention(const AttentionParams& params, LayerIndex layer, const AttentionMask& mask, const KvStore& store,
                 const Tensor& q, Tensor* out) override {
    inner_->Attention(params, layer, mask, store, q, out);
  }

  void FfnBegin(const FfnParams& params, const Activations& x, int32_t rows, FfnJob* job) override {
    if (params.down_scales != nullptr) Read(params.down_scales);
    inner_->FfnBegin(params, x, rows, job);
  }
  Ticket FfnAccumulatePages(std::span<const FfnPageRef> pages, FfnJob* job) override {
    ReadPages(pages);
    return inner_->FfnAccumulatePages(pages, job);
  }
  FfnUse FfnAccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice, std::span<uint64_t> chosen,
                             FfnJob* job) override {
    ReadPages(pages);
    return inner_->FfnAccumulateChosen(pages, choice, chosen, job);
  }
  Ticket FfnAccumulateOverlay(const FfnOverlayRef& overlay, FfnJob* job) override {
    for (const DeviceAddress part : {overlay.gate, overlay.up, overlay.down}) Read(part);
    return inner_->FfnAccumulateOverlay(overlay, job);
  }
  void FfnAccumulateSum(const Tensor& sum, FfnJob* job) override { inner_->FfnAccumulateSum(sum, job); }
  Ticket FfnEnd(FfnJob* job, Tensor* x) override { return inner_->FfnEnd(job, x); }

  Ticket Now() override { return inner_->Now(); }
  bool IsDone(Ticket ticket) override { return inner_->IsDone(ticket); }
  void Wait(Ticket ticket) override {
    link_.Await();
    inner_->Wait(ticket);
  }

 private:
  absl::Status Take(uint64_t bytes) {
    if (bytes > options_.memory_bytes - used_) {
      return absl::ResourceExhaustedError(fmt::format("the simulated device has {}, {} are taken: {} more do not fit",
                                                      FormatSize(options_.memory_bytes), FormatSize(used_),
                                                      FormatSize(bytes)));
    }
    used_ += bytes;
    return absl::OkStatus();
  }

  void CheckAddress(DeviceAddress address) const {
    const auto after = allocations_.upper_bound(address);
    CHECK(after != allocations_.begin());
    const auto& [begin, bytes] = *std::prev(after);
    CHECK(address < begin + bytes);  // else it is the host's
  }
  void Read(DeviceAddress address) {
    CheckAddress(address);
    link_.Await();
  }
  void ReadPages(std::span<const FfnPageRef> pages) {
    for (const FfnPageRef& page : pages) {
      CheckAddress(page.data);
      if (page.planes == PlaneState::kBoth) CheckAddress(page.low);
    }
    link_.Await();
  }

  std::unique_ptr<Backend> inner_;
  const SimulatedDeviceOptions options_;
  uint64_t used_ = 0, host_held_ = 0;
  std::map<DeviceAddress, uint64_t, std::less<>> allocations_;  // bytes of each
  std::byte* staging_ = nullptr;
  StagingRing slots_;  // of staging_
  Link link_;
};

absl::StatusOr<std::byte*> SimulatedDevice::AllocateMemory(uint64_t bytes) {
  RETURN_IF_ERROR(Take(bytes));
  ASSIGN_OR_RETURN(std::byte* const memory, inner_->AllocateMemory(bytes));
  if (bytes > 0) allocations_[memory] = bytes;
  return memory;
}

void SimulatedDevice::FreeMemory(std::byte* memory) {
  const auto found = allocations_.find(memory);
  if (found != allocations_.end()) {
    used_ -= found->second;
    allocations_.erase(found);
  }
  inner_->FreeMemory(memory);
}

absl::StatusOr<DeviceAddress> SimulatedDevice::Stage(std::span<const std::byte> host) {
  const std::optional<uint64_t> place = slots_.Take(host.size());
  if (!place) {
    return absl::InternalError(
        fmt::format("staging of {} has no room for {}", FormatSize(slots_.bytes()), FormatSize(host.size())));
  }
  link_.Copy(host, staging_ + *place);
  return staging_ + *place;
}

}  // namespace

std::unique_ptr<Backend> NewSimulatedDevice(std::unique_ptr<Backend> inner, const SimulatedDeviceOptions& options) {
  CHECK(inner->shares_host_memory());
  return std::make_unique<SimulatedDevice>(std::move(inner), options);
}

}  // namespace dogstar
