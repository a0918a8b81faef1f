// The pread engine: threads that block in pread. For machines that refuse io_uring; same contract.
#pragma once

#include <memory>

#include "io/direct_file.h"
#include "io/page_reader.h"

namespace dogstar {

std::unique_ptr<PageReader> NewPreadReader(const ReaderOptions& options, DirectFile file);

}  // namespace dogstar
