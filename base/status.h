// Errors: absl::Status for everything outside our control, CHECK for our own mistakes.
//
// A message names the operation, the path, offset, bytes and the errno text where there is one.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dogstar {

// "read model.gguf at offset 4096 (65536 bytes): Input/output error". Pass offset or bytes < 0 to leave them out.
absl::Status ErrnoStatus(std::string_view operation, std::string_view path, int64_t offset, int64_t bytes,
                         int error_number);

// Puts `context` and ": " before the message; the code stays.
absl::Status Annotate(const absl::Status& status, std::string_view context);

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace dogstar

#define DOGSTAR_CONCAT_INNER(a, b) a##b
#define DOGSTAR_CONCAT(a, b) DOGSTAR_CONCAT_INNER(a, b)

#define CHECK(condition) \
  (static_cast<bool>(condition) ? void() : ::dogstar::CheckFailed(__FILE__, __LINE__, #condition))
#ifdef NDEBUG
#define DCHECK(condition) (false ? CHECK(condition) : void())
#else
#define DCHECK(condition) CHECK(condition)
#endif

#define RETURN_IF_ERROR(expression)             \
  do {                                          \
    absl::Status dogstar_status = (expression); \
    if (!dogstar_status.ok()) [[unlikely]] {    \
      return dogstar_status;                    \
    }                                           \
  } while (false)

#define ASSIGN_OR_RETURN(target, expression) \
  DOGSTAR_ASSIGN_OR_RETURN_IMPL(DOGSTAR_CONCAT(dogstar_result_, __LINE__), target, expression)
#define DOGSTAR_ASSIGN_OR_RETURN_IMPL(result, target, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) [[unlikely]] {                                \
    return std::move(result).status();                            \
  }                                                               \
  target = std::move(result).value()
