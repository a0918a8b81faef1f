// The FFN of a GPU's backend: cuts pages into blocks of 32 packed rows, puts those in planes together, and launches the
// kernels of gate, up and down over lists of blocks.
#pragma once

#include <cstdint>
#include <span>

#include "gpu/gpu_objects.h"
#include "gpu/launcher.h"

namespace dogstar {

class GpuFfn {
 public:
  explicit GpuFfn(gpu::Runtime* runtime) : launcher_(runtime) {}
  // Where pages and panels in planes are put together; it outlives their use.
  void SetJoinRoom(std::span<std::byte> room) { join_room_ = room; }
  std::span<std::byte> join_room() const { return join_room_; }

  void Begin(const FfnParams& params, const GpuActivations& x, int32_t rows, GpuFfnJob* job) const;
  void AccumulatePages(std::span<const FfnPageRef> pages, GpuFfnJob* job) const;
  // An error of the device, now or before.
  absl::StatusOr<FfnUse> AccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice,
                                          std::span<uint64_t> chosen, GpuFfnJob* job) const;
  void AccumulateSum(const GpuTensor& sum, GpuFfnJob* job) const;
  // y is whole.
  void End(GpuFfnJob* job) const { CloseGroup(job); }

 private:
  // Where a page's parts are read.
  struct PagePlace {
    const std::byte *gate = nullptr, *up = nullptr, *down = nullptr;
  };
  PagePlace PlaceOf(const FfnPageRef& page, GpuFfnJob* job) const;
  bool HasRoomFor(const FfnPageRef& page, const GpuFfnJob& job) const;
  void AddPage(const FfnPageRef& page, int32_t number, GpuFfnJob* job) const;
  // Pages in planes become whole ones.
  void JoinPages(const FfnPageLayout& layout, const gpu::JoinPiece* pieces, int32_t count) const;
  // Runs the pages collected so far, and empties the lists.
  void RunPages(GpuFfnJob* job) const;
  void Down(const PageLists& lists, const SentPages& sent, GpuFfnJob* job) const;
  // The sum of a group goes to y.
  void CloseGroup(GpuFfnJob* job) const;

  Launcher launcher_;
  std::span<std::byte> join_room_;
};

}  // namespace dogstar
