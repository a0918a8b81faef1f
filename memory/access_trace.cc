#include "memory/access_trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "fmt/format.h"
#include "xxhash.h"

namespace dogstar {
namespace {

constexpr std::string_view kMagic = "DOGTRACE";
constexpr size_t kFileHead = 24, kChunkHead = 16;
constexpr size_t kChunkBytes = 64 << 10;
constexpr uint32_t kMostHeaderBytes = 16 << 20;
// Of a model that somebody runs: 126 layers of 53,248 rows are 7 million.
constexpr uint32_t kMostRows = 1 << 26;  // of all layers together

enum class Kind : uint8_t { kPass = 1, kText, kRequests, kEndToken, kEndPass };

template <typename Number>
void Append(Number value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string EncodeHeader(const AccessHeader& header) {
  std::string out;
  const auto text = [&](const std::string& value) {
    Append(static_cast<uint32_t>(value.size()), &out);
    out += value;
  };
  text(header.model);
  Append(header.model_hash, &out);
  text(header.policy);
  Append(header.half_life, &out);
  Append(header.hysteresis, &out);
  Append(static_cast<uint32_t>(header.rows), &out);
  Append(static_cast<uint32_t>(header.layers.size()), &out);
  for (const AccessLayer& layer : header.layers) {
    Append(static_cast<uint32_t>(layer.prefix_rows), &out);
    Append(static_cast<uint32_t>(layer.slots), &out);
    Append(layer.row_bytes, &out);
  }
  return out;
}

// Reads values one after the other; after a failure all are 0 and ok() is false.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : bytes_(bytes) {}
  bool ok() const { return ok_; }
  size_t at() const { return at_; }
  bool AtEnd() const { return at_ == bytes_.size(); }
  void Fail() { ok_ = false; }

  std::string_view Take(size_t count) {
    if (!ok_ || bytes_.size() - at_ < count) {
      ok_ = false;
      return {};
    }
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  template <typename Number>
  Number Fixed() {
    Number value{};
    const std::string_view bytes = Take(sizeof value);
    if (ok_) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  // most: the largest that is allowed.
  int32_t Varint(int64_t most) {
    uint64_t value = 0;
    for (int shift = 0; shift < 63; shift += 7) {
      if (at_ == bytes_.size()) break;
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) != 0) continue;
      if (value > static_cast<uint64_t>(most)) break;
      return static_cast<int32_t>(value);
    }
    ok_ = false;
    return 0;
  }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

bool DecodeHeader(std::string_view bytes, AccessHeader* header) {
  Cursor in(bytes);
  header->model = in.Take(in.Fixed<uint32_t>());
  header->model_hash = in.Fixed<uint64_t>();
  header->policy = in.Take(in.Fixed<uint32_t>());
  header->half_life = in.Fixed<double>();
  header->hysteresis = in.Fixed<double>();
  const auto rows = in.Fixed<uint32_t>(), layers = in.Fixed<uint32_t>();
  if (!in.ok() || rows < 1 || rows > kMostRows || layers < 1 || layers > kMostRows / rows) return false;
  if (!(header->half_life > 0) || !(header->hysteresis >= 0) || !std::isfinite(header->half_life)) return false;
  header->rows = static_cast<int32_t>(rows);
  for (uint32_t i = 0; i < layers && in.ok(); ++i) {
    const auto prefix = in.Fixed<uint32_t>(), slots = in.Fixed<uint32_t>();
    const auto row_bytes = in.Fixed<uint64_t>();
    if (prefix > rows || slots > rows || row_bytes > (uint64_t{1} << 32)) return false;
    header->layers.push_back({static_cast<int32_t>(prefix), static_cast<int32_t>(slots), row_bytes});
  }
  return in.ok() && in.AtEnd();
}

// One chunk's records to a visitor. False: a record is malformed, near `*at`.
class ChunkReader {
 public:
  ChunkReader(const AccessHeader& header, AccessVisitor* visitor) : header_(header), visitor_(visitor) {}

  bool Read(std::string_view payload, size_t* at) {
    Cursor in(payload);
    while (in.ok() && !in.AtEnd()) {
      *at = in.at();
      if (!Record(&in)) return false;
    }
    return in.ok();
  }

 private:
  bool Record(Cursor* in) {
    switch (static_cast<Kind>(in->Fixed<uint8_t>())) {
      case Kind::kPass: {
        const auto phase = in->Fixed<uint8_t>();
        const int32_t rows = in->Varint(INT32_MAX), microseconds = in->Varint(INT32_MAX);
        if (!in->ok() || phase >= kAccessPhases) return false;
        seconds_ += 1e-6 * microseconds;
        visitor_->OnPass(static_cast<AccessPhase>(phase), rows, seconds_);
        return true;
      }
      case Kind::kText:
        return Text(in);
      case Kind::kRequests:
        return Requests(in);
      case Kind::kEndToken:
        visitor_->OnEndToken();
        return true;
      case Kind::kEndPass:
        visitor_->OnEndPass();
        return true;
    }
    return false;
  }

  bool Text(Cursor* in) {
    const int32_t layer = Layer(in);
    if (!in->ok()) return false;
    const int32_t prefix = header_.layers[static_cast<size_t>(layer)].prefix_rows;
    const int32_t slots = in->Varint(header_.rows), top_rows = in->Varint(header_.rows), held = in->Varint(slots);
    held_.clear();
    seen_.assign(static_cast<size_t>(header_.rows), false);
    for (int32_t i = 0; i < held && in->ok(); ++i) {
      const int32_t row = in->Varint(header_.rows - 1);
      if (row < prefix || seen_[static_cast<size_t>(row)]) return false;
      seen_[static_cast<size_t>(row)] = true;
      held_.push_back(row);
    }
    const std::string_view scores = in->Take(static_cast<size_t>(header_.rows - prefix) * sizeof(float));
    if (!in->ok()) return false;
    scores_.resize(scores.size() / sizeof(float));
    if (!scores.empty()) std::memcpy(scores_.data(), scores.data(), scores.size());
    for (float score : scores_) {
      if (!std::isfinite(score)) return false;
    }
    visitor_->OnText({LayerIndex{layer}, slots, top_rows, held_, scores_});
    return true;
  }

  bool Requests(Cursor* in) {
    const int32_t layer = Layer(in);
    if (!in->ok()) return false;
    int32_t row = header_.layers[static_cast<size_t>(layer)].prefix_rows - 1;
    requests_.clear();
    for (;;) {
      const int32_t distance = in->Varint(header_.rows);
      if (!in->ok() || distance >= header_.rows - row) return false;
      if (distance == 0) break;
      row += distance;
      requests_.push_back({RowIndex{row}, in->Fixed<uint8_t>()});
    }
    visitor_->OnRequests(LayerIndex{layer}, requests_);
    return true;
  }

  int32_t Layer(Cursor* in) const { return in->Varint(static_cast<int64_t>(header_.layers.size()) - 1); }

  const AccessHeader& header_;
  AccessVisitor* visitor_;
  double seconds_ = 0;
  std::vector<int32_t> held_;
  std::vector<bool> seen_;
  std::vector<float> scores_;
  std::vector<AccessRequest> requests_;
};

// Finds the chunks; fills trace->torn where the last one is not whole.
absl::Status FindChunks(std::string_view file, size_t begin, AccessTrace* trace) {
  const std::string_view bytes = trace->bytes;
  for (size_t at = begin; at < bytes.size();) {
    Cursor in(bytes.substr(at));
    const auto payload_bytes = in.Fixed<uint32_t>(), zero = in.Fixed<uint32_t>();
    const auto hash = in.Fixed<uint64_t>();
    const std::string_view payload = in.Take(payload_bytes);
    const bool whole = in.ok();
    if (whole && zero == 0 && XXH3_64bits(payload.data(), payload.size()) == hash) {
      trace->chunks.emplace_back(at + kChunkHead, payload.size());
      at += in.at();
      continue;
    }
    if (whole && at + in.at() < bytes.size()) {
      return absl::DataLossError(fmt::format("{}: the chunk at offset {} is damaged (its checksum differs)", file, at));
    }
    trace->torn = fmt::format("the last {} bytes, from offset {}, are no whole chunk: the run was cut off there",
                              bytes.size() - at, at);
    break;
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view AccessPhaseName(AccessPhase phase) {
  static constexpr std::array<std::string_view, kAccessPhases> kNames = {"prefill", "draft", "verify", "full"};
  return kNames[static_cast<size_t>(phase)];
}

absl::StatusOr<std::unique_ptr<AccessRecorder>> AccessRecorder::Create(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus("create access trace", path, -1, -1, errno);
  return std::unique_ptr<AccessRecorder>(new AccessRecorder(fd, path));
}

AccessRecorder::~AccessRecorder() {
  if (fd_ >= 0) ::close(fd_);
}

// A chunk that is nearly full and the longest record behind it: a row with its number and its score.
uint64_t AccessRecorder::Bytes(int32_t rows) {
  return kChunkHead + kChunkBytes + 64 + static_cast<uint64_t>(rows) * (5 + sizeof(float));
}

void AccessRecorder::Begin(const AccessHeader& header) {
  CHECK(rows_ == 0 && header.rows > 0);
  rows_ = header.rows;
  for (const AccessLayer& layer : header.layers) prefix_rows_.push_back(layer.prefix_rows);
  buffer_.reserve(Bytes(rows_));
  buffer_.resize(kChunkHead);
  const std::string payload = EncodeHeader(header);
  std::string file(kMagic);
  Append(kAccessTraceVersion, &file);
  Append(static_cast<uint32_t>(payload.size()), &file);
  Append(static_cast<uint64_t>(XXH3_64bits(payload.data(), payload.size())), &file);
  file += payload;
  Write({reinterpret_cast<const uint8_t*>(file.data()), file.size()});
  last_pass_ = Now();
}

void AccessRecorder::Varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) Byte(static_cast<uint8_t>(value | 0x80));
  Byte(static_cast<uint8_t>(value));
}

void AccessRecorder::Pass(AccessPhase phase, int32_t rows) {
  const double now = Now();
  const auto microseconds = static_cast<uint64_t>(std::min((now - last_pass_) * 1e6, 2e9));
  last_pass_ += static_cast<double>(microseconds) * 1e-6;  // what is rounded away counts next time
  Byte(static_cast<uint8_t>(Kind::kPass));
  Byte(static_cast<uint8_t>(phase));
  Varint(static_cast<uint64_t>(rows));
  Varint(microseconds);
  EndRecord();
}

void AccessRecorder::Text(const AccessText& text) {
  Byte(static_cast<uint8_t>(Kind::kText));
  Varint(static_cast<uint64_t>(ToInt(text.layer)));
  Varint(static_cast<uint64_t>(text.slots));
  Varint(static_cast<uint64_t>(text.top_rows));
  Varint(text.held.size());
  for (int32_t row : text.held) Varint(static_cast<uint64_t>(row));
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.scores.data());
  buffer_.insert(buffer_.end(), bytes, bytes + text.scores.size_bytes());
  EndRecord();
}

void AccessRecorder::BeginRequests(LayerIndex layer) {
  Byte(static_cast<uint8_t>(Kind::kRequests));
  Varint(static_cast<uint64_t>(ToInt(layer)));
  previous_row_ = prefix_rows_[static_cast<size_t>(ToInt(layer))] - 1;
}

void AccessRecorder::Request(RowIndex row, uint8_t share) {
  DCHECK(ToInt(row) > previous_row_);
  Varint(static_cast<uint64_t>(ToInt(row) - previous_row_));
  Byte(share);
  previous_row_ = ToInt(row);
  ++requests_;
}

void AccessRecorder::EndRequests() {
  Byte(0);
  EndRecord();
}

void AccessRecorder::EndToken() {
  Byte(static_cast<uint8_t>(Kind::kEndToken));
  EndRecord();
}

void AccessRecorder::EndPass() {
  Byte(static_cast<uint8_t>(Kind::kEndPass));
  EndRecord();
}

void AccessRecorder::EndRecord() {
  if (buffer_.size() >= kChunkHead + kChunkBytes) Flush();
}

void AccessRecorder::Flush() {
  if (buffer_.size() <= kChunkHead) return;
  const auto payload_bytes = static_cast<uint32_t>(buffer_.size() - kChunkHead);
  const uint64_t hash = XXH3_64bits(buffer_.data() + kChunkHead, payload_bytes);
  std::memset(buffer_.data(), 0, kChunkHead);
  std::memcpy(buffer_.data(), &payload_bytes, sizeof payload_bytes);
  std::memcpy(buffer_.data() + 8, &hash, sizeof hash);
  Write(buffer_);
  buffer_.resize(kChunkHead);
}

void AccessRecorder::Write(std::span<const uint8_t> bytes) {
  while (status_.ok() && !bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      status_ = ErrnoStatus("write access trace", path_, -1, static_cast<int64_t>(bytes.size()), errno);
    } else {
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }
}

absl::Status AccessRecorder::Finish() {
  Flush();
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0 && status_.ok()) {
    status_ = ErrnoStatus("close access trace", path_, -1, -1, errno);
  }
  return status_;
}

absl::StatusOr<AccessTrace> ReadAccessTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  if (!file || !(bytes << file.rdbuf())) {
    return absl::NotFoundError(fmt::format("cannot read the access trace {}", path));
  }
  return ParseAccessTrace(std::move(bytes).str(), path);
}

