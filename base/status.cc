#include "base/status.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fmt/format.h"

namespace dogstar {
namespace {

absl::StatusCode CodeOf(int error_number) {
  switch (error_number) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case EISDIR:
    case ENOTDIR:
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case EIO:
      return absl::StatusCode::kDataLoss;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

}  // namespace

absl::Status ErrnoStatus(std::string_view operation, std::string_view path, int64_t offset, int64_t bytes,
                         int error_number) {
  std::string message = fmt::format("{} {}", operation, path);
  if (offset >= 0) message += fmt::format(" at offset {}", offset);
  if (bytes >= 0) message += fmt::format(" ({} bytes)", bytes);
  message += fmt::format(": {}", std::strerror(error_number));
  return absl::Status(CodeOf(error_number), message);
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  std::string message = fmt::format("{}: {}", context, std::string(status.message()));
  return absl::Status(status.code(), message);
}

void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: internal error: CHECK(%s) failed\n", file, line, condition);
  std::abort();
}

}  // namespace dogstar
