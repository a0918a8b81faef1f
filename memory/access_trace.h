// AccessTrace: the requests that a run's overlay policy saw, as a file, for simulators and other programs.
//
//   file     "DOGTRACE", u32 version, u32 header bytes, u64 XXH3-64 of the header, header, chunks
//   chunk    u32 payload bytes, u32 0, u64 XXH3-64 of the payload, payload: whole records, each one byte of kind and
//   then
//     pass         u8 phase, v rows, v microseconds since the last pass record       (before the pass)
//     text         v layer, v slots, v top rows, v held, held x v row in the order they were placed (the worst first),
//                  f32 scores of the rows from the prefix to the last                (once a prompt and layer)
//     requests     v layer, then for each row v distance to the one before (the first: to the prefix' last) and
//                  u8 share (EncodeShare in runtime/top_rows.h); v 0 ends it          (one token in one layer)
//     end token, end pass
// u: little-endian, v: LEB128. A chunk is written in one piece: what a killed run leaves is whole chunks and perhaps a
// torn one at the end, which readers leave out. A damaged chunk with others behind it is an error.
//
// In corrected runs requests are those of verified tokens, so all of them stand in verify passes; prefill, draft and
// full passes are there with their time and size. Rows of the prefix are no requests: they stay whatever the policy.
//
// Cost: two bytes a request, one write of 64 KiB per 32,000; memory as Bytes says, allocated once.
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace dogstar {

inline constexpr uint32_t kAccessTraceVersion = 1;

enum class AccessPhase : uint8_t { kPrefill, kDraft, kVerify, kFull };
inline constexpr int kAccessPhases = 4;
std::string_view AccessPhaseName(AccessPhase phase);

struct AccessLayer {
  int32_t prefix_rows = 0;
  int32_t slots = 0;       // when the run began
  uint64_t row_bytes = 0;  // of one row in the overlay
};
struct AccessHeader {
  std::string model;        // its path, for people
  uint64_t model_hash = 0;  // of the packed file's metadata
  int32_t rows = 0;         // of a layer
  std::vector<AccessLayer> layers;
  std::string policy;
  double half_life = 32;  // tokens
  double hysteresis = 0;
};

struct AccessRequest {
  RowIndex row{};
  uint8_t share = 0;
};

// A prompt is over, in one layer.
struct AccessText {
  LayerIndex layer{};
  int32_t slots = 0;
  int32_t top_rows = 0;           // of a token, those in the prefix included
  std::span<const int32_t> held;  // rows in the order they were placed
  std::span<const float> scores;  // [rows - prefix_rows]
};

class AccessRecorder {
 public:
  // Creates the file at once, so that a path that cannot be written fails before the work.
  static absl::StatusOr<std::unique_ptr<AccessRecorder>> Create(const std::string& path);
  static uint64_t Bytes(int32_t rows);
  AccessRecorder(const AccessRecorder&) = delete;
  AccessRecorder& operator=(const AccessRecorder&) = delete;
  ~AccessRecorder();

  // Call once, before the rest.
  void Begin(const AccessHeader& header);
  void Pass(AccessPhase phase, int32_t rows);
  void Text(const AccessText& text);
  // A token's requests in one layer: rows ascend and are not in the prefix.
  void BeginRequests(LayerIndex layer);
  void Request(RowIndex row, uint8_t share);
  void EndRequests();
  void EndToken();
  void EndPass();
  // Writes what is left. The first failure to write: the run goes on, the trace ends there.
  absl::Status Finish();
  int64_t requests() const { return requests_; }

 private:
  AccessRecorder(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  void Byte(uint8_t value) { buffer_.push_back(value); }
  void Varint(uint64_t value);
  void EndRecord();
  void Flush();
  void Write(std::span<const uint8_t> bytes);

  int fd_;
  std::string path_;
  absl::Status status_;
  int32_t rows_ = 0;
  std::vector<int32_t> prefix_rows_;  // [layers]
  std::vector<uint8_t> buffer_;       // a chunk: its head, then records
  int32_t previous_row_ = 0;
  double last_pass_ = 0;
  int64_t requests_ = 0;
};

// A trace in memory, checked: every record of the whole chunks is well formed.
struct AccessTrace {
  AccessHeader header;
  std::string bytes;                              // the file
  std::vector<std::pair<size_t, size_t>> chunks;  // offset and bytes of their payloads
  std::string torn;                               // what was left out at the end, for people; empty: nothing
};
// DataLoss and InvalidArgument name the file, the offset and what is wrong.
absl::StatusOr<AccessTrace> ReadAccessTrace(const std::string& path);
absl::StatusOr<AccessTrace> ParseAccessTrace(std::string bytes, std::string_view file);

// Gets the records of a trace in order.
class AccessVisitor {
 public:
  virtual ~AccessVisitor() = default;
  virtual void OnPass(AccessPhase, int32_t /*rows*/, double /*seconds*/) {}
  virtual void OnText(const AccessText&) {}
  virtual void OnRequests(LayerIndex, std::span<const AccessRequest>) {}
  virtual void OnEndToken() {}
  virtual void OnEndPass() {}
};
void VisitAccesses(const AccessTrace& trace, AccessVisitor* visitor);

}  // namespace dogstar