absl::StatusOr<AccessTrace> ParseAccessTrace(std::string bytes, std::string_view file) {
  AccessTrace trace;
  trace.bytes = std::move(bytes);
  Cursor in(trace.bytes);
  if (in.Take(kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is no access trace (it does not begin with {}); record one with dogstar run --record, or give a "
        "list of ids with --csv",
        file, kMagic));
  }
  const auto version = in.Fixed<uint32_t>(), header_bytes = in.Fixed<uint32_t>();
  const auto hash = in.Fixed<uint64_t>();
  if (in.ok() && version != kAccessTraceVersion) {
    return absl::InvalidArgumentError(fmt::format("{}: an access trace of version {}; this program reads version {}",
                                                  file, version, kAccessTraceVersion));
  }
  const std::string_view header = header_bytes <= kMostHeaderBytes ? in.Take(header_bytes) : std::string_view();
  if (!in.ok() || XXH3_64bits(header.data(), header.size()) != hash || !DecodeHeader(header, &trace.header)) {
    return absl::DataLossError(fmt::format("{}: the header at offset {} is cut off or damaged", file, kFileHead));
  }
  RETURN_IF_ERROR(FindChunks(file, in.at(), &trace));
  AccessVisitor nothing;
  ChunkReader reader(trace.header, &nothing);
  for (const auto& [offset, size] : trace.chunks) {
    size_t at = 0;
    if (reader.Read(std::string_view(trace.bytes).substr(offset, size), &at)) continue;
    return absl::DataLossError(fmt::format("{}: the record at offset {} makes no sense", file, offset + at));
  }
  return trace;
}

void VisitAccesses(const AccessTrace& trace, AccessVisitor* visitor) {
  ChunkReader reader(trace.header, visitor);
  for (const auto& [offset, size] : trace.chunks) {
    size_t at = 0;
    CHECK(reader.Read(std::string_view(trace.bytes).substr(offset, size), &at));
  }
}

}  // namespace dogstar
