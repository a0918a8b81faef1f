#include "io/page_reader.h"

#include <utility>

#include "fmt/format.h"
#include "io/direct_file.h"
#include "io/pread_reader.h"
#include "io/uring_reader.h"

namespace dogstar {
namespace {

constexpr size_t kMaxQueueDepth = 4096;

void Note(std::string text, std::vector<std::string>* notes) {
  if (notes != nullptr) notes->push_back(std::move(text));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageReader>> OpenPageReader(const std::string& path, const ReaderOptions& options,
                                                           std::vector<std::string>* notes) {
  if (options.queue_depth < 1 || options.queue_depth > kMaxQueueDepth) {
    return absl::InvalidArgumentError(
        fmt::format("queue depth {} for {}: it must be 1 to {}", options.queue_depth, path, kMaxQueueDepth));
  }
  ASSIGN_OR_RETURN(DirectFile file, DirectFile::Open(path, options.direct, notes));
  if (options.engine != IoEngine::kPread) {
    absl::StatusOr<std::unique_ptr<PageReader>> reader = NewUringReader(options, &file, notes);
    if (reader.ok()) return reader;
    if (options.engine == IoEngine::kUring) return Annotate(reader.status(), fmt::format("open {}", path));
    Note(fmt::format("{}; reading with threads", std::string(reader.status().message())), notes);
  }
  return NewPreadReader(options, std::move(file));
}

}  // namespace dogstar
