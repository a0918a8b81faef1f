// The io_uring engine. The only users are page_reader.cc and tests.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/direct_file.h"
#include "io/page_reader.h"

namespace dogstar {

// Takes *file when it succeeds and leaves it alone otherwise. Unavailable says why io_uring is refused.
absl::StatusOr<std::unique_ptr<PageReader>> NewUringReader(const ReaderOptions& options, DirectFile* file,
                                                           std::vector<std::string>* notes);

}  // namespace dogstar
